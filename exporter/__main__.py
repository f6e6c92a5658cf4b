"""``python -m exporter`` is ``twinport export``."""

import sys

from exporter.commands.export import export
from runtime.cli import run_command

if __name__ == "__main__":
    sys.exit(run_command(export, name="python -m exporter"))

"""``python -m runtime`` is ``twinport serve``."""

import sys

from runtime.cli import main

if __name__ == "__main__":
    sys.exit(main(["serve", *sys.argv[1:]]))

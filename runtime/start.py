"""Start the server that the settings ask for; the libraries of the others stay out."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from contextlib import suppress

from runtime.settings import ServerSettings


def start_server(settings: ServerSettings, report: Callable[[str], None]) -> None:
    """Serve until SIGTERM or SIGINT, then drain.

    Args:
        settings: How.
        report: Gets one line each for the address and for every version, once it is known.

    Raises:
        TwinportError: There is nothing to serve, or the address cannot be had.
    """
    # Read when gRPC is imported; its core writes lines of its own about what clients send.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE" if settings.log_format == "json" else "ERROR")
    if settings.transport == "envoy":
        from runtime.transports.envoy import become_envoy

        become_envoy(settings)
    if settings.workers > 1:
        from runtime.transports.workers import run_workers

        run_workers(settings, report)
    else:
        from runtime.server import run_server

        run_server(settings, report)


def say(line: str) -> None:
    """Print at once; a reader that has gone is no reason to stop serving."""
    with suppress(BrokenPipeError):
        sys.stdout.write(f"twinport: {line}\n")
        sys.stdout.flush()

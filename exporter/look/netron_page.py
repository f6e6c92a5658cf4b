"""Netron on one file, in a process of its own and reachable from this machine only."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

from exporter.look import netron_server
from runtime.errors import BackendUnavailable, ExportError


@contextmanager
def netron_on(file: Path, port: int = 0) -> Iterator[str]:
    """Serve ``file`` until the block ends; gives the address.

    Args:
        file: An ONNX file.
        port: Any free one where it is 0.

    Raises:
        ExportError: The port is taken, or Netron has a form that is not known.
        BackendUnavailable: Netron is not installed.
    """
    spec = find_spec("netron")
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnavailable("Netron is missing; pip install 'twinport[export]'")
    netron = spec.submodule_search_locations[0]
    # By its path and without the current folder on Python's own, where anything may lie; in a
    # session of its own, since Ctrl-C is for whoever started it.
    command = [sys.executable, "-P", netron_server.__file__, netron, str(file.absolute())]
    process = subprocess.Popen(
        [*command, str(port)], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    try:
        address = process.stdout.readline().strip()
        if not address:
            raise ExportError(_why_not(process, file, port))
        yield address
    finally:
        process.kill()  # it holds nothing that it would have to put away
        process.communicate()


def _why_not(process: subprocess.Popen[str], file: Path, port: int) -> str:
    assert process.stderr is not None
    said = process.stderr.read().strip().splitlines()
    return (
        f"Netron cannot serve {file.name} on {netron_server.HOST}:{port}: "
        f"{said[-1] if said else 'it ended'}"
    )

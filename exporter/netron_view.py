"""Netron on one file, reachable from this machine only."""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import netron

from runtime.errors import ExportError

HOST = "127.0.0.1"


@contextmanager
def netron_on(file: Path, port: int = 0) -> Iterator[str]:
    """Serve ``file`` until the block ends; gives the address.

    Netron hands out every file of the folder that it is given, to whoever asks, so it gets
    a folder with a copy of this one. One at a time in a process: a second one would show
    its model in the first one's place.

    Raises:
        ExportError: The port is taken, or the copy cannot be written.
    """
    with tempfile.TemporaryDirectory(prefix="twinport-netron-") as folder:
        copy = Path(folder) / file.name
        try:
            shutil.copyfile(file, copy)
            with redirect_stdout(io.StringIO()):  # it announces itself in words of its own
                address = netron.serve(str(copy), None, (HOST, port))
        except OSError as error:
            raise ExportError(
                f"Netron cannot serve {file.name} on {HOST}:{port}: {error.strerror or error}"
            ) from error
        try:
            yield f"http://{address[0]}:{address[1]}"
        finally:
            with redirect_stdout(io.StringIO()):
                netron.stop(address)

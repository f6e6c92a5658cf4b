"""Where the load of experts is kept between two runs of a server: a file for each model.

Several processes may share the folder. Each holds a number for as long as it lives, by the lock
of a file, and writes below that number alone; whoever takes the number next goes on from there.
"""

from __future__ import annotations

import fcntl
import io
import logging
import os
import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from runtime.array_files import BROKEN
from runtime.errors import InvalidInput
from runtime.experts.feed import LoadFeed
from runtime.experts.load import ExpertLoad
from runtime.layout import write_atomically
from runtime.tensors import Array

FOLDER = "experts"
_MOST_PROCESSES = 1024

logger = logging.getLogger(__name__)


@dataclass
class _Open:
    feed: LoadFeed
    users: int = 0


class LoadStore:
    """The loads that this process counts; a version that is loaded anew shares its own."""

    def __init__(self, state: Path, share: float) -> None:
        """Nothing is read or written yet.

        Args:
            state: The server's folder; it is made with the first model.
            share: Of the calls that are counted; 0 counts none.
        """
        self.share = share
        self._folder = state / FOLDER
        self._open: dict[str, _Open] = {}
        self._lock = threading.Lock()
        self._handle: int | None = None
        self._own: Path | None = None

    def feed(self, name: str, key: str, layers: int, experts: int) -> LoadFeed:
        """Count for a model, from where it was left; to be given back by ``release``.

        Args:
            name: Of the model, for the log.
            key: Tells its artifact from all others; empty keeps nothing.
            layers: Of the mixture.
            experts: Of each layer.
        """
        with self._lock:
            held = self._open.get(key) if key else None
            if held is None:
                load = ExpertLoad(layers, experts)
                path = self._path(key) if key else None
                if path is not None:
                    _restore(load, path)
                held = _Open(LoadFeed(load, self.share, lambda a: _keep(a, path), name))
                if key:
                    self._open[key] = held
            held.users += 1
            return held.feed

    def release(self, feed: LoadFeed) -> None:
        """Give one back; what was counted is kept once nobody uses it."""
        with self._lock:
            key = next((key for key, held in self._open.items() if held.feed is feed), None)
            if key is not None:
                self._open[key].users -= 1
                if self._open[key].users:
                    return
                del self._open[key]
        feed.close()

    def _path(self, key: str) -> Path | None:
        if self._own is None:
            try:
                self._own = self._taken()
            except OSError as error:
                logger.warning(
                    "the state folder %s cannot be written (%s); the load of experts is not kept",
                    self._folder, error.strerror or error,
                )  # fmt: skip
                return None
        return self._own / f"{key}.npz"

    def _taken(self) -> Path:
        """The folder of the first number that no living process holds."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for number in range(_MOST_PROCESSES):
            handle = os.open(self._folder / f"{number}.lock", os.O_RDWR | os.O_CREAT, 0o644)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(handle)
                continue
            self._handle = handle  # closed, and so free again, with the process
            own = self._folder / str(number)
            own.mkdir(exist_ok=True)
            return own
        raise OSError(f"{_MOST_PROCESSES} processes have it open")


def _restore(load: ExpertLoad, path: Path) -> None:
    try:
        with np.load(io.BytesIO(path.read_bytes()), allow_pickle=False) as file:
            load.restore({name: file[name] for name in file.files})
    except FileNotFoundError:
        return
    except (*BROKEN, InvalidInput) as error:
        logger.warning("%s is not what was kept (%s); the load is counted anew", path, error)


def _keep(arrays: dict[str, Array], path: Path | None) -> None:
    if path is None:
        return
    data = io.BytesIO()
    # NumPy's stub takes the names of arrays for its own options.
    np.savez_compressed(data, **arrays)  # type: ignore[arg-type]
    try:
        write_atomically(path, data.getvalue())
    except OSError as error:
        logger.warning("%s cannot be written: %s", path, error.strerror or error)

"""What TensorRT calls back while it builds: a log that keeps the errors, and the progress."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Protocol, TypeVar

from exporter.engine.library import Library

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger(__name__)
T = TypeVar("T")


class Watch(Protocol):
    """Is told how a build goes on; called from the builder's threads."""

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        """A phase begins, inside another one or none."""

    def stepped(self, phase: str, step: int) -> None:
        """A step of a phase is done."""

    def finished(self, phase: str) -> None:
        """A phase is over."""


class Unwatched:
    """Looks away."""

    def started(self, phase: str, parent: str | None, steps: int) -> None:
        """Nothing."""

    def stepped(self, phase: str, step: int) -> None:
        """Nothing."""

    def finished(self, phase: str) -> None:
        """Nothing."""


def log_of(library: Library, errors: list[str]) -> trt.ILogger:
    """A logger that adds errors to a list and hands the rest to Python's."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.api

    class Log(trt.ILogger):
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                errors.append(msg)
            elif severity == trt.ILogger.Severity.WARNING:
                logger.info("%s: %s", library.flavour.title, msg)
            else:
                logger.debug("%s: %s", library.flavour.title, msg)

    return Log()


def monitor_of(library: Library, watch: Watch, cancel: threading.Event) -> trt.IProgressMonitor:
    """A monitor that tells ``watch``, and stops the build once ``cancel`` is set."""
    if TYPE_CHECKING:
        import tensorrt as trt
    else:
        trt = library.api

    class Monitor(trt.IProgressMonitor):
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, phase_name: str, parent_phase: str, num_steps: int) -> None:
            watch.started(phase_name, parent_phase or None, num_steps)

        def step_complete(self, phase_name: str, step: int) -> bool:
            watch.stepped(phase_name, step)
            return not cancel.is_set()

        def phase_finish(self, phase_name: str) -> None:
            watch.finished(phase_name)

    return Monitor()


def interruptible(work: Callable[[threading.Event], T]) -> T:
    """Run ``work`` so that Ctrl-C sets the event it is given and waits until it has stopped.

    Native code lets no Python of its own thread run, a signal's handler included; so the
    work is done in another one.
    """
    cancel = threading.Event()
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="build") as pool:
        try:
            # From the first moment: the pool waits for the work when the block is left.
            return pool.submit(work, cancel).result()
        except KeyboardInterrupt:
            cancel.set()
            raise

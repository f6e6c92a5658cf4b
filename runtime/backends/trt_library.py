"""The TensorRT library that runs a plan: loaded late, checked, its log kept.

Both flavours have the same names; mypy holds every call against the signatures of full
TensorRT. What is asked here needs no driver, so that what is missing can be said before
anything is called that would end the process.
"""

from __future__ import annotations

import logging
import re
from collections import deque
from importlib import import_module
from typing import TYPE_CHECKING, Any, Protocol, cast

from runtime.backends.cuda import Gpu
from runtime.backends.plan import Flavour, PlanHeader, header_version
from runtime.errors import BackendUnavailable

if TYPE_CHECKING:
    import tensorrt as trt

logger = logging.getLogger(__name__)

MAX_TEXT = 400
"""Characters of the library's own words in an error."""
_RUN_BY_NEWER = {10: 11}
"""Version-compatible plans of one major version that the next one runs; no other pair is."""
_LEVELS = {
    # An error is raised with its text by whoever made the call.
    "INTERNAL_ERROR": logging.INFO,
    "ERROR": logging.INFO,
    "WARNING": logging.INFO,
    "INFO": logging.DEBUG,
    "VERBOSE": logging.DEBUG,
}
_ERRORS = ("INTERNAL_ERROR", "ERROR")
_PLACE = re.compile(r"\[[^\]\s]*::\d+\] ")
"""Of the library's own sources."""
_loggers: list[object] = []
"""Kept for good: plugins write to the logger that they were given last, whoever let it go."""


class Library(Protocol):
    """What is used of the module ``tensorrt`` or ``tensorrt_rtx``."""

    @property
    def Runtime(self) -> type[trt.Runtime]: ...  # noqa: D102, N802
    @property
    def ILogger(self) -> type[trt.ILogger]: ...  # noqa: D102, N802
    @property
    def IOutputAllocator(self) -> type[trt.IOutputAllocator]: ...  # noqa: D102, N802
    @property
    def DataType(self) -> type[trt.DataType]: ...  # noqa: D102, N802
    @property
    def TensorFormat(self) -> type[trt.TensorFormat]: ...  # noqa: D102, N802
    @property
    def TensorIOMode(self) -> type[trt.TensorIOMode]: ...  # noqa: D102, N802
    @property
    def TensorLocation(self) -> type[trt.TensorLocation]: ...  # noqa: D102, N802
    @property
    def LayerInformationFormat(self) -> type[trt.LayerInformationFormat]: ...  # noqa: D102, N802
    @property
    def ExecutionContextAllocationStrategy(  # noqa: D102, N802
        self,
    ) -> type[trt.ExecutionContextAllocationStrategy]: ...


if TYPE_CHECKING:
    _AS_IN_THE_STUBS: Library = trt


def load_library(flavour: Flavour) -> Library:
    """Import the library of a flavour.

    Raises:
        BackendUnavailable: It is not installed, or cannot be loaded.
    """
    try:
        return cast(Library, import_module(flavour.name))
    except (ImportError, OSError) as error:
        # Its package loads shared libraries itself; one that lacks is an OSError.
        raise BackendUnavailable(
            f"{flavour.title} is missing ({' '.join(str(error).split())}); "
            f"pip install 'twinport[{flavour.extra}]'"
        ) from error


def version_of(library: Library) -> str:
    """Version of the library, ``11.4.0.106``."""
    module: Any = library
    return str(module.__version__)


def check_version(header: PlanHeader, library: Library, *, newer: bool) -> None:
    """Refuse a plan of another version.

    Args:
        header: Of the plan.
        library: What is to run it.
        newer: Whether the plan was built to run on newer versions too.

    Raises:
        BackendUnavailable: The library does not run plans of that version.
    """
    built, here = header.version, header_version(version_of(library))
    if built == here:
        return
    newer = newer and header.flavour.runs_older
    if newer and built < here and here[0] in (built[0], _RUN_BY_NEWER.get(built[0])):
        return
    title = header.flavour.title
    rule = "runs engines of the same version only"
    if newer:
        rule = "runs version-compatible engines of older versions of 10 and 11 only"
    raise BackendUnavailable(
        f"the engine was built by {title} {'.'.join(map(str, built))}, installed is "
        f"{version_of(library)}, which {rule}; "
        "build the engine again here, or install the version that built it"
    )


def check_target(library: Library, flavour: Flavour, device: Gpu) -> None:
    """Refuse a GPU that the library has no kernels for, where it says which it has.

    Raises:
        BackendUnavailable: There is no such target.
    """
    targets: Any = getattr(library, "ComputeCapability", None)
    if targets is None:
        return
    major, minor = device.compute_capability
    if f"SM{major}{minor}" not in targets.__members__:
        known = ", ".join(
            f"{name[2:-1]}.{name[-1]}" for name in targets.__members__ if name[:2] == "SM"
        )
        raise BackendUnavailable(
            f"{flavour.title} {version_of(library)} has no target for {device}, only for {known}; "
            "build an engine of full TensorRT for this GPU (--flavour tensorrt)"
        )


def load_plugins(library: Library, logger: trt.ILogger) -> None:
    """Make the layers known that the library keeps beside its own; some operators become such.

    Its signature asks for a capsule, its documentation and samples give the logger.
    """
    module: Any = library
    module.init_libnvinfer_plugins(logger, "")


class Log:
    """What the library said: everything goes to ``logging``, errors are kept for their cause."""

    def __init__(self) -> None:
        self._errors: deque[str] = deque(maxlen=20)

    def keep(self, severity: str, text: str) -> None:
        """One line of the library; it may call from any thread."""
        line = " ".join(text.split())
        if severity in _ERRORS:
            self._errors.append(_PLACE.sub("", line))
        logger.log(_LEVELS.get(severity, logging.DEBUG), "%s", line)

    def forget(self) -> None:
        """What comes from now on belongs to the next call."""
        self._errors.clear()

    def cause(self) -> str:
        """The errors since, in one line."""
        lines = list(self._errors)
        self._errors.clear()
        return ("; ".join(lines) or "the library gives no reason")[:MAX_TEXT]


def library_logger(library: Library, log: Log) -> trt.ILogger:
    """A logger as the library wants it, which hands everything to ``log``."""
    if TYPE_CHECKING:
        from tensorrt import ILogger
    else:
        ILogger = library.ILogger  # noqa: N806

    class _Logger(ILogger):
        def __init__(self) -> None:
            # Its class is one of C++: without this call it is no object there.
            ILogger.__init__(self)

        def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
            log.keep(severity.name, msg)

    made = _Logger()
    _loggers.append(made)
    return made

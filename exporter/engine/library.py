"""The TensorRT libraries: imported late, and what one of them has that the other has not.

The same code drives both. What differs is in the table here, so that an option which a
library would take in silence and not follow is refused before anything is built.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from runtime.backends import cuda
from runtime.backends.plan import FLAVOURS, Flavour
from runtime.errors import BackendUnavailable, InvalidInput

OLDEST_MAJOR = {"tensorrt": 11, "tensorrt_rtx": 1}
"""Before TensorRT 11 a network's precision came from flags of the builder."""


@dataclass(frozen=True)
class Traits:
    """What one library has.

    Attributes:
        timing_cache: Timings of an earlier build are used again.
        hardware_compatibility: Engines for other GPUs than the one at hand.
        compute_capabilities: GPUs may be named that need not be there.
        gpu_needed: Its builder measures on a GPU; without one it is not made.
        triton: Triton Inference Server has a backend for its engines.
    """

    timing_cache: bool
    hardware_compatibility: bool
    compute_capabilities: bool
    gpu_needed: bool
    triton: bool


TRAITS = {
    "tensorrt": Traits(
        timing_cache=True, hardware_compatibility=True, compute_capabilities=False,
        gpu_needed=True, triton=True,
    ),
    # Its calls for a timing cache do nothing, the one for hardware compatibility only warns.
    "tensorrt_rtx": Traits(
        timing_cache=False, hardware_compatibility=False, compute_capabilities=True,
        gpu_needed=False, triton=False,
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Library:
    """One imported library.

    Attributes:
        api: The module itself; typed as the real bindings where it is used.
        version: ``11.4.0.106``.
    """

    flavour: Flavour
    version: str
    api: Any

    @property
    def traits(self) -> Traits:
        """What it has."""
        return TRAITS[self.flavour.name]

    @property
    def title(self) -> str:
        """Name and version, as people write them."""
        return f"{self.flavour.title} {self.version}"


def open_library(flavour: str | None = None) -> Library:
    """Import a library: the one that is named, or the one that is there, the full one first.

    Raises:
        InvalidInput: There is no such flavour.
        BackendUnavailable: It is not installed, or too old; the text names the cure.
    """
    if flavour is not None and flavour not in FLAVOURS:
        raise InvalidInput(f"flavour '{flavour}' is not known; use {' or '.join(FLAVOURS)}")
    if flavour is not None:
        return _imported(FLAVOURS[flavour])
    for candidate in FLAVOURS.values():
        try:
            return _imported(candidate)
        except BackendUnavailable as error:
            missing = error
    raise BackendUnavailable(
        "no TensorRT is installed; pip install 'twinport[tensorrt-rtx]' builds engines for RTX "
        "GPUs on any machine, 'twinport[tensorrt]' those for all other GPUs"
    ) from missing


def check_machine(library: Library) -> None:
    """Refuse to build where a library's builder needs a GPU and none answers.

    Raises:
        BackendUnavailable: There is no driver or no GPU; the text names the cure.
    """
    problem = cuda.device_problem() if library.traits.gpu_needed else None
    if problem is not None:
        raise BackendUnavailable(
            f"{library.flavour.title} builds and checks on a machine with a GPU only: {problem}; "
            "--flavour tensorrt-rtx does both without one"
        )


def _imported(flavour: Flavour) -> Library:
    cure = f"pip install 'twinport[{flavour.extra}]'"
    try:
        api = import_module(flavour.name)
    except (ImportError, OSError) as error:  # OSError: its shared libraries are not there
        raise BackendUnavailable(f"{flavour.title} is missing ({error}); {cure}") from error
    version = str(api.__version__)
    oldest = OLDEST_MAJOR[flavour.name]
    if int(version.partition(".")[0]) < oldest:
        raise BackendUnavailable(
            f"{flavour.title} {version} is installed; wanted {oldest} or newer, where precision "
            f"comes from the graph: {cure}"
        )
    return Library(flavour, version, api)

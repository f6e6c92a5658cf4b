"""How an engine is to be built, checked before anything native is called."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from exporter.engine.library import Library
from exporter.engine.profiles import Profile
from runtime.errors import InvalidInput, UsageProblem

HARDWARE_COMPATIBILITY = ("none", "ampere_plus", "same_compute_capability")
OPTIMIZATION_LEVELS = range(6)
LARGEST_WORKSPACE = 2**63 - 1
"""Bytes; what the library can be told."""
_CAPABILITY = re.compile(r"[1-9][0-9]?\.[0-9]")


@dataclass(frozen=True)
class EngineOptions:
    """What the builder is told; ``options_fit`` holds it against a library.

    Attributes:
        profiles: Sizes of the free axes; one of the declared sizes where none is given.
        timing_cache: Read before the build where it exists, written after it.
        optimization_level: 0 builds fastest, 5 searches longest.
        workspace_bytes: Limit of scratch memory; none is the library's own.
        hardware_compatibility: One of ``HARDWARE_COMPATIBILITY``.
        version_compatible: Whether later versions of full TensorRT may run the plan.
        tf32: Whether products may be rounded to 10 bits; off, since the proof finds it.
        compute_capabilities: GPUs to build for (``8.9``); none is the library's default.
    """

    profiles: tuple[Profile, ...] = ()
    timing_cache: Path | None = None
    optimization_level: int = 3
    workspace_bytes: int | None = None
    hardware_compatibility: str = "none"
    version_compatible: bool = False
    tf32: bool = False
    compute_capabilities: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse what no library takes."""
        if self.optimization_level not in OPTIMIZATION_LEVELS:
            raise InvalidInput(
                f"optimization level {self.optimization_level} is not known; use 0 to 5"
            )
        if self.workspace_bytes is not None and not 1 <= self.workspace_bytes <= LARGEST_WORKSPACE:
            raise InvalidInput(
                f"workspace of {self.workspace_bytes:,} bytes; wanted 1 to {LARGEST_WORKSPACE:,}"
            )
        if self.hardware_compatibility not in HARDWARE_COMPATIBILITY:
            raise InvalidInput(
                f"hardware compatibility '{self.hardware_compatibility}' is not known; "
                f"use one of {', '.join(HARDWARE_COMPATIBILITY)}"
            )
        for item in self.compute_capabilities:
            if not _CAPABILITY.fullmatch(item):
                raise InvalidInput(f"compute capability '{item}' cannot be read; wanted '8.9'")
        if len(set(self.compute_capabilities)) < len(self.compute_capabilities):
            raise InvalidInput("a compute capability is named twice; name each one once")


def check_options(options: EngineOptions, library: Library) -> None:
    """Refuse what this library would take in silence and not follow.

    Raises:
        UsageProblem: It has no such thing; the text says what to do.
        InvalidInput: A GPU that it cannot build for, or a cache that cannot be written.
    """
    title, traits = library.flavour.title, library.traits
    if options.timing_cache is not None:
        if not traits.timing_cache:
            raise UsageProblem(f"{title} has no timing cache; leave --timing-cache out")
        _check_cache_path(options.timing_cache)
    if options.hardware_compatibility != "none" and not traits.hardware_compatibility:
        raise UsageProblem(
            f"{title} has no --hardware-compatibility; name the GPUs with --compute-capability"
        )
    # TensorRT-RTX takes the flag, and its releases do not run each other's engines all the same.
    if options.version_compatible and not library.flavour.runs_older:
        raise UsageProblem(
            f"{title} runs engines of its own version only; leave --version-compatible out"
        )
    if options.compute_capabilities and not traits.compute_capabilities:
        raise UsageProblem(
            f"{title} builds for the GPU at hand and knows no --compute-capability; "
            "use --hardware-compatibility"
        )
    known = known_capabilities(library)
    for item in options.compute_capabilities:
        if item not in known:
            raise InvalidInput(
                f"{library.title} has no target for compute capability {item}; "
                f"it has {', '.join(known)}"
            )


def known_capabilities(library: Library) -> dict[str, str]:
    """The GPUs that can be named, ascending, and the library's word for each (``SM89``)."""
    members = getattr(getattr(library.api, "ComputeCapability", None), "__members__", {})
    words = [word for word in members if re.fullmatch(r"SM[0-9]{2,3}", word)]
    by_number = sorted((int(word.removeprefix("SM")), word) for word in words)
    return {f"{number // 10}.{number % 10}": word for number, word in by_number}


def _check_cache_path(path: Path) -> None:
    if path.is_dir():
        raise InvalidInput(f"--timing-cache {path} is a folder; wanted a file")
    if not path.absolute().parent.is_dir() or not os.access(path.absolute().parent, os.W_OK):
        raise InvalidInput(f"--timing-cache {path} cannot be written: make its folder first")

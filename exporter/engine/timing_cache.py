"""Timings of earlier builds, read from a file before a build and written to it after."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from runtime.errors import InvalidInput
from runtime.layout import write_atomically

if TYPE_CHECKING:
    import tensorrt as trt


def give_timing_cache(config: trt.IBuilderConfig, path: Path | None) -> None:
    """Let a build use the timings in a file, or begin new ones where there is none.

    Raises:
        InvalidInput: It cannot be read, or was made by another library or on another GPU,
            where timings mean nothing.
    """
    if path is None:
        return
    try:
        data = path.read_bytes() if path.exists() else b""
    except OSError as error:
        raise InvalidInput(f"--timing-cache {path}: {error.strerror or error}") from error
    cache = config.create_timing_cache(data)
    # Both refuse without an exception.
    if cache is None or not config.set_timing_cache(cache, ignore_mismatch=False):
        raise InvalidInput(
            f"{path} is no timing cache of this library and GPU; give --timing-cache a new file"
        )


def keep_timing_cache(config: trt.IBuilderConfig, path: Path | None) -> None:
    """Write the timings of a build to the file, whole or not at all."""
    cache = config.get_timing_cache() if path is not None else None
    if path is not None and cache is not None:
        write_atomically(path, bytes(memoryview(cache.serialize())))

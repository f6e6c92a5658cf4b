"""Choose the backend for an artifact; the only place that imports a leaf, and late."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import cast

from runtime.backends.base import Backend, BackendOptions
from runtime.errors import BackendUnavailable, RepositoryError

_LEAVES = {
    "onnxruntime": ("runtime.backends.ort", "OrtBackend", "ONNX Runtime", "cpu"),
    "tensorrt": ("runtime.backends.trt", "open_tensorrt", "TensorRT", "tensorrt"),
    "tensorrt_rtx": ("runtime.backends.trt", "open_tensorrt_rtx", "TensorRT-RTX", "tensorrt-rtx"),
}
_ALIASES = {"onnxruntime_onnx": "onnxruntime", "tensorrt_plan": "tensorrt"}


def known_backends() -> tuple[str, ...]:
    """Names that ``config.pbtxt`` may give as ``backend``."""
    return tuple(_LEAVES)


def canonical_name(backend: str) -> str:
    """Triton's ``platform`` names as ``backend`` names; others as they are."""
    return _ALIASES.get(backend, backend)


def open_backend(backend: str, artifact: Path, options: BackendOptions | None = None) -> Backend:
    """Load an artifact.

    Args:
        backend: The ``backend`` (or Triton's ``platform``) of ``config.pbtxt``.
        artifact: The model's file.
        options: Device and threads; the CPU and one thread where none are given.

    Raises:
        RepositoryError: No such backend, or the file is not one it can load.
        BackendUnavailable: Its library or device is not here; the text names the cure.
    """
    name = canonical_name(backend)
    if name not in _LEAVES:
        raise RepositoryError(
            f"backend '{backend}' is not known; this release has {', '.join(_LEAVES)}"
        )
    module, attribute, library, extra = _LEAVES[name]
    try:
        leaf = import_module(module)
    except ImportError as error:
        raise BackendUnavailable(
            f"{library} is missing ({error}); pip install 'twinport[{extra}]'"
        ) from error
    return cast(Backend, getattr(leaf, attribute)(artifact, options or BackendOptions()))

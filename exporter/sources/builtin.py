"""The models that Twinport brings.

Our own ``models`` package is imported for a built-in name only, so that a user's package
of the same name is found in the user's folder.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from types import ModuleType

from exporter.sources.made import Made
from exporter.weights import file_sha256, load_weights
from runtime.errors import ExportError, NotFound
from runtime.manifest import Preprocessing
from runtime.tensors import TensorSpec

_WEIGHTS_ONLY = (".pt", ".pth", ".bin", ".safetensors", ".ckpt")


def made_from_builtin(name: str, weights: Path | None) -> Made:
    """A model of ``models.registry`` with its own checkpoint or other weights.

    Raises:
        NotFound: There is no such model; the text says what was probably meant.
        ExportError: The checkpoint or the weights do not fit.
    """
    registry = _own_registry()
    from models.errors import ModelsError

    if name not in registry.names():
        raise NotFound(_unknown(name, registry.names()))
    entry = registry.entry(name)
    if weights is None:
        try:
            module, sha256 = entry.load(), file_sha256(entry.checkpoint)
        except ModelsError as error:
            raise ExportError(str(error)) from error
    else:
        module = entry.build()
        sha256 = load_weights(module, weights)
    return Made(
        name=name,
        factory=name,
        module=module,
        inputs=tuple(TensorSpec(item.name, item.dtype, item.shape) for item in entry.inputs),
        ranges=entry.ranges,
        output_names=entry.outputs,
        checkpoint_sha256=sha256,
        labels=entry.labels,
        preprocessing=Preprocessing(**asdict(entry.image)) if entry.image else None,
        builtin=name,
    )


def _unknown(name: str, known: list[str]) -> str:
    suffix = Path(name).suffix
    if suffix == ".py":
        return f"model '{name}' names no factory; add the function's name: {name}:make"
    if suffix in _WEIGHTS_ONLY:
        return (
            f"model '{name}' is a file of weights; give the module that they are of: "
            f"path/to/file.py:factory --weights {name}"
        )
    return (
        f"model '{name}' is not built in ({', '.join(known)}); give your own as "
        "package.module:factory, path/to/file.py:factory or file.pt2, or torchvision:NAME"
    )


def _own_registry() -> ModuleType:
    """Imported late: a user's package may have the same name, and Python take that one."""
    try:
        from models import registry

        ours = Path(str(registry.__file__)).parent == Path(__file__).parents[2] / "models"
    except ImportError:
        ours = False
    if not ours:
        raise ExportError(
            "a package called 'models' in this folder hides Twinport's own; "
            "run built-in models from another folder"
        )
    return registry

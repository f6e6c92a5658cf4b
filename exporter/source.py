"""Find the module that is meant: ``lenet5``, ``package.module:factory``, ``file.py:factory``.

Our own ``models`` package is imported for a built-in name only, so that a user's package
of the same name is found in the user's folder.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from math import isfinite
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from exporter.experts.adapters import find_layers
from exporter.experts.spec import ExpertLayers
from exporter.ranges import Range
from exporter.weights import file_sha256, load_weights
from runtime.errors import ExportError, InvalidInput, NotFound
from runtime.manifest import Preprocessing
from runtime.tensors import TensorSpec

Bounds = tuple[float, float]


@dataclass(frozen=True)
class SourceRequest:
    """What the user says of the model; empty fields are filled from the built-in entry."""

    model: str
    weights: Path | None = None
    inputs: tuple[TensorSpec, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    values: Mapping[str, Bounds] = field(default_factory=dict)


@dataclass(frozen=True)
class Source:
    """A module ready for export, and what is known of it.

    Attributes:
        module: In eval mode, float32, on the CPU.
        inputs: In the order of ``forward``'s parameters.
        output_names: Names in the order of the outputs; empty where the module names them.
        ranges: Smallest and largest size of the free axes that were declared.
        values: Least and greatest value of inputs that were declared, upper end excluded.
        builtin: The name in ``models.registry``, where it is one of ours.
        experts: The mixture-of-experts layers that an adapter knows.
    """

    name: str
    factory: str
    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...]
    output_names: tuple[str, ...]
    ranges: Mapping[str, Range]
    values: Mapping[str, Bounds]
    checkpoint_sha256: str | None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    builtin: str | None = None
    experts: ExpertLayers = field(default_factory=ExpertLayers)

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def module_class(self) -> str:
        """The class by its full name."""
        kind = type(self.module)
        return f"{kind.__module__}.{kind.__qualname__}"

    def state_sha256(self) -> str:
        """Hash of parameters and buffers: name, type, shape and bytes of each."""
        digest = hashlib.sha256()
        for name, tensor in self.module.state_dict().items():
            if isinstance(tensor, torch.Tensor):
                digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
                digest.update(tensor.detach().cpu().numpy().tobytes())
        return digest.hexdigest()


def load_source(request: SourceRequest) -> Source:
    """Make the module and fit the description of its inputs to it.

    Raises:
        NotFound: No such built-in model, file, module or factory.
        ExportError: The factory failed, or what it made cannot be exported as it is.
        InvalidInput: The described inputs are not those of ``forward``.
    """
    if ":" not in request.model:
        return _builtin(request)
    module, factory = _from_factory(request.model)
    sha256 = load_weights(module, request.weights) if request.weights else None
    _check_floats(module)
    name = factory.rpartition(":")[2].lower()
    inputs = inputs_in_order(module, request.inputs)
    _check_axes(request, inputs)
    return Source(
        name, factory, module.cpu().eval(), fixed_axes(inputs, request.ranges), (),
        free_ranges(request.ranges), dict(request.values), sha256, experts=find_layers(module),
    )  # fmt: skip


def _builtin(request: SourceRequest) -> Source:
    registry = _own_registry()
    from models.errors import ModelsError

    if request.model not in registry.names():
        raise NotFound(
            f"model '{request.model}' is not built in ({', '.join(registry.names())}); "
            "give your own as package.module:factory or path/to/file.py:factory"
        )
    entry = registry.entry(request.model)
    if request.weights is None:
        try:
            module, sha256 = entry.load(), file_sha256(entry.checkpoint)
        except ModelsError as error:
            raise ExportError(str(error)) from error
    else:
        module = entry.build()
        sha256 = load_weights(module, request.weights)
    own = tuple(TensorSpec(item.name, item.dtype, item.shape) for item in entry.inputs)
    inputs = inputs_in_order(module, request.inputs or own)
    _check_axes(request, inputs)
    known = {axis for spec in inputs for axis in spec.shape}
    ranges = {axis: size for axis, size in entry.ranges.items() if axis in known}
    ranges.update(request.ranges)
    return Source(
        request.model, request.model, module.eval(), fixed_axes(inputs, ranges), entry.outputs,
        free_ranges(ranges), dict(request.values), sha256, entry.labels,
        Preprocessing(**asdict(entry.image)) if entry.image else None, request.model,
        find_layers(module),
    )  # fmt: skip


def _own_registry() -> ModuleType:
    """Imported late: a user's package may have the same name, and Python take that one."""
    try:
        from models import registry

        ours = Path(str(registry.__file__)).parent == Path(__file__).parent.parent / "models"
    except ImportError:
        ours = False
    if not ours:
        raise ExportError(
            "a package called 'models' in this folder hides Twinport's own; "
            "run built-in models from another folder"
        )
    return registry


def _from_factory(text: str) -> tuple[torch.nn.Module, str]:
    """The module, and the factory's name without any folder of this machine."""
    place, _, attribute = text.rpartition(":")
    if not place or not attribute.isidentifier():
        raise InvalidInput(
            f"model '{text}' cannot be read; wanted NAME, package.module:factory or "
            "path/to/file.py:factory"
        )
    if place.endswith(".py"):
        namespace, shown = _import_file(Path(place)), Path(place).name
    else:
        namespace, shown = _import_module(place), place
    if not hasattr(namespace, attribute):
        raise NotFound(f"{shown} has no '{attribute}'; name a function that returns the module")
    made = _call_factory(getattr(namespace, attribute), f"{shown}:{attribute}")
    return made, f"{shown}:{attribute}"


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise NotFound(f"{path} does not exist; give the Python file that holds the factory")
    name = _module_name(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise ExportError(f"{path} cannot be loaded as Python")
    namespace = importlib.util.module_from_spec(spec)
    # Its neighbours are importable, as when Python itself runs the file.
    sys.path.insert(0, str(path.parent.resolve()))
    sys.modules[name] = namespace
    try:
        spec.loader.exec_module(namespace)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise ExportError(f"{path.name} fails on import: {_said(error)}") from error
    return namespace


def _module_name(path: Path) -> str:
    """The file's own, unless a module of another file goes by it (``json.py``)."""
    name = re.sub(r"\W", "_", path.stem)
    while name in sys.modules and str(path.absolute()) != _file_of(sys.modules[name]):
        name += "_"
    return name


def _file_of(module: ModuleType) -> str:
    return str(Path(getattr(module, "__file__", None) or "").absolute())


def _import_module(name: str) -> ModuleType:
    folder = str(Path.cwd())
    if folder not in sys.path[:1]:
        sys.path.insert(0, folder)
    top = name.partition(".")[0]
    loaded = sys.modules.get(top)
    own = (Path(folder) / top).is_dir() or (Path(folder) / f"{top}.py").is_file()
    if loaded is not None and own and not _lies_in(loaded, folder):
        raise ExportError(
            f"'{top}' is loaded from elsewhere already and hides {top} in this folder; "
            "give the file instead: path/to/file.py:factory"
        )
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise NotFound(
                f"there is no module '{error.name}' from here; run in the folder that holds it, "
                "or give path/to/file.py:factory"
            ) from error
        raise ExportError(f"{name} fails on import: {_said(error)}") from error
    except (Exception, SystemExit) as error:
        raise ExportError(f"{name} fails on import: {_said(error)}") from error


def _lies_in(module: ModuleType, folder: str) -> bool:
    """Whether a module or a package, one without ``__init__.py`` too, is from ``folder``."""
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(Path(place).is_relative_to(folder) for place in places)


def _call_factory(factory: Any, shown: str) -> torch.nn.Module:
    try:
        made = factory if isinstance(factory, torch.nn.Module) else factory()
    except (Exception, SystemExit) as error:
        raise ExportError(f"{shown} failed: {_said(error)}; it is called without arguments"
                          ) from error  # fmt: skip
    if not isinstance(made, torch.nn.Module):
        raise ExportError(f"{shown} gave a {type(made).__name__}; wanted a torch.nn.Module")
    return made


def _check_floats(module: torch.nn.Module) -> None:
    for name, tensor in module.state_dict().items():
        floats = isinstance(tensor, torch.Tensor) and tensor.is_floating_point()
        if floats and tensor.dtype is not torch.float32:
            raise ExportError(
                f"'{name}' of the module is {str(tensor.dtype)[6:]}; wanted float32: "
                "call .float() in the factory"
            )


def inputs_in_order(
    module: torch.nn.Module, inputs: Sequence[TensorSpec]
) -> tuple[TensorSpec, ...]:
    """The described inputs in the order of ``forward``'s parameters.

    Raises:
        InvalidInput: None described, one twice, one that ``forward`` does not take, or one
            missing that it needs.
    """
    parameters = list(inspect.signature(module.forward).parameters.values())
    known = [item.name for item in parameters if item.kind not in (item.VAR_POSITIONAL,)]
    wanted = f"forward takes {', '.join(known) or 'nothing'}"
    if not inputs:
        raise InvalidInput(
            f"no input is described and {wanted}; "
            f"add --input '{known[0] if known else 'x'}:float32[batch,3,32,32]'"
        )
    given = {spec.name: spec for spec in inputs}
    if len(given) < len(inputs):
        raise InvalidInput("an input is described twice; describe each once")
    anything = any(item.kind is item.VAR_KEYWORD for item in parameters)
    for name in given:
        if name not in known and not anything:
            raise InvalidInput(f"input '{name}' is described, but {wanted}")
    for item in parameters:
        needed = item.default is item.empty and item.kind in (
            item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD, item.KEYWORD_ONLY,
        )  # fmt: skip
        if needed and item.name not in given:
            raise InvalidInput(
                f"input '{item.name}' of forward is not described; "
                f"add --input '{item.name}:float32[batch,...]'"
            )
    ordered = [name for name in known if name in given]
    rest = [name for name in given if name not in ordered]
    return tuple(given[name] for name in ordered + rest)


def fixed_axes(inputs: Sequence[TensorSpec], ranges: Mapping[str, Range]) -> tuple[TensorSpec, ...]:
    """The inputs with a number for each axis whose range has one size only."""
    sizes = {axis: low for axis, (low, high) in ranges.items() if low == high}
    return tuple(
        replace(spec, shape=tuple(sizes.get(str(axis), axis) for axis in spec.shape))
        for spec in inputs
    )


def free_ranges(ranges: Mapping[str, Range]) -> dict[str, Range]:
    """The ranges of more than one size."""
    return {axis: (low, high) for axis, (low, high) in ranges.items() if low < high}


def _check_axes(request: SourceRequest, inputs: Sequence[TensorSpec]) -> None:
    axes = {axis for spec in inputs for axis in spec.shape if isinstance(axis, str)}
    free = ", ".join(sorted(axes)) or "(none)"
    for name, (low, high) in request.ranges.items():
        if name not in axes:
            raise InvalidInput(f"--range names the axis '{name}'; the free axes are {free}")
        if not (0 <= low <= high and high):
            raise InvalidInput(f"--range {name}={low}:{high} is empty; wanted 0 <= low <= high")
    dtypes = {spec.name: spec.dtype for spec in inputs}
    for name, bounds in request.values.items():
        if name not in dtypes:
            raise InvalidInput(f"--values names the input '{name}', which is not described")
        _check_values(name, dtypes[name], bounds)


def _check_values(name: str, dtype: str, bounds: Bounds) -> None:
    low, high = bounds
    given = f"--values {name}={low}:{high}"
    if not (isfinite(low) and isfinite(high)):
        raise InvalidInput(f"{given}: wanted finite numbers")
    if not low < high:
        raise InvalidInput(f"{given} is empty; wanted low < high")
    if not dtype.startswith("float") and (int(low) != low or int(high) != high):
        raise InvalidInput(f"{given}: '{name}' is {dtype}; wanted whole numbers")


def _said(error: BaseException) -> str:
    """The first line of what an exception says, with its class."""
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__

"""Find the module that is meant and fit what the user says of its inputs to it.

``lenet5``, ``package.module:factory``, ``file.py:factory``, ``torchvision:NAME`` and
``file.pt2`` are sources; ``exporter/sources/`` has a file for each kind.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch

from exporter.experts.adapters import find_layers
from exporter.experts.spec import ExpertLayers
from exporter.inner import check_paths
from exporter.ranges import Bounds, Range
from exporter.sources.builtin import made_from_builtin
from exporter.sources.factory import made_from_factory
from exporter.sources.inputs import check_words, fixed_axes, free_ranges, inputs_in_order
from exporter.sources.made import Made
from exporter.sources.program import SUFFIX as PROGRAM_SUFFIX
from exporter.sources.program import Program, made_from_program
from exporter.sources.ready import ready_module
from runtime.manifest import Preprocessing
from runtime.tensors import TensorSpec

TORCHVISION = "torchvision:"


@dataclass(frozen=True)
class SourceRequest:
    """What the user says of the model; empty fields are filled from what the source knows.

    Attributes:
        also: Paths of inner modules whose outputs are wanted, too.
    """

    model: str
    weights: Path | None = None
    inputs: tuple[TensorSpec, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    values: Mapping[str, Bounds] = field(default_factory=dict)
    also: tuple[str, ...] = ()


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
        program: What torch.export made of the module already, where that is the source.
        also: Paths of inner modules whose outputs are given beside the module's own.
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
    program: torch.export.ExportedProgram | None = None
    also: tuple[str, ...] = ()

    @property
    def pixels(self) -> str | None:
        """The input that takes pictures as they are, where the module prepares them itself."""
        own = self.preprocessing
        return own.input if own is not None and own.done_by == "artifact" else None

    @property
    def parameters(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.module.parameters())

    @property
    def module_class(self) -> str:
        """The class by its full name."""
        if isinstance(self.module, Program):
            return self.module.made_of
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
    made = _made(request)
    module = ready_module(made.module)
    inputs = inputs_in_order(module, request.inputs or made.inputs)
    check_words(inputs, request.ranges, request.values)
    check_paths(module, request.also)
    axes = {axis for spec in inputs for axis in spec.shape}
    ranges = {axis: size for axis, size in made.ranges.items() if axis in axes}
    ranges.update(request.ranges)
    return Source(
        name=made.name,
        factory=made.factory,
        module=module,
        inputs=fixed_axes(inputs, ranges),
        output_names=made.output_names,
        ranges=free_ranges(ranges),
        values=dict(request.values),
        checkpoint_sha256=made.checkpoint_sha256,
        labels=made.labels,
        preprocessing=made.preprocessing,
        builtin=made.builtin,
        experts=find_layers(module),
        program=made.program,
        also=request.also,
    )


def _made(request: SourceRequest) -> Made:
    model, weights = request.model, request.weights
    if model.startswith(TORCHVISION):
        from exporter.sources.vision import made_from_torchvision  # takes a second to import

        return made_from_torchvision(model, weights)
    if Path(model).suffix == PROGRAM_SUFFIX:
        return made_from_program(Path(model), weights, request.inputs, request.ranges)
    if ":" in model:
        return made_from_factory(model, weights)
    return made_from_builtin(model, weights)

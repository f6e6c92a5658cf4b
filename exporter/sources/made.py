"""What one kind of source gives, before the user's words about the inputs are fitted to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from exporter.ranges import Range
from runtime.manifest import Preprocessing
from runtime.tensors import TensorSpec


@dataclass(frozen=True)
class Made:
    """A module, and what its source knows of it.

    Attributes:
        name: What the model is called where the user gives no name.
        factory: For the manifest; no folder of this machine.
        inputs: The inputs that hold where the user describes none.
        ranges: Of the free axes of ``inputs``.
        output_names: Names in the order of the outputs; empty where the module names them.
        checkpoint_sha256: Of the weights' file, where there is one.
        builtin: The name in ``models.registry``, where it is one of ours.
        program: What torch.export made of the module, where that is the source.
    """

    name: str
    factory: str
    module: torch.nn.Module
    inputs: tuple[TensorSpec, ...] = ()
    ranges: Mapping[str, Range] = field(default_factory=dict)
    output_names: tuple[str, ...] = ()
    checkpoint_sha256: str | None = None
    labels: tuple[str, ...] | None = None
    preprocessing: Preprocessing | None = None
    builtin: str | None = None
    program: torch.export.ExportedProgram | None = None

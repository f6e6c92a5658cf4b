"""``reshape`` of ``config.pbtxt``: clients send and get ``dims``, the artifact has another shape.

Rows stay rows: a batch axis is the same on both sides. What lies below it has as many elements
in either shape, and where sizes are free, so has each stretch between two free axes, so that a
size sent is a size of the artifact (Triton's rule).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from runtime.errors import RepositoryError, TwinportError
from runtime.tensors import Array, Axis, TensorSpec, format_shape

FREE = -1
"""A free axis in ``dims`` and ``reshape``."""


@dataclass(frozen=True)
class Reshape:
    """The two shapes of one tensor.

    Attributes:
        wire: What clients send or get.
        model: The artifact's own; the same free axes in the same order.
    """

    wire: TensorSpec
    model: TensorSpec

    def to_model(self, array: Array) -> Array:
        """An array in the shape of clients as the artifact has it; it fits ``wire``."""
        return array.reshape(_sizes(array.shape, self.wire.shape, self.model.shape))

    def to_wire(self, array: Array) -> Array:
        """An array of the artifact as clients get it.

        Raises:
            TwinportError: The artifact gave another shape than it says it does.
        """
        try:
            return array.reshape(_sizes(array.shape, self.model.shape, self.wire.shape))
        except ValueError as error:
            raise TwinportError(
                f"output '{self.model.name}' came with shape {format_shape(array.shape)}, which "
                f"cannot be made {format_shape(self.wire.shape)}; the artifact says it is "
                f"{format_shape(self.model.shape)}"
            ) from error


@dataclass(frozen=True)
class Reshapes:
    """Of one version, by name; tensors that are not there have one shape only."""

    inputs: Mapping[str, Reshape] = field(default_factory=dict)
    outputs: Mapping[str, Reshape] = field(default_factory=dict)

    def __bool__(self) -> bool:
        """Whether there is any."""
        return bool(self.inputs or self.outputs)

    def fed(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Inputs of clients as the artifact takes them."""
        return {
            name: self.inputs[name].to_model(array) if name in self.inputs else array
            for name, array in arrays.items()
        }

    def sent(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs of the artifact as clients get them; see ``Reshape.to_wire``."""
        return {
            name: self.outputs[name].to_wire(array) if name in self.outputs else array
            for name, array in arrays.items()
        }

    def unsent(self, arrays: Mapping[str, Array]) -> dict[str, Array]:
        """What ``sent`` gave, as the artifact had it."""
        return {
            name: self.outputs[name].to_model(array) if name in self.outputs else array
            for name, array in arrays.items()
        }


def check_reshape(dims: Sequence[int], shape: Sequence[int], what: str) -> None:
    """Refuse two shapes of which one is not the other in another form.

    Args:
        dims: What clients see, without the batch axis.
        shape: What the artifact has, without the batch axis; empty for a single number.
        what: The tensor for the error.

    Raises:
        RepositoryError: The numbers of elements differ, or a size is none.
    """
    both = f"{what} has dims {format_shape(dims)} and reshape {format_shape(shape)}"
    if any(size < 1 and size != FREE for size in (*dims, *shape)):
        raise RepositoryError(f"{both}; sizes are at least 1, or {FREE} where they are free")
    if _stretches(dims) != _stretches(shape):
        raise RepositoryError(
            f"{both}, which hold different numbers of elements; wanted the same, "
            f"between two free axes too"
        )


def reshapes_from_dims(
    dims: Mapping[str, Sequence[int]], specs: Mapping[str, TensorSpec], *, batched: bool
) -> dict[str, Reshape]:
    """The two shapes of each tensor that ``dims`` names.

    Args:
        dims: What clients see, without the batch axis; checked by ``check_reshape``.
        specs: The artifact's tensors by name, narrowed by the configuration.
        batched: Whether axis 0 of the artifact's tensors is the batch.
    """
    found = {}
    for name, spec in specs.items():
        if name in dims:
            below = spec.shape[batched:]
            free = iter([axis for axis in below if isinstance(axis, str)])
            # An axis that the artifact leaves free and the configuration fixes is fixed in both.
            axes: list[Axis] = [next(free) if size == FREE else size for size in dims[name]]
            wire = TensorSpec(name, spec.dtype, (*spec.shape[:batched], *axes))
            found[name] = Reshape(wire, spec)
    return found


def on_wire(
    specs: Mapping[str, TensorSpec], reshapes: Mapping[str, Reshape]
) -> dict[str, TensorSpec]:
    """The tensors as clients see them, in the order of ``specs``."""
    return {name: reshapes[name].wire if name in reshapes else spec for name, spec in specs.items()}


def _stretches(shape: Sequence[int]) -> list[int]:
    """Elements before the first free axis, between two of them, behind the last."""
    bounds = [-1, *(place for place, size in enumerate(shape) if size == FREE), len(shape)]
    return [math.prod(shape[start + 1 : end]) for start, end in pairwise(bounds)]


def _sizes(sizes: Sequence[int], given: Sequence[Axis], wanted: Sequence[Axis]) -> tuple[int, ...]:
    """The shape ``wanted``, its free axes as large as those of ``sizes``, which fits ``given``.

    Raises:
        ValueError: It has another number of axes.
    """
    free = iter([size for size, axis in zip(sizes, given, strict=True) if isinstance(axis, str)])
    return tuple(axis if isinstance(axis, int) else next(free) for axis in wanted)

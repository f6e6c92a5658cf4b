"""What an engine takes and gives: its tensors, their types, the ranges of its profiles."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from runtime.backends.trt_library import Library
from runtime.errors import InvalidInput, RepositoryError
from runtime.model_config import BATCH_AXIS
from runtime.tensors import Array, Axis, TensorSpec, format_shape

if TYPE_CHECKING:
    import tensorrt as trt

Shape = tuple[int, ...]

DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""TensorRT's types by name; NumPy has none of the others."""


@dataclass(frozen=True)
class Range:
    """The sizes, or the values of a shape tensor, that one profile takes."""

    smallest: Shape
    largest: Shape

    def holds(self, given: Shape) -> bool:
        """Whether ``given`` lies within."""
        return len(given) == len(self.smallest) and all(
            low <= item <= high
            for low, item, high in zip(self.smallest, given, self.largest, strict=True)
        )

    def __str__(self) -> str:
        return f"{format_shape(self.smallest)} to {format_shape(self.largest)}"


@dataclass(frozen=True)
class Binding:
    """One input or output of an engine.

    Attributes:
        spec: Name, type and shape.
        dtype: The type as NumPy has it.
        on_host: Whether the engine reads or writes it in the host's memory.
        sizes: By profile, the shapes that an input takes.
        values: By profile, the values that a shape tensor takes; empty for any other.
    """

    spec: TensorSpec
    dtype: np.dtype[Any]
    on_host: bool
    sizes: tuple[Range, ...] = ()
    values: tuple[Range, ...] = ()

    @property
    def name(self) -> str:
        """The tensor's name."""
        return self.spec.name

    def fits(self, array: Array, profile: int) -> bool:
        """Whether one profile takes this array."""
        if not self.sizes[profile].holds(array.shape):
            return False
        if not self.values:
            return True
        return self.values[profile].holds(tuple(int(value) for value in array.reshape(-1)))

    def wanted(self, profile: int) -> str:
        """What one profile takes."""
        text = f"{self.name} {self.sizes[profile]}"
        return f"{text} with values {self.values[profile]}" if self.values else text


def bindings_of(
    library: Library, engine: trt.ICudaEngine
) -> tuple[dict[str, Binding], dict[str, Binding]]:
    """Inputs and outputs of an engine by name, in its own order.

    Raises:
        RepositoryError: One has a type or a layout that cannot be served.
    """
    names = [engine.get_tensor_name(index) for index in range(engine.num_io_tensors)]
    given = [name for name in names if engine.get_tensor_mode(name) == library.TensorIOMode.INPUT]
    batch = _has_batch_axis(engine, names)
    found = {name: _binding(library, engine, name, batch, is_input=name in given) for name in names}
    return (
        {name: found[name] for name in given},
        {name: found[name] for name in names if name not in given},
    )


def _has_batch_axis(engine: trt.ICudaEngine, names: Sequence[str]) -> bool:
    """Whether axis 0 is free everywhere; an engine knows no names of axes."""
    shapes = [tuple(engine.get_tensor_shape(name)) for name in names]
    return all(shape[:1] == (-1,) for shape in shapes)


def _binding(
    library: Library, engine: trt.ICudaEngine, name: str, batch: bool, *, is_input: bool
) -> Binding:
    _check_layout(library, engine, name)
    kind = engine.get_tensor_dtype(name).name
    if kind not in DTYPES:
        raise RepositoryError(
            f"'{name}' of the engine has the type {kind}, which NumPy does not have; build it "
            "with float32 or float16 inputs and outputs"
        )
    axes: list[Axis] = []
    for index, size in enumerate(engine.get_tensor_shape(name)):
        free = BATCH_AXIS if batch and index == 0 else f"{name}_axis_{index}"
        axes.append(free if size < 0 else size)
    spec = TensorSpec(name, DTYPES[kind], tuple(axes))
    on_host = engine.get_tensor_location(name) == library.TensorLocation.HOST
    sizes = _sizes(engine, name) if is_input else ()
    reads_values = is_input and on_host and engine.is_shape_inference_io(name)
    values = _values(engine, name) if reads_values else ()
    return Binding(spec, np.dtype(DTYPES[kind]), on_host, sizes, values)


def _check_layout(library: Library, engine: trt.ICudaEngine, name: str) -> None:
    layout = engine.get_tensor_format(name)
    if layout != library.TensorFormat.LINEAR:
        raise RepositoryError(
            f"'{name}' of the engine has the layout {layout.name}; "
            "build it with LINEAR inputs and outputs"
        )


def _sizes(engine: trt.ICudaEngine, name: str) -> tuple[Range, ...]:
    count = max(engine.num_optimization_profiles, 1)
    fixed = tuple(engine.get_tensor_shape(name))
    if min(fixed, default=0) >= 0:
        # Profiles need not speak of it.
        return (Range(fixed, fixed),) * count
    ranges = []
    for profile in range(count):
        smallest, _, largest = engine.get_tensor_profile_shape(name, profile)
        ranges.append(Range(tuple(smallest), tuple(largest)))
    return tuple(ranges)


def _values(engine: trt.ICudaEngine, name: str) -> tuple[Range, ...]:
    """The bindings take the profile first, whatever their documentation says."""
    profiles = range(engine.num_optimization_profiles)
    found = [engine.get_tensor_profile_values(profile, name) for profile in profiles]
    if not all(found):
        return ()
    return tuple(Range(tuple(smallest), tuple(largest)) for smallest, _, largest in found)


def choose_profile(inputs: Mapping[str, Binding], arrays: Mapping[str, Array]) -> int:
    """The smallest profile that takes all inputs; the first of several that are alike.

    Raises:
        InvalidInput: None does; the text names their ranges.
    """
    count = max((len(binding.sizes) for binding in inputs.values()), default=1)
    fitting = [
        profile
        for profile in range(count)
        if all(binding.fits(arrays[name], profile) for name, binding in inputs.items())
    ]
    if fitting:
        return min(fitting, key=lambda profile: _volume(inputs, profile))
    given = ", ".join(f"{name} {format_shape(arrays[name].shape)}" for name in inputs)
    wanted = "; or ".join(
        ", ".join(binding.wanted(profile) for binding in inputs.values())
        for profile in range(count)
    )
    raise InvalidInput(f"no profile of the engine takes {given}; wanted {wanted}")


def _volume(inputs: Mapping[str, Binding], profile: int) -> int:
    """Elements of the largest inputs of a profile."""
    sizes = [binding.sizes[profile].largest for binding in inputs.values()]
    return sum(int(np.prod(shape, dtype=np.int64)) for shape in sizes)


def check_outputs(outputs: Mapping[str, Binding], names: Sequence[str]) -> None:
    """Refuse an output that the engine does not have.

    Raises:
        InvalidInput: There is one.
    """
    for name in names:
        if name not in outputs:
            raise InvalidInput(f"output '{name}' is not known; the engine has {', '.join(outputs)}")


def check_arrays(inputs: Mapping[str, Binding], arrays: Mapping[str, Array]) -> None:
    """Refuse what would be read as other numbers: nothing below looks at types.

    Raises:
        InvalidInput: An input is missing, not known, or of another type.
    """
    for name in arrays:
        if name not in inputs:
            raise InvalidInput(f"input '{name}' is not known; the engine has {', '.join(inputs)}")
    for name, binding in inputs.items():
        if name not in arrays:
            raise InvalidInput(f"input '{name}' is missing; the engine wants {binding.spec}")
        if arrays[name].dtype != binding.dtype:
            raise InvalidInput(
                f"input '{name}' has data type {arrays[name].dtype}; "
                f"the engine wants {binding.spec}"
            )

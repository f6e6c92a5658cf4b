"""The truth: a module run in float64, and the operators that would not stay there.

``module.double()`` alone is not float64: a ``torch.zeros(...)`` inside, or a cast to
float32 as RMSNorm does it, falls back without a word and the "truth" is off by exactly
the error it should measure. So requests for a lower float type are raised as they are
dispatched, and an operator that gives one all the same is named.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

from exporter.experts.adapters import find_layers
from exporter.experts.opaque import RoutingTrace
from exporter.inner import InnerOutputs
from exporter.outputs import named_outputs
from runtime.errors import ExportError
from runtime.manifest import LOAD_OUTPUT
from runtime.tensors import Array

_RAISED = {
    torch.float16: torch.float64,
    torch.bfloat16: torch.float64,
    torch.float32: torch.float64,
    torch.complex32: torch.complex128,
    torch.complex64: torch.complex128,
}


class Float64Mode(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Raise every request for a lower float type to float64.

    Attributes:
        lowered: Names of the operators that gave a lower float all the same, in the
            order they were met.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.lowered: dict[str, None] = {}

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Run ``func`` with raised type requests and raised constants."""
        written = _written_arguments(func)
        raised = tuple(value if i in written else _raise(value) for i, value in enumerate(args))
        named = {
            name: value if name in written else _raise(value)
            for name, value in (kwargs or {}).items()
        }
        result = func(*raised, **named)
        if any(_is_lower(leaf) for leaf in pytree.tree_leaves(result)):
            self.lowered[str(func)] = None
        return result


def _raise(value: Any) -> Any:
    """Float types become float64, and so do tensors that ``.double()`` did not reach."""
    return pytree.tree_map(_raise_leaf, value)


def _raise_leaf(leaf: Any) -> Any:
    if isinstance(leaf, torch.dtype):
        return _RAISED.get(leaf, leaf)
    if _is_lower(leaf):
        return leaf.to(_RAISED[leaf.dtype])
    return leaf


def _is_lower(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor) and leaf.dtype in _RAISED


def _written_arguments(func: Any) -> set[int | str]:
    """Positions and names of arguments that ``func`` writes to: a copy would lose that."""
    written: set[int | str] = set()
    for position, argument in enumerate(func._schema.arguments):
        if argument.alias_info is not None and argument.alias_info.is_write:
            written |= {position, argument.name}
    return written


class Truth:
    """A module's answers in float64, on the CPU.

    Attributes:
        lowered: Operators that fell below float64 in any call so far; empty means that
            the truth is a truth.
    """

    def __init__(self, module: torch.nn.Module, also: Sequence[str] = ()) -> None:
        """Copy ``module`` and widen the copy.

        Args:
            module: Stays as it is.
            also: Paths of inner modules whose outputs are given, too.

        Raises:
            ExportError: The module cannot be copied.
        """
        try:
            self._module = copy.deepcopy(module).double().eval()
        except Exception as error:
            raise ExportError(
                f"{type(module).__name__} cannot be copied for the float64 run "
                f"({type(error).__name__}: {error}); give it a __deepcopy__ that works"
            ) from error
        self._lowered: dict[str, None] = {}
        self._trace = RoutingTrace(find_layers(self._module))
        self._inner = InnerOutputs(self._module, also)
        self._margin: Array | None = None

    @property
    def module(self) -> torch.nn.Module:
        """The widened copy that runs."""
        return self._module

    @property
    def margin(self) -> Array | None:
        """``[rows]`` how clearly the last call's rows chose their experts.

        The smallest gap between a chosen value and the next, over the largest value of the
        layer; none where the module has no layers of experts.
        """
        return self._margin

    @property
    def lowered(self) -> tuple[str, ...]:
        """Names of the operators below float64."""
        return tuple(self._lowered)

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run one call; floats go in and come out as float64."""
        widened = {name: _widened(array) for name, array in inputs.items()}
        mode, noted = Float64Mode(), (self._trace.on(), self._inner.on())
        with _default_dtype(torch.float64), torch.no_grad(), noted[0], noted[1], mode:
            result = self._module(**widened)
        self._lowered |= mode.lowered
        self._margin = self._trace.margin(_rows(inputs)) if self._trace else None
        return _arrays(result, self._trace, self._inner, inputs)


def torch_float32(
    module: torch.nn.Module, device: str = "cpu", also: Sequence[str] = ()
) -> Callable[[Mapping[str, Array]], dict[str, Array]]:
    """PyTorch's own answers in float32, whose distance from the truth is the yardstick.

    Args:
        module: On ``device`` already.
        device: As torch names it.
        also: Paths of inner modules whose outputs are given, too.
    """
    trace, inner = RoutingTrace(find_layers(module)), InnerOutputs(module, also)

    def run(inputs: Mapping[str, Array]) -> dict[str, Array]:
        tensors = {
            name: torch.from_numpy(np.array(array)).to(device) for name, array in inputs.items()
        }
        with torch.no_grad(), trace.on(), inner.on():
            result = module(**tensors)
        return _arrays(result, trace, inner, inputs)

    return run


def _arrays(
    result: Any, trace: RoutingTrace, inner: InnerOutputs, inputs: Mapping[str, Array]
) -> dict[str, Array]:
    """What ``forward`` returned, by name, then the experts' load and inner outputs, if any."""
    answers = {name: to_array(value) for name, value in named_outputs(result).items()}
    if trace:
        answers[LOAD_OUTPUT] = trace.load(_rows(inputs))
    return answers | {name: to_array(value) for name, value in inner.named().items()}


def _rows(inputs: Mapping[str, Array]) -> int:
    """Size of the first input's first axis."""
    shape = next(iter(inputs.values())).shape
    return shape[0] if shape else 1


def to_array(value: torch.Tensor) -> Array:
    """A tensor of any device as an array that belongs to the caller."""
    detached = value.detach().cpu()
    if detached.dtype is torch.bfloat16:
        detached = detached.float()
    return np.array(detached.numpy())


def _widened(array: Array) -> torch.Tensor:
    # An operation of NumPy makes a scalar of an array without axes, which torch refuses.
    return torch.from_numpy(np.array(array, np.float64 if array.dtype.kind == "f" else None))


@contextmanager
def _default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)

"""Stop at every tensor that goes into a module or comes out of one, and put another in its place.

A tensor is met once: what one module gives and the next one takes is the same object.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.utils import _pytree as pytree

Side = Literal["input", "output"]


@dataclass(frozen=True)
class Place:
    """One tensor of one call.

    Attributes:
        path: Of the module; empty for the root.
        call: 0 for the module's first call in a run.
        side: Whether it goes in or comes out.
        leaf: Its number among the call's tensors on that side.
    """

    path: str
    call: int
    side: Side
    leaf: int


Visit = Callable[[Mapping[Place, torch.Tensor]], Mapping[Place, torch.Tensor]]
"""Takes all tensors of one side of a call that were not met before; gives those that are to go
on in their stead."""


@dataclass(frozen=True)
class Events:
    """What is told besides the tensors.

    Attributes:
        entered: A call begins: its module's path and number.
        left: It is over; ``passed`` says whether it gave only tensors that were there before.
    """

    entered: Callable[[str, int], None]
    left: Callable[[str, int, bool], None]


class _Run:
    """One run of the root: the calls so far, and the tensors that were met."""

    def __init__(self, visit: Visit, events: Events | None) -> None:
        self._visit, self._events = visit, events
        self._calls: dict[str, int] = {}
        self._stack: list[tuple[int, list[tuple[torch.Tensor, int]]]] = []
        self._met: dict[int, tuple[torch.Tensor, int]] = {}

    def enter(self, path: str, args: Any, kwargs: Any) -> tuple[Any, Any]:
        call = self._calls.get(path, 0)
        self._calls[path] = call + 1
        if self._events is not None:
            self._events.entered(path, call)
        args, kwargs = self._visited(path, call, "input", (args, dict(kwargs)))
        taken = [leaf for leaf in pytree.tree_leaves((args, kwargs)) if _is_tensor(leaf)]
        self._stack.append((call, [(tensor, tensor._version) for tensor in taken]))
        return args, kwargs

    def leave(self, path: str, output: Any) -> Any:
        call, taken = self._stack.pop()
        given = [leaf for leaf in pytree.tree_leaves(output) if _is_tensor(leaf)]
        passed = all(
            self._was_met(tensor) or any(_same(tensor, *other) for other in taken)
            for tensor in given
        )
        output = self._visited(path, call, "output", output)
        if self._events is not None:
            self._events.left(path, call, passed)
        return output

    def _visited(self, path: str, call: int, side: Side, tree: Any) -> Any:
        leaves, form = pytree.tree_flatten(tree)
        places = {
            Place(path, call, side, number): position
            for number, position in enumerate(
                i for i, leaf in enumerate(leaves) if _is_tensor(leaf)
            )
        }
        new = {place: leaves[i] for place, i in places.items() if not self._was_met(leaves[i])}
        others = self._visit(new) if new else {}
        for place, other in others.items():
            leaves[places[place]] = other
            self._met[id(other)] = (other, other._version)
        return pytree.tree_unflatten(leaves, form) if others else tree

    def _was_met(self, tensor: torch.Tensor) -> bool:
        """Not if it was edited in place since: then it is another value."""
        known = self._met.get(id(tensor))
        return known is not None and known[0] is tensor and known[1] == tensor._version


@contextmanager
def visiting(
    root: torch.nn.Module,
    visit: Visit,
    events: Events | None = None,
    closed: Collection[str] = (),
) -> Iterator[None]:
    """Until the block ends, stop at the tensors of each module under ``root``; for one run.

    Args:
        root: The module that is run.
        visit: Called in the order of execution.
        events: Told of calls.
        closed: Paths of modules into which no look is taken.
    """
    run, handles = _Run(visit, events), []
    fast = torch.backends.mha.get_fastpath_enabled()
    # It computes an encoder in one kernel and calls none of its modules.
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        for path, module in open_modules(root, closed).items():
            handles.append(module.register_forward_pre_hook(_before(run, path), with_kwargs=True))
            handles.append(module.register_forward_hook(_after(run, path)))
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
        for handle in handles:
            handle.remove()


def open_modules(
    root: torch.nn.Module, closed: Collection[str] = ()
) -> Mapping[str, torch.nn.Module]:
    """All modules by their first path, but for those inside of ``closed`` ones."""
    return {
        path: module
        for path, module in root.named_modules()
        if not any(path.startswith(f"{other}." if other else "") and path != other
                   for other in closed)
    }  # fmt: skip


def aliases(root: torch.nn.Module) -> dict[str, set[str]]:
    """All paths by which each module can be reached, by its first one."""
    first = {id(module): path for path, module in root.named_modules()}
    found: dict[str, set[str]] = {}
    for path, module in root.named_modules(remove_duplicate=False):
        found.setdefault(first[id(module)], set()).add(path)
    return found


def _before(run: _Run, path: str) -> Callable[..., Any]:
    return lambda _module, args, kwargs: run.enter(path, args, kwargs)


def _after(run: _Run, path: str) -> Callable[..., Any]:
    return lambda _module, _args, output: run.leave(path, output)


def _is_tensor(leaf: Any) -> bool:
    return isinstance(leaf, torch.Tensor)


def _same(given: torch.Tensor, taken: torch.Tensor, version: int) -> bool:
    """Whether a tensor is one that was taken, and was not edited in place since."""
    return taken._version == version and (
        given is taken
        or (
            given.dtype == taken.dtype and given.shape == taken.shape
            and given.data_ptr() == taken.data_ptr() and given.stride() == taken.stride()
        )
    )  # fmt: skip

"""Forwards that stand in for a module's own while it is exported."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

Forward = Callable[..., Any]


@contextmanager
def replaced_forwards() -> Iterator[Callable[[nn.Module, Forward], None]]:
    """Forwards set on instances, so that names and scopes of the modules stay.

    Yields a function that sets one; the end of the block takes them all back.
    """
    replaced: list[tuple[nn.Module, Any]] = []

    def replace(module: nn.Module, forward: Forward) -> None:
        replaced.append((module, module.__dict__.get("forward")))
        module.__dict__["forward"] = forward

    try:
        yield replace
    finally:
        for module, before in reversed(replaced):
            if before is None:
                del module.__dict__["forward"]
            else:
                module.__dict__["forward"] = before

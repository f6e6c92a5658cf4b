"""Outputs of inner modules beside those of the whole: ``--also-output fc1``."""

from __future__ import annotations

import functools
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from typing import Any

import torch
from torch import nn

from exporter.forwards import replaced_forwards
from exporter.outputs import named_outputs
from runtime.errors import ExportError, InvalidInput


class InnerOutputs:
    """Notes what the modules of some paths return, whenever the whole runs.

    A tensor is named as its module (``fc1``), several after it (``cells.output_0``); of a
    module that is called again the later ones are ``fc1.call_1`` and so on. False where no
    path was given. What was noted is of the last run.
    """

    def __init__(self, module: nn.Module, paths: Sequence[str]) -> None:
        known = dict(module.named_modules())
        self._modules = {path: known[path] for path in paths}
        self._noted: dict[str, torch.Tensor] = {}
        self._calls: Counter[str] = Counter()

    def __bool__(self) -> bool:
        return bool(self._modules)

    @contextmanager
    def on(self) -> Iterator[None]:
        """Hook the modules until the block ends."""
        self._noted.clear()
        self._calls.clear()
        handles = [
            module.register_forward_hook(self._noting(path))
            for path, module in self._modules.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, path: str) -> Callable[..., None]:
        def note(_module: nn.Module, _args: Any, returned: Any) -> None:
            count = self._calls[path]
            self._calls[path] += 1
            first = f"{path}.call_{count}" if count else path
            for name, value in named_outputs(returned, f"module '{path}'").items():
                whole = isinstance(returned, torch.Tensor)
                # A copy: what follows may edit the tensor in place.
                self._noted[first if whole else f"{first}.{name}"] = value.clone()

        return note

    def named(self) -> dict[str, torch.Tensor]:
        """What was noted, in the order of the paths.

        Raises:
            ExportError: A module was not called.
        """
        for path in self._modules:
            if not self._calls[path]:
                raise ExportError(
                    f"--also-output names '{path}', which forward does not call; "
                    "name a module that it calls"
                )
        return {
            name: value
            for path in self._modules
            for name, value in self._noted.items()
            if is_inner(name, (path,))
        }


def is_inner(output: str, paths: Sequence[str]) -> bool:
    """Whether an output is one of the modules of ``paths``."""
    return any(output == path or output.startswith(f"{path}.") for path in paths)


def check_paths(module: nn.Module, paths: Sequence[str]) -> None:
    """Refuse what is no inner module, and what would be there twice.

    Raises:
        InvalidInput: The text says what was probably meant.
    """
    known = [name for name, _ in module.named_modules() if name]
    for index, path in enumerate(paths):
        if path not in known:
            near = get_close_matches(path, known, n=3) or known[:3]
            raise InvalidInput(
                f"--also-output names '{path}', which is no module of the {len(known)} inside; "
                f"there are {', '.join(near)}{' ...' if len(known) > len(near) else ''}"
                if known
                else f"--also-output names '{path}', and the module has none inside"
            )
        if is_inner(path, (*paths[:index], *paths[index + 1 :])):
            raise InvalidInput(
                f"--also-output names '{path}' twice, or it and a module that it is in; their "
                "names would clash: name one"
            )


@contextmanager
def with_inner_outputs(module: nn.Module, paths: Sequence[str]) -> Iterator[None]:
    """Until the block ends, ``module`` returns its outputs by name and the inner ones."""
    inner, own = InnerOutputs(module, paths), module.forward

    @functools.wraps(own)
    def forward(*args: Any, **kwargs: Any) -> Mapping[str, torch.Tensor]:
        with inner.on():
            returned = own(*args, **kwargs)
        return {**named_outputs(returned), **inner.named()}

    with replaced_forwards() as replace:
        if inner:
            replace(module, forward)
        yield

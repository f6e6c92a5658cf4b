"""Put the stand-ins in the place of the real modules, and take them away again."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

HERE = Path(__file__).parent
MODULES = {
    "cuda.bindings.runtime": HERE / "cuda_runtime.py",
    "tensorrt": HERE / "tensorrt" / "stand_in.py",
}


@contextmanager
def installed() -> Iterator[Any]:
    """Fresh stand-ins under the names of the real modules.

    Yields:
        ``cuda`` and ``tensorrt``, the modules; ``state``, what lies on the device.
    """
    before = {name: module for name, module in sys.modules.items() if _stood_in(name)}
    for name in before:
        del sys.modules[name]
    try:
        cuda, tensorrt = (_loaded(name, path) for name, path in MODULES.items())
        yield SimpleNamespace(cuda=cuda, tensorrt=tensorrt, state=cuda._state, Misuse=cuda.Misuse)
    finally:
        for name in [name for name in sys.modules if _stood_in(name)]:
            del sys.modules[name]
        sys.modules.update(before)


def _stood_in(name: str) -> bool:
    return name in MODULES or name.startswith("tensorrt.")


def _loaded(name: str, path: Path) -> Any:
    spec = importlib.util.spec_from_file_location(
        name, path, submodule_search_locations=[str(path.parent)]
    )
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module

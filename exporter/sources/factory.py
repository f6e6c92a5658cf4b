"""A user's factory: ``package.module:factory`` from the current folder, ``file.py:factory``."""

from __future__ import annotations

import importlib
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from exporter.said import first_line
from exporter.sources.made import Made
from exporter.weights import load_weights
from runtime.errors import ExportError, InvalidInput, NotFound, with_article


def made_from_factory(model: str, weights: Path | None) -> Made:
    """Import the factory, call it without arguments and fill what it makes.

    Raises:
        NotFound: There is no such file, module or factory.
        InvalidInput: The text has another form.
        ExportError: The import or the call fails, or gives no module.
    """
    place, _, attribute = model.rpartition(":")
    if not place or not attribute.isidentifier():
        raise InvalidInput(
            f"model '{model}' cannot be read; wanted NAME, package.module:factory, "
            "path/to/file.py:factory, file.pt2 or torchvision:NAME"
        )
    if place.endswith(".py"):
        namespace, shown = _import_file(Path(place)), Path(place).name
    else:
        namespace, shown = _import_module(place), place
    if not hasattr(namespace, attribute):
        raise NotFound(f"{shown} has no '{attribute}'; name a function that returns the module")
    factory = f"{shown}:{attribute}"
    module = _call_factory(getattr(namespace, attribute), factory)
    sha256 = load_weights(module, weights) if weights else None
    return Made(attribute.lower(), factory, module, checkpoint_sha256=sha256)


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
        raise ExportError(f"{path.name} fails on import: {first_line(error)}") from error
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
        raise ExportError(f"{name} fails on import: {first_line(error)}") from error
    except (Exception, SystemExit) as error:
        raise ExportError(f"{name} fails on import: {first_line(error)}") from error


def _lies_in(module: ModuleType, folder: str) -> bool:
    """Whether a module or a package, one without ``__init__.py`` too, is from ``folder``."""
    places = [getattr(module, "__file__", None) or "", *getattr(module, "__path__", ())]
    return any(Path(place).is_relative_to(folder) for place in places)


def _call_factory(factory: Any, shown: str) -> torch.nn.Module:
    try:
        made = factory if isinstance(factory, torch.nn.Module) else factory()
    except (Exception, SystemExit) as error:
        raise ExportError(f"{shown} failed: {first_line(error)}; it is called without arguments"
                          ) from error  # fmt: skip
    if not isinstance(made, torch.nn.Module):
        raise ExportError(
            f"{shown} gave {with_article(type(made).__name__)}; wanted a torch.nn.Module"
        )
    return made

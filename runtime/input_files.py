"""A user's files as requests to a served model: pictures, ``.npy``, ``.npz``, JSON."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from runtime.array_files import load_arrays
from runtime.client_wire import ServedModel
from runtime.errors import InvalidInput, NotFound, with_article
from runtime.preprocess import array_from_image, read_image, rows_for
from runtime.tensors import Array, TensorSpec, numpy_dtype

KINDS = "PNG, JPEG, .npy, .npz or .json"


@dataclass(frozen=True)
class Prepared:
    """The inputs of one request, from one file.

    Attributes:
        name: The file, with the position where it holds several requests.
        arrays: An array for each input, with the batch axis.
        picture: Whether it is one sample that may be joined with others.
    """

    name: str
    arrays: Mapping[str, Array]
    picture: bool = False


def read_inputs(path: Path, model: ServedModel, *, invert: bool = False) -> list[Prepared]:
    """Read one file; JSON may hold several requests, any other holds one.

    Args:
        path: The file; its ending tells the kind, anything else is taken for a picture.
        model: What the server says of the model.
        invert: Swap light and dark in pictures.

    Raises:
        NotFound: There is no such file.
        InvalidInput: It cannot be read, or this model cannot take it.
    """
    if path.is_dir():
        raise InvalidInput(f"{path} is a folder; wanted {KINDS}")
    if not path.exists():
        raise NotFound(f"there is no file {path}")
    if path.suffix.lower() == ".json":
        return _from_json(path, model)
    if path.suffix.lower() in (".npy", ".npz"):
        return [Prepared(str(path), _from_numpy(path, model))]
    return [Prepared(str(path), _from_picture(path, model, invert), picture=True)]


def _from_picture(path: Path, model: ServedModel, invert: bool) -> dict[str, Array]:
    preprocessing = model.properties.preprocessing
    if preprocessing is None:
        raise InvalidInput(
            f"model '{model.name}' does not say how a picture becomes its input; "
            f"give {path.name} as .npy, .npz or .json"
        )
    spec = _only_input(path, model)
    array = array_from_image(read_image(path), preprocessing, invert=invert, wanted=spec)
    row = rows_for(spec, array[np.newaxis])
    return {spec.name: row if row.ndim == len(spec.shape) else array}


def _from_numpy(path: Path, model: ServedModel) -> dict[str, Array]:
    loaded = load_arrays(path)
    return loaded if isinstance(loaded, dict) else {_only_input(path, model).name: loaded}


def _from_json(path: Path, model: ServedModel) -> list[Prepared]:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidInput(f"{path} is not JSON: {error}") from error
    if isinstance(data, dict):
        return [Prepared(str(path), _from_object(data, path, model))]
    if not isinstance(data, list):
        raise InvalidInput(
            f"{path} holds {with_article(type(data).__name__)}; wanted a list or an object"
        )
    if data and all(isinstance(item, dict) for item in data):
        return [
            Prepared(f"{path}[{index}]", _from_object(item, path, model))
            for index, item in enumerate(data)
        ]
    spec = _only_input(path, model)
    return [Prepared(str(path), {spec.name: _array_from_list(data, spec, path)})]


def _from_object(data: dict[str, Any], path: Path, model: ServedModel) -> dict[str, Array]:
    specs = {spec.name: spec for spec in model.inputs}
    for name in data:
        if name not in specs:
            raise InvalidInput(
                f"{path}: input '{name}' is not known; the model has {', '.join(specs)}"
            )
    return {name: _array_from_list(value, specs[name], path) for name, value in data.items()}


def _array_from_list(value: Any, spec: TensorSpec, path: Path) -> Array:
    """Nested lists in the data type of the input; nothing is cut to fit."""
    wanted = numpy_dtype(spec.dtype)
    try:
        found = np.asarray(value)
        with np.errstate(over="raise"):
            array = np.asarray(value, dtype=wanted)
    except (TypeError, ValueError, OverflowError, FloatingPointError) as error:
        raise InvalidInput(f"{path}: input '{spec.name}' wants {spec}: {error}") from error
    if found.size and found.dtype.kind not in _KINDS_FOR[wanted.kind]:
        raise InvalidInput(
            f"{path}: input '{spec.name}' wants {spec}; the lists hold {found.dtype.name}"
        )
    return array


_KINDS_FOR = {"f": "fiu", "i": "iu", "u": "iu", "b": "b", "O": "U"}
"""Kinds of NumPy's own reading of JSON that a data type takes."""


def _only_input(path: Path, model: ServedModel) -> TensorSpec:
    if len(model.inputs) != 1:
        names = ", ".join(spec.name for spec in model.inputs)
        raise InvalidInput(
            f"{path} can be one input, and model '{model.name}' has {len(model.inputs)} "
            f"({names}); give .npz or .json with an array for each"
        )
    return model.inputs[0]


def joined(prepared: list[Prepared], largest: int) -> list[list[Prepared]]:
    """Put neighbouring pictures of one size into common requests of at most ``largest``."""
    groups: list[list[Prepared]] = []
    for item in prepared:
        first = groups[-1][0] if groups else None
        fits = first is not None and first.picture and _shapes(first) == _shapes(item)
        if item.picture and fits and len(groups[-1]) < largest:
            groups[-1].append(item)
        else:
            groups.append([item])
    return groups


def _shapes(item: Prepared) -> dict[str, tuple[int, ...]]:
    return {name: array.shape for name, array in item.arrays.items()}


def answers_of(
    groups: list[list[Prepared]], ask: Callable[[Mapping[str, Array]], dict[str, Array]]
) -> list[dict[str, Array]]:
    """Send each group as one request; the answers in the order of the files.

    Raises:
        InvalidInput: The server refuses a request; the file is named.
    """
    answers: list[dict[str, Array]] = []
    for group in groups:
        arrays = {
            name: np.concatenate([item.arrays[name] for item in group])
            if len(group) > 1
            else group[0].arrays[name]
            for name in group[0].arrays
        }
        try:
            outputs = ask(arrays)
        except InvalidInput as error:
            raise InvalidInput(f"{group[0].name}: {error}") from error
        if len(group) == 1:
            answers.append(outputs)
        else:
            answers += [{name: array[i : i + 1] for name, array in outputs.items()}
                        for i in range(len(group))]  # fmt: skip
    return answers

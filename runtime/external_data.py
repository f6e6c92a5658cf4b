"""Weights that an ONNX file has in files beside it: which, and whether they may be read.

ONNX lets a tensor name any file, and ONNX Runtime takes a marker in the name's place for an
address in memory. So the names are read here, from the bytes of the file, and what is not a
whole file beside the model is refused before any library opens it. The standard library is
enough: the wire format of protobuf is walked, nothing is copied.
"""

from __future__ import annotations

import mmap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from runtime.errors import RepositoryError
from runtime.manifest import DataFile

_Bytes = memoryview
_CHILDREN: Mapping[str, Mapping[int, str]] = {
    "ModelProto": {7: "GraphProto", 20: "TrainingInfoProto", 25: "FunctionProto"},
    "GraphProto": {1: "NodeProto", 5: "TensorProto", 15: "SparseTensorProto"},
    "TrainingInfoProto": {1: "GraphProto", 2: "GraphProto"},
    "FunctionProto": {7: "NodeProto", 11: "AttributeProto"},
    "NodeProto": {5: "AttributeProto"},
    "AttributeProto": {
        5: "TensorProto", 6: "GraphProto", 10: "TensorProto", 11: "GraphProto",
        22: "SparseTensorProto", 23: "SparseTensorProto",
    },
    "SparseTensorProto": {1: "TensorProto", 2: "TensorProto"},
}  # fmt: skip
"""By message of ``onnx.proto``: the fields that lead to tensors."""
_EXTERNAL_DATA, _KEY, _VALUE = 13, 1, 2
_VARINT, _FIXED64, _LENGTH, _FIXED32 = 0, 1, 2, 5
_LONGEST_VARINT = 10


@dataclass(frozen=True)
class Reference:
    """Where one tensor's bytes are.

    Attributes:
        file: As the model names it.
        end: The first byte after them, at least.
    """

    file: str
    end: int


def check_external_data(model: Path) -> None:
    """Refuse a model whose weights are not in whole files beside it.

    Raises:
        RepositoryError: The model cannot be read, or names a file in another place, one that
            is missing, is no plain file, or ends before the weights do.
    """
    for reference in external_references(model):
        _check_name(reference.file, model)
        path = model.parent / reference.file
        if path.is_symlink() or not path.is_file():
            raise RepositoryError(
                f"{model.name} has weights in '{reference.file}', which is "
                f"{'no plain file' if path.exists() or path.is_symlink() else 'missing'} beside it"
            )
        if (size := path.stat().st_size) < reference.end:
            raise RepositoryError(
                f"{path} ends at byte {size:,}; {model.name} has weights up to "
                f"{reference.end:,}: the file is cut"
            )


def check_listed(model: Path, listed: Sequence[DataFile]) -> None:
    """Refuse a model that reads files of which its manifest says nothing.

    Raises:
        RepositoryError: It does, or cannot be read; the text names the file.
    """
    names = {item.file for item in listed}
    for reference in external_references(model):
        if reference.file not in names:
            raise RepositoryError(
                f"{model} has weights in '{reference.file}', which its manifest does not list"
            )


def external_references(model: Path) -> list[Reference]:
    """What a model says of tensors outside it.

    Raises:
        RepositoryError: The file cannot be read, or is not ONNX.
    """
    try:
        with (
            model.open("rb") as file,
            mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
        ):
            return _references(data)
    except OSError as error:
        raise RepositoryError(f"{model} cannot be read: {error.strerror or error}") from error
    except (ValueError, IndexError) as error:
        raise RepositoryError(f"{model.name} cannot be loaded: it is not ONNX ({error})") from error


def _references(data: mmap.mmap) -> list[Reference]:
    found: list[Reference] = []
    with memoryview(data) as whole:
        waiting: list[tuple[str, int, int]] = [("ModelProto", 0, len(whole))]
        while waiting:
            kind, start, end = waiting.pop()
            if kind == "TensorProto":
                if reference := _reference(whole, start, end):
                    found.append(reference)
                continue
            children = _CHILDREN[kind]
            waiting += [
                (children[number], at, until)
                for number, at, until in _fields(whole, start, end)
                if number in children
            ]
    return found


def _reference(data: _Bytes, start: int, end: int) -> Reference | None:
    """Of one tensor; none where its numbers are in the model."""
    entries: dict[str, str] = {}
    for number, at, until in _fields(data, start, end):
        if number == _EXTERNAL_DATA:
            pair = {n: bytes(data[a:u]).decode() for n, a, u in _fields(data, at, until)}
            entries[pair.get(_KEY, "")] = pair.get(_VALUE, "")
    if not entries:
        return None
    offset, length = (_count(entries.get(key, "")) for key in ("offset", "length"))
    return Reference(entries.get("location", ""), offset + length)


def _count(text: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        raise ValueError(f"'{text[:40]}' is no place in a file")
    return int(text)


def _fields(data: _Bytes, start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Number, beginning and end of each field that has a length; others are passed over."""
    at = start
    while at < end:
        tag, at = _varint(data, at, end)
        kind = tag & 7
        if kind == _LENGTH:
            length, at = _varint(data, at, end)
            if at + length > end:
                raise ValueError("a field ends after its message")
            yield tag >> 3, at, at + length
            at += length
        elif kind == _VARINT:
            _, at = _varint(data, at, end)
        elif kind in (_FIXED32, _FIXED64):
            at += 4 if kind == _FIXED32 else 8
        else:
            raise ValueError(f"wire type {kind}")
    if at != end:
        raise ValueError("a field ends after its message")


def _varint(data: _Bytes, at: int, end: int) -> tuple[int, int]:
    value = shift = 0
    for place in range(at, min(end, at + _LONGEST_VARINT)):
        byte = data[place]
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, place + 1
        shift += 7
    raise ValueError("a number does not end")


def _check_name(name: str, model: Path) -> None:
    if not name or name in (".", "..") or Path(name).name != name or "\\" in name or "\0" in name:
        raise RepositoryError(
            f"{model.name} has weights in {name[:80]!r}; wanted a file beside it, by its name alone"
        )

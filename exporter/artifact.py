"""A graph becomes files: the ONNX file, and beside it its weights where they are large."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import onnx_ir as ir

from runtime.errors import InvalidInput
from runtime.manifest import DataFile

DATA_ABOVE_BYTES = 10**9
"""Weights above this go to a file of their own: a message of protobuf ends at two gigabytes,
and what reads it holds all of it in memory."""
MOST_INSIDE_BYTES = 2 * 10**9
"""What is sure to fit into one message, with a graph around it."""
_SMALLEST_BYTES = 1024
"""A tensor below this stays in the graph, where shape inference reads it."""
DATA_SHA256 = "pkg.twinport.data_sha256"
"""Metadata of the ONNX file: the hash of the file beside it."""
Placed: TypeAlias = tuple[int, ir.TensorProtocol]
"""A tensor and where it begins in its file."""
_ALIGNED_BYTES = 64
"""Where the file is mapped, every tensor begins where a processor likes to read."""


@dataclass(frozen=True)
class SerializedGraph:
    """A graph as bytes, the same for the same graph.

    Attributes:
        data: Of the ONNX file.
        outside: Tensors that lie in the other file, with their places; empty where all is
            inside.
        data_file: The other file's name.
        data_sha256: Of its bytes; the ONNX file has it too, so that its own hash is one of
            the weights as well.
    """

    data: bytes
    outside: tuple[Placed, ...] = ()
    data_file: str = ""
    data_sha256: str = ""

    def write(self, path: Path) -> tuple[DataFile, ...]:
        """Write the ONNX file to ``path``, the weights beside it.

        Returns:
            The files beside it.
        """
        path.write_bytes(self.data)
        if not self.outside:
            return ()
        path = path.with_name(self.data_file)
        with path.open("wb") as file:
            for part in _parts(self.outside):
                file.write(part)
        return (DataFile(self.data_file, self.data_sha256, path.stat().st_size),)


def serialized_graph(
    model: ir.Model, file: str, data_above: int = DATA_ABOVE_BYTES
) -> SerializedGraph:
    """Serialise a graph.

    Args:
        model: Stays as it is.
        file: The name that the ONNX file will have; the weights' is ``<file>.data``.
        data_above: Bytes of all weights above which they go to a file of their own.

    Raises:
        InvalidInput: ``data_above`` is more than one file can hold.
    """
    if data_above > MOST_INSIDE_BYTES:
        raise InvalidInput(
            f"an ONNX file ends at two gigabytes; weights up to {data_above:,} bytes cannot stay "
            f"in it, wanted at most {MOST_INSIDE_BYTES:,}"
        )
    values = [
        value
        for graph in model.graphs()
        for value in graph.initializers.values()
        if value.const_value is not None
    ]
    if sum(value.const_value.nbytes for value in values if value.const_value) <= data_above:
        return SerializedGraph(_bytes_of(model))
    large = [
        value
        for value in values
        if value.const_value is not None
        and value.const_value.nbytes >= _SMALLEST_BYTES
        and value.const_value.dtype is not ir.DataType.STRING
    ]
    name = f"{file}.data"
    with _outside(large, name) as outside:
        sha256 = _sha256(outside)
        model.metadata_props[DATA_SHA256] = sha256
        try:
            return SerializedGraph(_bytes_of(model), tuple(outside), name, sha256)
        finally:
            del model.metadata_props[DATA_SHA256]


def _parts(placed: Sequence[Placed]) -> Iterator[bytes]:
    """The file's bytes, a tensor at a time: all together may be more than the memory."""
    size = 0
    for offset, tensor in placed:
        part = bytes(offset - size) + tensor.tobytes()
        size += len(part)
        yield part


def _sha256(placed: Sequence[Placed]) -> str:
    digest = hashlib.sha256()
    for part in _parts(placed):
        digest.update(part)
    return digest.hexdigest()


@contextmanager
def _outside(values: list[ir.Value], file: str) -> Iterator[list[Placed]]:
    """While it lasts the values only say where in ``file`` their numbers are."""
    tensors = [value.const_value for value in values]
    placed: list[Placed] = []
    end = 0
    try:
        for value, tensor in zip(values, tensors, strict=True):
            assert tensor is not None
            offset = -(-end // _ALIGNED_BYTES) * _ALIGNED_BYTES
            placed.append((offset, tensor))
            value.const_value = ir.ExternalTensor(
                file, offset, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()),
                name=str(value.name), base_dir="",
            )  # fmt: skip
            end = offset + tensor.nbytes
        yield placed
    finally:
        for value, tensor in zip(values, tensors, strict=True):
            value.const_value = tensor


def _bytes_of(model: ir.Model) -> bytes:
    return ir.to_proto(model).SerializeToString(deterministic=True)

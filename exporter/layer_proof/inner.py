"""Inner values of an ONNX file: a copy of it gives them as outputs, too."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

import onnx

from runtime.backends.base import Backend, BackendOptions
from runtime.backends.factory import open_backend
from runtime.tensors import Array

Infer = Callable[[Mapping[str, Array]], Mapping[str, Array]]
Open = Callable[[Path], Backend]
"""Builds what runs an ONNX file, and loads it."""

_WHOLE = "model.onnx"
_DATA = "model.data"


def plain_runtime(path: Path) -> Backend:
    """ONNX Runtime with the graph as it is written: no node is fused or left out."""
    return open_backend("onnxruntime", path, BackendOptions(optimised=False))


def full_runtime(path: Path, *, layouts: bool = True) -> Backend:
    """ONNX Runtime as it serves: with all that it does to a graph of that precision."""
    return open_backend("onnxruntime", path, BackendOptions(layouts=layouts))


def with_outputs(model: onnx.ModelProto, values: Sequence[str]) -> onnx.ModelProto:
    """A copy of a graph that gives ``values`` besides its own outputs."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    own = {item.name for item in copy.graph.output}
    # Their types are left for the library to infer.
    copy.graph.output.extend(onnx.ValueInfoProto(name=v) for v in values if v not in own)
    return copy


@contextmanager
def opened(model: onnx.ModelProto, build: Open) -> Iterator[Infer]:
    """Write a graph to a folder of its own, build it, and give what runs it."""
    with tempfile.TemporaryDirectory(prefix="twinport-layers-") as folder:
        path = Path(folder) / _WHOLE
        if model.ByteSize() < onnx.checker.MAXIMUM_PROTOBUF:
            path.write_bytes(model.SerializeToString())
        else:
            onnx.save_model(model, path, save_as_external_data=True, location=_DATA)
        with closing(build(path)) as backend:
            yield backend.infer

"""What a resize inside the graph costs: our two products beside ONNX Runtime's own Resize.

    python benchmarks/pixels.py

Milliseconds for one picture to 224x224, one thread, best of several in turns. The products come
with scaling and normalising, the Resize without. Writes the table in ``docs/pixels.md``.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
import onnxruntime as ort
import torch
from marks import put_between
from moe_forms import processor
from onnx import TensorProto, helper

from exporter.graph import onnx_from_module
from exporter.preprocess.source import with_pixels
from exporter.preprocess.words import words_from_text
from exporter.source import Source
from runtime.tensors import TensorSpec

DOCUMENT = Path(__file__).parents[1] / "docs" / "pixels.md"
SIDE = 224
SIZES = ((28, 28), (480, 640), (1080, 1920), (3000, 4000))
ROUNDS = 7

Call = Callable[[Any], Any]


def main() -> None:
    """Measure, write, print."""
    calls = {"products": call_of(products()), "Resize": call_of(resize())}
    lines = ["| picture | products | ONNX Runtime's `Resize` |", "|---|---|---|"]
    for height, width in SIZES:
        best = timed(calls, np.random.RandomState(0).randint(0, 256, (1, height, width, 3)))
        lines.append(f"| {height} x {width} | {best['products']:.2f} | {best['Resize']:.2f} |")
    table = "\n".join([*lines, "", f"{processor()}, onnxruntime {ort.__version__}"])
    text = DOCUMENT.read_text(encoding="utf-8")
    DOCUMENT.write_text(put_between(text, "pixels", table), encoding="utf-8")
    print(table)


def products() -> bytes:
    """The preprocessing of an export, and nothing after it."""

    class Nothing(torch.nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return image * 1.0

    spec = TensorSpec("image", "float32", ("batch", 3, SIDE, SIDE))
    source = Source("none", "none", Nothing().eval(), (spec,), (), {}, {}, None)
    words = words_from_text(f"resize={SIDE},mean=0.485:0.456:0.406,std=0.229:0.224:0.225")
    return bytes(ir.to_proto(onnx_from_module(with_pixels(source, words))).SerializeToString())


def resize() -> bytes:
    """Pixels to float, and an antialiased Resize of ONNX."""
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Transpose", ["float"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node(
            "Resize", ["planes", "", "", "size"], ["y"], mode="linear", antialias=1,
            coordinate_transformation_mode="half_pixel", axes=[2, 3],
        ),
    ]  # fmt: skip
    image = helper.make_tensor_value_info("image", TensorProto.UINT8, ["b", "h", "w", 3])
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    size = helper.make_tensor("size", TensorProto.INT64, [2], [SIDE, SIDE])
    graph = helper.make_graph(nodes, "resize", [image], [y], [size])
    opsets = [helper.make_opsetid("", 20)]
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def call_of(model: bytes) -> Call:
    """One call of a graph in ONNX Runtime, one thread."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return lambda image: session.run(None, {"image": image})


def timed(calls: Mapping[str, Call], pixels: Any) -> dict[str, float]:
    """Milliseconds of the best call."""
    image = pixels.astype(np.uint8)
    best = dict.fromkeys(calls, float("inf"))
    for _ in range(ROUNDS):
        for name, call in calls.items():
            started = time.perf_counter()
            call(image)
            best[name] = min(best[name], 1e3 * (time.perf_counter() - started))
    return best


if __name__ == "__main__":
    main()

from __future__ import annotations

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from exporter.report.structure import module_rows, structure_of
from runtime.manifest import ModuleOrigin


def test_the_tree_counts_every_parameter_and_node_of_the_artifact(lenet):
    found = structure_of(lenet.folder / "model.onnx", lenet.manifest)
    root, *rows = found.modules
    assert root.parameters == lenet.manifest.source.parameters
    assert dict(root.operators) == found.summary.operators
    assert [row.path for row in rows][:4] == ["conv1", "relu1", "pool1", "conv2"]
    assert sum(row.parameters for row in rows) == root.parameters
    by_path = {row.path: row for row in rows}
    assert by_path["fc1"].parameters == 400 * 120 + 120
    assert by_path["fc1"].operators == (("Gemm", 1),)
    assert by_path["fc1"].module_class == "Linear"


def test_modules_come_in_the_order_of_the_graph_below_those_that_hold_them(lenet):
    names = ["conv2d", "relu", "max_pool2d", "linear"]
    paths = ["stem.10", "stem.2", "blocks.0.moe", "head"]
    origins = {
        name: ModuleOrigin(path, f"pkg.{path}", "Any")
        for name, path in zip(names, paths, strict=True)
    }
    rows = module_rows(origins, lenet.folder / "model.onnx")
    assert [(row.depth, row.path) for row in rows] == [
        (0, ""), (1, "stem"), (2, "stem.10"), (2, "stem.2"),
        (1, "blocks"), (2, "blocks.0"), (3, "blocks.0.moe"), (1, "head"),
    ]  # fmt: skip
    stem = rows[1]
    assert (stem.name, stem.module_class) == ("stem", "")
    assert dict(stem.operators) == {"Conv": 1, "Relu": 1}


def test_without_a_map_there_is_no_tree(lenet):
    assert module_rows({}, lenet.folder / "model.onnx") == ()


def test_a_parameter_is_that_of_the_innermost_module_and_the_rest_is_the_roots(tmp_path):
    sizes = {"a.b.weight": 2, "a.weight": 3, "scale": 5}
    tensors = {name: np.ones(size, dtype=np.float32) for name, size in sizes.items()}
    tensors["axes"] = np.ones(7, dtype=np.int64)
    y = helper.make_tensor_value_info("y", TensorProto.FLOAT, [2])
    nodes = [helper.make_node("Identity", ["a.b.weight"], ["t"]),
             helper.make_node("Identity", ["t"], ["y"])]  # fmt: skip
    graph = helper.make_graph(nodes, "g", [], [y], [
        numpy_helper.from_array(value, name) for name, value in tensors.items()
    ])  # fmt: skip
    onnx.save(helper.make_model(graph), tmp_path / "g.onnx")
    origins = {"t": ModuleOrigin("a.b", "B", "Identity"), "y": ModuleOrigin("a", "A", "Identity")}
    rows = module_rows(origins, tmp_path / "g.onnx")
    assert [(row.path, row.parameters) for row in rows] == [("", 10), ("a", 5), ("a.b", 2)]

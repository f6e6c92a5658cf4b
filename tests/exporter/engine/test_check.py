"""What the real parser takes, node by node, past the first one that it refuses."""

from __future__ import annotations

import shutil

import pytest
from onnx import TensorProto, helper

from exporter.engine.check import check_model
from runtime.errors import NotFound, RepositoryError

FLOAT, INT64, BOOL = TensorProto.FLOAT, TensorProto.INT64, TensorProto.BOOL


def verdicts(checked):
    return {item.node: item.verdict for item in checked.nodes}


def test_all_nodes_of_lenet_are_taken(lenet, rtx):
    checked = check_model(lenet.folder.parent, flavour="tensorrt_rtx")
    assert checked.count("taken") == len(checked.nodes) == 12
    assert checked.version == rtx.version
    assert {item.module for item in checked.nodes} >= {"conv1", "fc3"}


def test_what_comes_after_a_refused_node_is_asked_as_well(graphs):
    path = graphs.write(
        helper.make_node("Relu", ["x"], ["r"], name="relu"),
        helper.make_node("NonZero", ["r"], ["n"], name="where"),
        helper.make_node("Cast", ["n"], ["f"], name="cast", to=FLOAT),
        helper.make_node("ScatterND", ["x", "i", "u"], ["s"], name="add", reduction="add"),
        helper.make_node("Neg", ["s"], ["y"], name="neg"),
        x=(FLOAT, [4, 4]), i=(INT64, [2, 1]), u=(FLOAT, [2, 4]),
        outputs={"y": (FLOAT, [4, 4]), "f": (FLOAT, [2, None])},
    )  # fmt: skip
    checked = check_model(path, flavour="tensorrt_rtx")
    assert verdicts(checked) == {"relu": "taken", "where": "refused", "cast": "taken",
                                 "add": "refused", "neg": "taken"}  # fmt: skip
    where, add = (item for item in checked.nodes if item.verdict == "refused")
    assert where.reason.startswith("NonZero plugin creator")
    assert "--moe-form static" in where.cure
    assert add.reason == "ScatterND with reduction is not supported"


def test_what_needs_an_unknown_type_is_said_to_be_unknown(graphs):
    path = graphs.write(
        helper.make_node("Foo", ["x"], ["f"], name="foo", domain="mine"),
        helper.make_node("Relu", ["f"], ["r"], name="behind"),
        helper.make_node("Neg", ["r"], ["y"], name="far"),
        helper.make_node("Abs", ["x"], ["z"], name="beside"),
        outputs={"y": (FLOAT, None), "z": (FLOAT, ["b", 4])},
    )  # fmt: skip
    checked = check_model(path, flavour="tensorrt_rtx")
    assert verdicts(checked) == {"foo": "refused", "behind": "unknown", "far": "unknown",
                                 "beside": "taken"}  # fmt: skip
    assert checked.nodes[0].operator == "mine.Foo"
    assert checked.nodes[0].reason.startswith("Plugin not found")
    assert checked.nodes[0].cure == "write it with other operators in the module"
    assert "needs what the refused node 'foo' gives" in checked.nodes[1].reason


def test_the_body_of_a_branch_is_looked_into(graphs):
    out = helper.make_tensor_value_info("t", FLOAT, [4, 4])
    other = helper.make_tensor_value_info("e", FLOAT, [4, 4])
    then = helper.make_graph(
        [helper.make_node("NonZero", ["x"], ["n"], name="inner"),
         helper.make_node("Identity", ["x"], ["t"], name="same")], "then", [], [out],
    )  # fmt: skip
    orelse = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["e"], name="neg")], "else", [], [other]
    )
    path = graphs.write(
        helper.make_node("If", ["c"], ["y"], name="branch", then_branch=then, else_branch=orelse),
        helper.make_node("Relu", ["y"], ["z"], name="after"),
        x=(FLOAT, [4, 4]), c=(BOOL, []), outputs={"z": (FLOAT, [4, 4])},
    )  # fmt: skip
    checked = check_model(path, flavour="tensorrt_rtx")
    found = {item.node: item for item in checked.nodes}
    assert found["branch"].verdict == found["inner"].verdict == "refused"
    assert found["branch"].reason.startswith("'inner' (NonZero) inside it")
    assert found["inner"].within == "branch"
    assert found["neg"].verdict == "unknown"
    assert found["after"].verdict == "taken"


def test_nodes_without_names_of_their_own_get_some(graphs):
    path = graphs.write(helper.make_node("Relu", ["x"], ["r"]),
                        helper.make_node("NonZero", ["r"], ["y"]),
                        outputs={"y": (INT64, [2, None])})  # fmt: skip
    checked = check_model(path, flavour="tensorrt_rtx")
    assert verdicts(checked) == {"Relu_0": "taken", "NonZero_1": "refused"}


def test_an_input_that_no_engine_takes_leaves_all_nodes_unknown(graphs, capfd):
    text = (TensorProto.STRING, ["b"])
    same = helper.make_node("Identity", ["x"], ["y"], name="same")
    path = graphs.write(same, x=text, outputs={"y": text})
    checked = check_model(path, flavour="tensorrt_rtx")
    assert verdicts(checked) == {"same": "unknown"}
    assert "data" in checked.nodes[0].reason or "type" in checked.nodes[0].reason
    capfd.readouterr()  # the parser prints past the log


def test_wrong_paths_are_one_line(lenet_engine, tmp_path):
    (tmp_path / "bad.onnx").write_bytes(b"no graph in here")
    with pytest.raises(RepositoryError, match="is not an ONNX model"):
        check_model(tmp_path / "bad.onnx")
    with pytest.raises(NotFound):
        check_model(tmp_path / "gone")
    with pytest.raises(RepositoryError, match="is an engine; check lenet5/1"):
        check_model(lenet_engine.folder)
    shutil.copytree(lenet_engine.folder.parents[1] / "lenet5" / "1", tmp_path / "m" / "1")
    (tmp_path / "m" / "1" / "manifest.json").unlink()
    with pytest.raises(RepositoryError, match=r"give its \.onnx file"):
        check_model(tmp_path / "m")

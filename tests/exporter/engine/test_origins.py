"""Names of a graph lead to torch modules, whichever way the graph was made."""

from __future__ import annotations

from onnx import TensorProto, helper

from exporter.engine.faults import fault_from_log, short_text
from exporter.engine.origins import Module, Origins
from runtime.manifest import ModuleOrigin

MOE = ModuleOrigin("blocks.0.moe", "models.moe.MoELayer", "MoE")


def origins():
    body = helper.make_graph(
        [helper.make_node("Neg", ["x"], ["inner_out"], name="inner"),
         helper.make_node("Abs", ["x"], ["unknown"], name="nameless")], "body", [],
        [helper.make_tensor_value_info("inner_out", TensorProto.FLOAT, None)],
    )  # fmt: skip
    nodes = [
        helper.make_node("Gemm", ["x"], ["linear"], name="node_linear"),
        helper.make_node("If", ["c"], ["y"], name="branch", then_branch=body, else_branch=body),
        helper.make_node("TopK", ["linear"], ["values", "chosen"], name="top"),
    ]
    places = {
        "linear": ModuleOrigin("fc1", "torch.nn.Linear", "Gemm"),
        "inner_out": ModuleOrigin("", "Net", "Neg"),
        "y": ModuleOrigin("loop", "Loop", "If"),
        "chosen": ModuleOrigin("gate", "torch.nn.Linear", "TopK"),
        "getitem": MOE,
    }
    return Origins(helper.make_model(helper.make_graph(nodes, "g", [], [])), places)


def test_a_node_is_where_one_of_its_values_is():
    assert origins().module_of_node("node_linear") == Module("fc1", "torch.nn.Linear")
    assert origins().module_of_node("top") == Module("gate", "torch.nn.Linear")
    assert origins().module_of_node("nobody") is None


def test_nodes_in_bodies_are_known():
    assert str(origins().module_of_node("inner")) == "the root, Net"
    assert origins().module_of_node("nameless") == Module("loop", "Loop")


def test_what_stands_for_a_layer_of_experts_is_named_after_it():
    expected = Module("blocks.0.moe", "models.moe.MoELayer")
    assert origins().module_of_node("blocks.0.moe/TopK_2") == expected
    assert origins().module_of_value("blocks.0.moe/TopK.out") == expected
    assert origins().module_of_value("blocks.1.moe/TopK.out") is None
    assert origins().module_of_value("blocks.0.moe") is None


def test_a_log_line_is_told_by_the_longest_node_in_it():
    lines = [
        "[x] Error Code 1: Cuda Runtime (In catchCudaError at /a/b.cpp:250 (cudaError 35))",
        "IBuilder::build: Error Code 4: API Usage Error (ITopKLayer top: K exceeds the maximum "
        "value allowed (3840). In processCheck at /_src/o/graph.cpp:1066 In analyze at /_src/o:28)",
    ]
    fault = fault_from_log(lines, origins())
    assert (fault.node, fault.operator, str(fault.module)) == ("top", "TopK", "gate")
    assert fault.text == "ITopKLayer top: K exceeds the maximum value allowed (3840)"


def test_no_reason_is_said_to_be_none():
    assert fault_from_log([], origins()).text == "the library gave no plan and no reason"
    assert short_text("") == "no reason given"


def test_a_long_reason_is_cut():
    assert len(short_text("x" * 5000)) < 300

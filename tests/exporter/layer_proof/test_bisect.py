"""Faults of the fused graph are found by cutting it, with a builder whose fault is planted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from exporter.layer_proof.inner import full_runtime
from exporter.layer_proof.records import divergence_text
from runtime.errors import ExportError


class BadFusion:
    """Builds graphs with ONNX Runtime, and one chain of operators wrongly.

    The chain is recognised as a library's fusion is: all of its nodes are in the graph, and
    no value between them is an output, which would keep them apart.
    """

    def __init__(self, chain: Sequence[str], broken: float = 1.01) -> None:
        self.chain, self.broken = list(chain), np.float32(broken)
        self.built = 0

    def __call__(self, path: Path) -> Any:
        self.built += 1
        model = onnx.load(path)
        for end in self._ends(model):
            self._break(model, end)
        path.write_bytes(model.SerializeToString())
        return full_runtime(path)

    def _ends(self, model: onnx.ModelProto) -> list[str]:
        outputs = {item.name for item in model.graph.output}
        readers: dict[str, list[onnx.NodeProto]] = {}
        for node in model.graph.node:
            for name in node.input:
                readers.setdefault(name, []).append(node)
        found = []
        for node in model.graph.node:
            for kind in self.chain:
                if node.op_type != kind:
                    break
                last, value = node, node.output[0]
                following = readers.get(value, [])
                if kind != self.chain[-1] and (value in outputs or len(following) != 1):
                    break
                node = following[0] if following else node
            else:
                found.append(last.output[0])
        return found

    def _break(self, model: onnx.ModelProto, value: str) -> None:
        maker = next(node for node in model.graph.node if value in node.output)
        position = list(maker.output).index(value)
        maker.output[position] = f"{value}_right"
        factor = onnx.numpy_helper.from_array(np.array(self.broken), f"{value}_factor")
        model.graph.initializer.append(factor)
        scaled = onnx.helper.make_node("Mul", [f"{value}_right", factor.name], [value])
        nodes = list(model.graph.node)
        nodes.insert(nodes.index(maker) + 1, scaled)
        del model.graph.node[:]
        model.graph.node.extend(nodes)


def test_a_fault_of_a_fusion_is_found_by_cutting_and_named_with_its_modules(pictures):
    library = BadFusion(["Gemm", "Relu"])
    proof = pictures.proof(full=library)
    assert proof.first is None
    assert proof.levels == ("no optimisation", "full optimisation")
    assert proof.outputs[0].verdict == "failed"
    assert proof.fused is not None
    assert proof.fused.modules == ("body.0 (Linear)", "body.1 (ReLU)")
    assert proof.fused.operators == ("Gemm", "Relu")
    assert proof.fused.rms_factor > 4
    text = divergence_text(proof)
    assert text.startswith("only the fused graph is wrong, first in body.0 (Linear), body.1 (ReLU)")
    assert not proof.passed


def test_a_fusion_over_three_modules_is_found_whole(pictures):
    proof = pictures.proof(full=BadFusion(["Gemm", "Relu", "Gemm"]))
    assert proof.fused is not None
    assert proof.fused.operators == ("Gemm", "Relu", "Gemm")
    assert proof.fused.modules == ("body.0 (Linear)", "body.1 (ReLU)", "body.3 (Linear)")


def test_pieces_may_be_built_by_another_library_than_the_whole(pictures):
    library = BadFusion(["Gemm", "Relu"])
    pieces = BadFusion(["Gemm", "Relu"])
    proof = pictures.proof(full=library, piece=pieces)
    assert proof.fused is not None
    assert pieces.built == proof.fused.built
    assert pieces.built <= 12


def test_a_fault_that_no_piece_shows_is_said_to_be_so(pictures):
    proof = pictures.proof(full=BadFusion(["Gemm", "Relu"]), piece=full_runtime)
    assert proof.fused is None
    assert "no piece of the graph shows it when it is built alone" in proof.note
    assert not proof.passed


def test_a_fault_of_the_whole_in_a_value_that_is_read_at_full_optimisation_names_the_module(
    pictures,
):
    proof = pictures.proof(full=BadFusion(["Tanh"]))
    assert proof.first is not None
    assert proof.first.operators[0] == "Tanh"
    assert "read with full optimisation" in divergence_text(proof)


def test_pieces_that_the_library_refuses_are_not_taken_for_wrong(pictures):
    def refusing(path: Path) -> Any:
        raise ExportError("no kernel for this piece")

    proof = pictures.proof(full=BadFusion(["Gemm", "Relu"]), piece=refusing)
    assert proof.fused is None
    assert "no piece of the graph shows it" in proof.note


@pytest.mark.parametrize("levels", [("no optimisation", "full optimisation")])
def test_nothing_is_cut_where_nothing_is_wrong(pictures, levels):
    library = BadFusion(["Sin"])
    proof = pictures.proof(full=library)
    assert proof.passed
    assert proof.levels == levels
    assert library.built == 2

"""The evidence is 32 to 64 samples in four megabytes, whatever the model takes and gives."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn

from exporter.parity import ProofOptions, prove
from exporter.real import RealData
from runtime.golden import SIZE_LIMIT_BYTES, Drawn, golden_to_bytes, read_golden, replay


class Scale(nn.Module):
    def forward(self, x):
        return x * 0.1


class Planes(nn.Module):
    """``[batch, 2, height, width]``, as a segmentation gives it."""

    def forward(self, x):
        return x[:, :2] * 0.1


class Many(nn.Module):
    """More outputs than a thousand values of each would fit for."""

    def forward(self, x):
        return tuple(x * (i + 1) for i in range(100))


class Mean(nn.Module):
    def forward(self, x):
        return x - x.mean(0)


@pytest.fixture(scope="session")
def evidence(source_of, backend_of, spec):
    def make(module, text, *outputs, rows=None, ranges=None, values=None, budget_s=20):
        source = source_of(module, text, ranges=ranges, values=values)
        specs = tuple(spec(item) for item in outputs)
        backend = backend_of(module, tuple(item.name for item in specs))
        real = None if rows is None else RealData("rows", {source.inputs[0].name: rows})
        options = ProofOptions(budget_s=budget_s)
        return prove(source, specs, backend, real, options).golden, backend

    return make


PICTURES = np.random.RandomState(0).standard_normal((18, 3, 224, 224)).astype(np.float32)
SIDE = "x:float32[batch,3,224,224]"
PLANES = "y:float32[batch,2,224,224]"
CASES = {
    "small": (Scale(), "x:float32[batch,4]", ["y:float32[batch,4]"], None, (1, 64)),
    "small and real": (
        Scale(), "x:float32[batch,4]", ["y:float32[batch,4]"],
        np.random.RandomState(1).standard_normal((99, 4)).astype(np.float32), (1, 64),
    ),
    "few real": (
        Scale(), "x:float32[batch,4]", ["y:float32[batch,4]"],
        np.random.RandomState(1).standard_normal((3, 4)).astype(np.float32), (1, 64),
    ),
    "large batches": (Scale(), "x:float32[batch,4]", ["y:float32[batch,4]"], None, (100, 200)),
    "pictures": (Planes(), SIDE, [PLANES], None, (1, 12)),
    "real pictures": (Planes(), SIDE, [PLANES], PICTURES, (1, 8)),
    "one picture": (Planes(), "x:float32[1,3,96,96]", ["y:float32[1,2,96,96]"],
                    PICTURES[:, np.newaxis, :, :96, :96], None),
    "integers": (nn.Embedding(50, 8), "input:int64[batch,seq]", ["y:float32[batch,seq,8]"],
                 None, (1, 64)),
    "not joined": (Mean(), "x:float32[batch,4]", ["y:float32[batch,4]"], None, (1, 64)),
    "many outputs": (Many(), "x:float32[batch,256]",
                     [f"y{i}:float32[batch,256]" for i in range(100)], None, (1, 8)),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_32_to_64_samples_fit_into_four_megabytes_and_pass_their_replay(evidence, name, tmp_path):
    module, text, outputs, rows, declared = CASES[name]
    golden, backend = evidence(
        module.eval(), text, *outputs, rows=rows, values={"input": (0, 50)},
        ranges={"batch": declared} if declared else {},
        budget_s=0 if text == SIDE else 20,  # the first round is enough of large inputs
    )  # fmt: skip
    data = golden_to_bytes(golden)
    assert len(data) <= SIZE_LIMIT_BYTES
    assert 32 <= golden.samples() <= 64
    path = tmp_path / "golden.safetensors"
    path.write_bytes(data)
    largest = declared[1] if declared else 1
    judged = replay(read_golden(path), backend.infer, max_batch_size=largest)
    assert {item.verdict for item in judged} == {"passed"}
    assert len(judged) == len(golden.scales), "every output and kind is in the evidence"


def test_every_size_of_every_axis_stays_in_the_evidence(evidence):
    golden, _ = evidence(Scale(), "x:float32[batch,seq]", "y:float32[batch,seq]")
    shapes = {case.arrays()["x"].shape for case in golden.cases if case.kind == "random"}
    assert {shape[1] for shape in shapes} == {1, 8, 64}
    joined, _ = evidence(Mean(), "x:float32[batch,4]", "y:float32[batch,4]")
    sizes = {case.rows() for case in joined.cases if case.kind == "random"}
    assert sizes == {1, 2, 7, 64}


def test_drawn_inputs_are_kept_as_seeds_and_real_ones_as_numbers(evidence):
    rows = np.random.RandomState(1).standard_normal((99, 4)).astype(np.float32)
    golden, _ = evidence(Scale(), "x:float32[batch,4]", "y:float32[batch,4]", rows=rows)
    kept = {(case.kind, isinstance(case.inputs["x"], Drawn)) for case in golden.cases}
    assert kept == {("real", False), ("random", True), ("zeros", True), ("constant", True),
                    ("large", True)}  # fmt: skip
    real = [case for case in golden.cases if case.kind == "real"]
    assert sum(case.rows() for case in real) == 32


def test_the_evidence_holds_the_truth_in_float64(evidence):
    golden, _ = evidence(Scale(), "x:float32[batch,4]", "y:float32[batch,4]")
    for case in golden.cases:
        values = case.truth["y"].values
        assert values.dtype == np.float64
        expected = case.arrays()["x"].astype(np.float64) * 0.1
        np.testing.assert_allclose(values, expected, rtol=1e-15, atol=0)


def test_a_fault_in_a_large_output_is_found_though_a_part_of_it_is_kept(evidence):
    golden, backend = evidence(Planes(), SIDE, PLANES, ranges={"batch": (1, 2)}, budget_s=0)

    def shifted(arrays):
        return {"y": np.roll(backend.infer(arrays)["y"], 1, axis=-1)}

    assert any(item.verdict == "failed" for item in replay(golden, shifted, max_batch_size=2))

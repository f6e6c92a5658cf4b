"""A mixture of experts is proved with its routing: load, near ties, experts that are reached."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import numpy_helper
from torch import nn

from exporter import pipeline
from exporter.experts.adapters import find_layers
from exporter.experts.reach import search_inputs, unreached_targets
from exporter.graph import onnx_from_module, specs_from_values
from exporter.parity import ProofOptions, prove
from exporter.passes.run import run_passes
from exporter.pipeline import ExportRequest, passes_for
from exporter.samples import Plan
from exporter.source import SourceRequest
from exporter.truth import Truth
from runtime.backends.factory import open_backend
from runtime.backends.ort import OrtBackend
from runtime.golden import golden_to_bytes, read_golden, replay

WIDTH, EXPERTS = 8, 4


class Expert(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.relu = nn.ReLU()
        self.fc2 = nn.Linear(hidden, width)

    def forward(self, x):
        return self.fc2(self.relu(self.fc1(x)))


class Loop(nn.Module):
    def __init__(self, experts=EXPERTS, k=2):
        super().__init__()
        self.gate = nn.Linear(WIDTH, experts)
        self.experts = nn.ModuleList(
            nn.Sequential(nn.Linear(WIDTH, 12), nn.ReLU(), nn.Linear(12, WIDTH))
            for _ in range(experts)
        )
        self.top_k = k

    def forward(self, x):
        logits = self.gate(x)
        chosen = logits.sort(dim=-1, descending=True, stable=True).indices[..., : self.top_k]
        weight = logits.gather(-1, chosen).softmax(-1)
        output = torch.zeros_like(x)
        for index, expert in enumerate(self.experts):
            share = (weight * (chosen == index)).sum(-1, keepdim=True)
            output = output + torch.where(share > 0, expert(x) * share, 0.0)
        return output, logits


class Net(nn.Module):
    def __init__(self, layers=2):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(Loop() for _ in range(layers))
        self.head = nn.Linear(WIDTH, 3)

    def forward(self, x):
        for layer in self.layers:
            x = x + layer(x)[0]
        return self.head(x.mean(1))


def experts_source(source_of, module, *inputs, **more):
    source = source_of(module, *inputs, **more)
    return replace(source, experts=find_layers(source.module))


def artifact_of(source, folder: Path, form="auto") -> Path:
    request = ExportRequest(SourceRequest("net.py:make"), folder, moe_form=form)
    model = run_passes(onnx_from_module(source), passes_for(request, source))
    path = folder / "model.onnx"
    path.write_bytes(pipeline.ir.to_proto(model).SerializeToString(deterministic=True))
    return path


def proved(source, path: Path, **options):
    backend = open_backend("onnxruntime", path)
    outputs = specs_from_values(pipeline.ir.from_proto(onnx.load(path)).graph.outputs)
    return prove(source, outputs, backend, None, ProofOptions(**options))


@pytest.fixture(scope="module")
def source(source_of):
    return experts_source(source_of, Net(), "x:float32[batch,5,8]", ranges={"batch": (1, 16)})


@pytest.fixture(scope="module")
def artifact(source, tmp_path_factory):
    return artifact_of(source, tmp_path_factory.mktemp("moe"))


def test_a_mixture_passes_with_its_load_equal_integer_for_integer(source, artifact):
    found = proved(source, artifact)
    assert found.proof.verdict == "passed", found.proof.reason
    (load,) = [j for j in found.proof.judgements if (j.output, j.kind) == ("expert_load", "random")]
    assert load.rms_error == 0
    assert load.samples >= 60
    assert found.proof.batchable
    assert found.proof.routing.layers == ("layers.0", "layers.1")
    assert found.proof.routing.reached == 2 * EXPERTS


def test_the_load_counts_each_rows_tokens_by_layer_and_expert(source, artifact):
    x = np.random.default_rng(1).standard_normal((3, 5, WIDTH)).astype(np.float32)
    backend = open_backend("onnxruntime", artifact)
    load = backend.infer({"x": x})["expert_load"]
    assert load.dtype == np.int32
    assert load.shape == (3, 2, EXPERTS)
    np.testing.assert_array_equal(load.sum(-1), 2 * 5)
    np.testing.assert_array_equal(load, Truth(source.module)({"x": x})["expert_load"])


def test_the_load_is_not_computed_when_nobody_asks_for_it(artifact):
    backend = OrtBackend(artifact, open_options())
    x = np.zeros((1, 5, WIDTH), np.float32)
    assert set(backend.infer({"x": x}, ["output"])) == {"output"}


def open_options():
    from runtime.backends.base import BackendOptions

    return BackendOptions()


def edited(path: Path, folder: Path, name: str, change) -> Path:
    model = onnx.load(path)
    (tensor,) = [item for item in model.graph.initializer if item.name == name]
    values = numpy_helper.to_array(tensor).copy()
    tensor.CopyFrom(numpy_helper.from_array(change(values), name))
    onnx.save(model, folder / "edited.onnx")
    return folder / "edited.onnx"


@pytest.mark.parametrize("expert", range(EXPERTS))
def test_an_expert_that_was_dropped_fails(expert, source, artifact, tmp_path):
    dropped = edited(artifact, tmp_path, f"layers.1.experts.{expert}.2.weight", np.zeros_like)
    found = proved(source, dropped)
    assert found.proof.verdict == "failed"


def test_a_gate_that_routes_otherwise_fails_by_its_load(source, artifact, tmp_path):
    wrong = edited(artifact, tmp_path, "layers.0.gate.weight", lambda w: w[::-1].copy())
    reasons = [j.reason for j in proved(source, wrong).proof.judgements if j.verdict == "failed"]
    assert any("elements differ" in reason for reason in reasons)


def test_the_evidence_keeps_the_flags_and_replays(source, artifact, tmp_path):
    golden = proved(source, artifact).golden
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_to_bytes(golden))
    back = read_golden(path)
    assert [case.stable for case in back.cases] == [case.stable for case in golden.cases]
    assert all(case.stable is not None for case in back.cases)
    backend = open_backend("onnxruntime", artifact)
    judged = replay(back, backend.infer, max_batch_size=16)
    assert {item.verdict for item in judged} == {"passed"}
    dropped = edited(artifact, tmp_path, "layers.0.experts.0.2.weight", np.zeros_like)
    judged = replay(back, open_backend("onnxruntime", dropped).infer, max_batch_size=16)
    assert "failed" in {item.verdict for item in judged}


@pytest.fixture
def tied(source_of, tmp_path):
    """Experts 1 and 2 get the same gate, so that whoever is on that edge is a near tie."""
    net = Net(layers=1)
    with torch.no_grad():
        gate = net.layers[0].gate
        gate.weight[2] = gate.weight[1]
        gate.bias[2] = gate.bias[1]
    return experts_source(source_of, net, "x:float32[batch,5,8]", ranges={"batch": (1, 16)})


def test_near_ties_are_counted_and_reported_and_fail_nobody(tied, tmp_path):
    found = proved(tied, artifact_of(tied, tmp_path), budget_s=60)
    random = next(j for j in found.proof.judgements if (j.output, j.kind) == ("output", "random"))
    assert random.unstable > 0
    assert found.proof.routing.unstable == random.unstable
    assert any("routing is ill-conditioned" in text for text in found.proof.warnings)
    assert "unstable" not in found.proof.reason


class Losing:
    """An artifact that loses a token of every unstable sample."""

    def __init__(self, backend):
        self.backend = backend
        self.identity = backend.identity

    def infer(self, arrays, outputs=None):
        answers = self.backend.infer(arrays, outputs)
        answers["expert_load"] = answers["expert_load"].copy()
        answers["expert_load"][..., 0] -= 1
        return answers


def test_an_unstable_sample_must_keep_its_tokens(tied, tmp_path):
    path = artifact_of(tied, tmp_path)
    outputs = specs_from_values(pipeline.ir.from_proto(onnx.load(path)).graph.outputs)
    losing = Losing(open_backend("onnxruntime", path))
    found = prove(tied, outputs, losing, None, ProofOptions())
    loads = [j for j in found.proof.judgements if j.output == "expert_load"]
    assert any("lost tokens" in item.reason for item in loads)


def test_a_bare_layer_takes_no_token_one_token_and_odd_numbers(source_of, tmp_path):
    bare = experts_source(
        source_of, Loop(), "x:float32[tokens,8]", ranges={"tokens": (0, 33)}
    )  # fmt: skip
    path = artifact_of(bare, tmp_path)
    found = proved(bare, path)
    assert found.proof.verdict == "passed", found.proof.reason
    assert {0, 1, 7, 33} <= set(found.proof.batch_sizes)
    backend = open_backend("onnxruntime", path)
    empty = backend.infer({"x": np.zeros((0, WIDTH), np.float32)})
    assert empty["output_0"].shape == (0, WIDTH)
    assert empty["expert_load"].shape == (0, 1, EXPERTS)


def shy_net():
    """Expert 3 of layer 0 is chosen only where the first feature is far out."""
    net = Net(layers=1)
    with torch.no_grad():
        gate = net.layers[0].gate
        gate.weight[3] = 0
        gate.weight[3, 0] = 2.0
        gate.bias[3] = -30.0
    return net


def test_an_expert_that_no_sample_reaches_is_searched_for(source_of, tmp_path):
    shy = experts_source(source_of, shy_net(), "x:float32[batch,5,8]", ranges={"batch": (1, 16)})
    found = proved(shy, artifact_of(shy, tmp_path))
    assert found.proof.verdict == "passed", found.proof.reason
    assert found.proof.routing.search_steps > 0
    assert found.proof.routing.unreached == ()


def test_an_expert_out_of_reach_is_named_with_the_steps(source_of, tmp_path):
    net = Net(layers=1)
    with torch.no_grad():
        net.layers[0].gate.weight[3] = 0
        net.layers[0].gate.bias[3] = -1e4
    source = experts_source(source_of, net, "x:float32[batch,5,8]", ranges={"batch": (1, 4)})
    found = proved(source, artifact_of(source, tmp_path))
    assert found.proof.routing.unreached == (("layers.0", 3),)
    assert any(
        f"in {found.proof.routing.search_steps} steps of search: layers.0/3" in text
        for text in found.proof.warnings
    )


def test_the_search_ends_with_its_time(source_of):
    source = experts_source(source_of, shy_net(), "x:float32[batch,5,8]")
    plan = Plan(source, "batch", True, 0)
    found = search_inputs(source.module, source.experts, plan, [(0, 3)], until=0.0)
    assert found.samples == []
    assert found.steps == 0


def test_targets_are_the_pairs_without_a_token():
    assert unreached_targets(np.array([[0, 2], [1, 0]])) == [(0, 0), (1, 1)]

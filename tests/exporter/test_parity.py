"""The proof passes what is right and fails what is not, and says what it leaned on."""

from __future__ import annotations

import copy
import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import nn

from exporter.parity import ProofOptions, prove
from exporter.real import RealData
from runtime.errors import ExportError
from runtime.golden import golden_to_bytes, read_golden, replay

X = "x:float32[batch,4]"


class Net(nn.Module):
    """Two layers: enough for errors to add up."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(3)
        self.first, self.second = nn.Linear(4, 16), nn.Linear(16, 3)

    def forward(self, x):
        return self.second(self.first(x).relu())


@pytest.fixture(scope="session")
def proved(source_of, backend_of, spec):
    """Prove that ``artifact`` is ``module``; outputs are given as texts."""

    def run(module, artifact=None, *, inputs=(X,), outputs=("output:float32[batch,3]",),
            real=None, ranges=None, values=None, **options):  # fmt: skip
        source = source_of(module, *inputs, ranges=ranges, values=values)
        specs = tuple(spec(text) for text in outputs)
        backend = backend_of(artifact or module, tuple(item.name for item in specs))
        return prove(source, specs, backend, real, ProofOptions(**options))

    return run


def perturbed(module, name, change):
    wrong = copy.deepcopy(module)
    with torch.no_grad():
        change(wrong.get_parameter(name))
    return wrong


def one_percent(weight):
    weight.view(-1)[0] *= 1.01


def test_the_same_module_passes_with_all_it_promises(proved):
    proof = proved(Net()).proof
    assert (proof.verdict, proof.reason) == ("passed", "")
    assert (proof.truth, proof.truth_operators) == ("float64", ())
    assert proof.batchable
    assert proof.batch_sizes == (1, 2, 7, 64)
    kinds = {item.kind: item for item in proof.judgements}
    assert set(kinds) == {"random", "zeros", "constant", "large"}
    assert kinds["random"].samples >= 64
    assert [item.extreme for item in proof.judgements] == [False, True, True, True]
    assert (proof.allowed, proof.warnings, proof.cut_by_budget) == ((), (), False)


def test_an_input_without_axes_is_proved(proved):
    class Doubled(nn.Module):
        def forward(self, x):
            return x * 2

    proof = proved(Doubled(), inputs=("x:float32[]",), outputs=("output:float32[]",)).proof
    assert (proof.verdict, proof.reason) == ("passed", "")


def test_nan_on_drawn_inputs_points_to_the_values_that_the_module_takes(proved):
    class Log(nn.Module):
        def forward(self, x):
            return x.log()

    given = {"outputs": ("output:float32[batch,4]",)}
    proof = proved(Log(), **given).proof
    assert proof.verdict == "failed"
    assert proof.reason.endswith(
        "values are NaN (--values x=LOW:HIGH draws the input where the module is defined)"
    )
    again = proved(Log(), values={"x": (-0.5, 0.5)}, **given).proof
    assert again.reason.endswith("values are NaN"), "where they were declared, none is named"


@pytest.mark.parametrize(
    ("declared", "warnings"),
    [
        ((1, 64), ()),
        ((1, 1000), ("batches were proved up to 64; the model is served up to 1000",)),
        ((100, 200), ("batches were proved up to 100; the model is served up to 200",)),
    ],
)
def test_batches_beyond_the_proved_ones_are_warned_of(proved, declared, warnings):
    assert proved(Net(), ranges={"batch": declared}).proof.warnings == warnings


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("first.weight", one_percent),
        ("second.bias", lambda bias: bias.add_(1e-4)),
        ("second.weight", lambda w: w.copy_(w.half().float())),
        ("first.weight", lambda w: w.copy_(w.bfloat16().float())),
        ("second.weight", lambda w: w[0].fill_(float("nan"))),
    ],
    ids=["one percent", "bias", "half", "bfloat16", "nan"],
)
def test_a_planted_fault_fails_the_proof(proved, name, change):
    module = Net()
    result = proved(module, perturbed(module, name, change))
    assert result.proof.verdict == "failed"
    assert "output 'output' on" in result.proof.reason
    json.dumps(dataclasses.asdict(result.proof), allow_nan=False)


def test_a_fault_in_one_output_of_several_is_found_and_named(proved):
    class Both(Net):
        def forward(self, x):
            return super().forward(x), self.first(x)

    module = Both()
    outputs = ("scores:float32[batch,3]", "hidden:float32[batch,16]")
    assert proved(module, outputs=outputs).proof.verdict == "passed"
    wrong = perturbed(module, "second.weight", one_percent)
    reason = proved(module, wrong, outputs=outputs).proof.reason
    assert reason.startswith("output 'scores' on")


def test_an_artifact_that_is_wrong_at_one_batch_size_only_is_found(proved):
    class WrongAtSeven(Net):
        def forward(self, x):
            return super().forward(x) * (1.01 if len(x) == 7 else 1)

    assert proved(Net(), WrongAtSeven()).proof.verdict == "failed"


def test_an_artifact_that_is_wrong_at_the_longest_axis_only_is_found(proved):
    class Sum(nn.Module):
        def forward(self, x):
            return x.cumsum(1)

    class Short(nn.Module):
        def forward(self, x):
            return x.cumsum(1) * (1.01 if x.shape[1] == 64 else 1)

    inputs, outputs = ("x:float32[batch,seq]",), ("output:float32[batch,seq]",)
    assert proved(Sum(), inputs=inputs, outputs=outputs).proof.verdict == "passed"
    result = proved(Sum(), Short(), inputs=inputs, outputs=outputs).proof
    random = next(item for item in result.judgements if item.kind == "random")
    assert random.verdict == "failed"
    assert result.axis_sizes == {"seq": (1, 8, 64)}


class Constant(nn.Module):
    def forward(self, x):
        return x * 0 + 0.5


def test_an_output_that_never_varies_is_vacuous_unless_it_may_be(proved):
    outputs = ("head:float32[batch,4]",)
    proof = proved(Constant(), outputs=outputs).proof
    assert proof.verdict == "failed"
    assert "'head' on random inputs is vacuous" in proof.reason
    assert "--allow-constant accepts it" in proof.reason
    waived = proved(Constant(), outputs=outputs, allow_constant=frozenset({"head"})).proof
    assert waived.verdict == "passed"
    assert waived.allowed == ("--allow-constant head",)


def test_a_waiver_that_was_not_needed_is_not_among_those_the_verdict_leans_on(proved):
    proof = proved(
        Net(), allow_constant=frozenset({"output"}), allow_degraded_truth=True
    ).proof  # fmt: skip
    assert proof.allowed == ()


class Plain(Net):
    """Writes into a float32 tensor of its own, which no mode can widen."""

    def __init__(self):
        super().__init__()
        self.held = torch.zeros(3)

    def forward(self, x):
        self.held.copy_(self.second.bias)
        return super().forward(x) + self.held


def test_a_degraded_truth_fails_unless_it_is_accepted(proved):
    proof = proved(Plain()).proof
    assert (proof.verdict, proof.truth) == ("failed", "degraded")
    assert proof.truth_operators == ("aten.copy_.default",)
    assert "aten.copy_.default computes below float64 (--allow-degraded-truth" in proof.reason
    waived = proved(Plain(), allow_degraded_truth=True).proof
    assert (waived.verdict, waived.truth) == ("passed", "degraded")
    assert waived.allowed == ("--allow-degraded-truth",)


def test_integers_that_differ_in_one_place_fail(proved):
    class Best(Net):
        def forward(self, x):
            return super().forward(x).argmax(-1)

    class Second(Best):
        def forward(self, x):
            best = super().forward(x)
            best[-1] = (best[-1] + (1 if len(x) == 64 else 0)) % 3
            return best

    outputs = ("best:int64[batch]",)
    assert proved(Best(), outputs=outputs).proof.verdict == "passed"
    assert "elements differ" in proved(Best(), Second(), outputs=outputs).proof.reason


def test_nan_on_ordinary_inputs_fails_even_where_the_module_gives_it(proved):
    class Log(nn.Module):
        def forward(self, x):
            return x.log()

    proof = proved(Log(), outputs=("output:float32[batch,4]",)).proof
    assert proof.verdict == "failed"
    assert "values are NaN" in proof.reason


def test_overflow_on_extreme_inputs_must_be_that_of_float32(proved):
    class Power(nn.Module):
        def forward(self, x):
            return x**13

    class Capped(nn.Module):
        def forward(self, x):
            return (x**13).clamp(-3e38, 3e38)

    outputs = ("output:float32[batch,4]",)
    passed = proved(Power(), outputs=outputs)
    assert passed.proof.verdict == "passed"
    large = next(item for item in passed.proof.judgements if item.kind == "large")
    assert large.verdict == "passed"
    failed = proved(Power(), Capped(), outputs=outputs).proof
    assert "on large inputs is failed: " in failed.reason
    assert "differ in NaN or infinity" in failed.reason


def test_rows_that_depend_on_each_other_are_not_joined_and_the_proof_still_passes(proved):
    class OverTheBatch(Net):
        def forward(self, x):
            y = super().forward(x)
            return y - y.mean(0)

    proof = proved(OverTheBatch()).proof
    assert not proof.batchable
    assert "joined requests give other answers" in proof.batchable_reason
    assert proof.verdict == "passed"
    assert next(item for item in proof.judgements if item.kind == "random").samples == 64


def test_an_artifact_that_mixes_rows_is_a_fault_where_the_module_does_not(proved):
    class Mixing(Net):
        def forward(self, x):
            return super().forward(x).flip(0)

    proof = proved(Net(), Mixing()).proof
    assert not proof.batchable
    assert proof.verdict == "failed"


@pytest.mark.parametrize(
    ("inputs", "outputs"),
    [
        ((X,), ("a:float32[batch,4]", "b:float32[]")),
        (("x:float32[2,4]",), ("a:float32[2,4]", "b:float32[]")),
    ],
)
def test_an_output_without_the_batch_axis_is_proved_call_by_call(proved, inputs, outputs):
    class Total(nn.Module):
        def forward(self, x):
            return x * 0.1, (x * 0.3).sum()

    proof = proved(Total(), inputs=inputs, outputs=outputs).proof
    assert proof.verdict == "passed", proof.reason
    assert not proof.batchable
    assert {i.samples for i in proof.judgements if i.kind == "random"} == {64}
    hurried = proved(Total(), inputs=inputs, outputs=outputs, budget_s=0).proof
    assert hurried.verdict == "passed", hurried.reason


def test_a_budget_of_nothing_still_meets_every_size_and_says_that_it_cut(proved):
    proof = proved(Net(), ranges={"batch": (1, 8)}, budget_s=0).proof
    assert proof.verdict == "passed"
    assert proof.cut_by_budget
    random = next(item for item in proof.judgements if item.kind == "random")
    assert random.samples == 1 + 2 + 7 + 8
    (warning,) = proof.warnings
    assert "budget of 0 s cut the proof: 18 random samples, wanted 64 each" in warning
    assert "--proof-budget" in warning


def test_a_module_that_draws_random_numbers_is_refused(proved):
    class Noisy(Net):
        def forward(self, x):
            return torch.nn.functional.dropout(super().forward(x))

    with pytest.raises(ExportError, match="two answers for the same inputs in output 'output'"):
        proved(Noisy())


def test_a_module_that_fails_on_a_declared_size_is_named_with_the_size(proved):
    class Picky(Net):
        def forward(self, x):
            if len(x) == 7:
                raise ValueError("seven!")
            return super().forward(x)

    with pytest.raises(ExportError, match=r"fails on large inputs x \[7, 4\]: ValueError: seven"):
        proved(Picky(), Net())


def test_real_rows_are_a_kind_of_their_own(proved):
    rows = np.random.RandomState(5).standard_normal((80, 4)).astype(np.float32)
    result = proved(Net(), real=RealData("rows.npz", {"x": rows}))
    real = next(item for item in result.proof.judgements if item.kind == "real")
    assert (real.samples, real.verdict, real.extreme) == (64, "passed", False)
    assert "real" in {case.kind for case in result.golden.cases}


def test_a_fault_that_only_real_inputs_show_is_found(proved):
    class Rare(Net):
        def forward(self, x):
            return super().forward(x) * torch.where(x[:, :1] > 50, 1.01, 1.0)

    rows = np.full((8, 4), 60, np.float32) + np.arange(32, dtype=np.float32).reshape(8, 4)
    proof = proved(Net(), Rare(), real=RealData("rows.npz", {"x": rows})).proof
    assert {i.kind: i.verdict for i in proof.judgements}["real"] == "failed"
    assert {i.kind: i.verdict for i in proof.judgements}["random"] == "passed"


def test_a_single_real_call_is_not_called_vacuous(proved):
    one = np.random.RandomState(5).standard_normal((1, 4)).astype(np.float32)
    assert proved(Net(), real=RealData("one.npz", {"x": one})).proof.verdict == "passed"


def test_the_evidence_of_a_proof_fails_a_faulty_artifact_and_passes_the_right_one(
    proved, backend_of, tmp_path
):
    module = Net()
    path = tmp_path / "golden.safetensors"
    path.write_bytes(golden_to_bytes(proved(module).golden))
    golden = read_golden(path)
    right = replay(golden, backend_of(module, ("output",)).infer, max_batch_size=64)
    assert {item.verdict for item in right} == {"passed"}
    wrong = perturbed(module, "first.weight", one_percent)
    judged = replay(golden, backend_of(wrong, ("output",)).infer, max_batch_size=64)
    assert "failed" in {item.verdict for item in judged}


def test_the_same_seed_gives_the_same_numbers_and_another_one_others(proved):
    def numbers(seed):
        return [item.rms_error for item in proved(Net(), seed=seed).proof.judgements]

    assert numbers(1) == numbers(1)
    assert numbers(1) != numbers(2)

"""The benchmark of GPUs as a program, tried on the CPU: nothing that it measures here is kept."""

from __future__ import annotations

from types import ModuleType

import pytest
import torch


@pytest.fixture(scope="module")
def benchmark(program) -> ModuleType:
    """The module; its neighbour is on the path already."""
    import gpu

    return gpu


@pytest.fixture(scope="module")
def record(benchmark, prepared):
    """What runs without a compiler, on two small batches."""
    repository, absent = prepared
    names = [name for name in benchmark.CONTENDERS if name != benchmark.COMPILED]
    options = benchmark._options(
        ["--device", "cpu", "--models", "lenet5", "--batches", "1,4", "--seconds", "0.01",
         "--contenders", *names]
    )  # fmt: skip
    return benchmark.run(repository, options, absent)


def test_every_batch_of_what_runs_has_its_numbers(record):
    points = {(point.contender, point.batch): point for point in record.points}
    assert set(points) == {(n, b) for n in ("PyTorch eager", "ONNX Runtime") for b in (1, 4)}
    for point in points.values():
        assert 0 < point.p50_ms <= point.p99_ms
        assert point.images_per_s > 0
        assert point.calls >= 5


def test_what_is_measured_gives_the_models_answers(record):
    assert {item["contender"] for item in record.parity} == {"PyTorch eager", "ONNX Runtime"}
    for item in record.parity:
        assert item["verdict"] == "passed", item["reason"]
        assert item["relative_rms"] < 1e-5


def test_what_does_not_run_is_listed_with_the_reason(record, benchmark):
    reasons = {item["contender"]: item["reason"] for item in record.not_run}
    assert set(reasons) <= {"TensorRT", "TensorRT-RTX"}
    assert all(reasons.values())
    printed = benchmark.table(record)
    assert printed.startswith("cpu, ")
    for contender, reason in reasons.items():
        assert f"not run: lenet5, {contender}: {reason}" in printed


def test_a_budget_that_is_over_ends_the_measurement(benchmark, prepared):
    repository, absent = prepared
    options = benchmark._options(
        ["--device", "cpu", "--models", "lenet5", "--contenders", "ONNX Runtime", "--budget", "0"]
    )
    record = benchmark.run(repository, options, absent)
    assert record.points == []
    assert record.not_run[0]["reason"] == "batch 1 and above: the budget of 0 s was over"


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU is here")
def test_without_a_gpu_it_says_so_in_one_line(benchmark, capsys):
    assert benchmark.main([]) == 1
    assert capsys.readouterr().err == (
        "gpu.py: torch finds no GPU; --device cpu tries the program\n"
    )


def test_calls_are_timed_until_their_seconds_are_over(benchmark, monkeypatch):
    now = [0.0]

    def call():
        now[0] += 0.25

    def summed(_):
        raise AssertionError("every call sums all that came before it")

    monkeypatch.setattr(benchmark.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(benchmark, "sum", summed, raising=False)
    assert benchmark._timed(call, seconds=2.0) == [0.25] * 8
    assert benchmark._timed(call, seconds=0.1) == [0.25] * benchmark.LEAST_CALLS

"""Every backend that runs here gives the model's answers, in process and through the service.

On all 10,000 test images where MNIST is there. A cell that cannot run on this machine is
skipped with its reason.
"""

from __future__ import annotations

import json
from contextlib import closing
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from exporter.matrix import CANDIDATES, IN_PROCESS, SERVED, Cell, judged
from models.data import mnist_at
from runtime.backends.factory import open_backend

MODELS = "lenet5", "moe"
PLACES = [
    (candidate.title, model, route)
    for candidate in CANDIDATES
    for model in MODELS
    for route in ((IN_PROCESS, SERVED) if candidate.backend else (IN_PROCESS,))
]
HERE = [place for place in PLACES if place[0].endswith(" CPU")]


@pytest.mark.parametrize("place", PLACES, ids=" ".join)
def test_the_answers_are_the_models(cells, place):
    cell = cells[place]
    if cell.verdict == "not run":
        pytest.skip(cell.reason)
    assert cell.verdict == "passed", cell.reason
    assert cell.library


def test_the_matrix_has_every_place_and_what_did_not_run_says_why(cells):
    assert list(cells) == sorted(cells, key=PLACES.index)
    assert set(cells) == set(PLACES)
    for cell in cells.values():
        assert (cell.verdict == "not run") == bool(cell.reason)
        assert (cell.verdict == "not run") == (cell.labels is None)


@pytest.mark.parametrize("place", HERE, ids=" ".join)
def test_the_cpu_runs_every_image(cells, yards, place):
    cell = cells[place]
    assert cell.verdict == "passed"
    assert cell.labels.samples == len(yards[cell.model].data)
    logits, *load = cell.judgements
    assert logits.samples + logits.unstable == cell.labels.samples
    assert [item.output for item in load] == (["expert_load"] if cell.model == "moe" else [])


@pytest.mark.mnist
def test_every_test_image_of_mnist_is_asked(cells):
    if mnist_at() is None:
        pytest.skip("MNIST is not here; TWINPORT_DATA names its folder")
    for place in HERE:
        labels = cells[place].labels
        assert (labels.dataset, labels.samples) == ("MNIST test", 10_000)
        assert labels.artifact_accuracy > 0.98


@pytest.fixture
def place():
    return Cell("a backend", "a model", "fp32", IN_PROCESS, "not run")


@pytest.fixture
def few(yards):
    """The first rows of a model's yardstick."""

    def few(model, rows=200):
        yard = yards[model]
        data = replace(
            yard.data, labels=yard.data.labels[:rows],
            inputs={name: array[:rows] for name, array in yard.data.inputs.items()},
        )  # fmt: skip
        return replace(
            yard, data=data, truth={name: array[:rows] for name, array in yard.truth.items()},
            margin=None if yard.margin is None else yard.margin[:rows],
        )  # fmt: skip

    return few


def test_one_weight_off_by_a_percent_fails_its_cell(place, prepared, few, tmp_path):
    repository, _ = prepared
    model = onnx.load(repository / "lenet5" / "1" / "model.onnx")
    weight = next(item for item in model.graph.initializer if item.name == "conv1.weight")
    values = numpy_helper.to_array(weight).copy()
    values.flat[np.abs(values).argmax()] *= 1.01
    weight.CopyFrom(numpy_helper.from_array(values, weight.name))
    onnx.save(model, tmp_path / "model.onnx")
    with closing(open_backend("onnxruntime", tmp_path / "model.onnx")) as backend:
        cell = judged(place, few("lenet5"), backend.infer)
    assert cell.verdict == "failed"
    assert "x float32's own" in cell.reason


def test_one_token_counted_for_another_expert_fails_its_cell(place, few):
    yard = few("moe")
    assert yard.stable().all(), "the rows must be such that the load is judged"
    answers = {name: array.copy() for name, array in yard.truth.items()}
    answers["expert_load"][0, 1] = np.roll(answers["expert_load"][0, 1], 1)
    cell = judged(place, yard, lambda rows: answers, batch=200)
    assert cell.verdict == "failed"
    assert "'expert_load'" in cell.reason


def test_a_label_that_is_another_fails_its_cell(place, few):
    yard = few("lenet5")
    answers = {"logits": yard.truth["logits"].copy()}
    answers["logits"][3] = np.roll(answers["logits"][3], 1)
    cell = judged(place, yard, lambda rows: answers, batch=200)
    assert cell.verdict == "failed"
    assert cell.labels.verdict == "failed"
    assert cell.labels.agreeing == 199


def test_answers_that_are_the_same_for_every_image_prove_nothing(place, few):
    yard = few("lenet5")
    same = replace(yard, truth={"logits": np.zeros_like(yard.truth["logits"])})
    cell = judged(place, same, lambda rows: same.truth, batch=200)
    assert cell.verdict == "failed"


def test_the_printed_matrix_lists_what_did_not_run(program, cells, capsys):
    lines = program.reasons(list(cells.values()))
    not_run = {cell.backend for cell in cells.values() if cell.verdict == "not run"}
    assert {line.split(": ")[1].split(" (")[0] for line in lines} == not_run
    program.console().print(program.table(list(cells.values())))
    printed = capsys.readouterr().out
    for backend, model, route in PLACES:
        assert any(
            line.split() and backend in line and model in line and route in line
            for line in printed.splitlines()
        )


def test_the_documents_matrix_is_the_programs_record(program):
    record = json.loads(program.RESULTS.read_text("utf-8"))
    text = program.DOCUMENT.read_text("utf-8")
    assert program.with_table(text, record) == text
    places = [(cell["backend"], cell["model"], cell["route"]) for cell in record["cells"]]
    assert places == PLACES
    assert all(cell["verdict"] != "failed" for cell in record["cells"])

"""The artifact run for the page: its replay, its answers, its layers."""

from __future__ import annotations

import numpy as np
import pytest

from exporter.report import here as module
from exporter.report.here import run_here
from runtime.backends.base import BackendOptions
from runtime.errors import BackendUnavailable, TwinportError
from runtime.golden import read_golden

LAYER = {
    "Name": "conv1 + relu1", "LayerType": "CaskConvolution", "Inputs": [],
    "Outputs": [{"Name": "relu", "Dimensions": [1, 6, 28, 28], "Format/Datatype": "FP32"}],
}  # fmt: skip


class Telling:
    """A loaded artifact that has an inspector, as engines do."""

    def __init__(self, backend, told):
        self.backend = backend
        self.told = told

    def __getattr__(self, name):
        return getattr(self.backend, name)

    def information(self):
        if isinstance(self.told, Exception):
            raise self.told
        return self.told


@pytest.fixture
def run(lenet, monkeypatch):
    golden = read_golden(lenet.folder / "golden.safetensors")

    def call(wrap=lambda backend: backend):
        original = module.open_version
        monkeypatch.setattr(module, "open_version", lambda *words: wrap(original(*words)))
        return run_here(lenet.folder, lenet.manifest, golden, BackendOptions()), golden

    return call


def test_there_is_an_answer_for_every_case(run):
    here, golden = run()
    assert here.replayed.verdict == "passed"
    assert here.reason == here.not_inspected == ""
    assert here.fused is None, "ONNX Runtime has no inspector"
    for case, answers in zip(golden.cases, here.answers, strict=True):
        np.testing.assert_allclose(answers["logits"], case.truth["logits"].values, rtol=1e-3)


def test_what_cannot_be_opened_is_a_reason_without_places_of_the_machine(run):
    def refuse(_):
        raise BackendUnavailable("no driver: /usr/lib/libcuda.so.1 is missing")

    here, _ = run(refuse)
    assert (here.replayed, here.answers) == (None, ())
    assert here.reason == "no driver: libcuda.so.1 is missing"


def test_layers_are_told_where_there_is_an_inspector(run):
    here, _ = run(lambda backend: Telling(backend, {"Layers": [LAYER], "Bindings": ["image"]}))
    (layer,) = here.fused.layers
    assert (layer.name, layer.kind) == ("conv1 + relu1", "CaskConvolution")


@pytest.mark.parametrize(
    ("told", "said"),
    [(TwinportError("it gives no JSON"), "it gives no JSON"), ({}, "has another form")],
)
def test_an_inspector_that_fails_takes_nothing_else_away(run, told, said):
    here, golden = run(lambda backend: Telling(backend, told))
    assert said in here.not_inspected
    assert here.replayed.verdict == "passed"
    assert len(here.answers) == len(golden.cases)

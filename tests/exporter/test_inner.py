"""Outputs of inner modules are the modules' own, named by path, and proved as the others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn

from exporter.graph import onnx_from_module, specs_from_values
from exporter.inner import InnerOutputs, check_paths
from exporter.truth import Truth, torch_float32
from runtime.errors import ExportError, InvalidInput

X = "x:float32[batch,4]"


class Net(nn.Module):
    """What comes after ``first`` edits its output in place, and ``twice`` is called twice."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True))
        self.cells = nn.GRU(6, 5, batch_first=True)
        self.twice, self.never = nn.Linear(5, 5), nn.Linear(5, 5)

    def forward(self, x):
        y = self.body(x)
        z = self.cells(y[:, None])[0][:, 0]
        return self.twice(self.twice(z))


ALL = ("body.0", "twice", "cells")
NAMES = ["body.0", "twice", "twice.call_1", "cells.output_0", "cells.output_1"]


def expected(module, x):
    with torch.no_grad():
        first = module.body[0](x)
        cells, last = module.cells(first.relu()[:, None])
        once = module.twice(cells[:, 0])
        return first, once, module.twice(once), cells, last


def test_each_is_named_by_its_path_and_is_what_the_module_gave_before_edits_in_place():
    module, x = Net().eval(), torch.randn(3, 4)
    run = torch_float32(module, also=ALL)({"x": x.numpy()})
    assert list(run) == ["output", *NAMES]
    for name, value in zip(NAMES, expected(module, x), strict=True):
        np.testing.assert_array_equal(run[name], value.numpy())
    assert (run["body.0"] < 0).any(), "the ReLU after it works in place"
    again = torch_float32(module, also=ALL)({"x": x.numpy()})
    assert list(again) == list(run), "a second run counts its own calls"
    assert not any(layer._forward_hooks for layer in module.modules())


def test_their_truth_is_of_float64():
    module, x = Net().eval(), torch.randn(3, 4)
    truth = Truth(module, ALL)({"x": x.numpy()})
    for name, value in zip(NAMES, expected(module.double(), x.double()), strict=True):
        assert truth[name].dtype == np.float64
        np.testing.assert_allclose(truth[name], value.numpy(), rtol=0, atol=1e-14)


def test_the_graph_gives_them_after_its_own(source_of, tmp_path):
    source = replace(source_of(Net(), X), also=ALL)
    model = onnx_from_module(source)
    assert [spec.name for spec in specs_from_values(model.graph.outputs)] == ["output", *NAMES]
    session = onnxruntime.InferenceSession(ir.to_proto(model).SerializeToString())
    x = torch.randn(7, 4)
    answers = session.run(NAMES, {"x": x.numpy()})
    for answer, value in zip(answers, expected(source.module, x), strict=True):
        np.testing.assert_allclose(answer, value.numpy(), atol=1e-6, rtol=0)
    assert "forward" not in vars(source.module)


def test_an_export_proves_them_and_sends_them_on_request_only(tmp_path, run):
    nets = Path(__file__).parent / "nets.py"
    code, out, err = run("export", f"{nets}:Linear", "--input", X, "--also-output", "layer",
                         "-o", tmp_path, "--json")  # fmt: skip
    assert code == 0, err
    record = json.loads(out)
    assert [item["name"] for item in record["outputs"]] == ["output", "layer"]
    assert record["on_request"] == ["layer"]
    judged = {(i["output"], i["kind"]): i["verdict"] for i in record["proofs"][0]["judgements"]}
    assert judged["layer", "random"] == "passed"
    assert record["max_batch_size"] == 64


@pytest.mark.parametrize(
    ("paths", "text"),
    [
        (("bodi.0",), r"names 'bodi.0', which is no module of the 6 inside; there are body.0"),
        (("",), r"names '', which is no module"),
        (("body", "body.0"), r"names 'body.0' twice, or it and a module that it is in"),
        (("twice", "twice"), r"names 'twice' twice"),
    ],
)
def test_a_path_that_is_no_module_or_clashes_is_refused(tmp_path, paths, text):
    with pytest.raises(InvalidInput, match=text):
        check_paths(Net(), paths)


def test_a_module_that_is_never_called_is_named(source_of):
    with pytest.raises(ExportError, match="names 'never', which forward does not call"):
        onnx_from_module(replace(source_of(Net(), X), also=("never",)))


def test_a_name_that_the_module_gives_already_is_refused(source_of):
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, x):
            return {"fc": self.fc(x)}

    with pytest.raises(ExportError, match="'fc' is an input or an output of the module already"):
        onnx_from_module(replace(source_of(Own(), X), also=("fc",)))


def test_nothing_is_noted_without_paths():
    assert not InnerOutputs(Net(), ())

"""Large weights lie in a file of their own, and everything that reads a version copes."""

from __future__ import annotations

import hashlib
import json
import shutil
from contextlib import closing

import numpy as np
import onnx
import onnx_ir as ir
import pytest

from exporter.artifact import DATA_SHA256, MOST_INSIDE_BYTES, serialized_graph
from exporter.passes.strip_provenance import strip_provenance
from exporter.pipeline import ExportRequest, export_model
from exporter.report.facts import gather_facts
from exporter.report.page import page_from_facts
from exporter.source import SourceRequest
from runtime.backends.base import BackendOptions
from runtime.backends.factory import open_backend
from runtime.errors import InvalidInput, RepositoryError
from runtime.manifest import read_manifest
from runtime.replay import check_artifact

SVG = '<svg xmlns="http://www.w3.org/2000/svg" width="40" height="90"><text>Conv</text></svg>'


@pytest.fixture(scope="module")
def apart(tmp_path_factory):
    """LeNet-5 with its weights beside it; leave it as it is."""
    folder = tmp_path_factory.mktemp("apart") / "repository"
    return export_model(ExportRequest(SourceRequest("lenet5"), folder, data_above=100_000))


@pytest.fixture
def copied(apart, tmp_path):
    """A copy of it for the test to spoil."""
    shutil.copytree(apart.folder.parent.parent, tmp_path / "repository")
    return tmp_path / "repository" / "lenet5" / "1"


def test_the_weights_lie_beside_the_graph_and_the_manifest_says_so(apart, lenet):
    (item,) = apart.manifest.artifact.data
    data = (apart.folder / item.file).read_bytes()
    assert item.file == "model.onnx.data"
    assert (item.sha256, item.bytes) == (hashlib.sha256(data).hexdigest(), len(data))
    assert (apart.folder / "model.onnx").stat().st_size < 20_000
    assert apart.manifest.proof.verdict == "passed"
    assert apart.manifest.module_map == lenet.manifest.module_map
    assert lenet.manifest.artifact.data == ()


def test_the_graphs_hash_is_one_of_the_weights_too(apart):
    proto = onnx.load(apart.folder / "model.onnx", load_external_data=False)
    notes = {item.key: item.value for item in proto.metadata_props}
    assert notes == {DATA_SHA256: apart.manifest.artifact.data[0].sha256}


def test_the_weights_are_those_that_are_inside_otherwise(apart, lenet):
    one, two = (onnx.load(folder / "model.onnx") for folder in (apart.folder, lenet.folder))
    arrays = [
        {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}
        for proto in (one, two)
    ]
    assert list(arrays[0]) == list(arrays[1])
    for name, array in arrays[0].items():
        np.testing.assert_array_equal(array, arrays[1][name])
    assert list(one.graph.node) == list(two.graph.node)


def test_a_graph_is_as_it_was_after_it_was_serialised_and_the_bytes_are_the_same(lenet, tmp_path):
    model = ir.load(lenet.folder / "model.onnx")
    before = serialized_graph(model, "m.onnx").data
    parts = [serialized_graph(model, "m.onnx", 0) for _ in range(2)]
    assert parts[0].data == parts[1].data
    assert len(parts[0].data) < len(before) / 10
    assert serialized_graph(model, "m.onnx").data == before
    assert strip_provenance(model)[1] is False
    parts[0].write(tmp_path / "m.onnx")
    onnx.checker.check_model(tmp_path / "m.onnx")


def test_every_tensor_begins_at_a_multiple_of_64(apart):
    proto = onnx.load(apart.folder / "model.onnx", load_external_data=False)
    entries = [{e.key: e.value for e in t.external_data} for t in proto.graph.initializer]
    offsets = [int(item["offset"]) for item in entries if item]
    assert len(offsets) > 3
    assert all(offset % 64 == 0 for offset in offsets)


def test_more_than_one_file_holds_is_refused(lenet):
    model = ir.load(lenet.folder / "model.onnx")
    with pytest.raises(InvalidInput, match="ends at two gigabytes"):
        serialized_graph(model, "m.onnx", MOST_INSIDE_BYTES + 1)


def spoil_byte(folder):
    path = folder / "model.onnx.data"
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)


def cut(folder):
    path = folder / "model.onnx.data"
    path.write_bytes(path.read_bytes()[:-100])


def lead_away(folder):
    _change(
        folder, lambda record: record["artifact"]["data"][0].update(file="../1/model.onnx.data")
    )


def do_not_list(folder):
    _change(folder, lambda record: record["artifact"].update(data=[]))


def _change(folder, change):
    path = folder / "manifest.json"
    record = json.loads(path.read_text())
    change(record)
    path.write_text(json.dumps(record))


SPOILED = {
    "a byte is another": (spoil_byte, "model.onnx.data has sha256 .*, export the model again"),
    "cut": (cut, "model.onnx.data has sha256 .*, export the model again"),
    "gone": (lambda folder: (folder / "model.onnx.data").unlink(), "data cannot be read: No such"),
    "in another folder": (lead_away, "names the weights' file '../1/model.onnx.data'; wanted one"),
    "not listed": (do_not_list, "weights in 'model.onnx.data', which its manifest does not list"),
}


@pytest.mark.parametrize("case", SPOILED)
def test_weights_that_are_not_those_that_were_proved_are_refused(copied, case, run, monkeypatch):
    spoil, said = SPOILED[case]
    spoil(copied)
    with pytest.raises(RepositoryError, match=said):
        check_artifact(copied, read_manifest(copied / "manifest.json"))
    monkeypatch.setattr("runtime.backends.ort.ort.InferenceSession", None)
    code, out, err = run("parity", copied.parent)
    assert (code, out) == (1, "")
    assert err.count("\n") == 1


def test_parity_proves_it_again_and_inspect_counts_what_lies_beside(apart, run):
    code, out, _ = run("parity", apart.folder.parent)
    assert code == 0
    assert "passed" in out
    code, out, _ = run("inspect", apart.folder.parent)
    size = apart.manifest.artifact.data[0].bytes
    assert f"bytes and {size:,} of weights beside it" in out
    assert "61,708 elements in initializers" in out


def test_the_report_is_whole_and_says_when_the_weights_are_others(copied):
    def page():
        facts = gather_facts(
            copied, read_manifest(copied / "manifest.json"), BackendOptions(), lambda _: SVG
        )
        return page_from_facts(facts), facts

    text, facts = page()
    assert facts.troubles == ()
    assert "of weights beside it" in text
    spoil_byte(copied)
    _, facts = page()
    assert "model.onnx.data has sha256" in facts.troubles[0]


def test_experts_are_looked_at_in_a_view_with_weights_beside_it_too(tmp_path):
    written = export_model(
        ExportRequest(SourceRequest("moe"), tmp_path / "repository", data_above=1000)
    )
    assert written.manifest.proof.verdict == "passed"
    assert {path.name for path in written.folder.glob("*.data")} == {
        "model.onnx.data", "view.onnx.data",
    }  # fmt: skip
    with closing(open_backend("onnxruntime", written.folder / "view.onnx")) as backend:
        assert "image" in backend.inputs

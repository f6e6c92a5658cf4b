"""The page about versions of every kind, read without a browser."""

from __future__ import annotations

import hashlib
import json
import math
import re

import numpy as np
import pytest

from exporter.engine.layers import EngineLayer, EngineNetwork, read_network
from exporter.report import facts
from exporter.report.facts import drawn_by_netron
from exporter.report.here import Here
from exporter.report.write import ReportRequest, write_report
from runtime.backends.base import BackendIdentity
from runtime.draws import Draw
from runtime.errors import ExportError
from runtime.golden import Case, Drawn, Golden, Kept, golden_to_bytes
from runtime.replay import Replayed

HOSTILE = "<script>alert(1)</script>\"'&$x$"


@pytest.fixture(scope="module")
def lenet_page(page_of, lenet):
    return page_of(lenet.folder)


def test_it_has_every_section_and_says_what_was_proved_where(lenet_page, lenet):
    (proof,) = lenet.manifest.proofs
    assert list(lenet_page.sections) == [
        "head", "graph", "summary", "proof", "examples", "again", "footer",
    ]  # fmt: skip
    for text in ("lenet5", "version 1", "passed", proof.library, proof.provider, proof.device,
                 lenet.manifest.artifact.sha256, "run again for this page"):  # fmt: skip
        assert text in lenet_page.sections["head"]
    assert "conv1" in lenet_page.sections["graph"]
    for text in ("61,706 parameters", "4 Relu, 3 Gemm, 2 Conv", "float32 [batch, 1, 32, 32]",
                 "batch from 1 to 64", f"torch {lenet.manifest.artifact.producers['torch']}",
                 "gray, 32 \N{MULTIPLICATION SIGN} 32 pixels"):  # fmt: skip
        assert text in lenet_page.sections["summary"]
    assert "twinport parity REPOSITORY/lenet5 --version 1" in lenet_page.sections["again"]


def test_every_judgement_stands_beside_its_limit(lenet_page, lenet):
    (proof,) = lenet.manifest.proofs
    for item in proof.judgements:
        limit = "max 4" if item.rms_limit else ""
        place = f"logits {item.kind} {'extreme ' * item.extreme}\N{CHECK MARK} passed"
        row = f"{place} {item.samples} {item.rms_factor:.3g}"
        assert f"{row} {limit}".strip() in lenet_page.sections["proof"]
    assert lenet_page.sections["proof"].count("RMS error") >= 2, "a plot and a table"
    assert "of scikit-learn digits as the truth has them" in lenet_page.sections["proof"]


def test_it_is_one_file_that_asks_for_nothing(lenet_page):
    for tag, attrs in lenet_page.tags:
        assert tag not in ("iframe", "object", "embed", "base", "form")
        assert not [name for name in attrs if name.startswith("on")]
        for name in ("src", "href", "xlink:href"):
            assert attrs.get(name, "#").startswith(("#", "data:"))
    assert "@import" not in lenet_page.source
    assert re.findall(r"url\((?!#)", lenet_page.source) == []
    assert len(lenet_page.source.encode()) < 1_000_000


def test_nothing_of_the_machine_is_in_it(lenet_page, page_of, lenet, engine):
    for page in (lenet_page, page_of(engine)):
        for part in (str(lenet.folder.parents[2]), str(engine.parents[2]), "/tmp/", "/home/"):
            assert part not in page.source


def test_it_is_the_same_page_again(lenet_page, page_of, lenet):
    assert page_of(lenet.folder).source == lenet_page.source


def test_ids_are_unique_and_every_link_in_the_page_leads_somewhere(lenet_page):
    ids = [attrs["id"] for _, attrs in lenet_page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))
    for tag, attrs in lenet_page.tags:
        if tag == "a":
            assert attrs["href"][1:] in ids


def test_names_of_a_manifest_are_text_wherever_they_stand(page_of, lenet, changed):
    def spoil(record):
        record["name"] = HOSTILE
        record["source"] |= {"factory": HOSTILE, "module_class": HOSTILE}
        record["labels"] = [HOSTILE + str(i) for i in range(10)]
        record["module_map"] = {HOSTILE: {"module": HOSTILE, "module_class": HOSTILE,
                                          "operator": HOSTILE}}  # fmt: skip
        record["artifact"]["producers"] = {HOSTILE: HOSTILE}
        record["created"] = record["ranges"].setdefault(HOSTILE, [1, 2]) and HOSTILE
        proof = record["proofs"][0]
        proof |= {"device": HOSTILE, "reason": HOSTILE, "warnings": [HOSTILE],
                  "allowed": [HOSTILE], "axis_sizes": {HOSTILE: [1]}}  # fmt: skip
        proof["labels"]["dataset"] = HOSTILE
        for item in proof["judgements"]:
            item |= {"output": HOSTILE, "kind": HOSTILE, "reason": HOSTILE}

    page = page_of(changed(lenet, spoil), lambda _: f"<svg><text>{'&lt;script&gt;'}</text></svg>")
    assert len(page.scripts) == 1, "the page's own"
    assert "alert" not in page.scripts[0]
    assert page.text.count(HOSTILE) > 20
    assert {tag for tag, _ in page.tags} <= {
        "html", "head", "meta", "title", "link", "style", "body", "header", "nav", "main",
        "footer", "section", "article", "figure", "details", "summary", "div", "span", "p", "a",
        "h1", "h2", "h3", "ul", "ol", "li", "dl", "dt", "dd", "table", "thead", "tbody", "tr", "th",
        "td", "code", "pre", "small", "strong", "b", "img", "input", "label", "time", "script",
        "svg", "g", "defs", "path", "rect", "text", "use", "clippath", "marker",
    }  # fmt: skip


def test_a_failed_version_says_why_first(page_of, lenet, changed):
    reason = "output 'logits' on real inputs is failed: RMS error is 22 x float32's own"

    def fail(record):
        record["proofs"][0] |= {"verdict": "failed", "reason": reason}
        record["proofs"][0]["judgements"][0] |= {
            "rms_factor": None, "max_factor": None, "verdict": "failed", "reason": "NaN",
        }  # fmt: skip

    page = page_of(changed(lenet, fail, "net/failed/1"))
    assert f"failed {reason}" in page.sections["head"]
    assert "infinite max 4" in page.sections["proof"]
    assert "above the limit" in page.sections["proof"]
    assert "where no server looks" in page.sections["again"]
    assert "twinport parity REPOSITORY/net --version" in page.sections["again"]


def test_warnings_and_waivers_are_at_the_top(page_of, lenet, changed):
    def warn(record):
        record["proofs"][0] |= {"warnings": ["routing is ill-conditioned"],
                                "allowed": ["--allow-constant logits"]}  # fmt: skip

    head = page_of(changed(lenet, warn)).sections["head"]
    assert "routing is ill-conditioned" in head
    assert "the verdict leans on the waiver --allow-constant logits" in head


def test_numbers_that_are_none_do_not_break_it(page_of, lenet, changed):
    def spoil(record):
        for item in record["proofs"][0]["judgements"]:
            item |= {"rms_factor": math.nan, "max_factor": None, "relative_rms": math.inf,
                     "rms_error": None, "max_error": math.nan}  # fmt: skip

    proof = page_of(changed(lenet, spoil)).sections["proof"]
    assert "NaN max 4" in proof
    assert "infinite max 8" in proof


def test_several_outputs_without_pictures_and_labels(page_of, write_toy):
    page = page_of(write_toy())
    assert "pending No proof was made with this version." in page.sections["head"]
    assert "y, random" in page.sections["proof"], "a plot of two outputs names both"
    assert "The evidence holds no real samples" in page.sections["examples"]
    assert "total" in page.sections["examples"]
    assert "[1, 4]" not in page.sections["examples"], "four values are shown whole"


def test_integers_have_rows_and_no_bars(page_of, lenet, changed):
    def integers(record):
        for item in record["proofs"][0]["judgements"]:
            item |= dict.fromkeys(
                ("rms_scale", "rms_factor", "max_error", "max_scale", "max_factor", "max_limit",
                 "relative_rms", "relative_limit")
            )  # fmt: skip
            item |= {"rms_error": 0.0, "rms_limit": 0.0}

    folder = changed(lenet, integers)
    (folder / "model.onnx").unlink()
    page = page_of(folder)
    assert "0 % differ max 0" in page.sections["proof"]
    assert not [attrs for tag, attrs in page.tags if tag == "svg"]


def test_a_version_without_evidence_says_so(page_of, write_toy):
    page = page_of(write_toy("strings"))
    assert "not run for this page: the version carries no evidence" in page.sections["head"]
    assert "carries no evidence" in page.sections["examples"]


def test_samples_that_cannot_be_drawn_again_are_a_line_of_the_page(page_of, write_toy):
    folder = write_toy()
    other = Drawn(Draw("normal", seed=1, shape=(2, 4), dtype="float32"), crc32=0)
    case = Case("random", False, {"x": other}, {"y": Kept(np.zeros((2, 3)), (2, 3))})
    data = golden_to_bytes(Golden(True, (case,)))
    (folder / "golden.safetensors").write_bytes(data)
    record = json.loads((folder / "manifest.json").read_text())
    record["evidence"]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(record))
    page = page_of(folder)
    assert "There are no samples to show: seed 1 draws other numbers" in page.sections["examples"]


@pytest.mark.parametrize("file", ["model.onnx", "golden.safetensors"])
def test_a_file_changed_after_the_proof_is_no_longer_proved(page_of, lenet, changed, file):
    folder = changed(lenet)
    with (folder / file).open("ab") as opened:
        opened.write(b"\0")
    page = page_of(folder)
    assert "not proved" in page.sections["head"]
    assert f"{file} has sha256" in page.sections["head"]
    assert "run again for this page" not in page.text
    assert "There are no samples to show" in page.sections["examples"]


def test_a_relative_place_is_not_named_either(changed, lenet, tmp_path, monkeypatch):
    folder = changed(lenet)
    with (folder / "model.onnx").open("ab") as opened:
        opened.write(b" ")
    monkeypatch.chdir(tmp_path)
    request = ReportRequest(folder.parent.relative_to(tmp_path), file=tmp_path / "page.html")
    text = write_report(request, drawing=lambda _: "<svg/>").read_text()
    assert "model.onnx has sha256" in text
    assert "repository/" not in text


def test_a_name_that_leads_out_of_the_folder_is_not_followed(page_of, lenet, changed):
    folder = changed(lenet, lambda record: record["evidence"].update(file="../../secret"))
    (folder.parents[1] / "secret").write_text("x")
    assert "secret cannot be read" in page_of(folder).sections["head"]


def test_without_a_browser_the_rest_is_whole(page_of, lenet, lenet_page, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("TWINPORT_CHROMIUM", raising=False)
    page = page_of(lenet.folder, drawn_by_netron)
    assert "There is no drawing: Chromium is missing; apt-get install chromium" in page.text
    for name in ("summary", "proof", "examples", "again"):
        assert page.sections[name] == lenet_page.sections[name]


def test_what_netron_cannot_draw_is_one_line(page_of, lenet):
    def refuse(_):
        raise ExportError("Netron cannot draw model.onnx: no")

    assert "There is no drawing: Netron cannot draw" in page_of(lenet.folder, refuse).text


def test_a_pending_engine_shows_its_layers_and_what_it_came_from(page_of, engine):
    drawn = []
    page = page_of(engine, lambda file: drawn.append(file.name) or "<svg/>")
    assert drawn == ["view.onnx"]
    assert "pending there is no GPU on this machine" in page.sections["head"]
    assert "it was built from, lenet5/1, passed on CPUExecutionProvider" in page.sections["head"]
    assert "not run for this page" in page.sections["head"]
    for text in ("TensorRT-RTX 1.7.1.12", "3 layers: 2 ACTIVATION, 1 CONVOLUTION",
                 "node_conv2d CONVOLUTION conv2d float32 [?, 6, 28, 28] conv1 Conv2d",
                 "0 image [1, 1, 32, 32] [8, 1, 32, 32] [64, 1, 32, 32]",
                 "(the whole module) LeNet5", "a machine without a GPU"):  # fmt: skip
        assert text in page.sections["engine"]
    assert "The artifact was not run here:" in page.sections["examples"]
    assert "not run here" in page.sections["examples"]
    assert "61,706" in page.sections["graph"]
    assert "It was not loaded here: " in page.sections["engine"]
    assert "pip install 'twinport[tensorrt-rtx]'" in page.sections["again"]


def test_a_wide_graph_has_the_width_of_the_page_and_is_shown_whole_first(page_of, lenet):
    for width, large in ((640, False), (641, True)):
        page = page_of(lenet.folder, lambda _, w=width: f"<svg width='{w}' height='9'/>")
        checked = [attrs["id"] for tag, attrs in page.tags if tag == "input" and "checked" in attrs]
        assert checked == (["zoom-fit"] if large else ["zoom-1"])
        assert ('class="columns wide-graph"' in page.source) is large


def test_an_engine_that_was_built_shows_every_layer_it_was_given(page_of, built):
    drawn = []
    page = page_of(built, lambda file: drawn.append(file.name) or "<svg/>")
    assert drawn == ["view.onnx"]
    network = read_network(built / "layers.json")
    engine = page.sections["engine"]
    assert f"{len(network.layers)} layers: " in engine
    for kind in ("2 CONVOLUTION", "2 POOLING", "3 MATRIX_MULTIPLY"):
        assert kind in engine
    for layer in network.layers:
        assert f" {layer.name} " in engine
    for module in ("conv1 Conv2d", "flatten Flatten", "fc3 Linear"):
        assert module in engine
    assert "built from lenet5/1 \N{CHECK MARK} passed on onnxruntime" in engine


def test_an_engine_that_runs_shows_its_layers_as_they_were_fused(page_of, engine, monkeypatch):
    fused = EngineNetwork((), (EngineLayer("conv1 + relu1", "CaskConvolution", (), ()),), ())
    identity = BackendIdentity("tensorrt_rtx", "TensorRT-RTX", "a GPU", "tensorrt_rtx 1.7.1.12")
    here = Here(Replayed("passed", (), identity), fused=fused)
    monkeypatch.setattr(facts, "run_here", lambda *_: here)
    page = page_of(engine)
    assert "1 layers on a GPU" in page.sections["engine"]
    assert "1 conv1 + relu1 CaskConvolution" in page.sections["engine"]
    assert "run again for this page on TensorRT-RTX" in page.sections["head"]
    assert "pending there is no GPU on this machine" in page.sections["head"], "as it was made"


def test_an_engine_without_its_layers_and_its_source_says_so(page_of, engine):
    (engine / "layers.json").unlink()
    (engine / "view.onnx").unlink()
    source = engine.parents[1] / "lenet5" / "1" / "manifest.json"
    record = json.loads(source.read_text())
    record["artifact"]["sha256"] = "0" * 64
    source.write_text(json.dumps(record))
    page = page_of(engine)
    assert "They are not known: layers.json cannot be read" in page.sections["engine"]
    assert "not in this repository any more" in page.sections["engine"]
    assert "build it again" in page.sections["graph"]


def test_a_model_of_experts_shows_how_even_they_were_used(page_of, experts):
    page = page_of(experts)
    assert "real inputs: share of each layer's tokens, %" in page.sections["experts"]
    assert "real blocks.0.moe 4 32 2.00 0.00 % 1" in page.sections["experts"]
    assert "Counted by the truth." in page.sections["experts"]
    assert "at most 0" not in page.sections["experts"]

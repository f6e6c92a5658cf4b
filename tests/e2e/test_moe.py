"""The mixture of experts from its checkpoint to an answered request, load and all."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from exporter.parity import ProofOptions
from exporter.pipeline import ExportRequest, export_model
from exporter.source import SourceRequest, load_source
from exporter.truth import Truth
from models.data import digits, prepare
from runtime.cli import main
from runtime.client import Client
from runtime.watch.experts import loads_from_samples
from runtime.watch.scrape import samples_at

ROWS = 9


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    repository = tmp_path_factory.mktemp("moe")
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("TWINPORT_DATA", raising=False)
        source = SourceRequest("moe")
        for form in ("auto", "static"):
            request = ExportRequest(
                source, repository, moe_form=form, proof=ProofOptions(budget_s=5)
            )
            written = export_model(request)
            assert written.manifest.proof.verdict == "passed", written.manifest.proof.reason
    return repository


@pytest.fixture(scope="module")
def server(exported, start_server):
    return start_server(exported)


@pytest.fixture(scope="module")
def url(server):
    return server.address


@pytest.fixture(scope="module")
def images():
    return prepare(digits().images[:ROWS]).numpy()


@pytest.fixture(scope="module")
def truth(images):
    return Truth(load_source(SourceRequest("moe")).module)({"image": images})


def test_what_answers_is_counted_though_nobody_asked_for_the_load(server, url, images):
    def counted():
        (load,) = loads_from_samples(samples_at(server.metrics), "moe/2")
        return load.tokens

    with Client(url) as client:
        before = counted()
        client.infer("moe", {"image": images})
        after = counted()
        load = client.infer("moe", {"image": images}, outputs=["expert_load"])["expert_load"]
    np.testing.assert_array_equal(after - before, load.sum(0))


def test_the_load_is_listed_and_sent_only_by_name(url, images):
    with Client(url) as client:
        outputs = {spec.name: spec for spec in client.model_metadata("moe").outputs}
        assert outputs["expert_load"].dtype == "int32"
        assert outputs["expert_load"].shape[1:] == (3, 8)
        assert set(client.infer("moe", {"image": images})) == {"logits"}
        named = client.infer("moe", {"image": images}, outputs=["expert_load"])
        assert set(named) == {"expert_load"}


@pytest.mark.parametrize("version", ["1", "2"])
def test_both_forms_serve_the_truths_labels_and_load(version, url, images, truth):
    with Client(url) as client:
        answer = client.infer(
            "moe", {"image": images}, version=version, outputs=["logits", "expert_load"]
        )
    own = truth["output"]
    np.testing.assert_array_equal(answer["logits"].argmax(-1), own.argmax(-1))
    np.testing.assert_array_equal(answer["expert_load"], truth["expert_load"])
    np.testing.assert_array_equal(answer["expert_load"].sum(-1), 2 * 25)


def test_infer_prints_the_label_and_the_load(url, capsys):
    picture = str(Path(__file__).parents[2] / "docs" / "images" / "seven.png")
    assert main(["infer", "moe", picture, "--url", url]) == 0
    assert capsys.readouterr().out.split()[1] == "7"
    assert main(["infer", "moe", picture, "--url", url, "--output", "expert_load", "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    (answer,) = record["answers"]
    assert np.sum(answer["outputs"]["expert_load"]["data"]) == 3 * 2 * 25


def test_parity_replays_load_and_logits_without_the_module(exported, capsys):
    assert main(["parity", str(exported / "moe"), "--json"]) == 0
    record = json.loads(capsys.readouterr().out)
    judged = {(item["output"], item["kind"]): item["verdict"] for item in record["judgements"]}
    assert judged["expert_load", "real"] == judged["logits", "real"] == "passed"

"""Which versions are loaded, proved, refused and answer."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace

import numpy as np
import pytest

from runtime.backends.base import BackendOptions
from runtime.backends.ort import OrtBackend
from runtime.errors import InvalidInput, NotFound, RepositoryError, Unavailable
from runtime.loading import LoadOptions, load_version
from runtime.manifest import read_manifest
from runtime.repository import Repository
from runtime.verdicts import VerdictStore
from runtime.versions import State

WRONG = {"w": np.ones((4, 3), np.float32), "axis": np.array([1])}


@pytest.fixture
def load(open_models):
    """Load the test's repository."""
    return open_models


def files(folder):
    return {
        path: (path.stat().st_mtime_ns, hashlib.sha256(path.read_bytes()).hexdigest())
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def reason(loaded, name, version=1):
    entry = loaded.entries[name].versions[version]
    assert entry.state is State.UNAVAILABLE
    assert entry.model is None
    return entry.reason


async def test_a_proved_model_is_ready_and_answers(write_toy, load, toys):
    write_toy("linear")
    loaded = await load()
    x = toys["linear"].samples["x"][:2]
    answer = await loaded.model("linear").infer({"x": x}, ["y"])
    np.testing.assert_allclose(answer["y"], toys["linear"].compute({"x": x})["y"], rtol=1e-5)
    assert loaded.all_ready()


async def test_before_it_is_loaded_a_model_is_not_ready(write_toy, repository, tmp_path):
    write_toy("linear")
    options = LoadOptions(BackendOptions(), False, VerdictStore(tmp_path / "state"))
    fresh = Repository(repository, options)
    assert not fresh.is_ready("linear")
    assert not fresh.all_ready()
    with pytest.raises(Unavailable, match="LOADING"):
        fresh.model("linear")


async def test_the_highest_ready_version_answers_and_any_can_be_named(write_toy, load):
    for version in (1, 2, 10):
        write_toy("linear", version=version)
    loaded = await load()
    assert loaded.model("linear").record.version == 10
    assert loaded.model("linear", "2").record.version == 2


async def test_a_version_that_fails_its_replay_leaves_the_one_before_in_service(write_toy, load):
    write_toy("linear", version=1)
    write_toy("linear", version=2, weights=WRONG)
    loaded = await load()
    assert loaded.model("linear").record.version == 1
    assert "RMS error" in reason(loaded, "linear", 2)
    with pytest.raises(Unavailable, match=r"version 2 .* RMS error"):
        loaded.model("linear", "2")
    assert loaded.all_ready()


async def test_weights_changed_after_the_proof_are_noticed(write_toy, load):
    artifact = write_toy("linear") / "model.onnx"
    data = bytearray(artifact.read_bytes())
    data[data.index(np.float32(-1).tobytes()) + 3] ^= 0x80
    artifact.write_bytes(data)
    for unproved in (False, True):
        loaded = await load(unproved=unproved)
        assert "changed after the proof" in reason(loaded, "linear")


async def test_weights_changed_together_with_their_digest_fail_the_replay(write_toy, load):
    folder = write_toy("linear")
    artifact = folder / "model.onnx"
    data = bytearray(artifact.read_bytes())
    data[data.index(np.float32(-1).tobytes()) + 3] ^= 0x80
    artifact.write_bytes(data)
    record = json.loads((folder / "manifest.json").read_text())
    record["artifact"]["sha256"] = hashlib.sha256(data).hexdigest()
    (folder / "manifest.json").write_text(json.dumps(record))
    assert "RMS error" in reason(await load(), "linear")


@pytest.mark.parametrize("kind", ["no manifest", "no evidence", "wrong evidence", "wrong weights"])
async def test_what_is_not_proved_is_served_only_where_it_is_allowed(kind, write_toy, load):
    if kind == "no manifest":
        write_toy("linear", manifest=False)
    elif kind == "no evidence":
        (write_toy("linear") / "golden.safetensors").unlink()
    elif kind == "wrong evidence":
        (write_toy("linear") / "golden.safetensors").write_bytes(b"something else")
    else:
        write_toy("linear", weights=WRONG)
    assert "--unproved allow" in reason(await load(), "linear")
    allowed = (await load(unproved=True)).entries["linear"].versions[1]
    assert allowed.state is State.READY
    assert allowed.reason
    assert allowed.model.record.unproved == allowed.reason


async def test_a_proved_model_is_not_called_unproved_where_that_is_allowed(write_toy, load):
    write_toy("linear")
    assert (await load(unproved=True)).model("linear").record.unproved == ""


@pytest.mark.parametrize(
    ("damage", "text"),
    [
        (lambda folder: (folder / "model.onnx").unlink(), "model.onnx cannot be read"),
        (lambda folder: (folder / "manifest.json").write_text("{"), "manifest is not JSON"),
        (lambda folder: (folder.parent / "config.pbtxt").write_text("nonsense: 1"), "line 1"),
        (
            lambda folder: (folder.parent / "config.pbtxt").write_text('name: "other"'),
            "names the model 'other'",
        ),
        (
            lambda folder: (folder.parent / "config.pbtxt").write_text('backend: "abacus"'),
            "backend 'abacus' is not known",
        ),
        (
            lambda folder: (folder.parent / "config.pbtxt").write_text(
                'default_model_filename: "../1/model.onnx"'
            ),
            "wanted one in the version's folder",
        ),
        (
            lambda folder: (folder.parent / "config.pbtxt").write_text(
                'input { name: "x" data_type: TYPE_INT64 dims: [-1, 4] }'
            ),
            "int64 .* the artifact has float32",
        ),
        (
            lambda folder: (folder.parent / "config.pbtxt").write_text(
                'input { name: "z" data_type: TYPE_FP32 dims: [-1, 4] }'
            ),
            "has the input 'z'; the artifact has x",
        ),
    ],
)
async def test_a_broken_model_says_why_and_the_others_work(damage, text, write_toy, load):
    write_toy("linear", name="sound")
    damage(write_toy("linear", name="broken"))
    loaded = await load()
    assert loaded.is_ready("sound")
    with pytest.raises(Unavailable, match=text):
        loaded.model("broken")
    assert not loaded.all_ready()
    assert loaded.any_ready()


async def test_a_file_that_is_no_model_is_refused_in_one_line(write_toy, load):
    (write_toy("linear", manifest=False) / "model.onnx").write_bytes(b"not a graph")
    text = reason(await load(unproved=True), "linear")
    assert "model.onnx cannot be loaded" in text
    assert "\n" not in text


async def test_a_version_that_is_not_ready_is_for_the_report_to_tell_not_for_the_log(
    write_toy, load, caplog
):
    caplog.set_level("INFO", "runtime")
    write_toy("linear", weights=WRONG)
    loaded = await load()
    assert reason(loaded, "linear")
    assert caplog.text == ""


async def test_an_unexpected_failure_of_one_model_is_logged_and_keeps_no_other_from_work(
    write_toy, load, monkeypatch, caplog
):
    write_toy("linear", name="first")
    write_toy("linear", name="second")

    def failing(folder, *rest):
        if folder.parent.name == "first":
            raise ZeroDivisionError("a secret of the machine")
        return load_version(folder, *rest)

    monkeypatch.setattr("runtime.reloading.load_version", failing)
    loaded = await load()
    assert loaded.is_ready("second")
    assert "secret" not in reason(loaded, "first")
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("policy", "ready"),
    [
        ("", [1, 2, 3]),
        ("version_policy { all {} }", [1, 2, 3]),
        ("version_policy { latest { num_versions: 2 } }", [2, 3]),
        ("version_policy { latest {} }", [3]),
        ("version_policy { specific { versions: [1, 7] } }", [1]),
    ],
)
async def test_the_version_policy_says_what_is_loaded(policy, ready, write_toy, load, repository):
    for version in (1, 2, 3):
        write_toy("linear", version=version)
    with (repository / "linear" / "config.pbtxt").open("a") as config:
        config.write(policy)
    loaded = await load()
    assert [item.number for item in loaded.entries["linear"].ready()] == ready
    assert loaded.all_ready()
    if 2 not in ready:
        with pytest.raises(Unavailable, match="version policy"):
            loaded.model("linear", "2")


async def test_without_a_configuration_the_manifest_gives_the_largest_batch(
    write_toy, load, repository
):
    write_toy("linear")
    (repository / "linear" / "config.pbtxt").unlink()
    record = (await load()).model("linear").record
    assert record.max_batch_size == 8
    with pytest.raises(InvalidInput, match="batch of 9; model 'linear' takes 1 to 8"):
        await (await load()).model("linear").infer({"x": np.zeros((9, 4), np.float32)}, ["y"])


async def test_a_batch_of_nothing_is_refused(write_toy, load):
    write_toy("linear")
    model = (await load()).model("linear")
    with pytest.raises(InvalidInput, match="batch of 0"):
        await model.infer({"x": np.zeros((0, 4), np.float32)}, ["y"])


async def test_an_axis_outside_of_the_declared_range_is_refused(write_toy, load):
    write_toy("slow")
    model = (await load()).model("slow")
    arrays = {"x": np.zeros((513, 256), np.float32), "times": np.array([1])}
    with pytest.raises(InvalidInput, match=r"rows = 513; .* exported for 1 to 512"):
        await model.infer(arrays, ["y"])


async def test_a_configuration_may_fix_a_free_axis(write_toy, load, repository):
    write_toy("linear")
    (repository / "linear" / "config.pbtxt").write_text(
        'input { name: "x" data_type: TYPE_FP32 dims: [2, 4] }'
    )
    assert (await load()).model("linear").record.inputs["x"].shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "version", "error", "text"),
    [
        ("other", "", NotFound, "'other' is not known; there are linear"),
        ("linear", "7", NotFound, "no version 7; there are 1"),
        ("linear", "0", NotFound, "no version 0"),
        ("linear", "one", InvalidInput, "version 'one' .* is no number"),
        ("linear", "-1", InvalidInput, "is no number"),
        ("linear", "²", InvalidInput, "is no number"),
        ("linear", "9" * 5000, InvalidInput, "is no number"),
    ],
)
async def test_an_unknown_model_or_version_is_refused(name, version, error, text, write_toy, load):
    write_toy("linear")
    with pytest.raises(error, match=text):
        (await load()).model(name, version)


async def test_a_model_whose_only_version_failed_its_export_is_listed(write_toy, load, repository):
    write_toy("linear")
    (repository / "other" / "failed" / "1").mkdir(parents=True)
    loaded = await load()
    with pytest.raises(Unavailable, match="no version; the proof of 1 failed"):
        loaded.model("other")
    assert not loaded.all_ready()


async def test_a_folder_that_is_no_model_is_left_alone(write_toy, load, repository):
    write_toy("linear")
    (repository / "pictures").mkdir()
    loaded = await load()
    assert list(loaded.entries) == ["linear"]
    assert loaded.all_ready()


async def test_a_repository_without_models_is_refused(repository, load):
    with pytest.raises(RepositoryError, match="holds no models; twinport export"):
        await load()


async def test_a_model_is_not_taken_for_a_repository(write_toy, load, repository, tmp_path):
    write_toy("linear")
    options = LoadOptions(BackendOptions(), False, VerdictStore(tmp_path / "state"))
    with pytest.raises(RepositoryError, match="give the folder above"):
        Repository(repository / "linear", options)


async def test_loading_leaves_the_repository_as_it_was(write_toy, load, repository, tmp_path):
    write_toy("linear")
    write_toy("linear", version=2, weights=WRONG)
    before = files(repository)
    await load()
    assert files(repository) == before
    assert len(files(tmp_path / "state")) == 2


async def test_the_verdict_is_kept_by_artifact_and_backend(write_toy, load, tmp_path):
    manifest = read_manifest(write_toy("linear") / "manifest.json")
    loaded = await load()
    (path,) = files(tmp_path / "state")
    record = json.loads(path.read_text())
    identity = loaded.model("linear").record.identity
    assert record["verdict"] == "passed"
    assert record["artifact_sha256"] == manifest.artifact.sha256
    assert record["library"] == identity.library
    assert record["provider"] == "CPUExecutionProvider"
    store = VerdictStore(tmp_path / "state")
    assert store.last(manifest, identity).verdict == "passed"
    assert store.last(manifest, replace(identity, device="another")) is None


async def test_a_kept_verdict_never_takes_the_place_of_the_replay(write_toy, load, monkeypatch):
    write_toy("linear")
    assert (await load()).is_ready("linear")
    sound = OrtBackend.infer

    def drifting(self, arrays, outputs=None):
        return {name: array * 1.01 for name, array in sound(self, arrays, outputs).items()}

    monkeypatch.setattr(OrtBackend, "infer", drifting)
    loaded = await load()
    assert "the same files passed here on" in reason(loaded, "linear")


async def test_a_state_folder_that_cannot_be_written_is_a_warning(
    write_toy, load, tmp_path, caplog
):
    write_toy("linear")
    (tmp_path / "state").write_text("a file where a folder should be")
    assert (await load()).is_ready("linear")
    assert "cannot be written" in caplog.text


async def test_watchers_hear_of_every_version_and_ready_is_said_once_all_are_tried(
    write_toy, repository, tmp_path
):
    write_toy("linear")
    write_toy("linear", version=2)
    options = LoadOptions(BackendOptions(), False, VerdictStore(tmp_path / "state"))
    watched = Repository(repository, options)
    seen = []
    watched.watch(
        lambda: seen.append((len(watched.entries["linear"].ready()), watched.all_ready()))
    )
    await watched.load()
    watched.close()
    assert seen == [(1, False), (2, False), (2, True)]


async def test_after_closing_nothing_answers(write_toy, load):
    write_toy("linear")
    loaded = await load()
    loaded.close()
    with pytest.raises(Unavailable, match="shutting down"):
        loaded.model("linear")

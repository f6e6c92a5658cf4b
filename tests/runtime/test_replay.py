from __future__ import annotations

from contextlib import closing
from dataclasses import replace

import numpy as np
import pytest

from runtime.backends.factory import open_backend
from runtime.errors import InvalidInput, RepositoryError, Unavailable
from runtime.manifest import FILE_NAME, Evidence, read_manifest
from runtime.proof_records import Proof
from runtime.replay import Replayed, check_artifact, replay_version
from runtime.tensors import TensorSpec


def replayed(folder, **changes) -> Replayed:
    manifest = replace(read_manifest(folder / FILE_NAME), **changes)
    artifact = check_artifact(folder, manifest)
    with closing(open_backend("onnxruntime", artifact)) as backend:
        return replay_version(folder, manifest, backend)


class Recording:
    """A backend that notes the batches it gets and fails when told to."""

    def __init__(self, inner, error=None):
        self.inner, self.error, self.sizes = inner, error, []
        self.identity, self.captures = inner.identity, inner.captures

    def infer(self, arrays, outputs=None):
        self.sizes.append(len(arrays["x"]))
        if self.error:
            raise self.error
        return self.inner.infer(arrays, outputs)


def test_a_sound_artifact_passes_on_all_its_outputs(write_toy):
    found = replayed(write_toy())
    assert (found.verdict, found.reason) == ("passed", "")
    assert {item.output for item in found.judgements} == {"y", "total"}
    assert {item.samples for item in found.judgements} == {16}
    assert found.identity.provider == "CPUExecutionProvider"
    assert found.identity.library.startswith("onnxruntime 1.")


def test_a_wrong_artifact_fails_with_the_output_that_differs(write_toy):
    wrong = np.linspace(-1, 1, 12, dtype=np.float32).reshape(4, 3) * np.float32(1.01)
    found = replayed(write_toy(weights={"w": wrong, "axis": np.array([1])}))
    assert found.verdict == "failed"
    assert found.reason.startswith("output 'total' on random inputs is failed: RMS error is ")


@pytest.mark.parametrize(("limit", "sizes"), [(8, [1, 2, 7, 6]), (4, [1, 2, 4, 4, 4, 1])])
def test_requests_are_cut_and_joined_up_to_the_models_batch(limit, sizes, write_toy):
    folder = write_toy()
    manifest = replace(read_manifest(folder / FILE_NAME), max_batch_size=limit)
    with closing(open_backend("onnxruntime", folder / "model.onnx")) as backend:
        recording = Recording(backend)
        replay_version(folder, manifest, recording)
    assert recording.sizes == sizes


def test_an_artifact_that_refuses_its_evidence_has_failed(write_toy):
    folder = write_toy()
    manifest = read_manifest(folder / FILE_NAME)
    with closing(open_backend("onnxruntime", folder / "model.onnx")) as backend:
        refusing = Recording(backend, InvalidInput("no such shape"))
        found = replay_version(folder, manifest, refusing)
    assert (found.verdict, found.judgements) == ("failed", ())
    assert found.reason == "the replay stopped: no such shape"


def test_a_device_that_goes_away_is_no_verdict(write_toy):
    folder = write_toy()
    manifest = read_manifest(folder / FILE_NAME)
    with closing(open_backend("onnxruntime", folder / "model.onnx")) as backend:
        gone = Recording(backend, Unavailable("the device is gone"))
        with pytest.raises(Unavailable, match="the device is gone"):
            replay_version(folder, manifest, gone)


def test_an_output_that_the_evidence_is_silent_about_fails(write_toy):
    folder = write_toy()
    outputs = read_manifest(folder / FILE_NAME).outputs
    found = replayed(folder, outputs=(*outputs, TensorSpec("more", "float32", ("batch",))))
    assert (found.verdict, found.reason) == ("failed", "the evidence says nothing of output 'more'")


def test_a_version_without_evidence_is_pending(write_toy):
    found = replayed(write_toy(), evidence=None)
    assert (found.verdict, found.judgements) == ("pending", ())
    assert "no evidence" in found.reason


def test_evidence_that_was_changed_is_refused(write_toy):
    folder = write_toy()
    golden = folder / "golden.safetensors"
    golden.write_bytes(golden.read_bytes()[:-1] + b"\x00")
    with pytest.raises(RepositoryError, match=r"golden\.safetensors has sha256 .* changed after"):
        replayed(folder)


def test_evidence_that_is_gone_is_refused(write_toy):
    folder = write_toy()
    with pytest.raises(RepositoryError, match=r"none\.safetensors cannot be read"):
        replayed(folder, evidence=Evidence("none.safetensors", "0" * 64, 16))


def test_an_artifact_that_was_changed_is_refused(write_toy):
    folder = write_toy()
    with (folder / "model.onnx").open("ab") as file:
        file.write(b"\x00")
    with pytest.raises(RepositoryError, match=r"model\.onnx has sha256 .*, export the model again"):
        replayed(folder)


def failed_proof(reason: str) -> Proof:
    return Proof(
        verdict="failed", backend="onnxruntime", provider="CPUExecutionProvider", device="cpu",
        library="onnxruntime", truth="float64", truth_operators=(), batchable=True,
        batchable_reason="", batch_sizes=(1,), axis_sizes={}, seed=0, seconds=0.0,
        cut_by_budget=False, judgements=(), reason=reason,
    )  # fmt: skip


def test_a_proof_that_failed_at_export_is_not_mended_by_a_replay(write_toy):
    """A vacuous output or a degraded truth is nothing that a replay can see."""
    found = replayed(write_toy(), proofs=(failed_proof("output 'y' is vacuous"),))
    assert found.verdict == "failed"
    assert found.reason == "its proof failed when it was exported: output 'y' is vacuous"
    assert {item.verdict for item in found.judgements} == {"passed"}

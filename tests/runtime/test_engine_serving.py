"""Engines in a repository, over a stand-in; nothing here is a result of TensorRT."""

from __future__ import annotations

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import Status
from runtime.layout import CONFIG_FILE
from runtime.manifest import FILE_NAME, EngineRecord, ProfileShape, manifest_to_text, read_manifest
from runtime.model_config import ModelFacts, config_to_write
from runtime.proof_records import Proof

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
SHAPES = ((1, 4), (4, 4), (8, 4))
WRONG = {"w": np.ones((4, 3), dtype=np.float32), "axis": np.array([1])}
NO_GPU = "an engine of TensorRT runs on a GPU only: the NVIDIA driver finds no GPU"


def pending_proof():
    return Proof(
        "pending", "tensorrt", "none", "none", "tensorrt 11.4.0.106", "float64", (), True, "",
        (), {}, 0, 0.0, False, (), reason="no GPU where it was built",
    )  # fmt: skip


@pytest.fixture
def write_engine(write_toy, repository, standin):
    """``linear`` and ``linear_trt``, an engine made of it; fields of the manifest by name."""

    def write(source=None, *, engine=None, plan=None, **fields):
        toy = write_toy("linear", name="linear", **(source or {}))
        folder = repository / "linear_trt" / "1"
        folder.mkdir(parents=True)
        model = (toy / "model.onnx").read_bytes()
        data = standin.tensorrt._plan_bytes(model, [{"x": SHAPES}], **(plan or {}))
        (folder / "model.engine").write_bytes(data)
        (folder / "golden.safetensors").write_bytes((toy / "golden.safetensors").read_bytes())
        manifest = read_manifest(toy / FILE_NAME)
        record = EngineRecord(
            "tensorrt", "11.4.0.106", "linear/1", manifest.artifact.sha256,
            ((ProfileShape("x", *SHAPES),),), False, 3, None, "none", False,
            **(engine or {}),
        )  # fmt: skip
        artifact = dataclasses.replace(
            manifest.artifact, file="model.engine", sha256=hashlib.sha256(data).hexdigest(),
            format="engine", engine=record,
        )  # fmt: skip
        values = {"name": "linear_trt", "artifact": artifact, "proofs": (pending_proof(),)}
        manifest = dataclasses.replace(manifest, **{**values, **fields})
        (folder / FILE_NAME).write_text(manifest_to_text(manifest))
        facts = ModelFacts(
            "linear_trt", "tensorrt", "model.engine", 8, manifest.inputs, manifest.outputs
        )
        path = repository / "linear_trt" / CONFIG_FILE
        path.write_text(config_to_write(path, facts))
        return folder

    return write


async def infer(ask, servicer, model):
    request = request_from_arrays({"x": X}, model=model)
    return arrays_from_response(await ask(servicer, "ModelInfer", request))


async def test_an_engine_and_its_source_answer_side_by_side(write_engine, open_service, ask, toys):
    write_engine()
    servicer = await open_service()
    for model in ("linear", "linear_trt"):
        assert (await ask(servicer, "ModelReady", name=model)).ready
        answers = await infer(ask, servicer, model)
        right = toys["linear"].compute({"x": X.astype(np.float64)})
        np.testing.assert_allclose(answers["y"], right["y"], rtol=1e-5)
        assert "total" not in answers


async def test_a_pending_proof_is_decided_by_the_replay_on_the_device(
    write_engine, open_service, ask, tmp_path
):
    write_engine()
    metadata = await ask(await open_service(), "ModelMetadata", name="linear_trt")
    properties = metadata.properties
    assert properties["twinport.proof"] == "pending"
    assert properties["twinport.proved_here"] == "passed"
    assert json.loads(properties["twinport.runs_on"]) == {
        "backend": "tensorrt", "provider": "TensorRT",
        "device": "Stand-in (compute capability 8.9)", "library": "tensorrt 11.4.0.106",
    }  # fmt: skip
    kept = [json.loads(path.read_text()) for path in (tmp_path / "state").rglob("*.json")]
    record = next(item for item in kept if item["model"] == "linear_trt")
    assert (record["verdict"], record["backend"]) == ("passed", "tensorrt")


async def test_an_engine_that_is_another_model_is_not_ready(
    write_engine, open_service, ask, status_of
):
    write_engine({"weights": WRONG})
    servicer = await open_service()
    status, text = await status_of(infer(ask, servicer, "linear_trt"))
    assert status is Status.UNAVAILABLE
    assert "not proved on TensorRT here: output 'total' on random inputs is failed" in text


@pytest.mark.parametrize("unproved", [False, True])
async def test_without_a_gpu_the_engine_is_listed_with_the_reason_and_the_rest_works(
    write_engine, open_service, standin, ask, status_of, unproved
):
    write_engine()
    standin.state.devices = 0
    servicer = await open_service(unproved=unproved)
    assert not (await ask(servicer, "ModelReady", name="linear_trt")).ready
    assert await status_of(infer(ask, servicer, "linear_trt")) == (
        Status.UNAVAILABLE, f"model 'linear_trt' is not ready: version 1 is UNAVAILABLE: {NO_GPU}",
    )  # fmt: skip
    assert (await infer(ask, servicer, "linear"))["y"].shape == (2, 3)


@pytest.mark.parametrize(
    ("plan", "engine", "reason"),
    [
        ({"magic": b"vtrt"}, {}, "is an engine of TensorRT-RTX, config.pbtxt wants TensorRT"),
        ({"version": (11, 3, 0, 1)}, {}, "was built by TensorRT 11.3.0.1, installed is 11.4.0.106"),
        ({"broken": True}, {}, "refused by TensorRT: IRuntime::deserialize: Magic tag"),
    ],
)
async def test_an_engine_that_cannot_run_is_listed_with_the_reason(
    write_engine, open_service, ask, status_of, plan, engine, reason
):
    write_engine(plan=plan)
    status, text = await status_of(infer(ask, await open_service(unproved=True), "linear_trt"))
    assert status is Status.UNAVAILABLE
    assert reason in text


async def test_the_manifest_tells_that_an_older_engine_runs(
    write_engine, open_service, ask, repository
):
    folder = write_engine(plan={"version": (11, 3, 0, 1)})
    manifest = read_manifest(folder / FILE_NAME)
    engine = dataclasses.replace(manifest.artifact.engine, version_compatible=True)
    artifact = dataclasses.replace(manifest.artifact, engine=engine)
    text = manifest_to_text(dataclasses.replace(manifest, artifact=artifact))
    (folder / FILE_NAME).write_text(text)
    assert (await infer(ask, await open_service(), "linear_trt"))["y"].shape == (2, 3)


async def test_the_manifest_names_the_flavour_where_no_configuration_does(
    write_engine, open_service, ask, repository
):
    write_engine()
    (repository / "linear_trt" / CONFIG_FILE).unlink()
    assert (await infer(ask, await open_service(), "linear_trt"))["y"].shape == (2, 3)


async def test_tritons_names_of_backend_and_file_are_known(
    write_engine, open_service, ask, repository
):
    folder = write_engine()
    (folder / "model.engine").rename(folder / "model.plan")
    (folder / FILE_NAME).unlink()
    path = repository / "linear_trt" / CONFIG_FILE
    path.write_text('name: "linear_trt" platform: "tensorrt_plan" max_batch_size: 8')
    servicer = await open_service(unproved=True)
    assert (await infer(ask, servicer, "linear_trt"))["y"].shape == (2, 3)


async def test_unloading_gives_the_device_back(write_engine, open_service, ask, standin):
    write_engine()
    servicer = await open_service()
    await infer(ask, servicer, "linear_trt")
    assert standin.state.held()
    servicer._repository.close()
    assert standin.state.held() == []


async def test_a_batch_beyond_the_profiles_is_the_clients_error(
    write_engine, open_service, ask, status_of
):
    write_engine(max_batch_size=9)
    request = request_from_arrays({"x": np.ones((9, 4), np.float32)}, model="linear_trt")
    servicer = await open_service()
    status, text = await status_of(ask(servicer, "ModelInfer", request))
    assert status is Status.INVALID_ARGUMENT
    assert "linear_trt' takes 1 to 8" in text


def test_parity_replays_an_engine_and_says_where(write_engine, repository, twinport):
    write_engine()
    ran = twinport("parity", repository / "linear_trt")
    assert (ran.code, ran.err) == (0, "")
    assert "tensorrt 11.4.0.106, TensorRT, Stand-in (compute capability 8.9)" in ran.out


def test_parity_without_a_gpu_is_one_line(write_engine, repository, twinport, standin):
    write_engine()
    standin.state.devices = 0
    ran = twinport("parity", repository / "linear_trt")
    assert ran == (1, "", f"twinport: {NO_GPU}\n")


@pytest.mark.parametrize("name", ["model.engine", "golden.safetensors"])
async def test_a_changed_file_of_an_engine_is_one_to_build_again(
    write_engine, open_service, ask, status_of, name
):
    folder = write_engine()
    with (folder / name).open("ab") as file:
        file.write(b"\x00")
    _, text = await status_of(infer(ask, await open_service(), "linear_trt"))
    assert f"{name} has sha256 " in text
    assert "changed after the proof, build the engine again" in text
    assert "export" not in text


@pytest.mark.parametrize("backend", ["onnxruntime", "tensorrt_rtx"])
async def test_a_configuration_for_another_backend_contradicts_the_manifest(
    write_engine, open_service, ask, status_of, repository, twinport, backend
):
    write_engine()
    path = repository / "linear_trt" / CONFIG_FILE
    path.write_text(path.read_text().replace('"tensorrt"', f'"{backend}"'))
    said = (
        f"config.pbtxt has backend '{backend}', the manifest says that 'model.engine' is for "
        "'tensorrt'; write backend: 'tensorrt', or build the engine again"
    )
    _, text = await status_of(infer(ask, await open_service(unproved=True), "linear_trt"))
    assert said in text
    assert twinport("parity", repository / "linear_trt") == (1, "", f"twinport: {said}\n")


async def test_the_graphs_that_will_answer_are_replayed_at_loading(
    write_engine, open_service, standin, ask
):
    write_engine()
    servicer = await open_service()
    assert (await ask(servicer, "ModelReady", name="linear_trt")).ready
    captured = standin.state.names().count("cudaGraphInstantiate")
    assert captured == 4  # batches of 1, 2, 7 and the 6 that are left of 16
    assert standin.state.names().count("cudaGraphLaunch") == captured


async def test_an_engine_whose_graphs_answer_wrongly_is_not_ready(
    write_engine, open_service, standin, monkeypatch, ask, status_of
):
    write_engine()
    sound = (standin.cuda.cudaError_t.cudaSuccess,)
    monkeypatch.setattr(standin.cuda, "cudaGraphLaunch", lambda graph, stream: sound)
    status, text = await status_of(infer(ask, await open_service(), "linear_trt"))
    assert status is Status.UNAVAILABLE
    assert "not proved on TensorRT here: where calls come again, output 'total' on random" in text

"""The calls about the repository and about what was counted."""

from __future__ import annotations

import asyncio
import time

import numpy as np
import pytest

from protos import (
    ModelRepositoryParameter,
    RepositoryModelLoadRequest,
    RepositoryModelUnloadRequest,
)
from runtime.codec import request_from_arrays
from runtime.errors import Status
from runtime.loading import load_version
from runtime.servicer import Call

REQUEST = request_from_arrays({"x": np.zeros((2, 4), np.float32)}, model="linear")


async def index(servicer, ask, **fields):
    models = (await ask(servicer, "RepositoryIndex", **fields)).models
    return [(item.name, item.version, item.state, item.reason) for item in models]


async def test_the_index_has_every_version_with_state_and_reason(
    write_toy, open_service, repository, ask
):
    write_toy("linear")
    write_toy("linear", version=2, manifest=False)
    (repository / "empty" / "failed" / "1").mkdir(parents=True)
    servicer = await open_service()
    found = await index(servicer, ask)
    assert found[0] == ("empty", "", "UNAVAILABLE", "it has no version; the proof of 1 failed")
    assert found[1] == ("linear", "1", "READY", "")
    assert found[2][:3] == ("linear", "2", "UNAVAILABLE")
    assert "no manifest" in found[2][3]
    assert await index(servicer, ask, ready=True) == [("linear", "1", "READY", "")]


async def test_a_repository_cannot_be_chosen(write_toy, open_service, ask, status_of):
    write_toy("linear")
    servicer = await open_service(control="explicit")
    for method in ("RepositoryIndex", "RepositoryModelLoad", "RepositoryModelUnload"):
        status, text = await status_of(ask(servicer, method, repository_name="mine"))
        assert status is Status.UNIMPLEMENTED
        assert "leave it empty" in text


@pytest.mark.parametrize("control", ["none", "poll"])
async def test_clients_load_nothing_without_explicit_control(
    control, write_toy, open_service, ask, status_of
):
    write_toy("linear")
    servicer = await open_service(control=control)
    for method in ("RepositoryModelLoad", "RepositoryModelUnload"):
        status, text = await status_of(ask(servicer, method, model_name="linear"))
        assert status is Status.UNAVAILABLE
        assert "explicit model load / unload is not allowed" in text
    assert (await ask(servicer, "ModelReady", name="linear")).ready


async def test_a_client_loads_and_unloads(write_toy, open_service, ask, status_of):
    servicer = await open_service(control="explicit")
    write_toy("linear")
    assert [item[:3] for item in await index(servicer, ask)] == [("linear", "1", "UNAVAILABLE")]
    await ask(servicer, "RepositoryModelLoad", model_name="linear")
    assert await index(servicer, ask) == [("linear", "1", "READY", "")]
    await ask(servicer, "ModelInfer", REQUEST)
    unload = RepositoryModelUnloadRequest(model_name="linear")
    unload.parameters["unload_dependents"].bool_param = True
    await ask(servicer, "RepositoryModelUnload", unload)
    assert [item[2] for item in await index(servicer, ask)] == ["UNAVAILABLE"]
    status, text = await status_of(ask(servicer, "ModelInfer", REQUEST))
    assert status is Status.UNAVAILABLE
    assert "not loaded" in text
    status, _ = await status_of(ask(servicer, "RepositoryModelLoad", model_name="other"))
    assert status is Status.NOT_FOUND
    # As with Triton: it is out of service, which is what is asked for.
    await ask(servicer, "RepositoryModelUnload", model_name="other")


async def test_a_model_that_cannot_be_loaded_is_the_callers_error(
    write_toy, open_service, ask, status_of
):
    write_toy("linear", manifest=False)
    servicer = await open_service(control="explicit")
    status, text = await status_of(ask(servicer, "RepositoryModelLoad", model_name="linear"))
    assert status is Status.INVALID_ARGUMENT
    assert "load failed for model 'linear': version 1" in text
    assert (await ask(servicer, "ServerReady")).ready


@pytest.mark.parametrize(
    ("name", "status"),
    [("config", Status.UNIMPLEMENTED), ("file:1/model.onnx", Status.UNIMPLEMENTED),
     ("speed", Status.INVALID_ARGUMENT)],
)  # fmt: skip
async def test_a_version_is_not_overridden_while_it_is_loaded(
    name, status, write_toy, open_service, ask, status_of
):
    write_toy("linear")
    servicer = await open_service(control="explicit")
    request = RepositoryModelLoadRequest(
        model_name="linear", parameters={name: ModelRepositoryParameter(string_param="{}")}
    )
    found, text = await status_of(ask(servicer, "RepositoryModelLoad", request))
    assert found is status
    assert name in text
    assert not (await ask(servicer, "ModelReady", name="linear")).ready


async def test_parameters_of_unloading_that_are_not_known_are_refused(
    write_toy, open_service, ask, status_of
):
    write_toy("linear")
    servicer = await open_service(control="explicit")
    for name, value in (
        ("unload_dependents", {"string_param": "yes"}),
        ("x", {"bool_param": True}),
    ):
        request = RepositoryModelUnloadRequest(
            model_name="linear", parameters={name: ModelRepositoryParameter(**value)}
        )
        status, _ = await status_of(ask(servicer, "RepositoryModelUnload", request))
        assert status is Status.INVALID_ARGUMENT


async def test_loading_goes_on_after_its_client_gave_up(
    write_toy, open_service, monkeypatch, ask, status_of
):
    write_toy("linear")
    servicer = await open_service(control="explicit")
    loop, gate = asyncio.get_running_loop(), asyncio.Event()

    def slow(*args):
        asyncio.run_coroutine_threadsafe(gate.wait(), loop).result(60)
        return load_version(*args)

    monkeypatch.setattr("runtime.reloading.load_version", slow)
    soon = Call(deadline=time.monotonic() + 0.02)
    status, _ = await status_of(
        ask(servicer, "RepositoryModelLoad", model_name="linear", call=soon)
    )
    assert status is Status.DEADLINE_EXCEEDED
    assert servicer._repository.busy
    gate.set()
    async with asyncio.timeout(60):
        while not (await ask(servicer, "ModelReady", name="linear")).ready:
            await asyncio.sleep(0)


async def statistics(servicer, ask, **fields):
    return list((await ask(servicer, "ModelStatistics", **fields)).model_stats)


async def test_statistics_grow_with_every_request(servicer, ask, status_of):
    (before,) = await statistics(servicer, ask, name="linear", version="2")
    assert before.inference_stats.success.count == 0
    for _ in range(3):
        await ask(servicer, "ModelInfer", REQUEST)
    (after,) = await statistics(servicer, ask, name="linear", version="2")
    assert (after.name, after.version) == ("linear", "2")
    assert (after.inference_count, after.execution_count) == (6, 3)
    assert after.last_inference > 1.6e12
    counted = after.inference_stats
    for field in ("success", "queue", "compute_input", "compute_infer", "compute_output"):
        assert getattr(counted, field).count == 3, field
    for field in ("success", "queue", "compute_infer"):
        assert getattr(counted, field).ns > 0, field
    (batch,) = after.batch_stats
    assert (batch.batch_size, batch.compute_infer.count) == (2, 3)
    assert counted.HasField("cache_hit")


async def test_statistics_are_of_one_version_one_model_or_all(
    write_toy, open_service, ask, status_of
):
    for version in (1, 2):
        write_toy("linear", version=version)
    write_toy("linear", name="other")
    write_toy("linear", name="broken", manifest=False)
    servicer = await open_service()

    async def names(**fields):
        return [(item.name, item.version) for item in await statistics(servicer, ask, **fields)]

    assert await names() == [("linear", "1"), ("linear", "2"), ("other", "1")]
    assert await names(name="linear") == [("linear", "1"), ("linear", "2")]
    assert await names(name="linear", version="1") == [("linear", "1")]
    for fields, wanted in (
        ({"name": "none"}, Status.NOT_FOUND),
        ({"name": "linear", "version": "3"}, Status.NOT_FOUND),
        ({"name": "linear", "version": "x"}, Status.INVALID_ARGUMENT),
        ({"name": "broken"}, Status.UNAVAILABLE),
    ):
        status, _ = await status_of(statistics(servicer, ask, **fields))
        assert status is wanted

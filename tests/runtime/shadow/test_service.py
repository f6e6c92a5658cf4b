"""The checks inside the service: what clients see of a version that drifts."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest

from runtime.backends.base import BackendOptions
from runtime.backends.ort import OrtBackend
from runtime.errors import Status
from runtime.loading import LoadOptions
from runtime.observe.collector import exposition
from runtime.observe.snapshot import snapshot_of
from runtime.repository import Repository
from runtime.servicer import Call, Servicer
from runtime.shadow.settings import ShadowSettings
from runtime.standard_services import HEALTH_WATCH, NOT_SERVING, SERVING
from runtime.verdicts import VerdictStore
from runtime.versions import State

X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)


class Ageing(OrtBackend):
    """Right in its proof, and off by a factor once a test says so."""

    factor = np.float32(1)

    def infer(self, arrays, outputs=None):
        answers = super().infer(arrays, outputs)
        return {name: array * self.factor for name, array in answers.items()}


@pytest.fixture
def age(monkeypatch):
    """Let every backend that serves drift from now on, or be right again."""
    monkeypatch.setattr(Ageing, "factor", np.float32(1))
    monkeypatch.setattr("runtime.loading.open_backend", lambda _, path, own: Ageing(path, own))
    return lambda factor=1.0001: setattr(Ageing, "factor", np.float32(factor))


@pytest.fixture
def open_checked(repository, tmp_path):
    """The service with every answer checked."""
    opened = []

    async def open_checked(action="report", **control):
        options = LoadOptions(
            BackendOptions(), allow_unproved=False, verdicts=VerdictStore(tmp_path / "state"),
            shadow=ShadowSettings(1.0, action),
        )  # fmt: skip
        models = Repository(repository, options, **control)
        opened.append(models)
        await models.load()
        return models, Servicer(models)

    yield open_checked
    for models in opened:
        models.close()


async def infer(models, count, version="1", name="linear", outputs=("y",), x=X):
    """So many answers, each compared before the next."""
    model = models.model(name, version)
    for _ in range(count):
        answers = await model.infer({"x": x}, list(outputs))
        async with asyncio.timeout(30):
            while model.shadow.busy:
                await asyncio.sleep(0)
    return answers


async def until(holds):
    async with asyncio.timeout(30):
        while not holds():
            await asyncio.sleep(0)


def properties(answer):
    return json.loads(answer.properties["twinport.shadow"])


async def test_a_sound_version_is_compared_and_says_so(write_toy, age, open_checked, ask):
    write_toy("linear")
    models, servicer = await open_checked("unready")
    await infer(models, 70)
    found = properties(await ask(servicer, "ModelMetadata", name="linear"))
    assert found["requests"]["compared"] == 70
    assert found["drifts"] == found["trouble"] == ""
    assert found["outputs"]["y"]["rms"] < 1 < found["outputs"]["y"]["limit"]
    assert models.is_ready("linear")


async def test_a_drift_is_reported_and_the_version_serves_on(write_toy, age, open_checked, ask):
    write_toy("linear")
    models, servicer = await open_checked()
    age()
    await infer(models, 64)
    (version,) = models.versions()
    await until(lambda: version.reason)
    assert version.state is State.READY
    assert version.reason.startswith("it drifts: output 'y' is off the reference by")
    found = properties(await ask(servicer, "ModelMetadata", name="linear"))
    assert found["drifts"] in version.reason
    index = await ask(servicer, "RepositoryIndex")
    assert (index.models[0].state, index.models[0].reason) == ("READY", version.reason)
    text = exposition(lambda: snapshot_of(models.versions(), {}).whole())().decode()
    assert 'twinport_shadow_drifting{model="linear",version="1"} 1.0' in text
    assert (
        'twinport_shadow_requests_total{model="linear",outcome="compared",version="1"} 64.0' in text
    )
    age(1)
    await infer(models, 256)
    await until(lambda: not version.reason)


async def test_unready_takes_the_version_out_of_service_and_watchers_see_it(
    write_toy, age, open_checked, ask, status_of
):
    write_toy("linear")
    models, servicer = await open_checked("unready", control="explicit", load_models=["linear"])
    seen = []

    async def payloads():
        yield b"\n\x06linear"

    async def watch():
        async for payload in servicer.stream(HEALTH_WATCH, payloads(), Call()):
            seen.append(payload[-1])

    watching = asyncio.create_task(watch())
    await until(lambda: seen == [SERVING])
    age()
    await infer(models, 64)
    await until(lambda: seen == [SERVING, NOT_SERVING])
    status, text = await status_of(ask(servicer, "ModelMetadata", name="linear"))
    assert status is Status.UNAVAILABLE
    assert "it drifts: output 'y' is off the reference" in text
    assert not (await ask(servicer, "ServerReady")).ready
    assert not (await ask(servicer, "ModelReady", name="linear")).ready
    index = await ask(servicer, "RepositoryIndex")
    assert index.models[0].state == "UNAVAILABLE"
    assert "it drifts" in index.models[0].reason
    # Loading it again proves it anew and starts afresh.
    age(1)
    await ask(servicer, "RepositoryModelLoad", model_name="linear")
    assert models.is_ready("linear")
    await infer(models, 70)
    assert models.is_ready("linear")
    assert seen == [SERVING, NOT_SERVING, SERVING]
    watching.cancel()


async def test_the_version_below_answers_when_the_highest_has_left(write_toy, age, open_checked):
    write_toy("linear", version=1)
    write_toy("linear", version=2)
    models, _ = await open_checked("unready")
    age()
    await infer(models, 64, version="2")
    await until(lambda: models.model("linear").record.version == 1)


async def test_garbage_from_clients_leaves_a_sound_version_in_service(write_toy, age, open_checked):
    write_toy("linear")
    models, _ = await open_checked("unready")
    for value in (np.nan, np.inf, 3e38, -1e30, 0, 1e-38):
        await infer(models, 70, x=np.full((1, 4), value, np.float32))
    counts = models.model("linear").shadow.counts
    assert (counts.compared, counts.extreme, counts.extreme_differing) == (140, 280, 0)
    assert models.is_ready("linear")


async def test_only_the_outputs_that_were_asked_for_are_sent(write_toy, age, open_checked):
    write_toy("linear")
    models, _ = await open_checked()
    assert set(await infer(models, 1, outputs=("total",))) == {"total"}


async def test_a_version_without_evidence_is_served_without_checks(
    write_toy, open_checked, caplog, repository, tmp_path
):
    write_toy("linear", manifest=False)
    options = LoadOptions(
        BackendOptions(), allow_unproved=True, verdicts=VerdictStore(tmp_path / "state"),
        shadow=ShadowSettings(1.0),
    )  # fmt: skip
    models = Repository(repository, options)
    await models.load()
    assert models.model("linear").shadow is None
    assert "the answers of linear/1 are not checked: it has no manifest" in caplog.text
    models.close()


async def test_a_version_with_a_reshape_is_checked_in_its_own_shape(
    write_toy, open_checked, repository
):
    write_toy("linear")
    config = repository / "linear" / "config.pbtxt"
    config.write_text(config.read_text().replace("dims: [4]", "dims: [2, 2] reshape {shape: 4}"))
    models, _ = await open_checked()
    answers = await infer(models, 3, x=X.reshape(2, 2, 2), outputs=("y", "total"))
    assert answers["total"].shape == (2, 1)
    shadow = models.model("linear").shadow
    assert (shadow.counts.compared, shadow.counts.failed) == (3, 0)

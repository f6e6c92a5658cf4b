"""Models that come, change and go while others, and their own requests, are served."""

from __future__ import annotations

import asyncio
import shutil
import threading

import numpy as np
import pytest

from runtime.backends.ort import OrtBackend
from runtime.errors import InvalidInput, NotFound, Unavailable
from runtime.loading import load_version
from runtime.repository import EXPLICIT, POLL
from runtime.versions import State

X = {"x": np.ones((1, 4), np.float32)}
WRONG = {"w": np.ones((4, 3), np.float32), "axis": np.array([1])}


def states(models):
    return {str(item): item.state.value for item in models.versions()}


@pytest.fixture
def held(monkeypatch):
    """Calls of ONNX Runtime wait until they are let go; ``begun`` is set by the first."""

    class Held:
        begun, gate = threading.Event(), threading.Event()

    infer = OrtBackend.infer

    def waiting(self, *args):
        Held.begun.set()
        assert Held.gate.wait(60)
        return infer(self, *args)

    def hold():
        monkeypatch.setattr(OrtBackend, "infer", waiting)
        return Held

    yield hold
    Held.gate.set()


async def begun(held):
    assert await asyncio.to_thread(held.begun.wait, 60)


async def test_explicit_control_loads_nothing_but_what_is_named(write_toy, open_models):
    for name in ("one", "two"):
        write_toy("linear", name=name)
    assert states(await open_models(EXPLICIT)) == {"one/1": "UNAVAILABLE", "two/1": "UNAVAILABLE"}
    models = await open_models(EXPLICIT, load_models=("two",))
    assert states(models) == {"one/1": "UNAVAILABLE", "two/1": "READY"}
    assert models.all_ready(), "what nobody asked for is not missed"
    assert states(await open_models(EXPLICIT, load_models=("*",))) == {
        "one/1": "READY",
        "two/1": "READY",
    }
    with pytest.raises(Unavailable, match="RepositoryModelLoad loads it"):
        models.model("one")
    with pytest.raises(NotFound, match="'three' is not known; there are one, two"):
        await open_models(EXPLICIT, load_models=("three",))


async def test_a_model_is_loaded_and_unloaded_again_and_again(write_toy, open_models):
    write_toy("linear")
    models = await open_models(EXPLICIT)
    for _ in range(2):
        await models.load_model("linear")
        assert (await models.model("linear").infer(X, ["y"]))["y"].shape == (1, 3)
        await models.unload_model("linear")
        assert states(models) == {"linear/1": "UNAVAILABLE"}
    with pytest.raises(Unavailable, match="not loaded"):
        models.model("linear", "1")
    assert models.all_ready()


@pytest.mark.parametrize("name", ["other", "..", "linear/1", "", "linear/../linear"])
async def test_what_is_no_model_is_not_found(name, write_toy, open_models):
    write_toy("linear")
    models = await open_models(EXPLICIT)
    with pytest.raises(NotFound, match="is not known"):
        await models.load_model(name)
    before = states(models)
    await models.unload_model(name)
    assert states(models) == before, "what is not there is out of service already"


async def test_a_model_that_came_later_is_listed_and_loaded(write_toy, open_models, repository):
    models = await open_models(EXPLICIT)
    assert models.any_ready(), "nothing is wanted"
    write_toy("linear")
    await models.look_for_models()
    assert states(models) == {"linear/1": "UNAVAILABLE"}
    shutil.rmtree(repository / "linear")
    await models.look_for_models()
    assert states(models) == {}
    write_toy("linear")
    await models.load_model("linear")
    assert states(models) == {"linear/1": "READY"}


async def test_unloading_waits_for_what_runs_and_takes_nothing_more(write_toy, open_models, held):
    write_toy("linear")
    models = await open_models(EXPLICIT, load_models=("linear",))
    model = models.model("linear")
    hold = held()
    running = asyncio.create_task(model.infer(X, ["y"]))
    await begun(hold)
    unloading = asyncio.create_task(models.unload_model("linear"))
    while states(models) != {"linear/1": "UNLOADING"}:
        await asyncio.sleep(0)
    for version in ("", "1"):
        with pytest.raises(Unavailable, match=r"not ready.*UNLOADING"):
            models.model("linear", version)
    assert models.busy
    hold.gate.set()
    assert (await running)["y"].shape == (1, 3)
    await unloading
    assert states(models) == {"linear/1": "UNAVAILABLE"}
    assert model._backends[0]._session is None


async def test_unloading_waits_for_a_call_whose_client_gave_up(write_toy, open_models, held):
    write_toy("linear")
    models = await open_models(EXPLICIT, load_models=("linear",))
    model = models.model("linear")
    hold = held()
    running = asyncio.create_task(model.infer(X, ["y"]))
    await begun(hold)
    running.cancel()
    await asyncio.wait([running])
    unloading = asyncio.create_task(models.unload_model("linear"))
    while states(models) != {"linear/1": "UNLOADING"}:
        await asyncio.sleep(0)
    assert model._backends[0]._session is not None
    hold.gate.set()
    await unloading
    assert model._backends[0]._session is None


async def test_loading_what_has_not_changed_leaves_it_as_it_is(write_toy, open_models):
    write_toy("linear")
    models = await open_models(EXPLICIT, load_models=("linear",))
    before = models.model("linear")
    await models.load_model("linear")
    assert models.model("linear") is before


async def test_changes_of_one_model_wait_for_each_other(write_toy, open_models, monkeypatch):
    write_toy("linear")
    models = await open_models(EXPLICIT)
    within = []

    def counted(*args):
        within.append(1)
        assert len(within) == 1
        model = load_version(*args)
        within.pop()
        return model

    monkeypatch.setattr("runtime.reloading.load_version", counted)
    await asyncio.gather(
        *(models.load_model("linear") for _ in range(3)),
        *(models.unload_model("linear") for _ in range(3)),
        models.load_model("linear"),
    )
    assert states(models) == {"linear/1": "READY"}


async def test_a_changed_version_answers_until_the_new_one_is_proved(
    write_toy, open_models, repository, monkeypatch
):
    folder = write_toy("linear")
    models = await open_models(EXPLICIT, load_models=("linear",))
    before = models.model("linear")
    shutil.rmtree(folder)
    write_toy("linear")
    meanwhile = []

    def looked(*args):
        meanwhile.append(models.model("linear"))
        return load_version(*args)

    monkeypatch.setattr("runtime.reloading.load_version", looked)
    await models.load_model("linear")
    assert meanwhile == [before]
    assert models.model("linear") is not before
    assert before._backends[0]._session is None


async def test_a_change_that_fails_its_proof_leaves_the_old_version_in_service(
    write_toy, open_models, repository
):
    folder = write_toy("linear")
    models = await open_models(EXPLICIT, load_models=("linear",))
    before = models.model("linear")
    shutil.rmtree(folder)
    write_toy("linear", weights=WRONG)
    for _ in range(2):
        with pytest.raises(InvalidInput, match=r"'linear': version 1: .*RMS"):
            await models.load_model("linear")
        assert models.model("linear") is before
    (repository / "linear" / "config.pbtxt").write_text("nonsense: 1")
    with pytest.raises(InvalidInput, match=r"config\.pbtxt, line 1"):
        await models.load_model("linear")
    assert models.model("linear") is before


async def test_a_model_that_cannot_be_loaded_says_why_and_does_not_take_the_server_down(
    write_toy, open_models, repository
):
    write_toy("linear", weights=WRONG)
    (repository / "empty" / "failed" / "1").mkdir(parents=True)
    models = await open_models(EXPLICIT)
    for _ in range(2):
        with pytest.raises(InvalidInput, match=r"load failed .* RMS error"):
            await models.load_model("linear")
    with pytest.raises(InvalidInput, match="no version; the proof of 1 failed"):
        await models.load_model("empty")
    assert "RMS error" in models.entries["linear"].versions[1].reason
    assert models.all_ready()


async def test_polling_brings_in_what_is_new_and_takes_out_what_is_gone(
    write_toy, open_models, repository
):
    models = await open_models(POLL)
    write_toy("linear")
    await models.look_again()
    assert states(models) == {"linear/1": "READY"}
    write_toy("linear", version=2)
    write_toy("linear", name="other")
    await models.look_again()
    assert states(models) == {"linear/1": "READY", "linear/2": "READY", "other/1": "READY"}
    shutil.rmtree(repository / "linear" / "1")
    shutil.rmtree(repository / "other")
    await models.look_again()
    assert states(models) == {"linear/2": "READY"}
    with pytest.raises(NotFound):
        models.model("other")


async def test_the_old_version_leaves_after_the_new_one_came_where_the_policy_wants_one(
    write_toy, open_models, repository
):
    write_toy("linear")
    with (repository / "linear" / "config.pbtxt").open("a") as config:
        config.write("version_policy { latest { num_versions: 1 } }")
    models = await open_models(POLL)
    seen = []
    models.watch(lambda: seen.append(models.is_ready("linear")))
    write_toy("linear", version=2, weights=WRONG)
    await models.look_again()
    assert states(models) == {"linear/1": "READY", "linear/2": "UNAVAILABLE"}
    write_toy("linear", version=3)
    await models.look_again()
    assert states(models) == {
        "linear/1": "UNAVAILABLE", "linear/2": "UNAVAILABLE", "linear/3": "READY",
    }  # fmt: skip
    assert seen
    assert all(seen), "there was never a moment without an answer"


async def test_polling_tries_what_failed_again_only_when_it_has_changed(
    write_toy, open_models, repository, monkeypatch
):
    folder = write_toy("linear", weights=WRONG)
    models = await open_models(POLL)
    tried = []

    def counted(*args):
        tried.append(args)
        return load_version(*args)

    monkeypatch.setattr("runtime.reloading.load_version", counted)
    await models.look_again()
    assert tried == []
    shutil.rmtree(folder)
    write_toy("linear")
    await models.look_again()
    assert states(models) == {"linear/1": "READY"}
    shutil.rmtree(folder)
    write_toy("linear", weights=WRONG)
    for _ in range(3):
        await models.look_again()
    assert len(tried) == 2
    assert models.is_ready("linear")


async def test_a_repository_that_cannot_be_read_takes_nothing_out(
    write_toy, open_models, repository, caplog
):
    write_toy("linear")
    models = await open_models(POLL)
    repository.rename(repository.with_name("elsewhere"))
    await models.look_again()
    assert states(models) == {"linear/1": "READY"}
    assert "what is loaded stays" in caplog.text


async def test_the_folder_is_followed_until_the_end(write_toy, open_models):
    models = await open_models(POLL)
    changed = asyncio.Event()
    models.watch(changed.set)
    following = asyncio.create_task(models.follow(0.001))
    write_toy("linear")
    async with asyncio.timeout(60):
        while not models.is_ready("linear"):
            await changed.wait()
            changed.clear()
    following.cancel()
    await asyncio.wait([following])


async def test_a_version_that_is_loading_keeps_the_server_ready(
    write_toy, open_models, monkeypatch
):
    write_toy("linear", name="first")
    models = await open_models(POLL)
    write_toy("linear", name="second")
    ready = []

    def looked(*args):
        ready.append((states(models)["second/1"], models.all_ready()))
        return load_version(*args)

    monkeypatch.setattr("runtime.reloading.load_version", looked)
    await models.look_again()
    assert ready == [(State.LOADING, True)]


async def test_under_load_no_request_is_lost_while_versions_follow_each_other(
    write_toy, open_models, repository, toys
):
    write_toy("linear")
    with (repository / "linear" / "config.pbtxt").open("a") as config:
        config.write("version_policy { latest { num_versions: 1 } }")
    models = await open_models(POLL)
    right = toys["linear"].compute(X)["y"]
    done, answered = asyncio.Event(), set()

    async def client():
        while not done.is_set():
            model = models.model("linear")
            answer = await model.infer(X, ["y"])
            np.testing.assert_allclose(answer["y"], right, rtol=1e-5, atol=1e-6)
            answered.add(model.record.version)
            await asyncio.sleep(0)

    clients = [asyncio.create_task(client()) for _ in range(8)]
    for version in (2, 3, 4):
        write_toy("linear", version=version)
        await models.look_again()
        while version not in answered:
            await asyncio.sleep(0)
    done.set()
    await asyncio.gather(*clients)
    assert answered == {1, 2, 3, 4}
    assert states(models)["linear/4"] == "READY"
    assert [item.model for item in models.versions()].count(None) == 3

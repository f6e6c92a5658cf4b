"""The thread that computes answers again, and that nothing waits for it."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import numpy as np
import pytest

from runtime.backends.base import BackendIdentity
from runtime.errors import InvalidInput, RepositoryError
from runtime.model import Model, ModelRecord
from runtime.shadow.reference import Reference
from runtime.shadow.settings import ShadowSettings
from runtime.shadow.shadow import QUEUED, QUEUED_BYTES, Shadow
from runtime.shadow.summary import OutputSummary, shadows_of_processes, summary_of
from runtime.shadow.yardstick import Ground, InputSize, Yardstick
from runtime.tensors import TensorSpec

WEIGHT = np.random.RandomState(0).standard_normal((16, 4)).astype(np.float32)
GROUND = Ground(True, {"y": Yardstick(2e-6, 5e-7, 4.5)}, {"x": InputSize(4.0, 1.0)})
EVERY = ShadowSettings(1.0, seed=1)


@dataclass
class Doubles:
    """A reference that a test can hold up."""

    go: threading.Event = field(default_factory=threading.Event)
    called: threading.Event = field(default_factory=threading.Event)
    identity: BackendIdentity = field(default_factory=lambda: BackendIdentity("a", "b", "c", "d"))
    closed: threading.Event = field(default_factory=threading.Event)

    def infer(self, arrays, outputs=None):
        self.called.set()
        self.go.wait()
        if arrays["x"][0, 0] == 0:
            raise InvalidInput("x begins with zero")
        with np.errstate(all="ignore"):
            return {"y": arrays["x"] @ WEIGHT}

    def close(self):
        self.closed.set()


@pytest.fixture
def backend():
    backend = Doubles()
    yield backend
    backend.go.set()


@pytest.fixture
def make(backend):
    made = []

    def make(settings=EVERY, opener=lambda: Reference(backend, GROUND), **options):
        shadow = Shadow(settings, opener, name="m/1", **options)
        made.append(shadow)
        return shadow

    yield make
    backend.go.set()
    for shadow in made:
        shadow.close()


def rows(seed=1, count=1):
    values = np.random.RandomState(seed).uniform(0.1, 4, (count, 16))
    return {"x": values.astype(np.float32)}


def answer(inputs, factor=1.0):
    return {"y": (inputs["x"] @ WEIGHT) * np.float32(factor)}


async def worked_off(shadow):
    async with asyncio.timeout(30):
        while shadow.busy:
            await asyncio.sleep(0.001)


async def sent(shadow, count, factor=1.0, inputs=rows):
    """Offer so many requests, each once there is a place."""
    for seed in range(count):
        arrays = inputs(seed)
        with np.errstate(all="ignore"):
            shadow.offer(arrays, answer(arrays, factor))
        await worked_off(shadow)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.3, 1.0])
def test_the_share_of_requests_is_respected(share, make):
    shadow = make(ShadowSettings(share, seed=7))
    drawn = sum(shadow.draws() for _ in range(20_000))
    spread = (20_000 * share * (1 - share)) ** 0.5
    assert abs(drawn - 20_000 * share) <= 4 * spread


def test_a_seed_chooses_the_same_requests(make):
    one, other = (make(ShadowSettings(0.5, seed=3)) for _ in range(2))
    assert [one.draws() for _ in range(99)] == [other.draws() for _ in range(99)]


async def test_a_reference_that_hangs_holds_nobody_up_and_samples_are_dropped(make, backend):
    shadow = make()
    inputs = rows()
    shadow.offer(inputs, answer(inputs))
    await asyncio.to_thread(backend.called.wait)
    for _ in range(QUEUED + 5):
        shadow.offer(inputs, answer(inputs))
    assert shadow.counts.dropped == 5
    assert shadow.busy
    shadow.close()  # nor does the end wait for it
    assert not backend.closed.is_set()
    backend.go.set()
    assert await asyncio.to_thread(backend.closed.wait, 30)
    assert shadow.counts.compared == 1


async def test_large_samples_do_not_pile_up(make, backend):
    shadow = make()
    inputs = rows()
    large = {"y": np.zeros((1, QUEUED_BYTES // 4 + 1), np.float32)}
    shadow.offer(inputs, large)
    await asyncio.to_thread(backend.called.wait)
    shadow.offer(inputs, large)
    shadow.offer(inputs, large)
    assert shadow.counts.dropped == 1


async def test_a_sound_version_is_never_reported(make, backend, caplog):
    backend.go.set()
    shadow = make()
    garbage = [np.nan, np.inf, -1e38, 1e30, 9.0, 1e-30]

    def mixed(seed):
        inputs = rows(seed, count=1 + seed % 3)
        if seed % 2:
            inputs["x"][0, seed % 16] = garbage[seed // 2 % len(garbage)]
        return inputs

    with np.errstate(all="ignore"):
        for seed in range(3000):
            inputs = mixed(seed)
            # In another order of summing, as on another device.
            y = (inputs["x"][:, ::-1] @ WEIGHT[::-1]).astype(np.float32)
            shadow.offer(inputs, {"y": y})
            if seed % QUEUED == QUEUED - 1:
                await worked_off(shadow)
    assert shadow.counts.compared + shadow.counts.extreme == 3000
    assert shadow.counts.extreme == 1250
    assert not shadow.drift.reason
    assert 0 < shadow.drift.outputs["y"].rms < 2
    assert not [item for item in caplog.records if "drifts" in item.message]


@pytest.mark.parametrize("action", ["report", "unready"])
async def test_a_drift_is_found_after_64_requests_and_told_on_the_loop(
    action, make, backend, caplog
):
    backend.go.set()
    shadow = make(ShadowSettings(1.0, action))
    loops = []
    shadow.on_change = lambda: loops.append(asyncio.get_running_loop())
    await sent(shadow, 63, 1.0001)
    assert not shadow.drift.reason
    await sent(shadow, 1, 1.0001)
    assert "output 'y' is off the reference" in shadow.drift.reason
    assert shadow.ends_service == (action == "unready")
    async with asyncio.timeout(30):
        while not loops:
            await asyncio.sleep(0)
    assert loops == [asyncio.get_running_loop()]
    await sent(shadow, 10, 1.0001)
    assert len(loops) == 1
    (line,) = [item.message for item in caplog.records if "drifts" in item.message]
    assert line.startswith("m/1 drifts from its reference: output 'y' is off")


async def test_a_drift_that_ends_is_told_too(make, backend):
    backend.go.set()
    shadow = make()
    await sent(shadow, 64, 1.0001)
    assert shadow.drift.reason
    await sent(shadow, 256)
    assert not shadow.drift.reason


async def test_a_reference_that_does_not_open_ends_the_checks_and_says_why(make):
    def opener():
        raise RepositoryError("there is none")

    shadow = make(opener=opener)
    await sent(shadow, 3)
    assert shadow.trouble == "there is none"
    assert not shadow.draws()
    assert summary_of(shadow).trouble == "there is none"


async def test_what_the_reference_refuses_is_counted_and_the_checks_go_on(make, backend):
    backend.go.set()
    shadow = make()
    await sent(shadow, 2, inputs=lambda _seed: {"x": np.zeros((1, 16), np.float32)})
    await sent(shadow, 1)
    assert (shadow.counts.failed, shadow.counts.compared) == (2, 1)


async def test_a_defect_in_a_comparison_is_logged_once_and_the_checks_go_on(make, backend, caplog):
    backend.go.set()
    shadow = make()
    for _ in range(2):
        shadow.offer(rows(), {"other": np.zeros(1)})
        await worked_off(shadow)
    await sent(shadow, 1)
    assert (shadow.counts.failed, shadow.counts.compared) == (2, 1)
    (record,) = caplog.records
    assert record.exc_info


def test_the_load_of_experts_is_asked_for_where_there_is_one(make):
    assert make().outputs_with_load(["y"]) == ["y"]
    loaded = make(has_load=True)
    assert loaded.outputs_with_load(["y"]) == ["y", "expert_load"]
    assert loaded.outputs_with_load(["expert_load"]) == ["expert_load"]


async def test_the_load_is_compared_and_sent_only_where_it_was_asked_for(make, backend):
    class Routing(Doubles):
        def infer(self, arrays, outputs=None):
            load = np.ones((len(arrays["x"]), 1, 2), np.int32)
            answers = {**super().infer(arrays), "expert_load": load}
            return {name: answers[name] for name in outputs}

    served = Routing()
    served.go.set()
    reference = Routing()
    reference.go.set()
    specs = {"x": TensorSpec("x", "float32", ("batch", 16))}
    record = ModelRecord("m", 1, specs, {}, 8, served.identity, b"")
    shadow = make(opener=lambda: Reference(reference, GROUND), has_load=True)
    model = Model(record, [served], shadow)
    assert set(await model.infer(rows(), ["y"])) == {"y"}
    await worked_off(shadow)
    assert (shadow.counts.compared, shadow.counts.rerouted) == (1, 0)
    served.infer = lambda arrays, outputs=None: {
        **Routing.infer(served, arrays, ["y"]),
        "expert_load": np.zeros((1, 1, 2), np.int32),
    }
    await model.infer(rows(), ["y"])
    await worked_off(shadow)
    assert (shadow.counts.compared, shadow.counts.rerouted) == (2, 1)
    model.close()


async def test_processes_add_up_and_the_worse_drift_counts(make, backend):
    backend.go.set()
    sound, broken = make(), make()
    await sent(sound, 64)
    await sent(broken, 64, 1.0001)
    one, other = summary_of(sound), summary_of(broken)
    both = shadows_of_processes(one, other)
    assert both is not None
    assert both.requests["compared"] == both.rows["compared"] == 128
    assert both.drifts == other.drifts != ""
    assert both.outputs["y"].rms == other.outputs["y"].rms
    ended = shadows_of_processes(one, other, ended=True)
    assert ended is not None
    assert ended.requests["compared"] == 128
    assert ended.drifts == ""
    infinite = {"y": OutputSummary(None, 4.5, 0.0)}
    worst = shadows_of_processes(one, type(one)(1.0, "", "", {}, {}, infinite))
    assert worst is not None
    assert worst.outputs["y"].rms is None


@pytest.mark.parametrize("share", [-0.1, 1.5, float("nan")])
def test_a_share_is_from_0_to_1(share):
    with pytest.raises(InvalidInput, match="wanted a share of 0 to 1"):
        ShadowSettings(share)


def test_an_unknown_action_is_refused():
    with pytest.raises(InvalidInput, match="wanted report or unready"):
        ShadowSettings(0.1, "stop")

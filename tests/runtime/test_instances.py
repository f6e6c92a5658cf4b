"""Several instances of a version behind one queue, and what they run before they are ready."""

from __future__ import annotations

import asyncio
import threading

import numpy as np
import pytest

from runtime.backends.ort import OrtBackend
from runtime.batch_call import Lane
from runtime.batch_settings import BatchSettings
from runtime.batching import Batcher
from runtime.errors import RepositoryError
from runtime.instances import InstanceGroup, devices_of, instances_from_config
from runtime.model_config import config_from_text
from runtime.statistics import Statistics
from runtime.versions import State
from runtime.worker import Worker

X = np.ones((1, 4), np.float32)


@pytest.mark.parametrize(
    ("text", "devices"),
    [
        ("", ["cuda"]),
        ("instance_group { count: 3 }", ["cuda"] * 3),
        ("instance_group {}", ["cuda"]),
        ("instance_group { count: 2 kind: KIND_CPU }", ["cpu"] * 2),
        ("instance_group { kind: KIND_GPU } instance_group { kind: KIND_CPU }", ["cuda", "cpu"]),
        ("instance_group { kind: KIND_MODEL } instance_group { passive: true }", ["cuda"]),
    ],
)
def test_groups_say_how_many_instances_there_are_and_where(text, devices):
    assert devices_of(instances_from_config(config_from_text(text)), "cuda") == devices


def test_a_group_for_a_gpu_is_refused_on_the_cpu():
    with pytest.raises(RepositoryError, match="--device cuda"):
        devices_of((InstanceGroup(1, "cuda"),), "cpu")


@pytest.mark.parametrize("count", [-1, 257])
def test_a_number_of_instances_that_cannot_be_is_refused(count):
    with pytest.raises(RepositoryError, match="wanted a count of 1 to 256"):
        instances_from_config(config_from_text(f"instance_group {{ count: {count} }}"))


@pytest.fixture
def config_with(write_toy, repository):
    """Write a model whose configuration has some more text."""

    def config_with(text, kind="linear"):
        write_toy(kind)
        with (repository / kind / "config.pbtxt").open("a") as config:
            config.write(text)

    return config_with


async def test_each_instance_is_proved(config_with, open_service, monkeypatch, toys):
    config_with("instance_group { count: 2 kind: KIND_CPU }")
    seen, infer = set(), OrtBackend.infer

    def noted(self, *args):
        seen.add(id(self))
        return infer(self, *args)

    monkeypatch.setattr(OrtBackend, "infer", noted)
    model = (await open_service())._repository.model("linear")
    assert len(seen) == 2
    answers = await asyncio.gather(*(model.infer({"x": X * n}, ["y"]) for n in range(8)))
    right = toys["linear"].compute({"x": X})["y"]
    for number, answer in enumerate(answers):
        np.testing.assert_allclose(answer["y"], right * number, rtol=1e-5, atol=1e-5)
    model.close()
    assert all(backend._session is None for backend in model._backends)


async def test_two_lanes_compute_at_the_same_time_and_the_third_request_waits():
    both, gate = threading.Barrier(2, timeout=60), threading.Event()
    calls = []

    def run(arrays, _names):
        calls.append(threading.current_thread().name)
        if len(calls) <= 2:
            both.wait()
        assert gate.wait(60)
        return {"y": arrays["x"]}

    workers = [Worker("first"), Worker("second")]
    batcher = Batcher([Lane(run, worker) for worker in workers], BatchSettings(), Statistics())
    requests = [
        asyncio.create_task(batcher.submit({"x": X * number}, ["y"])) for number in range(3)
    ]
    while len(calls) < 2:
        await asyncio.sleep(0)
    assert batcher.waiting == 1
    idle = asyncio.create_task(batcher.idle())
    await asyncio.sleep(0)
    assert not idle.done()
    gate.set()
    for number, request in enumerate(requests):
        assert (await request)["y"][0, 0] == number
    await idle
    assert len(calls) == 3
    # The third may run on the event loop, where the first two turned out to be short.
    assert len({name.rpartition("_")[0] for name in calls[:2]}) == 2
    for worker in workers:
        worker.close()


async def test_a_call_beside_others_counts_until_its_end():
    begun, gate = threading.Event(), threading.Event()

    def run(arrays, _names):
        begun.set()
        assert gate.wait(60)
        return {"y": arrays["x"]}

    workers = [Worker("first"), Worker("second")]
    batcher = Batcher([Lane(run, worker) for worker in workers], BatchSettings(), Statistics())
    request = asyncio.create_task(batcher.submit({"x": X}, ["y"]))
    while not begun.is_set():
        await asyncio.sleep(0)
    idle = asyncio.create_task(batcher.idle())
    for _ in range(20):
        await asyncio.sleep(0)
    assert not idle.done()
    gate.set()
    await idle
    assert (await request)["y"].shape == (1, 4)
    for worker in workers:
        worker.close()


async def test_a_lane_whose_call_fails_takes_the_next():
    def run(arrays, _names):
        if arrays["x"][0, 0] < 0:
            raise ZeroDivisionError
        return {"y": arrays["x"]}

    workers = [Worker("first"), Worker("second")]
    batcher = Batcher([Lane(run, worker) for worker in workers], BatchSettings(), Statistics())
    answers = await asyncio.gather(
        *(batcher.submit({"x": X * value}, ["y"]) for value in [-1] * 6 + [1] * 6),
        return_exceptions=True,
    )
    assert [type(answer) for answer in answers[:6]] == [ZeroDivisionError] * 6
    assert all(answer["y"][0, 0] == 1 for answer in answers[6:])
    for worker in workers:
        worker.close()


WARMUP = (
    'model_warmup {{ name: "w" batch_size: {batch} count: 3 inputs {{ key: "{name}" value {{ '
    "data_type: {dtype} dims: [{dims}] {data} }} }} }}"
)


def warmup(batch=2, name="x", dtype="TYPE_FP32", dims="4", data="zero_data: true"):
    return WARMUP.format(batch=batch, name=name, dtype=dtype, dims=dims, data=data)


@pytest.fixture
def inputs_seen(monkeypatch):
    """Every ``x`` that a backend was given."""
    seen, infer = [], OrtBackend.infer

    def noted(self, arrays, *args):
        seen.append(np.array(arrays["x"]))
        return infer(self, arrays, *args)

    monkeypatch.setattr(OrtBackend, "infer", noted)
    return seen


async def test_warm_up_runs_before_a_version_is_ready(config_with, open_service, inputs_seen):
    config_with(warmup() + warmup(batch=8, data="random_data: true"))
    await open_service()
    last = inputs_seen[-6:]
    assert [array.shape for array in last] == [(2, 4)] * 3 + [(8, 4)] * 3
    assert not any(array.any() for array in last[:3])
    assert all(array.all() for array in last[3:])


async def test_warm_up_reads_data_from_a_file(config_with, open_service, inputs_seen, repository):
    config_with(warmup(data='input_data_file: "row"'))
    (repository / "linear" / "warmup").mkdir()
    row = np.arange(4, dtype=np.float32)
    (repository / "linear" / "warmup" / "row").write_bytes(row.tobytes())
    await open_service()
    np.testing.assert_array_equal(inputs_seen[-1], [row, row])


async def test_a_sample_with_a_batch_of_0_is_left_out(config_with, open_service, inputs_seen):
    config_with(warmup(batch=0, dims="5"))
    assert (await open_service())._repository.is_ready("linear")


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"batch": 9}, "has a batch of 9; wanted 1 to 8"),
        ({"name": "z"}, "has z; wanted x"),
        ({"dims": "5"}, r"shape \[2, 5\]; the model wants float32 \[batch, 4\]"),
        ({"dims": "-1"}, "leave a size open"),
        ({"dtype": "TYPE_INT32"}, "data type int32; the model wants float32"),
        ({"data": 'input_data_file: "none"'}, "warmup/none cannot be read"),
        ({"data": 'input_data_file: "../config.pbtxt"'}, "wanted one in warmup/"),
        ({"data": ""}, "has no data; use zero_data"),
        ({"dtype": "TYPE_BF16"}, "data type TYPE_BF16; use one of"),
    ],
)
async def test_a_warm_up_that_does_not_fit_keeps_the_version_from_service(
    changes, text, config_with, open_service
):
    config_with(warmup(**changes))
    version = (await open_service())._repository.entries["linear"].versions[1]
    assert version.state is State.UNAVAILABLE
    with pytest.raises(AssertionError, match=text):
        raise AssertionError(version.reason)


async def test_a_version_that_fails_its_warm_up_is_not_ready(
    config_with, open_service, monkeypatch
):
    config_with(warmup(batch=5))
    infer = OrtBackend.infer

    def failing(self, arrays, *args):
        if len(arrays["x"]) == 5:
            raise RepositoryError("no memory for 5")
        return infer(self, arrays, *args)

    monkeypatch.setattr(OrtBackend, "infer", failing)
    version = (await open_service())._repository.entries["linear"].versions[1]
    assert version.reason == "the warm-up 'w' failed: no memory for 5"

"""The table of clients and calls in ``docs/serving.md``: every cell of it is tried here."""

from __future__ import annotations

import asyncio
import inspect
import re
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
import tritonclient.utils.shared_memory as shared_memory
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)
from tritonclient.utils import InferenceServerException

from protos import METHODS, REFLECTION_V1, SERVICE
from runtime.client import Client
from runtime.client_async import AsyncClient
from runtime.client_steps import Logic

DOCUMENT = Path(__file__).parents[2] / "docs" / "serving.md"
CLIENTS = ("tritonclient", "tritonclient.aio", "twinport", "twinport.aio", "grpcio")
SERVED, ABSENT, REFUSED = "yes", "-", "UNIMPLEMENTED"
X = np.linspace(-1, 1, 8, dtype=np.float32).reshape(2, 4)
HEALTH = "grpc.health.v1.Health"


def table() -> dict[tuple[str, str], str]:
    """The cells by call and client."""
    lines = iter(DOCUMENT.read_text(encoding="utf-8").splitlines())
    header = "| call | " + " | ".join(f"`{name}`" for name in CLIENTS) + " |"
    assert header in lines, f"the table begins with {header}"
    next(lines)
    cells = {}
    for line in lines:
        if not line.startswith("|"):
            break
        call, *words = [word.strip().strip("`") for word in line.strip("|").split("|")]
        cells.update({(call, name): word for name, word in zip(CLIENTS, words, strict=True)})
    return cells


TABLE = table()


@pytest.fixture(scope="module", params=["grpcio", "envoy"])
def server(request, start_server, toy_writer, tmp_path_factory):
    if request.param == "envoy":
        pytest.importorskip("pyvoy", reason="pyvoy is missing; pip install 'twinport[envoy]'")
    repository = tmp_path_factory.mktemp("repository")
    for name in ("linear", "other"):
        toy_writer(repository, "linear", name=name)
    return start_server(
        repository, "--model-control", "explicit", "--load-model", "linear",
        "--transport", request.param,
    )  # fmt: skip


@pytest.fixture
def region():
    """A region of tritonclient's own making, the input at its start."""
    name = f"twinport-{secrets.token_hex(6)}"
    handle = shared_memory.create_shared_memory_region(name, f"/{name}", 256)
    shared_memory.set_shared_memory_region(handle, [X])
    yield name, handle
    shared_memory.destroy_shared_memory_region(handle)


def right(toys: Any) -> Any:
    return toys["linear"].compute({"x": X.astype(np.float64)})["y"]


def close_to(found: Any, toys: Any) -> bool:
    np.testing.assert_allclose(found, right(toys), rtol=1e-5)
    return True


class Kit:
    """One of Triton's two clients, with what is the same in both."""

    def __init__(self, client: Any, module: Any, toys: Any, region: Any) -> None:
        self.client, self.module, self.toys = client, module, toys
        self.region, self.handle = region

    async def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        answer = getattr(self.client, name)(*args, **kwargs)
        return await answer if inspect.isawaitable(answer) else answer

    def input(self) -> Any:
        given = self.module.InferInput("x", list(X.shape), "FP32")
        given.set_data_from_numpy(X)
        return given

    async def streamed(self, count: int) -> list[Any]:
        """The answers to so many requests on one stream, in their order."""
        if self.module is triton_aio:

            async def requests() -> Any:
                for number in range(count):
                    yield {"model_name": "linear", "inputs": [self.input()],
                           "request_id": str(number)}  # fmt: skip

            return [item async for item in self.client.stream_infer(requests())]
        loop, answers = asyncio.get_running_loop(), asyncio.Queue[Any]()

        def take(result: Any, error: Any) -> None:
            loop.call_soon_threadsafe(answers.put_nowait, (result, error))

        self.client.start_stream(take)
        for number in range(count):
            self.client.async_stream_infer("linear", [self.input()], request_id=str(number))
        async with asyncio.timeout(60):
            found = [await answers.get() for _ in range(count)]
        await asyncio.to_thread(self.client.stop_stream)
        return found


async def infer(kit: Kit) -> bool:
    answer = await kit.call("infer", "linear", [kit.input()], request_id="r1")
    assert answer.get_response().id == "r1"
    return close_to(answer.as_numpy("y"), kit.toys)


async def stream(kit: Kit) -> bool:
    answers = await kit.streamed(20)
    for number, (result, error) in enumerate(answers):
        assert error is None
        assert result.get_response().id == str(number)
        close_to(result.as_numpy("y"), kit.toys)
    return True


async def statistics(kit: Kit) -> bool:
    found = await kit.call("get_inference_statistics", "linear")
    return bool(found.model_stats[0].name == "linear")


async def index(kit: Kit) -> bool:
    found = await kit.call("get_model_repository_index")
    states = {item.name: item.state for item in found.models}
    return states["linear"] == "READY" and set(states) == {"linear", "other"}


async def load(kit: Kit) -> bool:
    await kit.call("load_model", "other")
    return bool(await kit.call("is_model_ready", "other"))


async def unload(kit: Kit) -> bool:
    await kit.call("load_model", "other")
    await kit.call("unload_model", "other", unload_dependents=True)
    return not await kit.call("is_model_ready", "other")


async def register(kit: Kit) -> bool:
    await kit.call("register_system_shared_memory", kit.region, f"/{kit.region}", 256)
    given = kit.module.InferInput("x", list(X.shape), "FP32")
    given.set_shared_memory(kit.region, X.nbytes)
    wanted = kit.module.InferRequestedOutput("y")
    wanted.set_shared_memory(kit.region, 24, offset=128)
    answer = await kit.call("infer", "linear", [given], outputs=[wanted])
    output = answer.get_output("y")
    assert output.parameters["shared_memory_region"].string_param == kit.region
    shape = list(output.shape)
    found = shared_memory.get_contents_as_numpy(kit.handle, np.float32, shape, offset=128)
    return close_to(found, kit.toys)


async def status(kit: Kit) -> bool:
    await kit.call("register_system_shared_memory", kit.region, f"/{kit.region}", 256)
    found = await kit.call("get_system_shared_memory_status", kit.region)
    return bool(found.regions[kit.region].byte_size == 256)


async def unregister(kit: Kit) -> bool:
    await kit.call("register_system_shared_memory", kit.region, f"/{kit.region}", 256)
    await kit.call("unregister_system_shared_memory", kit.region)
    found = await kit.call("get_system_shared_memory_status")
    return kit.region not in found.regions


def calls(name: str, *args: Any) -> Callable[[Kit], Awaitable[Any]]:
    async def check(kit: Kit) -> Any:
        return await kit.call(name, *args)

    return check


def says(method: str, *args: Any, **wanted: Any) -> Callable[[Kit], Awaitable[bool]]:
    async def check(kit: Kit) -> bool:
        found = await kit.call(method, *args)
        return all(getattr(found, key) == value for key, value in wanted.items())

    return check


async def config(kit: Kit) -> bool:
    return bool((await kit.call("get_model_config", "linear")).config.max_batch_size == 8)


TRITON: dict[str, Callable[[Kit], Awaitable[Any]]] = {
    "ServerLive": calls("is_server_live"),
    "ServerReady": calls("is_server_ready"),
    "ModelReady": calls("is_model_ready", "linear", "1"),
    "ServerMetadata": says("get_server_metadata", name="twinport"),
    "ModelMetadata": says("get_model_metadata", "linear", name="linear"),
    "ModelConfig": config,
    "ModelInfer": infer,
    "ModelStreamInfer": stream,
    "ModelStatistics": statistics,
    "RepositoryIndex": index,
    "RepositoryModelLoad": load,
    "RepositoryModelUnload": unload,
    "SystemSharedMemoryRegister": register,
    "SystemSharedMemoryStatus": status,
    "SystemSharedMemoryUnregister": unregister,
    "CudaSharedMemoryRegister": calls("register_cuda_shared_memory", "r", b"aGFuZGxl", 0, 1),
    "CudaSharedMemoryStatus": calls("get_cuda_shared_memory_status"),
    "CudaSharedMemoryUnregister": calls("unregister_cuda_shared_memory"),
    "TraceSetting": calls("get_trace_settings"),
    "LogSettings": calls("get_log_settings"),
}


def streamed(answers: Any, toys: Any) -> bool:
    first, wrong, last = answers
    assert [answer.request_id for answer in answers] == ["0", "1", "2"]
    assert "the model wants" in str(wrong.error)
    return close_to(first.outputs["y"], toys) and close_to(last.outputs["y"], toys)


OWN: dict[str, tuple[Callable[[Any], Any], Callable[[Any, Any], Any]]] = {
    "ServerLive": (lambda client: client.live(), lambda live, _toys: live),
    "ServerReady": (lambda client: client.ready(), lambda ready, _toys: ready),
    "ModelReady": (lambda client: client.model_ready("linear"), lambda ready, _toys: ready),
    "ServerMetadata": (
        lambda client: client.server_metadata(), lambda server, _toys: server.name == "twinport"
    ),
    "ModelMetadata": (
        lambda client: client.model_metadata("linear"),
        lambda model, _toys: model.inputs[0].name == "x",
    ),
    "ModelConfig": (
        lambda client: client.model_config("linear"),
        lambda config, _toys: config.max_batch_size == 8,
    ),
    "ModelInfer": (
        lambda client: client.infer("linear", {"x": X}),
        lambda outputs, toys: close_to(outputs["y"], toys),
    ),
    "ModelStreamInfer": (
        lambda client: client.stream("linear", [{"x": X}, {"x": X[:, :3]}, {"x": X}]), streamed
    ),
}  # fmt: skip

_INFER = {
    "model_name": "linear",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [2, 4]}],
    "raw_input_contents": [X.tobytes()],
}
GENERIC: dict[str, tuple[dict[str, Any], Callable[[Any], Any]]] = {
    "ServerLive": ({}, lambda answer: answer.live),
    "ServerReady": ({}, lambda answer: answer.ready),
    "ModelReady": ({"name": "linear"}, lambda answer: answer.ready),
    "ServerMetadata": ({}, lambda answer: "statistics" in answer.extensions),
    "ModelMetadata": ({"name": "linear"}, lambda answer: answer.versions == ["1"]),
    "ModelConfig": ({"name": "linear"}, lambda answer: answer.config.max_batch_size == 8),
    "ModelInfer": (_INFER, lambda answer: len(answer.raw_output_contents[0]) == 24),
    "ModelStreamInfer": (_INFER, lambda answer: answer.infer_response.model_name == "linear"),
    "ModelStatistics": ({}, lambda answer: answer.model_stats),
    "RepositoryIndex": ({"ready": True}, lambda answer: answer.models),
    "RepositoryModelLoad": ({"model_name": "linear"}, lambda _answer: True),
    "RepositoryModelUnload": ({"model_name": "other"}, lambda _answer: True),
    "SystemSharedMemoryRegister": ({"byte_size": 256}, lambda _answer: True),
    "SystemSharedMemoryStatus": ({}, lambda answer: answer.regions is not None),
    "SystemSharedMemoryUnregister": ({}, lambda _answer: True),
    f"{HEALTH}/Check": (
        {"service": "linear"},
        lambda answer: answer.status == health_pb2.HealthCheckResponse.SERVING,
    ),
    f"{HEALTH}/Watch": (
        {"service": ""},
        lambda answer: answer.status == health_pb2.HealthCheckResponse.SERVING,
    ),
    **dict.fromkeys(
        ("grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo",
         f"{REFLECTION_V1}/ServerReflectionInfo"),
        (
            {"list_services": ""},
            lambda answer: {item.name for item in answer.list_services_response.service}
            == {SERVICE, HEALTH, REFLECTION_V1, "grpc.reflection.v1alpha.ServerReflection"},
        ),
    ),
    **dict.fromkeys(
        ("CudaSharedMemoryRegister", "CudaSharedMemoryStatus", "CudaSharedMemoryUnregister",
         "TraceSetting", "LogSettings"),
        ({}, lambda _answer: True),
    ),
}  # fmt: skip

CHECKS = {
    "tritonclient": TRITON,
    "tritonclient.aio": TRITON,
    "twinport": OWN,
    "twinport.aio": OWN,
    "grpcio": GENERIC,
}


def test_the_table_has_every_call_that_the_server_describes():
    described = {*METHODS, *(call for call in GENERIC if "/" in call)}
    assert {call for call, _ in TABLE} == described
    assert set(TABLE.values()) <= {SERVED, ABSENT, REFUSED}


def test_the_table_has_every_call_that_a_client_can_make():
    tried = {(call, name) for name, checks in CHECKS.items() for call in checks}
    assert {cell for cell, word in TABLE.items() if word != ABSENT} == tried


def test_our_own_clients_make_no_call_that_is_not_tried():
    sources = [Path(inspect.getfile(each)).read_text() for each in (Client, AsyncClient, Logic)]
    made = set(re.findall(r'\b(?:_ask|Ask|_calls)[(\[]"(\w+)"', "".join(sources)))
    assert made == set(OWN)


@pytest.mark.parametrize(
    ("call", "word"), [(call, word) for (call, name), word in TABLE.items()
                       if name == "tritonclient" and word != ABSENT]
)  # fmt: skip
async def test_tritonclient(call, word, server, toys, region):
    with triton.InferenceServerClient(server.address) as client:
        await tried(TRITON[call](Kit(client, triton, toys, region)), word)


@pytest.mark.parametrize(
    ("call", "word"), [(call, word) for (call, name), word in TABLE.items()
                       if name == "tritonclient.aio" and word != ABSENT]
)  # fmt: skip
async def test_tritonclient_for_asyncio(call, word, server, toys, region):
    async with triton_aio.InferenceServerClient(server.address) as client:
        await tried(TRITON[call](Kit(client, triton_aio, toys, region)), word)


async def tried(check: Awaitable[Any], word: str) -> None:
    if word == SERVED:
        assert await check
        return
    with pytest.raises(InferenceServerException) as caught:
        await check
    assert caught.value.status() == f"StatusCode.{word}"


def served_by(client: str) -> list[str]:
    return [call for (call, name), word in TABLE.items() if name == client and word == SERVED]


@pytest.mark.parametrize("call", served_by("twinport"))
def test_our_own_client(call, server, toys):
    ask, right_answer = OWN[call]
    with Client(server.address) as client:
        answer = ask(client)
        assert right_answer(list(answer) if isinstance(answer, Iterator) else answer, toys)


@pytest.mark.parametrize("call", served_by("twinport.aio"))
async def test_our_own_client_for_asyncio(call, server, toys):
    ask, right_answer = OWN[call]
    async with AsyncClient(server.address) as client:
        answer = ask(client)
        if isinstance(answer, AsyncIterator):
            assert right_answer([item async for item in answer], toys)
        else:
            assert right_answer(await answer, toys)


@pytest.fixture(scope="module")
def described(server):
    """What reflection says of the server: a channel and the services with their messages."""
    with grpc.insecure_channel(server.address) as channel:
        yield channel, DescriptorPool(ProtoReflectionDescriptorDatabase(channel))


@pytest.mark.parametrize(
    ("call", "word"), [(call, word) for (call, name), word in TABLE.items()
                       if name == "grpcio" and word != ABSENT]
)  # fmt: skip
def test_any_client_that_asks_reflection_first(call, word, described, region):
    channel, pool = described
    service, _, method = (call if "/" in call else f"{SERVICE}/{call}").partition("/")
    kinds = pool.FindServiceByName(service).methods_by_name[method]
    fields, right_answer = GENERIC[call]
    if call == "SystemSharedMemoryRegister":
        fields = {**fields, "name": region[0], "key": f"/{region[0]}"}
    request = GetMessageClass(kinds.input_type)(**fields).SerializeToString()
    sends = channel.stream_stream if kinds.client_streaming else channel.unary_stream
    answers = sends(f"/{service}/{method}")(iter([request]) if kinds.client_streaming else request)
    if word == SERVED:
        answer = GetMessageClass(kinds.output_type).FromString(next(answers))
        assert right_answer(answer), MessageToDict(answer)
        answers.cancel()
        return
    with pytest.raises(grpc.RpcError) as caught:
        next(answers)
    assert caught.value.code().name == word


def test_both_versions_of_reflection_say_the_same(described):
    channel, pool = described
    old, new = (
        pool.FindServiceByName(name).methods_by_name["ServerReflectionInfo"]
        for name in ("grpc.reflection.v1alpha.ServerReflection", REFLECTION_V1)
    )
    for kind in ("input_type", "output_type"):
        ours = {field.number: (field.name, field.type) for field in getattr(new, kind).fields}
        theirs = {field.number: (field.name, field.type) for field in getattr(old, kind).fields}
        assert ours == theirs
    request = reflection_pb2.ServerReflectionRequest(file_containing_symbol=REFLECTION_V1)
    answer = next(
        channel.stream_stream(f"/{REFLECTION_V1}/ServerReflectionInfo")(
            iter([request.SerializeToString()])
        )
    )
    response = reflection_pb2.ServerReflectionResponse.FromString(answer)
    assert response.file_descriptor_response.file_descriptor_proto

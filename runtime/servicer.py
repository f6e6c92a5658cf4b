"""The service behind every transport: a method's name and bytes in, bytes or an error out.

Adapters (``runtime/transports/``) bring the bytes and carry the answers; nothing
here knows how. Every failure leaves as a ``TwinportError`` with its gRPC status.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from google.protobuf.message import DecodeError, Message

from protos import (
    METHODS,
    SERVICE,
    ModelConfig,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelInferRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelReadyResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerReadyRequest,
    ServerReadyResponse,
)
from runtime.codec import arrays_from_request, requested_outputs, response_from_arrays
from runtime.description import metadata_from_record, server_metadata
from runtime.errors import InvalidInput, TwinportError, Unavailable, Unimplemented
from runtime.repository import Repository
from runtime.request_parameters import priority_of, timeout_s_of
from runtime.standard_services import (
    HEALTH_CHECK,
    HEALTH_WATCH,
    REFLECTION,
    Health,
    reflection_stream,
)
from runtime.worker import check_deadline

logger = logging.getLogger(__name__)

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Call:
    """What comes with a request besides its bytes.

    Attributes:
        deadline: On the clock of ``time.monotonic``; none where the client set none.
        metadata: Names and values as they were sent.
    """

    deadline: float | None = None
    metadata: tuple[tuple[str, str | bytes], ...] = ()


Unary = Callable[[bytes, Call], Awaitable[bytes]]
Stream = Callable[[AsyncIterator[bytes], Call], AsyncIterator[bytes]]


class Servicer:
    """All calls of the inference, health and reflection services over one repository."""

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._health = Health(repository)
        self._running = 0
        self._idle = asyncio.Event()
        self._idle.set()
        own: dict[str, Unary] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelInfer": self._model_infer,
        }
        self._unary: dict[str, Unary] = {HEALTH_CHECK: self._health_check}
        self._streams: dict[str, Stream] = {
            HEALTH_WATCH: lambda payloads, _call: self._health.watch(payloads),
            REFLECTION: lambda payloads, _call: reflection_stream(payloads),
        }
        for name, method in METHODS.items():
            if method.client_streaming or method.server_streaming:
                self._streams[f"/{SERVICE}/{name}"] = _unimplemented_stream(name)
            else:
                self._unary[f"/{SERVICE}/{name}"] = own.get(name) or _unimplemented(name)

    @property
    def unary_methods(self) -> tuple[str, ...]:
        """Full names (``/service/Method``) of the calls with one message each way."""
        return tuple(self._unary)

    @property
    def stream_methods(self) -> tuple[str, ...]:
        """Full names of the calls that stream, one way or both."""
        return tuple(self._streams)

    async def unary(self, method: str, payload: bytes, call: Call) -> bytes:
        """Answer one message.

        Args:
            method: One of ``unary_methods``.
            payload: The request's bytes.
            call: Deadline and metadata.

        Raises:
            TwinportError: The call failed; status and text are for the client.
        """
        self._running += 1
        self._idle.clear()
        try:
            check_deadline(call.deadline)
            return await self._unary[method](payload, call)
        except TwinportError:
            raise
        except Exception as error:
            raise _unexpected(method, error) from error
        finally:
            self._running -= 1
            if not self._running:
                self._idle.set()

    async def stream(
        self, method: str, payloads: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[bytes]:
        """Answer a stream of messages with another; see ``unary``."""
        try:
            async for payload in self._streams[method](payloads, call):
                yield payload
        except TwinportError:
            raise
        except Exception as error:
            raise _unexpected(method, error) from error

    def begin_drain(self) -> None:
        """Be not ready from now on and refuse inferences; those that run go on."""
        self._health.drain()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False where something still does after ``timeout_s``."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def _server_live(self, payload: bytes, _call: Call) -> bytes:
        _parsed(ServerLiveRequest, payload)
        return ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, payload: bytes, _call: Call) -> bytes:
        _parsed(ServerReadyRequest, payload)
        ready = self._repository.all_ready() and not self._health.draining
        return ServerReadyResponse(ready=ready).SerializeToString()

    async def _server_metadata(self, payload: bytes, _call: Call) -> bytes:
        _parsed(ServerMetadataRequest, payload)
        return server_metadata().SerializeToString()

    async def _model_ready(self, payload: bytes, _call: Call) -> bytes:
        request = _parsed(ModelReadyRequest, payload)
        ready = self._repository.is_ready(request.name, request.version)
        ready = ready and not self._health.draining
        return ModelReadyResponse(ready=ready).SerializeToString()

    async def _model_metadata(self, payload: bytes, _call: Call) -> bytes:
        request = _parsed(ModelMetadataRequest, payload)
        record = self._repository.model(request.name, request.version).record
        entry = self._repository.entries[request.name]
        response = metadata_from_record(record, entry, pinned=bool(request.version))
        return response.SerializeToString()

    async def _model_config(self, payload: bytes, _call: Call) -> bytes:
        request = _parsed(ModelConfigRequest, payload)
        record = self._repository.model(request.name, request.version).record
        config = ModelConfig.FromString(record.config)
        return ModelConfigResponse(config=config).SerializeToString()

    async def _model_infer(self, payload: bytes, call: Call) -> bytes:
        if self._health.draining:
            raise Unavailable("the server is shutting down; send the request to another one")
        request = _parsed(ModelInferRequest, payload)
        model = self._repository.model(request.model_name, request.model_version)
        record = model.record
        arrays = arrays_from_request(request, record.inputs)
        outputs = requested_outputs(request, record.outputs, record.on_request)
        answers = await model.infer(
            arrays, outputs, call.deadline,
            priority=priority_of(request), timeout_s=timeout_s_of(request),
        )  # fmt: skip
        response = response_from_arrays(
            answers, model=record.name, version=str(record.version), request_id=request.id
        )
        return response.SerializeToString()

    async def _health_check(self, payload: bytes, _call: Call) -> bytes:
        return self._health.check(payload)


def _parsed(kind: type[M], payload: bytes) -> M:
    try:
        return kind.FromString(payload)
    except DecodeError as error:
        raise InvalidInput(
            f"the {len(payload)} bytes sent are no {kind.DESCRIPTOR.full_name}; "
            "wanted that message in protobuf's binary form"
        ) from error


def _refusal(name: str) -> Unimplemented:
    return Unimplemented(f"{name} is not served here; ServerMetadata lists the extensions that are")


def _unimplemented(name: str) -> Unary:
    async def refuse(_payload: bytes, _call: Call) -> bytes:
        raise _refusal(name)

    return refuse


def _unimplemented_stream(name: str) -> Stream:
    async def refuse(_payloads: AsyncIterator[bytes], _call: Call) -> AsyncIterator[bytes]:
        raise _refusal(name)
        yield b""  # makes it a generator

    return refuse


def _unexpected(method: str, error: Exception) -> TwinportError:
    """What the client gets to know of a defect: a mark to find it in the log."""
    mark = secrets.token_hex(4)
    logger.error("%s failed unexpectedly (%s)", method, mark, exc_info=error)
    return TwinportError(f"internal error {mark}; the server's log has the details")

"""The service behind every transport: a method's name and bytes in, bytes or an error out.

Adapters (``runtime/transports/``) bring the bytes and carry the answers; nothing
here knows how. Every failure leaves as a ``TwinportError`` with its gRPC status. The calls
live in ``runtime/service`` by concern, the short ones here.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import aclosing
from typing import Any

from protos import (
    METHODS,
    SERVICE,
    ModelConfig,
    ModelConfigRequest,
    ModelConfigResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
    ModelReadyResponse,
    ModelStatisticsRequest,
    ModelStatisticsResponse,
    ServerLiveRequest,
    ServerLiveResponse,
    ServerMetadataRequest,
    ServerReadyRequest,
    ServerReadyResponse,
)
from runtime.description import metadata_from_record, server_metadata
from runtime.errors import TwinportError, Unimplemented
from runtime.observe.failures import FailureLog
from runtime.observe.snapshot import Taken, snapshot_of
from runtime.observe.tracing import Tracer
from runtime.queueing import DEADLINE
from runtime.repository import Repository
from runtime.service.call import Call as Call
from runtime.service.call import Running, Stream, Unary, in_time, parsed, unexpected
from runtime.service.control import Control
from runtime.service.inference import Inference
from runtime.service.names import names_from
from runtime.service.shared_memory import SharedMemory
from runtime.service.siblings import Siblings
from runtime.service.statistics_message import statistics_message
from runtime.standard_services import (
    HEALTH_CHECK,
    HEALTH_WATCH,
    REFLECTIONS,
    Health,
    reflection_stream,
)
from runtime.worker import check_deadline, too_late

logger = logging.getLogger(__name__)

TIMER_SECONDS = 2e-3
"""How much too soon a timer of a transport may end a call."""


class Servicer:
    """All calls of the inference, health and reflection services over one repository."""

    def __init__(
        self,
        repository: Repository,
        failures: FailureLog | None = None,
        tracer: Tracer | None = None,
        siblings: Siblings | None = None,
    ) -> None:
        """Serve a repository.

        Args:
            repository: Its models may be loaded later.
            failures: Where calls that fail are counted and logged; its own where none is given.
            tracer: Gets a span for each inference, where there is one.
            siblings: All processes of this server, where it is one of several.
        """
        self.failures = failures or FailureLog()
        self._repository = repository
        self._siblings = siblings
        self._health = Health(repository)
        self._memory = SharedMemory(siblings)
        self._running = Running()
        self._inference = Inference(
            repository, self._memory, self._health, self._running, self.failures, tracer
        )
        own: dict[str, Unary] = {
            "ServerLive": self._server_live,
            "ServerReady": self._server_ready,
            "ServerMetadata": self._server_metadata,
            "ModelReady": self._model_ready,
            "ModelMetadata": self._model_metadata,
            "ModelConfig": self._model_config,
            "ModelStatistics": self._model_statistics,
            "ModelInfer": self._inference.unary,
            **Control(repository).handlers(),
            **self._memory.handlers(),
        }
        self._unary: dict[str, Unary] = {HEALTH_CHECK: self._health_check}
        self._streams: dict[str, Stream] = {
            f"/{SERVICE}/ModelStreamInfer": self._inference.stream,
            HEALTH_WATCH: lambda payloads, _call: self._health.watch(payloads),
            **dict.fromkeys(REFLECTIONS, lambda payloads, _call: reflection_stream(payloads)),
        }
        for name in METHODS:
            if (path := f"/{SERVICE}/{name}") not in self._streams:
                self._unary[path] = own.get(name) or _unimplemented(name)

    @property
    def unary_methods(self) -> tuple[str, ...]:
        """Full names (``/service/Method``) of the calls with one message each way."""
        return tuple(self._unary)

    @property
    def stream_methods(self) -> tuple[str, ...]:
        """Full names of the calls that stream, one way or both."""
        return tuple(self._streams)

    @property
    def busy(self) -> bool:
        """Whether something is worked on now; an open stream alone is nothing."""
        return self._running.count > 0

    async def unary(self, method: str, payload: bytes, call: Call) -> bytes:
        """Answer one message.

        Args:
            method: One of ``unary_methods``.
            payload: The request's bytes.
            call: Deadline and metadata.

        Raises:
            TwinportError: The call failed; status and text are for the client.
        """
        start = time.monotonic()
        self._running.enter()
        try:
            check_deadline(call.deadline)
            return await self._unary[method](payload, call)
        except TwinportError as error:
            self._note(method, error, start, payload)
            raise
        except asyncio.CancelledError as error:
            self._note(method, _too_late(call) or error, start, payload)
            raise
        except Exception as error:
            failure = unexpected(method, error)
            self._note(method, failure, start, payload)
            raise failure from error
        finally:
            self._running.leave()

    async def stream(
        self, method: str, payloads: AsyncIterator[bytes], call: Call
    ) -> AsyncIterator[bytes]:
        """Answer a stream of messages with another; see ``unary``."""
        start = time.monotonic()
        try:
            # Closed at once when the client goes, so that what waits is not computed.
            async with aclosing(self._streams[method](payloads, call)) as answers:
                async for answer in answers:
                    yield answer
        except TwinportError as error:
            self.failures.note_once(method, error, time.monotonic() - start)
            raise
        except Exception as error:
            failure = unexpected(method, error)
            self.failures.note(method, failure, time.monotonic() - start)
            raise failure from error

    def snapshot(self) -> Taken:
        """What this process did so far; on the event loop."""
        return snapshot_of(self._repository.versions(), self.failures.counts)

    def take_regions(self, told: Iterable[Mapping[str, Any]]) -> None:
        """Know the shared memory regions that another process of this server holds open."""
        for name in self._memory.regions.take_over(told):
            logger.warning("shared memory region '%s' cannot be opened here", name)

    def begin_drain(self) -> None:
        """Be not ready from now on and refuse inferences; those that run go on."""
        self._health.drain()

    async def wait_idle(self, timeout_s: float) -> bool:
        """Wait until nothing runs; False where something still does after ``timeout_s``."""
        return await self._running.wait_idle(timeout_s)

    def _note(self, method: str, error: BaseException, start: float, payload: bytes) -> None:
        seconds = time.monotonic() - start
        self.failures.note(method, error, seconds, lambda: names_from(method, payload))

    async def _server_live(self, payload: bytes, _call: Call) -> bytes:
        parsed(ServerLiveRequest, payload)
        return ServerLiveResponse(live=True).SerializeToString()

    async def _server_ready(self, payload: bytes, _call: Call) -> bytes:
        parsed(ServerReadyRequest, payload)
        ready = self._repository.all_ready() and not self._health.draining
        return ServerReadyResponse(ready=ready).SerializeToString()

    async def _server_metadata(self, payload: bytes, _call: Call) -> bytes:
        parsed(ServerMetadataRequest, payload)
        return server_metadata().SerializeToString()

    async def _model_ready(self, payload: bytes, _call: Call) -> bytes:
        request = parsed(ModelReadyRequest, payload)
        ready = self._repository.is_ready(request.name, request.version)
        ready = ready and not self._health.draining
        return ModelReadyResponse(ready=ready).SerializeToString()

    async def _model_metadata(self, payload: bytes, _call: Call) -> bytes:
        request = parsed(ModelMetadataRequest, payload)
        record = self._repository.model(request.name, request.version).record
        entry = self._repository.entries[request.name]
        response = metadata_from_record(record, entry, pinned=bool(request.version))
        return response.SerializeToString()

    async def _model_config(self, payload: bytes, _call: Call) -> bytes:
        request = parsed(ModelConfigRequest, payload)
        record = self._repository.model(request.name, request.version).record
        config = ModelConfig.FromString(record.config)
        return ModelConfigResponse(config=config).SerializeToString()

    async def _model_statistics(self, payload: bytes, call: Call) -> bytes:
        request = parsed(ModelStatisticsRequest, payload)
        models = self._repository.loaded_models(request.name, request.version)
        wanted = {(model.record.name, model.record.version) for model in models}
        siblings = self._siblings
        rest = self.snapshot().rest if siblings is None else await in_time(siblings.totals(), call)
        response = ModelStatisticsResponse(
            model_stats=[
                statistics_message(item.model, item.version, item.work)
                for item in rest.versions
                if item.work is not None and (item.model, item.version) in wanted
            ]
        )
        return response.SerializeToString()

    async def _health_check(self, payload: bytes, _call: Call) -> bytes:
        return self._health.check(payload)


def _too_late(call: Call) -> TwinportError | None:
    """What has ended a call that was cancelled, where its deadline has."""
    if call.deadline is None or time.monotonic() < call.deadline - TIMER_SECONDS:
        return None
    return too_late(DEADLINE)


def _unimplemented(name: str) -> Unary:
    async def refuse(_payload: bytes, _call: Call) -> bytes:
        raise Unimplemented(
            f"{name} is not served here; ServerMetadata lists the extensions that are"
        )

    return refuse

"""gRPC's own services: health checking and reflection, over the neutral streams of bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from google.protobuf.message import DecodeError
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection, reflection_pb2

from protos import POOL, REFLECTION_V1, SERVICE
from runtime.errors import InvalidInput, NotFound
from runtime.repository import Repository

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
HEALTH_CHECK = f"/{HEALTH}/Check"
HEALTH_WATCH = f"/{HEALTH}/Watch"
REFLECTIONS = tuple(
    f"/{service}/ServerReflectionInfo" for service in (reflection.SERVICE_NAME, REFLECTION_V1)
)
"""Both versions; their messages are the same on the wire."""

_Response = health_pb2.HealthCheckResponse
SERVING = _Response.SERVING
NOT_SERVING = _Response.NOT_SERVING
SERVICE_UNKNOWN = _Response.SERVICE_UNKNOWN


class Health:
    """Who is healthy: the server (``""``), the inference service, and each model by name.

    The server and the service are SERVING while any model answers, so that one broken
    model does not take the others out of a load balancer; ``ServerReady`` wants them all.
    """

    def __init__(self, repository: Repository) -> None:
        self._repository = repository
        self._change = asyncio.Event()
        self.drained = asyncio.Event()
        """Set when the server drains."""
        repository.watch(self._changed)

    @property
    def draining(self) -> bool:
        """Whether the server takes no new inferences."""
        return self.drained.is_set()

    def drain(self) -> None:
        """Nobody is healthy from now on; watchers get to know it and their streams end."""
        self.drained.set()
        self._changed()

    def check(self, payload: bytes) -> bytes:
        """Answer ``Check``.

        Raises:
            NotFound: No such service.
            InvalidInput: The bytes are no request.
        """
        service = _service(payload)
        status = self._status(service)
        if status == SERVICE_UNKNOWN:
            raise NotFound(
                f"service '{service[:80]}' is not known; use '', '{SERVICE}' or a model's name"
            )
        return _Response(status=status).SerializeToString()

    async def watch(self, payloads: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
        """Answer ``Watch``: the status now and after each change.

        Raises:
            InvalidInput: The bytes are no request.
        """
        service = _service(await anext(payloads, b""))
        last = None
        while True:
            change = self._change
            status = self._status(service)
            if status != last:
                last = status
                yield _Response(status=status).SerializeToString()
            elif self.draining:
                return
            else:
                await change.wait()

    def _status(self, service: str) -> int:
        if service in ("", SERVICE):
            ready = self._repository.any_ready()
        elif service in self._repository.entries:
            ready = self._repository.is_ready(service)
        else:
            return SERVICE_UNKNOWN
        return SERVING if ready and not self.draining else NOT_SERVING

    def _changed(self) -> None:
        change, self._change = self._change, asyncio.Event()
        change.set()


def _service(payload: bytes) -> str:
    try:
        return health_pb2.HealthCheckRequest.FromString(payload).service
    except DecodeError as error:
        raise InvalidInput(
            f"the {len(payload)} bytes sent are no grpc.health.v1.HealthCheckRequest"
        ) from error


# Its stubs call the asynchronous generator a coroutine.
_SERVICER: Any = reflection.aio.ReflectionServicer(
    (SERVICE, HEALTH, reflection.SERVICE_NAME, REFLECTION_V1), POOL
)


async def reflection_stream(payloads: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """Answer ``ServerReflectionInfo``: what services, messages and files there are.

    Raises:
        InvalidInput: The bytes are no request.
    """
    # The servicer of grpcio-reflection does not use its context.
    async for response in _SERVICER.ServerReflectionInfo(_requests(payloads), None):
        yield response.SerializeToString()


async def _requests(
    payloads: AsyncIterator[bytes],
) -> AsyncIterator[reflection_pb2.ServerReflectionRequest]:
    async for payload in payloads:
        try:
            yield reflection_pb2.ServerReflectionRequest.FromString(payload)
        except DecodeError as error:
            raise InvalidInput(
                f"the {len(payload)} bytes sent are no ServerReflectionRequest"
            ) from error

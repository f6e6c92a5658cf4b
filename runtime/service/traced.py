"""An inference with a span around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Protocol, TypeAlias, TypeVar

from protos import ModelInferRequest
from runtime.observe.failures import RequestNames
from runtime.observe.tracing import Tracer
from runtime.service.call import Call
from runtime.statistics import WATCHED, RequestTimes


class Answer(Protocol):
    """What is asked of an answer."""

    @property
    def model_version(self) -> str:
        """The version that gave it."""
        ...


A = TypeVar("A", bound=Answer)
Infer: TypeAlias = Callable[[ModelInferRequest, Call], Awaitable[A]]


def traced(tracer: Tracer, method: str, infer: Infer[A]) -> Infer[A]:
    """``infer`` as it is, and a span for each request that comes by ``method``."""

    async def answer(request: ModelInferRequest, call: Call) -> A:
        names = RequestNames(request.model_name, request.model_version, request.id)
        times = RequestTimes()
        token = WATCHED.set(times)
        try:
            with tracer.inference(method, names, call.metadata) as span:
                try:
                    response = await infer(request, call)
                except BaseException as error:
                    span.failed(error)
                    raise
                span.answered(times, response.model_version)
                return response
        finally:
            WATCHED.reset(token)

    return answer

"""An inference with a span around it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeAlias

from protos import ModelInferRequest, ModelInferResponse
from runtime.observe.failures import RequestNames
from runtime.observe.tracing import Tracer
from runtime.service.call import Call
from runtime.statistics import WATCHED, RequestTimes

Infer: TypeAlias = Callable[[ModelInferRequest, Call], Awaitable[ModelInferResponse]]


def traced(tracer: Tracer, method: str, infer: Infer) -> Infer:
    """``infer`` as it is, and a span for each request that comes by ``method``."""

    async def answer(request: ModelInferRequest, call: Call) -> ModelInferResponse:
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

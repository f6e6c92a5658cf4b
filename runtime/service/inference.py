"""``ModelInfer`` and ``ModelStreamInfer``: a request to arrays, the model, the answer."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping
from contextlib import aclosing
from functools import partial
from typing import NamedTuple

from protos import ModelInferRequest, ModelInferResponse, ModelStreamInferResponse
from runtime.codec import arrays_from_request
from runtime.errors import InvalidInput, TwinportError, Unavailable
from runtime.model import ModelRecord
from runtime.observe.failures import FailureLog, RequestNames
from runtime.observe.tracing import Tracer
from runtime.plain_wire import PlainAnswers
from runtime.repository import Repository
from runtime.request_forms import Forms
from runtime.request_parameters import priority_of, timeout_s_of
from runtime.service.call import Call, Running, parsed, unexpected
from runtime.service.outputs import Wanted, response_with, wanted_outputs
from runtime.service.shared_memory import SharedMemory
from runtime.service.stream import answered_in_order
from runtime.service.traced import Infer, traced
from runtime.standard_services import Health
from runtime.tensors import Array, DType

_STATUS_OF_STREAM = "triton_grpc_error"
"""Header of clients that want an error as the status of the stream, which ends with it."""
_STREAM = "ModelStreamInfer"
_FINAL = "triton_final_response"


class Serialised(NamedTuple):
    """An answer as it travels, and the version that gave it."""

    model_version: str
    data: bytes


class _Ended(Exception):
    """A request that failed, of a stream which ends with it."""

    def __init__(self, failure: TwinportError, seconds: float, names: RequestNames) -> None:
        super().__init__(str(failure))
        self.failure = failure
        self.seconds = seconds
        self.names = names


class Inference:
    """The two calls that run models."""

    def __init__(
        self,
        repository: Repository,
        memory: SharedMemory,
        health: Health,
        running: Running,
        failures: FailureLog,
        tracer: Tracer | None = None,
    ) -> None:
        """Serve ``repository``.

        Args:
            repository: The models.
            memory: Regions that requests may name.
            health: Knows when the server drains.
            running: Entered while a request of a stream is worked on.
            failures: Where requests of a stream that fail are counted; others are elsewhere.
            tracer: Gets a span for each request, where there is one.
        """
        self._repository = repository
        self._memory = memory
        self._health = health
        self._running = running
        self._failures = failures
        self._plain = PlainAnswers()
        self._forms = Forms()
        self._short_way = tracer is None  # a span wants to know more of a request
        self._answer: Infer[Serialised] = self._infer_unary
        self._answer_streamed: Infer[ModelInferResponse] = self._infer
        if tracer is not None:
            self._answer = traced(tracer, "ModelInfer", self._infer_unary)
            self._answer_streamed = traced(tracer, _STREAM, self._infer)

    def unary(self, payload: bytes, call: Call) -> Awaitable[bytes]:
        """Answer ``ModelInfer``."""
        self._check_open()
        usual = self._forms.read(payload) if self._short_way else None
        if usual is None:
            return self._unusual(payload, call)
        model = self._repository.model(usual.form.model_name, usual.form.model_version)
        fit = usual.form.fit(model)
        arrays = usual.arrays(fit, payload) if fit is not None else None
        if fit is None or arrays is None:
            return self._unusual(payload, call)
        return model.infer(
            arrays, fit.outputs, call.deadline, shapes=fit.shapes,
            finish=partial(self._serialised, model.record, usual.request_id),
        )  # fmt: skip

    async def _unusual(self, payload: bytes, call: Call) -> bytes:
        return (await self._answer(parsed(ModelInferRequest, payload), call)).data

    async def stream(
        self, payloads: AsyncIterator[bytes], call: Call
    ) -> AsyncGenerator[bytes, None]:
        """Answer ``ModelStreamInfer``.

        Raises:
            Unavailable: The server drains; what was read before is answered.
        """
        self._check_open()
        as_status = any(
            name.lower() == _STATUS_OF_STREAM and value in ("true", b"true")
            for name, value in call.metadata
        )

        async def answer(payload: bytes) -> bytes:
            with self._running:
                return await self._streamed(payload, call, as_status=as_status)

        in_order = answered_in_order(payloads, answer, self._health.drained)
        try:
            async with aclosing(in_order) as responses:
                async for response in responses:
                    yield response
        except _Ended as ended:
            names = ended.names
            self._failures.note(_STREAM, ended.failure, ended.seconds, lambda: names)
            raise ended.failure from ended.failure.__cause__
        self._check_open()

    async def _streamed(self, payload: bytes, call: Call, *, as_status: bool) -> bytes:
        start = time.monotonic()
        request = ModelInferRequest()
        try:
            request = parsed(ModelInferRequest, payload)
            response = await self._answer_streamed(request, call)
        except TwinportError as error:
            failure = error
        except Exception as error:
            failure = unexpected(_STREAM, error)
        else:
            response.parameters[_FINAL].bool_param = True
            return ModelStreamInferResponse(infer_response=response).SerializeToString()
        seconds = time.monotonic() - start
        names = RequestNames(request.model_name, request.model_version, request.id)
        if as_status:
            raise _Ended(failure, seconds, names)
        self._failures.note(_STREAM, failure, seconds, lambda: names)
        # With its id, for the client to know which request failed.
        return ModelStreamInferResponse(
            error_message=str(failure), infer_response=ModelInferResponse(id=request.id)
        ).SerializeToString()

    async def _infer_unary(self, request: ModelInferRequest, call: Call) -> Serialised:
        record, answers, special = await self._answers(request, call)
        if special:
            data = response_with(answers, special, record, request.id).SerializeToString()
        else:
            data = self._serialised(record, request.id, answers)
        return Serialised(str(record.version), data)

    def _serialised(
        self, record: ModelRecord, request_id: str, answers: Mapping[str, Array]
    ) -> bytes:
        data = self._plain.answer(
            answers, model=record.name, version=record.version, request_id=request_id
        )
        if data is None:
            data = response_with(answers, {}, record, request_id).SerializeToString()
        return data

    async def _infer(self, request: ModelInferRequest, call: Call) -> ModelInferResponse:
        record, answers, special = await self._answers(request, call)
        return response_with(answers, special, record, request.id)

    async def _answers(
        self, request: ModelInferRequest, call: Call
    ) -> tuple[ModelRecord, Mapping[str, Array], Mapping[str, Wanted]]:
        """Who answers, what, and which outputs are not to be sent plainly."""
        model = self._repository.model(request.model_name, request.model_version)
        record = model.record
        arrays = arrays_from_request(request, record.inputs, self._stored)
        outputs, special = wanted_outputs(request, record, self._memory)
        priority, timeout_s = 0, 0.0
        if request.parameters:
            priority, timeout_s = priority_of(request), timeout_s_of(request)
        answers = await model.infer(
            arrays, outputs, call.deadline, priority=priority, timeout_s=timeout_s
        )
        return record, answers, special

    def _stored(self, tensor: ModelInferRequest.InferInputTensor, dtype: DType) -> bytes:
        what = f"input '{tensor.name}'"
        if tensor.HasField("contents") and tensor.contents.ListFields():
            raise InvalidInput(f"{what} is in shared memory and in contents; use one of the two")
        return self._memory.place(tensor.parameters, what).read_tensor(dtype, tensor.shape, what)

    def _check_open(self) -> None:
        if self._health.draining:
            raise Unavailable("the server is shutting down; send the request to another one")

"""``Client`` for asyncio: the same calls, awaited.

::

    async with AsyncClient("127.0.0.1:8001") as client:
        logits = (await client.infer("lenet5", {"image": images}))["logits"]
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import grpc

from protos import METHODS, ModelConfig
from runtime.client_steps import (
    DEFAULT_RETRY,
    Ask,
    Logic,
    Pause,
    Retry,
    Steps,
    StreamAnswer,
    checked_timeout,
    stream_answer,
    stream_request,
)
from runtime.client_wire import (
    DEFAULT_URL,
    FAILED_SEND,
    Connection,
    ServedModel,
    ServerInfo,
    Tls,
    closed_error,
    error_from_status,
    method_path,
    stream_error_from_status,
)
from runtime.tensors import Array

if TYPE_CHECKING:
    from PIL import Image

    from runtime.preprocess import Label

T = TypeVar("T")


class AsyncClient:
    """One connection to a server, used on one event loop; see ``Client`` for every call."""

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 60.0,
        retry: Retry = DEFAULT_RETRY,
        tls: Tls | None = None,
        token: str = "",
    ) -> None:
        """Prepare the connection, on the event loop; see ``Client``."""
        self._connection = Connection(url, tls, token)
        self._logic = Logic(url, timeout_s, retry)
        self.url = url
        self._closed = False
        options, credentials = self._connection.options(), self._connection.credentials()
        if credentials is None:
            self._channel = grpc.aio.insecure_channel(url, options=options)
        else:
            self._channel = grpc.aio.secure_channel(url, credentials, options=options)
        self._calls: dict[str, Any] = {
            name: getattr(
                self._channel, "stream_stream" if method.client_streaming else "unary_unary"
            )(
                method_path(name),
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            for name, method in METHODS.items()
        }

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    @property
    def timeout_s(self) -> float:
        """For each call that brings no limit of its own."""
        return self._logic.timeout_s

    async def close(self) -> None:
        """End the connection; calling it twice is allowed.

        Calls that other tasks wait for end, and later ones are refused, with ``InvalidInput``.
        """
        self._closed = True
        await self._channel.close()

    async def live(self) -> bool:
        """Whether the server runs."""
        return await self._run(self._logic.live())

    async def ready(self) -> bool:
        """Whether the server's models are ready."""
        return await self._run(self._logic.ready())

    async def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model, or one version of it, is ready."""
        return await self._run(self._logic.model_ready(name, version))

    async def wait_ready(self, timeout_s: float) -> None:
        """Wait for a server to come up and to be ready."""
        await self._run(self._logic.wait_ready(timeout_s))

    async def server_metadata(self) -> ServerInfo:
        """Name, version and extensions of the server."""
        return await self._run(self._logic.server_metadata())

    async def model_metadata(self, name: str, version: str = "") -> ServedModel:
        """Inputs, outputs, preprocessing, labels and proof of a model."""
        return await self._run(self._logic.model_metadata(name, version))

    async def model_config(self, name: str, version: str = "") -> ModelConfig:
        """The model's configuration as the server uses it."""
        return await self._run(self._logic.model_config(name, version))

    async def infer(
        self,
        name: str,
        arrays: Mapping[str, Array],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run one request; a batch beyond the model's maximum goes in parts."""
        return await self._run(
            self._logic.infer(name, arrays, version, outputs or (), request_id, timeout_s)
        )

    async def classify(
        self,
        name: str,
        pictures: Sequence[Path | str | Image.Image],
        *,
        version: str = "",
        top: int = 1,
        invert: bool = False,
        timeout_s: float | None = None,
    ) -> list[list[Label]]:
        """Prepare pictures as the model's manifest says, and name their classes."""
        from runtime.client_pictures import arrays_from_pictures, labels_wanted

        left_s = self._logic.countdown(timeout_s)
        model = await self._run(self._logic.model_metadata(name, version, left_s()))
        arrays = await asyncio.to_thread(arrays_from_pictures, pictures, model, invert=invert)
        answer = await self.infer(name, arrays, version=version, timeout_s=left_s())
        return labels_wanted(answer, model, top)

    async def stream(
        self,
        name: str,
        requests: Iterable[Mapping[str, Array]] | AsyncIterable[Mapping[str, Array]],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> AsyncIterator[StreamAnswer]:
        """Send requests over one stream; answers come as soon as they are there."""
        limit = self.timeout_s if timeout_s is None else checked_timeout(timeout_s)

        wrong: list[Exception] = []

        async def messages() -> AsyncIterator[Any]:
            number = 0
            try:
                async for arrays in _each(requests):
                    yield stream_request(name, arrays, number, version, outputs)
                    number += 1
            except Exception as error:
                # It happens in gRPC's task, which only cancels the call.
                wrong.append(error)
                raise

        self._check_open()
        call = self._calls["ModelStreamInfer"](
            messages(), timeout=limit, metadata=self._connection.metadata
        )
        try:
            async for response in call:
                yield stream_answer(response)
        except asyncio.CancelledError:
            if wrong:
                raise wrong[0] from None
            if _cancelled():
                raise
            self._check_open()
            # The library cancels a stream whose sending fails before it knows why.
            raise stream_error_from_status(
                grpc.StatusCode.INTERNAL, FAILED_SEND, self.url
            ) from None
        except grpc.RpcError as error:
            raise stream_error_from_status(error.code(), error.details() or "", self.url) from error
        finally:
            call.cancel()

    async def _run(self, steps: Steps[T]) -> T:
        """Carry steps out, one after the other."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = await self._do(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    async def _do(self, step: Ask | Pause) -> Any:
        if isinstance(step, Pause):
            await asyncio.sleep(step.seconds)
            return None
        self._check_open()
        call, metadata = self._calls[step.method], self._connection.metadata
        try:
            return await call(
                step.request, timeout=step.timeout_s, wait_for_ready=step.wait, metadata=metadata
            )
        except grpc.RpcError as error:
            raise error_from_status(error.code(), error.details() or "", self.url) from error
        except (asyncio.CancelledError, grpc.aio.UsageError):
            # The library cancels what waits where the channel is closed.
            if not _cancelled():
                self._check_open()
            raise

    def _check_open(self) -> None:
        if self._closed:
            raise closed_error(self.url)


def _cancelled() -> bool:
    """Whether somebody cancels this task; the library cancels calls alone."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def _each(
    requests: Iterable[Mapping[str, Array]] | AsyncIterable[Mapping[str, Array]],
) -> AsyncIterator[Mapping[str, Array]]:
    if isinstance(requests, AsyncIterable):
        async for arrays in requests:
            yield arrays
        return
    for arrays in requests:
        yield arrays

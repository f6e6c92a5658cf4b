"""A client of the inference service: arrays in, arrays out; needs neither torch nor onnx.

::

    with Client("127.0.0.1:8001") as client:
        logits = client.infer("lenet5", {"image": images})["logits"]

``AsyncClient`` (``runtime.client_async``) is the same for asyncio.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
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
    Connection,
    ServedModel,
    ServerInfo,
    Tls,
    closed_error,
    error_from_status,
    method_path,
)
from runtime.errors import TwinportError
from runtime.tensors import Array

if TYPE_CHECKING:
    from PIL import Image

    from runtime.preprocess import Label

T = TypeVar("T")


class Client:
    """One connection to a server; may be shared by threads.

    Every call raises ``Unavailable`` where no server answers, ``DeadlineExceeded`` where
    it is too slow, ``InvalidInput`` after ``close``, and otherwise the error of our tree that
    fits the server's status, with the server's text.
    """

    def __init__(
        self,
        url: str = DEFAULT_URL,
        *,
        timeout_s: float = 60.0,
        retry: Retry = DEFAULT_RETRY,
        tls: Tls | None = None,
        token: str = "",
    ) -> None:
        """Prepare the connection; the first call makes it.

        Args:
            url: ``HOST:PORT``.
            timeout_s: For each call that brings no limit of its own, retries included.
            retry: Which failures are tried again.
            tls: Speak TLS; none speaks plain text.
            token: Sent with each call as ``authorization: Bearer TOKEN``.

        Raises:
            InvalidInput: The address, the time, the token or a file cannot be used.
        """
        self._connection = Connection(url, tls, token)
        self._logic = Logic(url, timeout_s, retry)
        self.url = url
        self._closed = False
        options, credentials = self._connection.options(), self._connection.credentials()
        if credentials is None:
            self._channel = grpc.insecure_channel(url, options=options)
        else:
            self._channel = grpc.secure_channel(url, credentials, options=options)
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

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    @property
    def timeout_s(self) -> float:
        """For each call that brings no limit of its own."""
        return self._logic.timeout_s

    def close(self) -> None:
        """End the connection; calling it twice is allowed.

        Calls that run in other threads end, and later ones are refused, with ``InvalidInput``.
        """
        self._closed = True
        self._channel.close()

    def live(self) -> bool:
        """Whether the server runs."""
        return self._run(self._logic.live())

    def ready(self) -> bool:
        """Whether the server's models are ready."""
        return self._run(self._logic.ready())

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model, or one version of it, is ready; false for an unknown one."""
        return self._run(self._logic.model_ready(name, version))

    def wait_ready(self, timeout_s: float) -> None:
        """Wait for a server to come up and to be ready.

        Raises:
            DeadlineExceeded: It runs and was not ready in time.
            Unavailable: No server came up in time.
        """
        self._run(self._logic.wait_ready(timeout_s))

    def server_metadata(self) -> ServerInfo:
        """Name, version and extensions of the server."""
        return self._run(self._logic.server_metadata())

    def model_metadata(self, name: str, version: str = "") -> ServedModel:
        """Inputs, outputs, preprocessing, labels and proof of a model."""
        return self._run(self._logic.model_metadata(name, version))

    def model_config(self, name: str, version: str = "") -> ModelConfig:
        """The model's configuration as the server uses it."""
        return self._run(self._logic.model_config(name, version))

    def infer(
        self,
        name: str,
        arrays: Mapping[str, Array],
        *,
        version: str = "",
        outputs: Sequence[str] | None = None,
        request_id: str = "",
        timeout_s: float | None = None,
    ) -> dict[str, Array]:
        """Run one request; a batch beyond the model's maximum goes in parts.

        The maximum is asked for once a model and version: before the first batch of 1 MiB or
        more, else after the first one that was too large. One that changes is noticed. A
        part that is over the server's limit of messages by itself is ``ResourceExhausted``.

        Args:
            name: The model.
            arrays: An array for each input, with its batch axis.
            version: Which version; the server's choice where none is given.
            outputs: The outputs wanted; the server's choice where none are named.
            request_id: For the server's log; comes back with the answer.
            timeout_s: For all of it; the client's where none is given.

        Returns:
            The outputs by name; they belong to the caller.
        """
        return self._run(
            self._logic.infer(name, arrays, version, outputs or (), request_id, timeout_s)
        )

    def classify(
        self,
        name: str,
        pictures: Sequence[Path | str | Image.Image],
        *,
        version: str = "",
        top: int = 1,
        invert: bool = False,
        timeout_s: float | None = None,
    ) -> list[list[Label]]:
        """Prepare pictures as the model's manifest says, and name their classes.

        Args:
            name: The model.
            pictures: Files, or images of Pillow.
            version: Which version; the server's choice where none is given.
            top: How many of the likeliest classes.
            invert: Swap light and dark.
            timeout_s: For all of it; the client's where none is given.

        Returns:
            For each picture its likeliest classes, the likeliest first.

        Raises:
            InvalidInput: A picture is none, the model takes none, or has no labels.
        """
        from runtime.client_pictures import arrays_from_pictures, labels_wanted

        left_s = self._logic.countdown(timeout_s)
        model = self._run(self._logic.model_metadata(name, version, left_s()))
        arrays = arrays_from_pictures(pictures, model, invert=invert)
        answer = self.infer(name, arrays, version=version, timeout_s=left_s())
        return labels_wanted(answer, model, top)

    def stream(
        self,
        name: str,
        requests: Iterable[Mapping[str, Array]],
        *,
        version: str = "",
        outputs: Sequence[str] = (),
        timeout_s: float | None = None,
    ) -> Iterator[StreamAnswer]:
        """Send requests over one stream; answers come as soon as they are there.

        Args:
            name: The model.
            requests: The inputs of each; read in another thread, as fast as they go out.
            version: Which version; the server's choice where none is given.
            outputs: The outputs wanted; the server's choice where none are named.
            timeout_s: For the whole stream; the client's where none is given.

        Yields:
            An answer for each request, with its number from 0 as the id. One that failed
            has its error there; what ends the stream is raised.
        """
        limit = self.timeout_s if timeout_s is None else checked_timeout(timeout_s)
        wrong: list[Exception] = []

        def messages() -> Iterator[Any]:
            try:
                for number, arrays in enumerate(requests):
                    yield stream_request(name, arrays, number, version, outputs)
            except Exception as error:
                # It happens in gRPC's thread, which tells nobody what it was.
                wrong.append(error)
                raise

        try:
            call = self._calls["ModelStreamInfer"](
                messages(), timeout=limit, metadata=self._connection.metadata
            )
        except ValueError:
            self._check_open()
            raise
        try:
            yield from map(stream_answer, call)
        except grpc.RpcError as error:
            if wrong:
                raise wrong[0] from None
            raise self._error_of(error) from error
        finally:
            call.cancel()

    def _run(self, steps: Steps[T]) -> T:
        """Carry steps out, one after the other."""
        try:
            step = next(steps)
            while True:
                try:
                    answer = self._do(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(answer)
        except StopIteration as end:
            result: T = end.value
            return result

    def _do(self, step: Ask | Pause) -> Any:
        if isinstance(step, Pause):
            time.sleep(step.seconds)
            return None
        call, metadata = self._calls[step.method], self._connection.metadata
        try:
            return call(
                step.request, timeout=step.timeout_s, wait_for_ready=step.wait, metadata=metadata
            )
        except grpc.RpcError as error:
            raise self._error_of(error) from error
        except ValueError:
            self._check_open()
            raise

    def _error_of(self, error: Any) -> TwinportError:
        """The error of our tree for what a call ended with."""
        if self._closed and error.code() is grpc.StatusCode.CANCELLED:
            return closed_error(self.url)
        return error_from_status(error.code(), error.details() or "", self.url)

    def _check_open(self) -> None:
        """Say what the library means by a ``ValueError`` where the channel is closed."""
        if self._closed:
            raise closed_error(self.url)

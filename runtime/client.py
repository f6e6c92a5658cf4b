"""A client of the inference service: arrays in, arrays out; needs neither torch nor onnx.

::

    with Client("127.0.0.1:8001") as client:
        logits = client.infer("lenet5", {"image": images})["logits"]
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from types import TracebackType
from typing import Any, Self

import grpc

from protos import (
    METHODS,
    ModelConfig,
    ModelConfigRequest,
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)
from runtime.client_wire import (
    DEFAULT_URL,
    ServedModel,
    ServerInfo,
    channel_options,
    check_address,
    error_from_status,
    method_path,
    model_from_response,
    server_from_response,
)
from runtime.codec import arrays_from_response, request_from_arrays
from runtime.errors import DeadlineExceeded, InvalidInput
from runtime.tensors import Array

POLL_S = 0.05
"""Between two looks at a server that runs and is not ready."""


class Client:
    """One connection to a server; may be shared by threads.

    Every call raises ``Unavailable`` where no server answers, ``DeadlineExceeded`` where
    it is too slow, and otherwise the error of our tree that fits the server's status, with
    the server's text.
    """

    def __init__(self, url: str = DEFAULT_URL, *, timeout_s: float = 60.0) -> None:
        """Prepare the connection; the first call makes it.

        Args:
            url: ``HOST:PORT``.
            timeout_s: For each call that brings no limit of its own.

        Raises:
            InvalidInput: The address or the time cannot be used.
        """
        self.url = check_address(url)
        self.timeout_s = _checked_timeout(timeout_s)
        self._channel = grpc.insecure_channel(url, options=channel_options(url))
        self._calls: dict[str, Any] = {
            name: self._channel.unary_unary(
                method_path(name),
                request_serializer=method.request.SerializeToString,
                response_deserializer=method.response.FromString,
            )
            for name, method in METHODS.items()
            if not method.client_streaming
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

    def close(self) -> None:
        """End the connection; calling it twice is allowed."""
        self._channel.close()

    def live(self) -> bool:
        """Whether the server runs."""
        return bool(self._call("ServerLive", ServerLiveRequest()).live)

    def ready(self) -> bool:
        """Whether the server's models are ready."""
        return bool(self._call("ServerReady", ServerReadyRequest()).ready)

    def model_ready(self, name: str, version: str = "") -> bool:
        """Whether a model, or one version of it, is ready; false for an unknown one."""
        request = ModelReadyRequest(name=name, version=version)
        return bool(self._call("ModelReady", request).ready)

    def wait_ready(self, timeout_s: float) -> None:
        """Wait for a server to come up and to be ready.

        Raises:
            DeadlineExceeded: It runs and was not ready in time.
            Unavailable: No server came up in time.
        """
        end = time.monotonic() + _checked_timeout(timeout_s)
        connected = False
        while (left := end - time.monotonic()) > 0:
            try:
                answer = self._call("ServerReady", ServerReadyRequest(), left, wait=True)
            except DeadlineExceeded:
                break
            connected = True
            if answer.ready:
                return
            time.sleep(min(POLL_S, left))
        if not connected:
            self._call("ServerLive", ServerLiveRequest(), POLL_S)
        raise DeadlineExceeded(f"the server at {self.url} was not ready after {timeout_s:g} s")

    def server_metadata(self) -> ServerInfo:
        """Name, version and extensions of the server."""
        return server_from_response(self._call("ServerMetadata", ServerMetadataRequest()))

    def model_metadata(self, name: str, version: str = "") -> ServedModel:
        """Inputs, outputs, preprocessing, labels and proof of a model."""
        request = ModelMetadataRequest(name=name, version=version)
        return model_from_response(self._call("ModelMetadata", request))

    def model_config(self, name: str, version: str = "") -> ModelConfig:
        """The model's configuration as the server uses it."""
        config: ModelConfig = self._call(
            "ModelConfig", ModelConfigRequest(name=name, version=version)
        ).config
        return config

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
        """Run one request.

        Args:
            name: The model.
            arrays: An array for each input, with its batch axis.
            version: Which version; the server's choice where none is given.
            outputs: The outputs wanted; the server's choice where none are named.
            request_id: For the server's log; comes back with the answer.
            timeout_s: For this request; the client's where none is given.

        Returns:
            The outputs by name; they belong to the caller.
        """
        request = request_from_arrays(
            arrays, model=name, version=version, request_id=request_id, outputs=outputs or ()
        )
        return arrays_from_response(self._call("ModelInfer", request, timeout_s))

    def _call(
        self, method: str, request: Any, timeout_s: float | None = None, *, wait: bool = False
    ) -> Any:
        """One call; ``wait`` waits for a connection instead of failing without one."""
        limit = self.timeout_s if timeout_s is None else _checked_timeout(timeout_s)
        try:
            return self._calls[method](request, timeout=limit, wait_for_ready=wait)
        except grpc.RpcError as error:
            raise error_from_status(error.code(), error.details() or "", self.url) from error


def _checked_timeout(timeout_s: float) -> float:
    if not timeout_s > 0:
        raise InvalidInput(f"the time limit is {timeout_s} s; wanted more than 0")
    return timeout_s

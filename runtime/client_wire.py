"""What every client of the service shares: channel options, answers as records, errors.

No call is made here, so that a client for another style of calling (asyncio) needs only
the calling.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from protos import SERVICE, ModelMetadataResponse, ServerMetadataResponse
from runtime.errors import (
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    RepositoryError,
    ResourceExhausted,
    TwinportError,
    Unavailable,
    Unimplemented,
)
from runtime.handshake import failed_handshake
from runtime.properties import ModelProperties, properties_from_map
from runtime.tensors import BY_WIRE, Axis, TensorSpec

DEFAULT_URL = "127.0.0.1:8001"

_ERRORS: Mapping[grpc.StatusCode, type[TwinportError]] = {
    grpc.StatusCode.INVALID_ARGUMENT: InvalidInput,
    grpc.StatusCode.OUT_OF_RANGE: InvalidInput,
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.UNAVAILABLE: Unavailable,
    grpc.StatusCode.CANCELLED: Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: DeadlineExceeded,
    grpc.StatusCode.RESOURCE_EXHAUSTED: ResourceExhausted,
    grpc.StatusCode.UNIMPLEMENTED: Unimplemented,
    grpc.StatusCode.FAILED_PRECONDITION: RepositoryError,
}
_NOT_CONNECTED = re.compile(
    r"failed to connect|dns resolution failed|name resolution|errors resolving", re.I
)
_OUT_OF_TIME = ("", "Deadline Exceeded", "Stream removed (Deadline Exceeded)")
"""The library's own texts where it gave up, not the server."""
FAILED_SEND = "Internal error from Core"
"""What ``grpc.aio`` says of a stream that ended while it sent."""
_ADDRESS = re.compile(r"(?:\[[0-9a-fA-F:.]+\]|[^\s:/\[\]]+):(?P<port>[0-9]{1,5})|unix:\S+")
MAX_PORT = 2**16 - 1
_LOOPBACK = re.compile(r"(?:127\.[0-9.]+|localhost|\[::1\]):[0-9]+|unix:\S+")


@dataclass(frozen=True)
class ServerInfo:
    """What a server says of itself."""

    name: str
    version: str
    extensions: tuple[str, ...]


@dataclass(frozen=True)
class ServedModel:
    """What a server says of one model.

    Attributes:
        name: The model's name.
        versions: Those that are ready, as the protocol writes them: text.
        platform: ``onnxruntime_onnx`` and the like.
        inputs: In the model's order; the wire knows no names of free axes, so axis 0 is
            ``batch`` where it is free in every tensor, and others are ``image_2``.
        outputs: The same.
        properties: Preprocessing, labels and proof, where the server sends them.
    """

    name: str
    versions: tuple[str, ...]
    platform: str
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    properties: ModelProperties


@dataclass(frozen=True)
class Tls:
    """How a client speaks TLS; all files are PEM.

    Attributes:
        ca: Who signs the server's certificate; none trusts those that gRPC trusts.
        cert: The client's own certificate, where the server wants one.
        key: Its private key.
    """

    ca: Path | str | None = None
    cert: Path | str | None = None
    key: Path | str | None = None

    def __post_init__(self) -> None:
        """Refuse half a pair."""
        if (self.cert is None) != (self.key is None):
            raise InvalidInput("TLS needs both a certificate and its key; give both or neither")


@dataclass(frozen=True)
class Connection:
    """Where a client calls and what it shows there.

    Attributes:
        url: ``HOST:PORT``.
        tls: None speaks plain text.
        token: Empty where none is sent.
    """

    url: str
    tls: Tls | None = None
    token: str = field(default="", repr=False)

    def __post_init__(self) -> None:
        """Refuse what cannot be dialled or sent."""
        check_address(self.url)
        if not (self.token.isascii() and self.token.isprintable()):
            raise InvalidInput("the token has characters that no header takes; wanted plain ASCII")

    def options(self) -> list[tuple[str, int]]:
        """Of the channel."""
        return channel_options(self.url)

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """Sent with each call."""
        return (("authorization", f"Bearer {self.token}"),) if self.token else ()

    def credentials(self) -> grpc.ChannelCredentials | None:
        """For the channel; none for plain text.

        Raises:
            InvalidInput: A file cannot be read or used.
        """
        if self.tls is None:
            return None
        from runtime.pem import read_authorities, read_pair  # plain text does without ssl

        ca, cert, key = self.tls.ca, self.tls.cert, self.tls.key
        shown = secret = None
        if cert is not None and key is not None:
            shown, secret = read_pair(Path(cert), Path(key))
        trusted = None if ca is None else read_authorities(Path(ca))
        return grpc.ssl_channel_credentials(trusted, secret, shown)


def method_path(method: str) -> str:
    """The HTTP/2 path of a call."""
    return f"/{SERVICE}/{method}"


def check_address(url: str) -> str:
    """Give the address back if gRPC can dial it.

    Raises:
        InvalidInput: It is not ``HOST:PORT``.
    """
    found = _ADDRESS.fullmatch(url)
    if not found or int(found["port"] or 0) > MAX_PORT:
        raise InvalidInput(f"'{url}' is no address; wanted HOST:PORT such as {DEFAULT_URL}")
    return url


def channel_options(url: str) -> list[tuple[str, int]]:
    """Messages of any size, quick reconnection, and no proxy to this machine itself."""
    options = [
        ("grpc.max_send_message_length", -1),
        ("grpc.max_receive_message_length", -1),
        ("grpc.initial_reconnect_backoff_ms", 100),
        ("grpc.min_reconnect_backoff_ms", 100),
        ("grpc.max_reconnect_backoff_ms", 1000),
    ]
    if _LOOPBACK.fullmatch(url):
        # gRPC follows http_proxy even to 127.0.0.1 where no_proxy does not say otherwise.
        options.append(("grpc.enable_http_proxy", 0))
    return options


def error_from_status(code: grpc.StatusCode, details: str, url: str) -> TwinportError:
    """The error of our tree for what a call ended with.

    Args:
        code: The status.
        details: The server's text, or the library's where no server was reached.
        url: The address that was called.
    """
    if code is grpc.StatusCode.UNAVAILABLE and _NOT_CONNECTED.search(details):
        return Unavailable(
            failed_handshake(details, url)
            or f"no server answers at {url}; start one with `twinport serve REPOSITORY`"
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED and details in _OUT_OF_TIME:
        return DeadlineExceeded(f"the server at {url} gave no answer in time; allow it more")
    kind = _ERRORS.get(code, TwinportError)
    return kind(details or f"the server at {url} answered {code.name} without a text")


def closed_error(url: str) -> InvalidInput:
    """The error of a call of a client that is closed; no other attempt will help."""
    return InvalidInput(f"the client of {url} is closed; make another one to go on")


def stream_error_from_status(code: grpc.StatusCode, details: str, url: str) -> TwinportError:
    """The same for a stream of ``grpc.aio``.

    Where a server ends a stream to which the client still sends, that library may overwrite
    the status that came by one of its own (https://github.com/grpc/grpc/issues/36066).
    """
    if code is grpc.StatusCode.INTERNAL and FAILED_SEND in details:
        return Unavailable(
            f"the server at {url} ended the stream while requests were sent, and grpc.aio lost "
            "the reason; the server's log has it"
        )
    return error_from_status(code, details, url)


def server_from_response(response: ServerMetadataResponse) -> ServerInfo:
    """``ServerMetadata`` as a record."""
    return ServerInfo(response.name, response.version, tuple(response.extensions))


def model_from_response(response: ModelMetadataResponse) -> ServedModel:
    """``ModelMetadata`` as a record.

    Raises:
        Unimplemented: A tensor has a type that this release does not know.
        ManifestError: The server's properties cannot be read.
    """
    tensors = (*response.inputs, *response.outputs)
    batch = all(tensor.shape and tensor.shape[0] == -1 for tensor in tensors)
    return ServedModel(
        response.name,
        tuple(response.versions),
        response.platform,
        _specs(response.inputs, batch),
        _specs(response.outputs, batch),
        properties_from_map(response.properties),
    )


def _specs(
    tensors: Sequence[ModelMetadataResponse.TensorMetadata], batch: bool
) -> tuple[TensorSpec, ...]:
    specs = []
    for tensor in tensors:
        if tensor.datatype not in BY_WIRE:
            raise Unimplemented(
                f"'{tensor.name}' has data type {tensor.datatype}; "
                f"this client knows {', '.join(BY_WIRE)}"
            )
        shape: list[Axis] = [
            size if size >= 0 else f"{tensor.name}_{axis}" for axis, size in enumerate(tensor.shape)
        ]
        if batch:
            shape[0] = "batch"
        specs.append(TensorSpec(tensor.name, BY_WIRE[tensor.datatype].name, tuple(shape)))
    return tuple(specs)

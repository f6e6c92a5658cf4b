"""What clients do, call by call, without saying how a call is made or waited for.

A step is a call or a pause. Generators of steps hold the logic (retries, splitting, waiting
for a server); ``Client`` and ``AsyncClient`` carry the steps out, each in its own way.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

import numpy as np

from protos import (
    ModelConfig,
    ModelConfigRequest,
    ModelInferRequest,
    ModelInferResponse,
    ModelMetadataRequest,
    ModelReadyRequest,
    ServerLiveRequest,
    ServerMetadataRequest,
    ServerReadyRequest,
)
from runtime.client_wire import (
    ServedModel,
    ServerInfo,
    model_from_response,
    server_from_response,
)
from runtime.codec import (
    arrays_from_response,
    check_arrays,
    check_texts,
    request_from_arrays,
)
from runtime.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    InvalidInput,
    ResourceExhausted,
    TwinportError,
    Unavailable,
    Unimplemented,
)
from runtime.tensors import Array

POLL_S = 0.05
"""Between two looks at a server that runs and is not ready."""
LONGEST_S = 1e8
"""The longest time limit, three years; gRPC takes a much longer one for one that is over."""
_TOO_LARGE = ("larger than max", "bytes is too long")
"""In the texts about a message over a limit, gRPC's and ours; the code is that of a full queue."""
LARGE_BYTES = 2**20
"""Arrays of a batch that is not sent before the model's maximum is known: a smaller message is
over no limit that our servers have, and costs little where it is sent in vain."""

T = TypeVar("T")


@dataclass(frozen=True)
class Ask:
    """One call.

    Attributes:
        method: Short name.
        request: The message.
        timeout_s: For this call.
        wait: Wait for a connection instead of failing without one.
    """

    method: str
    request: Any
    timeout_s: float
    wait: bool = False


@dataclass(frozen=True)
class Pause:
    """Wait before the next step."""

    seconds: float


Steps: TypeAlias = Generator[Ask | Pause, Any, T]


@dataclass(frozen=True)
class Retry:
    """Which failures are tried again, and when.

    A call is tried again where the server did not take it (UNAVAILABLE, RESOURCE_EXHAUSTED):
    no call of this client changes the server, so one that did run may run twice. A message
    over a limit will not shrink and is not tried again.

    Attributes:
        attempts: Of one call, the first one included; 1 tries nothing again.
        first_s: Pause before the second one; each later one is twice as long.
        longest_s: No pause is longer.
    """

    attempts: int = 4
    first_s: float = 0.05
    longest_s: float = 2.0

    def __post_init__(self) -> None:
        """Refuse what is no policy."""
        if self.attempts < 1 or not 0 <= self.first_s <= self.longest_s:
            raise InvalidInput(f"{self} is no policy; wanted 1 attempt or more, pauses from 0 up")

    def pause_s(self, attempt: int, error: TwinportError) -> float | None:
        """How long to wait after a failed attempt, counted from 1; none where it was the last.

        Clients that failed together do not come back together: a pause is drawn between
        half of its length and the whole.
        """
        again = isinstance(error, (Unavailable, ResourceExhausted))
        hopeless = isinstance(error, BackendUnavailable) or _too_large(error)
        if attempt >= self.attempts or not again or hopeless:
            return None
        whole = min(self.first_s * 2.0 ** (attempt - 1), self.longest_s)
        return whole * random.uniform(0.5, 1.0)


DEFAULT_RETRY = Retry()


class Logic:
    """The steps of every call of a client."""

    def __init__(
        self,
        url: str,
        timeout_s: float,
        retry: Retry,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.url = url
        self.timeout_s = checked_timeout(timeout_s)
        self._retry = retry
        self._clock = clock
        self._largest: dict[tuple[str, str], int] = {}

    def live(self) -> Steps[bool]:
        """Whether the server runs."""
        answer = yield from self._ask("ServerLive", ServerLiveRequest())
        return bool(answer.live)

    def ready(self) -> Steps[bool]:
        """Whether the server's models are ready."""
        answer = yield from self._ask("ServerReady", ServerReadyRequest())
        return bool(answer.ready)

    def model_ready(self, name: str, version: str) -> Steps[bool]:
        """Whether a model answers."""
        answer = yield from self._ask("ModelReady", _about(ModelReadyRequest, name, version))
        return bool(answer.ready)

    def wait_ready(self, timeout_s: float) -> Steps[None]:
        """Wait for a server to come up and to be ready."""
        end = self._clock() + checked_timeout(timeout_s)
        connected = False
        while (left := end - self._clock()) > 0:
            try:
                answer = yield Ask("ServerReady", ServerReadyRequest(), left, wait=True)
            except DeadlineExceeded:
                break
            connected = True
            if answer.ready:
                return
            yield Pause(min(POLL_S, left))
        if not connected:
            yield Ask("ServerLive", ServerLiveRequest(), POLL_S)
        raise DeadlineExceeded(f"the server at {self.url} was not ready after {timeout_s:g} s")

    def server_metadata(self) -> Steps[ServerInfo]:
        """Name, version and extensions of the server."""
        answer = yield from self._ask("ServerMetadata", ServerMetadataRequest())
        return server_from_response(answer)

    def model_metadata(
        self, name: str, version: str, timeout_s: float | None = None
    ) -> Steps[ServedModel]:
        """What a server says of a model."""
        request = _about(ModelMetadataRequest, name, version)
        answer = yield from self._ask("ModelMetadata", request, timeout_s)
        return model_from_response(answer)

    def model_config(
        self, name: str, version: str, timeout_s: float | None = None
    ) -> Steps[ModelConfig]:
        """A model's configuration."""
        request = _about(ModelConfigRequest, name, version)
        answer = yield from self._ask("ModelConfig", request, timeout_s)
        config: ModelConfig = answer.config
        return config

    def infer(
        self,
        name: str,
        arrays: Mapping[str, Array],
        version: str,
        outputs: Sequence[str],
        request_id: str,
        timeout_s: float | None,
    ) -> Steps[dict[str, Array]]:
        """One request, or as many as the model's largest batch makes of it.

        The largest batch is asked for once a model and version: before the first request of
        ``LARGE_BYTES``, else after one that was refused. It is asked for again after each
        one that is refused later, since a model loaded anew may have another.
        """
        left_s = self.countdown(timeout_s)

        def part(rows: Mapping[str, Array]) -> Steps[ModelInferResponse]:
            request = request_from_arrays(
                rows, model=name, version=version, request_id=request_id, outputs=outputs
            )
            response: ModelInferResponse = yield from self._ask("ModelInfer", request, left_s())
            return response

        check_arrays(arrays)
        rows = _rows(arrays)
        if rows > 1 and (name, version) not in self._largest and _bytes(arrays) >= LARGE_BYTES:
            yield from self._largest_batch(name, version, left_s, before=True)
        known = min(self._largest.get((name, version)) or rows, rows)
        try:
            return (yield from self._in_parts(part, arrays, known))
        except (InvalidInput, ResourceExhausted) as error:
            if known == 1 or not (isinstance(error, InvalidInput) or _too_large(error)):
                raise
            largest = yield from self._largest_batch(name, version, left_s)
            if not 0 < largest < known:
                raise
        return (yield from self._in_parts(part, arrays, largest))

    def _in_parts(
        self,
        part: Callable[[Mapping[str, Array]], Steps[ModelInferResponse]],
        arrays: Mapping[str, Array],
        largest: int,
    ) -> Steps[dict[str, Array]]:
        """Answers to parts of at most ``largest`` rows as one, all of them of one version."""
        rows = _rows(arrays)
        if rows <= largest:
            return arrays_from_response((yield from part(arrays)))
        for _ in range(self._retry.attempts):
            answers = []
            for start in range(0, rows, largest):
                rows_of = {key: array[start : start + largest] for key, array in arrays.items()}
                answers.append((yield from part(rows_of)))
            versions = sorted({answer.model_version for answer in answers})
            if len(versions) == 1:
                return _joined([arrays_from_response(answer) for answer in answers], rows)
            # Another version began to answer meanwhile.
        raise Unavailable(
            f"versions {' and '.join(versions)} answered parts of one request; name one of them"
        )

    def _largest_batch(
        self, name: str, version: str, left_s: Callable[[], float], *, before: bool = False
    ) -> Steps[int]:
        """The model's maximum; 0 where it has none, or its server does not say.

        Whoever asks before a request learns that there is no answer to that one, either.
        """
        try:
            config = yield from self.model_config(name, version, left_s())
        except Unimplemented:
            largest = 0
        except TwinportError as error:
            if before and isinstance(error, (Unavailable, DeadlineExceeded)):
                raise
            return 0  # what is wrong with the request itself says more
        else:
            largest = max(config.max_batch_size, 0)
        self._largest[name, version] = largest
        return largest

    def countdown(self, timeout_s: float | None) -> Callable[[], float]:
        """Begin to count down; what is given back says how many seconds are left.

        That raises ``DeadlineExceeded`` where none are.
        """
        end = self._clock() + self._limit(timeout_s)

        def left_s() -> float:
            left = end - self._clock()
            if left <= 0:
                raise DeadlineExceeded("the time was over before all parts of the call were done")
            return left

        return left_s

    def _limit(self, timeout_s: float | None) -> float:
        return self.timeout_s if timeout_s is None else checked_timeout(timeout_s)

    def _ask(self, method: str, request: Any, timeout_s: float | None = None) -> Steps[Any]:
        """One call, tried again as long as it may be and there is time."""
        end = self._clock() + self._limit(timeout_s)
        for attempt in itertools.count(1):
            left = max(end - self._clock(), 1e-3)
            try:
                return (yield Ask(method, request, left))
            except TwinportError as error:
                pause_s = self._retry.pause_s(attempt, error)
                if pause_s is None or self._clock() + pause_s >= end:
                    raise
            yield Pause(pause_s)
        raise AssertionError("counting does not end")


@dataclass(frozen=True)
class StreamAnswer:
    """What came back for one request of a stream.

    Attributes:
        request_id: That of the request.
        outputs: By name; empty where it failed.
        error: Why it failed; the stream goes on.
    """

    request_id: str
    outputs: Mapping[str, Array]
    error: TwinportError | None = None


def stream_request(
    name: str, arrays: Mapping[str, Array], number: int, version: str, outputs: Sequence[str]
) -> ModelInferRequest:
    """A request of a stream; its id is its number."""
    return request_from_arrays(
        arrays, model=name, version=version, request_id=str(number), outputs=outputs
    )


def stream_answer(response: Any) -> StreamAnswer:
    """A response of a stream."""
    inner = response.infer_response
    if response.error_message:
        return StreamAnswer(inner.id, {}, InvalidInput(response.error_message))
    return StreamAnswer(inner.id, arrays_from_response(inner))


def checked_timeout(timeout_s: float) -> float:
    """Give the time back if it is one, at most what gRPC can count.

    Raises:
        InvalidInput: It is not above 0.
    """
    if not timeout_s > 0:
        raise InvalidInput(f"the time limit is {timeout_s} s; wanted more than 0")
    return min(timeout_s, LONGEST_S)


def _too_large(error: TwinportError) -> bool:
    """Whether a message was over a limit."""
    limited = isinstance(error, ResourceExhausted)
    return limited and any(words in str(error) for words in _TOO_LARGE)


def _about(kind: Callable[..., T], name: str, version: str) -> T:
    """A message that names a model and a version of it."""
    check_texts(model=name, version=version)
    return kind(name=name, version=version)


def _rows(arrays: Mapping[str, Array]) -> int:
    """The common size of axis 0; 1 where there is none, so that nothing is split."""
    sizes = {np.shape(array)[0] if np.ndim(array) else 1 for array in arrays.values()}
    return sizes.pop() if len(sizes) == 1 else 1


def _bytes(arrays: Mapping[str, Array]) -> int:
    """About as many as their message has; texts of Python count as what points to them."""
    return sum(array.nbytes for array in arrays.values())


def _joined(parts: Sequence[Mapping[str, Array]], rows: int) -> dict[str, Array]:
    """The answers to parts as one.

    Raises:
        InvalidInput: An output does not have a row for each row of the inputs.
    """
    whole = {}
    for name in parts[0]:
        if any(not part[name].ndim for part in parts):
            raise InvalidInput(f"output '{name}' has no rows, so its parts cannot be joined")
        whole[name] = np.concatenate([part[name] for part in parts])
        if len(whole[name]) != rows:
            raise InvalidInput(
                f"output '{name}' has {len(whole[name])} rows for {rows} of the inputs, "
                "so its parts cannot be joined; send no more than the model's maximum"
            )
    return whole

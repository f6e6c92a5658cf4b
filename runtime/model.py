"""One version that is loaded and answers requests; no wire format comes in."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from runtime.backends.base import Backend, BackendIdentity
from runtime.batch_call import Lane, Run
from runtime.batch_rows import Shapes
from runtime.batch_settings import BatchSettings
from runtime.batching import Batcher
from runtime.errors import InvalidInput
from runtime.experts.feed import LoadFeed
from runtime.manifest import Manifest
from runtime.replay import Replayed
from runtime.reshape import Reshapes
from runtime.shadow.shadow import Shadow
from runtime.statistics import Statistics
from runtime.tensors import Array, TensorSpec
from runtime.worker import Worker


@dataclass(frozen=True)
class ModelRecord:
    """What is known of a loaded version.

    Attributes:
        name: The model's name.
        version: Its number.
        inputs: By name, with the batch axis, in the shapes that clients send.
        outputs: By name, with the batch axis, in the shapes that clients get.
        max_batch_size: Largest size of axis 0; 0 where axis 0 is no batch.
        identity: What runs it.
        config: The complete ``ModelConfig`` message, serialised.
        manifest: None where the version came without one.
        replayed: What its evidence showed here; none where there was no manifest.
        unproved: Why it is served without a passed replay; empty where it passed.
    """

    name: str
    version: int
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]
    max_batch_size: int
    identity: BackendIdentity
    config: bytes
    manifest: Manifest | None = None
    replayed: Replayed | None = None
    unproved: str = ""
    on_request: tuple[str, ...] = ()
    """Outputs that are sent only where they are named."""
    ranges: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    """Smallest and largest size of free axes."""
    batching: BatchSettings = field(default_factory=BatchSettings)
    """How requests are joined."""
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By output: names of the classes in the order of their values."""
    reshapes: Reshapes = field(default_factory=Reshapes)
    """Tensors that the artifact has in another shape."""


class Model:
    """A loaded version, its instances and the queue before them."""

    def __init__(
        self,
        record: ModelRecord,
        backends: Sequence[Backend],
        shadow: Shadow | None = None,
        loads: LoadFeed | None = None,
        closed: Callable[[], None] = lambda: None,
    ) -> None:
        """Serve ``record``.

        Args:
            record: What is known of the version.
            backends: Its instances, one or more; each gets a thread of its own.
            shadow: Checks a share of the answers, where that is wanted.
            loads: Counts the load of experts, of a model that gives it.
            closed: Called at the end of ``close``.
        """
        self.record = record
        self.shadow = shadow
        self.loads = loads
        self._closed = closed
        self._limits = list(_limits(record))
        self._backends = tuple(backends)
        name = f"{record.name}/{record.version}"
        lanes = [
            Lane(_run_of(backend, record.reshapes), Worker(f"{name}#{number}"))
            for number, backend in enumerate(backends)
        ]
        self._workers = [lane.worker for lane in lanes]
        self._batcher = Batcher(lanes, record.batching, Statistics(), loads)

    def infer(
        self,
        arrays: Mapping[str, Array],
        outputs: Sequence[str],
        deadline: float | None = None,
        *,
        priority: int = 0,
        timeout_s: float = 0.0,
        shapes: Shapes | None = None,
        finish: Callable[[dict[str, Array]], Any] | None = None,
    ) -> Awaitable[Any]:
        """Answer one request, together with others where requests can be joined.

        Args:
            arrays: Every input; types and shapes are checked against ``record.inputs``.
            outputs: Names of the outputs wanted.
            deadline: On the clock of ``time.monotonic``.
            priority: Level in the queue, 1 the highest; 0 is the model's default.
            timeout_s: Longest time in the queue; 0 is the model's own limit.
            shapes: Of the inputs without axis 0, where ``check_sizes`` has seen them.
            finish: Makes the answer of the outputs wanted.

        Returns:
            To wait for: the outputs wanted by name, read-only, for they may share memory with
            those of others; or what ``finish`` makes of them.

        Raises:
            InvalidInput: The batch or another free axis is outside of what the model takes.
            DeadlineExceeded: The time was over before the answer was there.
            ResourceExhausted: The queue is full.
        """
        if shapes is None:
            self.check_sizes({name: array.shape for name, array in arrays.items()})
        shadow = self.shadow
        if shadow is not None and shadow.draws():
            answer = self._shadowed(
                shadow, arrays, outputs, deadline, priority=priority, timeout_s=timeout_s
            )
            return answer if finish is None else _finished(answer, finish)
        return self._batcher.submit(
            arrays, outputs, deadline,
            priority=priority, timeout_s=timeout_s, shapes=shapes, finish=finish,
        )  # fmt: skip

    async def _shadowed(
        self,
        shadow: Shadow,
        arrays: Mapping[str, Array],
        outputs: Sequence[str],
        deadline: float | None,
        *,
        priority: int,
        timeout_s: float,
    ) -> dict[str, Array]:
        answers: dict[str, Array] = await self._batcher.submit(
            arrays, shadow.outputs_with_load(outputs), deadline,
            priority=priority, timeout_s=timeout_s,
        )  # fmt: skip
        reshapes = self.record.reshapes
        # The reference is the artifact again, in its own shapes.
        shadow.offer(reshapes.fed(arrays), reshapes.unsent(answers))
        return {name: answers[name] for name in outputs}

    @property
    def statistics(self) -> Statistics:
        """What it did so far."""
        return self._batcher.statistics

    @property
    def busy(self) -> bool:
        """Whether anything waits or runs, a comparison included."""
        waits = bool(self._batcher.waiting) or any(worker.busy for worker in self._workers)
        return waits or (self.shadow is not None and self.shadow.busy)

    @property
    def waiting(self) -> int:
        """Requests in the queue."""
        return self._batcher.waiting

    async def drained(self) -> None:
        """Wait until nothing waits or runs; whoever calls sees to it that nothing comes in."""
        await self._batcher.idle()

    def close(self) -> None:
        """Drop what waits and give the backends' memory back."""
        if self.shadow is not None:
            self.shadow.close()
        self._batcher.close()
        for worker in self._workers:
            worker.close()
        for backend in self._backends:
            backend.close()
        self._closed()

    def check_sizes(self, shapes: Mapping[str, tuple[int, ...]]) -> None:
        """Refuse sizes of free axes that the model does not take; ``shapes`` of all inputs.

        Raises:
            InvalidInput: The text says which and how much.
        """
        record = self.record
        most = record.max_batch_size
        for name, limits in self._limits:
            sizes = shapes[name]
            if most and not 1 <= sizes[0] <= most:
                raise InvalidInput(
                    f"input '{name}' has a batch of {sizes[0]}; "
                    f"model '{record.name}' takes 1 to {most}"
                )
            for place, axis, low, high in limits:
                if not low <= sizes[place] <= high:
                    raise InvalidInput(
                        f"input '{name}' has {axis} = {sizes[place]}; "
                        f"model '{record.name}' was exported for {low} to {high}"
                    )


async def _finished(
    answer: Awaitable[dict[str, Array]], finish: Callable[[dict[str, Array]], Any]
) -> Any:
    return finish(await answer)


def _limits(record: ModelRecord) -> Iterator[tuple[str, list[tuple[int, str, int, int]]]]:
    """By input: its free axes that have limits, their places, names and limits."""
    for name, spec in record.inputs.items():
        axes = [(place, axis) for place, axis in enumerate(spec.shape) if isinstance(axis, str)]
        yield (
            name,
            [(place, axis, *record.ranges[axis]) for place, axis in axes if axis in record.ranges],
        )


def _run_of(backend: Backend, reshapes: Reshapes) -> Run:
    if not reshapes:
        return lambda arrays, outputs: backend.infer(arrays, outputs)
    return lambda arrays, outputs: reshapes.sent(backend.infer(reshapes.fed(arrays), outputs))

"""One version that is loaded and answers requests; no wire format comes in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from runtime.backends.base import Backend, BackendIdentity
from runtime.errors import InvalidInput
from runtime.manifest import Manifest
from runtime.replay import Replayed
from runtime.tensors import Array, TensorSpec
from runtime.worker import Worker


@dataclass(frozen=True)
class ModelRecord:
    """What is known of a loaded version.

    Attributes:
        name: The model's name.
        version: Its number.
        inputs: By name, with the batch axis.
        outputs: By name, with the batch axis.
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


class Model:
    """A loaded version and the worker that runs it."""

    def __init__(self, record: ModelRecord, backend: Backend) -> None:
        self.record = record
        self._backend = backend
        self._worker = Worker(f"{record.name}/{record.version}")

    async def infer(
        self, arrays: Mapping[str, Array], outputs: Sequence[str], deadline: float | None = None
    ) -> dict[str, Array]:
        """Answer one request.

        Args:
            arrays: Every input; types and shapes are checked against ``record.inputs``.
            outputs: Names of the outputs wanted.
            deadline: On the clock of ``time.monotonic``.

        Raises:
            InvalidInput: The batch or another free axis is outside of what the model takes.
            DeadlineExceeded: The time was over before the answer was there.
        """
        self._check_sizes(arrays)
        size = sum(array.size for array in arrays.values())
        return await self._worker.run(lambda: self._backend.infer(arrays, outputs), size, deadline)

    @property
    def busy(self) -> bool:
        """Whether its thread has anything to do."""
        return self._worker.busy

    def close(self) -> None:
        """Drop what waits and give the backend's memory back."""
        self._worker.close()
        self._backend.close()

    def _check_sizes(self, arrays: Mapping[str, Array]) -> None:
        record = self.record
        for name, spec in record.inputs.items():
            sizes = arrays[name].shape
            if record.max_batch_size and not 1 <= sizes[0] <= record.max_batch_size:
                raise InvalidInput(
                    f"input '{name}' has a batch of {sizes[0]}; "
                    f"model '{record.name}' takes 1 to {record.max_batch_size}"
                )
            for axis, size in zip(spec.shape, sizes, strict=True):
                low, high = record.ranges.get(str(axis), (size, size))
                if not low <= size <= high:
                    raise InvalidInput(
                        f"input '{name}' has {axis} = {size}; "
                        f"model '{record.name}' was exported for {low} to {high}"
                    )

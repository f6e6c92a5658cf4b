"""Compute a share of the answers again, off the path of requests.

The event loop draws, and hands a reference to the arrays over; whatever else there is to do
a thread of its own does, with a lower priority. When that thread does not keep up, samples
are dropped and counted: nothing ever waits for it, the end of the server included.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from queue import SimpleQueue

import numpy as np

from runtime.cores import roam
from runtime.errors import TwinportError
from runtime.manifest import LOAD_OUTPUT
from runtime.shadow.comparison import Comparison, compare
from runtime.shadow.reference import Opener, Reference
from runtime.shadow.settings import UNREADY, ShadowSettings
from runtime.shadow.window import Drift, Window
from runtime.tensors import Array

QUEUED = 8
"""Samples that may wait."""
QUEUED_BYTES = 64 * 2**20
"""Of their arrays; a larger sample is taken where no other waits."""
NICENESS = 5
"""A third of a thread's usual share of a busy processor. Not less: while it holds the
interpreter's lock, all others wait for it to be given a processor."""
_END_SECONDS = 1.0

logger = logging.getLogger(__name__)

Arrays = Mapping[str, Array]


@dataclass
class ShadowCounts:
    """Since the version was loaded.

    Attributes:
        compared: Requests that count.
        extreme: Requests beyond the evidence's inputs, which never count.
        extreme_differing: Of these, those that were answered otherwise than proofs allow.
        failed: Requests that could not be compared, as the reference refused them.
        dropped: Requests that found the queue full.
        rows: Of those compared.
        near_ties: Rows that other experts answered, as with the reference moved a little.
        rerouted: Rows that other experts answered without such a reason.
    """

    compared: int = 0
    extreme: int = 0
    extreme_differing: int = 0
    failed: int = 0
    dropped: int = 0
    rows: int = 0
    near_ties: int = 0
    rerouted: int = 0


@dataclass(frozen=True)
class _Sample:
    inputs: Arrays
    answers: Arrays
    size: int


@dataclass
class _Progress:
    """Samples and bytes of one side; each side writes to its own alone."""

    samples: int = 0
    size: int = 0

    def add(self, sample: _Sample) -> None:
        self.samples += 1
        self.size += sample.size


@dataclass
class _State:
    trouble: str = ""
    drift: Drift = field(default_factory=Drift)


class Shadow:
    """The checks on one loaded version."""

    def __init__(
        self, settings: ShadowSettings, opener: Opener, *, name: str, has_load: bool = False
    ) -> None:
        """Check a version.

        Args:
            settings: How much.
            opener: Opens the reference; called in the thread, with the first sample.
            name: Of the version, for the log.
            has_load: Whether it gives the load of experts.
        """
        self.settings = settings
        self.counts = ShadowCounts()
        self.on_change: Callable[[], None] | None = None
        """Called on the event loop when a drift begins or ends."""
        self._opener = opener
        self._name = name
        self._has_load = has_load
        self._random = random.Random(settings.seed)
        self._samples: SimpleQueue[_Sample | None] = SimpleQueue()
        self._offered, self._done = _Progress(), _Progress()
        self._state = _State()
        self._closed = False
        self._thread: threading.Thread | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def drift(self) -> Drift:
        """What the latest comparisons say."""
        return self._state.drift

    @property
    def trouble(self) -> str:
        """Why nothing is compared; empty where it is."""
        return self._state.trouble

    @property
    def ends_service(self) -> bool:
        """Whether the version is to leave service now."""
        return self.settings.action == UNREADY and bool(self.drift.reason)

    @property
    def busy(self) -> bool:
        """Whether a sample waits or is compared."""
        return self._done.samples < self._offered.samples

    def draws(self) -> bool:
        """Whether the request at hand is to be checked; on the event loop."""
        return self._random.random() < self.settings.share and not self._state.trouble

    def outputs_with_load(self, outputs: Sequence[str]) -> Sequence[str]:
        """What to ask the version for: without the load of experts nothing can be compared."""
        if not self._has_load or LOAD_OUTPUT in outputs:
            return outputs
        return [*outputs, LOAD_OUTPUT]

    def offer(self, inputs: Arrays, answers: Arrays) -> None:
        """Hand one answered request over, or drop it; on the event loop, never waits.

        Args:
            inputs: Of the request; nobody writes to them any more.
            answers: What was answered; nor to these.
        """
        if self._closed or self._state.trouble:
            return
        size = sum(array.nbytes for part in (inputs, answers) for array in part.values())
        waiting = self._samples.qsize()
        waiting_bytes = self._offered.size - self._done.size
        if waiting >= QUEUED or (waiting and waiting_bytes + size > QUEUED_BYTES):
            self.counts.dropped += 1
            return
        sample = _Sample(inputs, answers, size)
        self._offered.add(sample)
        self._samples.put(sample)
        if self._thread is None:
            self._loop = asyncio.get_running_loop()
            # A daemon: what it computes is worth no waiting at the end.
            self._thread = threading.Thread(
                target=self._work, name=f"shadow {self._name}", daemon=True
            )
            self._thread.start()

    def close(self) -> None:
        """Take no more and let the reference go; one that is busy is not waited for."""
        self._closed = True
        self._samples.put(None)
        if self._thread is not None and not self.busy:
            # An idle one ends at once; the library may not be at work when Python ends.
            self._thread.join(_END_SECONDS)

    def _work(self) -> None:
        roam()
        with suppress(OSError, AttributeError):
            # On Linux this is the thread's own.
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), NICENESS)
        reference: Reference | None = None
        window = Window({})
        draws = np.random.default_rng(self.settings.seed)
        while (sample := self._samples.get()) is not None:
            try:
                if not self._closed and not self._state.trouble:
                    if reference is None:
                        reference = self._opened()
                        window = Window(reference.ground.outputs)
                    self._take(self._compared(sample, reference, draws), window)
            except Exception as error:
                # Whatever it is, the next sample may go better.
                self._note(error, opened=reference is not None)
            self._done.add(sample)
            del sample
        if reference is not None:
            reference.backend.close()

    def _opened(self) -> Reference:
        reference = self._opener()
        logger.info(
            "%s is compared with %s on %s",
            self._name, reference.backend.identity.library, reference.backend.identity.provider,
        )  # fmt: skip
        return reference

    def _compared(
        self, sample: _Sample, reference: Reference, draws: np.random.Generator
    ) -> Comparison:
        names = list(sample.answers)
        return compare(
            sample.inputs, sample.answers,
            lambda inputs: reference.backend.infer(inputs, names), reference.ground, draws,
        )  # fmt: skip

    def _take(self, comparison: Comparison, window: Window) -> None:
        counts = self.counts
        if comparison.extreme:
            counts.extreme += 1
            counts.extreme_differing += comparison.differs
            return
        counts.compared += 1
        counts.rows += comparison.rows
        counts.near_ties += comparison.near_ties
        counts.rerouted += comparison.rerouted
        before, self._state.drift = self._state.drift, window.add(comparison)
        reason = self._state.drift.reason
        if bool(reason) != bool(before.reason):
            if reason:
                logger.warning("%s drifts from its reference: %s", self._name, reason)
            else:
                logger.warning("%s agrees with its reference again", self._name)
            self._tell()

    def _note(self, error: Exception, *, opened: bool) -> None:
        defect = None if isinstance(error, TwinportError) else error
        what = str(error) if defect is None else "a defect of the server"
        if not opened:
            self._state.trouble = what
            logger.warning(
                "%s is not compared with a reference: %s", self._name, what, exc_info=defect
            )
            self._tell()
            return
        self.counts.failed += 1
        if self.counts.failed == 1:
            logger.warning(
                "a request to %s could not be compared: %s", self._name, what, exc_info=defect
            )

    def _tell(self) -> None:
        assert self._loop is not None, "the thread is started on a loop"
        with suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._announce)

    def _announce(self) -> None:
        if self.on_change is not None and not self._closed:
            self.on_change()

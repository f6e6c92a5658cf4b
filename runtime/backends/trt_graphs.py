"""CUDA graphs of calls that come again: captured once, then launched with new inputs.

A graph is tied to the state of the context that it was captured from, so each has a context
of its own; and to the addresses it was captured with, so all are dropped when one moves.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from dataclasses import dataclass

from runtime.backends.cuda import Graph
from runtime.backends.trt_context import CallShape, Context, Loaded
from runtime.errors import TwinportError

logger = logging.getLogger(__name__)

LIMIT = 16
"""Graphs of one engine."""
STALE_CALLS = 1000
"""A graph that so many calls did without makes room; one in use does not, lest shapes that
take turns be captured over and over."""
_MOST_SEEN = 4096
"""Shapes that are remembered without a graph."""


@dataclass
class Captured:
    """A graph and the context that it holds on to."""

    context: Context
    graph: Graph
    used: int
    """The call that used it last, counted from the first of the engine."""

    def close(self) -> None:
        """Give both back."""
        self.graph.close()
        self.context.close()


class Graphs:
    """The graphs of one engine, by what is the same in the calls that they repeat."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._kept: OrderedDict[CallShape, Captured] = OrderedDict()
        """The one that was not used for longest comes first."""
        self._seen: set[CallShape] = set()
        self._calls = 0
        self._moves = 0
        self._off = False

    def find(self, call: CallShape) -> Captured | None:
        """The graph for a call, where there is one that holds."""
        self._calls += 1
        self._drop_moved()
        captured = self._kept.get(call)
        if captured is not None:
            captured.used = self._calls
            self._kept.move_to_end(call)
        return captured

    def ran(self, call: CallShape) -> None:
        """A call ran without a graph; where it is the second of its kind, capture the third.

        What cannot be captured is said once, and goes on without.
        """
        self._drop_moved()
        if self._off or not self._comes_again(call) or not self._has_room():
            return
        try:
            self._kept[call] = self._capture(call)
        except TwinportError as error:
            self._off = True
            self.close()
            logger.warning("goes on without CUDA graphs: %s", error)

    def _comes_again(self, call: CallShape) -> bool:
        if call in self._seen:
            return True
        if len(self._seen) >= _MOST_SEEN:
            self._seen.clear()
        self._seen.add(call)
        return False

    def _has_room(self) -> bool:
        """Whether there is room for one more, or a graph that nobody uses makes it."""
        if len(self._kept) < LIMIT:
            return True
        call, oldest = next(iter(self._kept.items()))
        if self._calls - oldest.used <= STALE_CALLS:
            return False
        del self._kept[call]
        oldest.close()
        return True

    def _drop_moved(self) -> None:
        """Where an address changed, no graph holds any more."""
        if self._moves != self._loaded.buffers.moves:
            self.close()
            self._moves = self._loaded.buffers.moves

    def _capture(self, call: CallShape) -> Captured:
        """Run once in a new context, so that nothing is put off any more, then capture."""
        stream = self._loaded.stream
        context = Context(self._loaded)
        try:
            context.prepare(call)
            context.queue(call)
            stream.synchronize()
            graph = stream.capture(lambda: context.queue(call))
        except TwinportError:
            context.close()
            raise
        return Captured(context, graph, self._calls)

    def close(self) -> None:
        """Give all of them back."""
        kept, self._kept = self._kept, OrderedDict()
        for captured in kept.values():
            captured.close()

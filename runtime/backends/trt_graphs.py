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
"""Graphs of one engine; the one that was not used for longest goes."""


@dataclass
class Captured:
    """A graph and the context that it holds on to."""

    context: Context
    graph: Graph

    def close(self) -> None:
        """Give both back."""
        self.graph.close()
        self.context.close()


class Graphs:
    """The graphs of one engine, by what is the same in the calls that they repeat."""

    def __init__(self, loaded: Loaded, limit: int = LIMIT) -> None:
        self._loaded = loaded
        self._limit = limit
        self._kept: OrderedDict[CallShape, Captured | None] = OrderedDict()
        self._moves = 0
        self._off = False

    def find(self, call: CallShape) -> Captured | None:
        """The graph for a call, where there is one that holds."""
        self._drop_moved()
        if call in self._kept:
            self._kept.move_to_end(call)
        return self._kept.get(call)

    def ran(self, call: CallShape) -> None:
        """A call ran without a graph; where it is the second of its kind, capture the third.

        Only what comes again is worth it. What cannot be captured is said once, and goes on
        without.
        """
        if self._off:
            return
        self._drop_moved()
        again = call in self._kept
        self._keep(call, None)
        if again:
            try:
                self._keep(call, self._capture(call))
            except TwinportError as error:
                self._off = True
                self.close()
                logger.warning("goes on without CUDA graphs: %s", error)

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
            return Captured(context, stream.capture(lambda: context.queue(call)))
        except TwinportError:
            context.close()
            raise

    def _keep(self, call: CallShape, captured: Captured | None) -> None:
        self._kept[call] = captured
        self._kept.move_to_end(call)
        while len(self._kept) > self._limit:
            _, oldest = self._kept.popitem(last=False)
            if oldest is not None:
                oldest.close()

    def close(self) -> None:
        """Give all of them back."""
        kept, self._kept = self._kept, OrderedDict()
        for captured in kept.values():
            if captured is not None:
                captured.close()

"""How the requests of a model are joined."""

from __future__ import annotations

from dataclasses import dataclass, field

from runtime.queueing import QueueSettings


@dataclass(frozen=True)
class BatchSettings:
    """How requests are joined.

    Attributes:
        max_rows: Rows of one call; 0 where requests cannot be joined.
        delay_s: How long the first request of a call waits for others to come.
        preferred: Sizes of a call, ascending: the largest that what waits makes up goes at once.
        queue: What may wait.
        quiet_turns: Turns of the event loop without a new request after which no more are waited
            for, where requests come side by side. Transports hand over all that they have in
            one turn.
    """

    max_rows: int = 0
    delay_s: float = 0.0
    preferred: tuple[int, ...] = ()
    queue: QueueSettings = field(default_factory=QueueSettings)
    quiet_turns: int = 2

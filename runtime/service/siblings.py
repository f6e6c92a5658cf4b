"""What a process asks of a server of which it is one of several."""

from __future__ import annotations

from typing import Protocol

from runtime.observe.snapshot import Snapshot
from runtime.service.shared_memory import Everywhere


class Siblings(Everywhere, Protocol):
    """All processes of the server, this one too."""

    async def totals(self) -> Snapshot:
        """What all of them did, but for the load of experts.

        Raises:
            Unavailable: They do not answer.
        """
        ...

"""When a process that has ended is started again."""

from __future__ import annotations

ATTEMPTS = 5
"""Starts in a row that may fail; one more, and there is no sense in going on."""
FIRST_PAUSE_S = 0.1
"""Before it is started again; doubled with each quick end in a row."""
MOST_PAUSE_S = 5.0
_DOUBLINGS = 10
"""More would end in the longest pause too."""
STEADY_SECONDS = 10.0
"""One that served for so long did not end quickly."""


class Restarts:
    """The ends of one process after another in the same place."""

    def __init__(self) -> None:
        self._quick = 0
        self._failed = 0

    def pause_after(self, served_s: float) -> float | None:
        """Seconds to wait before the next start.

        One that served, however briefly, is always started again: the system may have ended it.

        Args:
            served_s: How long the last one served; 0 for one that failed to start.

        Returns:
            None where starts have failed too often in a row.
        """
        self._failed = 0 if served_s > 0 else self._failed + 1
        if self._failed > ATTEMPTS:
            return None
        self._quick = 1 if served_s > STEADY_SECONDS else self._quick + 1
        return min(FIRST_PAUSE_S * 2.0 ** min(self._quick - 1, _DOUBLINGS), MOST_PAUSE_S)

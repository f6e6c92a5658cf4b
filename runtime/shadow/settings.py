"""How much is computed again, and what follows from it; checked when it is made."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.errors import InvalidInput

REPORT, UNREADY = "report", "unready"
ACTIONS = (REPORT, UNREADY)


@dataclass(frozen=True)
class ShadowSettings:
    """How answers are checked.

    Attributes:
        share: Of the answered requests, 0 to 1.
        action: ``report`` says that a version drifts, ``unready`` takes it out of service too.
        seed: The same choice of requests each time; chance where there is none.
    """

    share: float
    action: str = REPORT
    seed: int | None = None

    def __post_init__(self) -> None:
        """Refuse what is no share, no action and no seed."""
        if not 0 <= self.share <= 1:
            raise InvalidInput(f"shadow is {self.share}; wanted a share of 0 to 1, such as 0.01")
        if self.action not in ACTIONS:
            raise InvalidInput(f"shadow_action is '{self.action}'; wanted {' or '.join(ACTIONS)}")
        if self.seed is not None and self.seed < 0:
            raise InvalidInput(f"shadow_seed is {self.seed}; wanted 0 or more")

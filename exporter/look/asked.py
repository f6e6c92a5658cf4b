"""What is asked to be seen of a file or a module, beside the text."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from runtime.errors import UsageProblem


@dataclass(frozen=True)
class Looks:
    """What is asked for beside the text.

    Attributes:
        engine_code: Whether the inspector may run code that an engine brings.

    Raises:
        UsageProblem: A picture's suffix contradicts its option.
    """

    svg: Path | None
    png: Path | None
    browse: bool
    netron: bool
    port: int
    inspector: bool
    autograd: Path | None
    engine_code: bool = False

    def __post_init__(self) -> None:
        for suffix, picture in ((".svg", self.svg), (".png", self.png)):
            if picture is not None and picture.suffix.lower() != suffix:
                raise UsageProblem(
                    f"--{suffix[1:]} writes '{picture}' in a format that its suffix is not; "
                    f"wanted FILE{suffix}"
                )

    @property
    def pictures(self) -> list[Path]:
        """Those that Netron draws."""
        return [picture for picture in (self.svg, self.png) if picture is not None]

    @property
    def of_graph(self) -> list[str]:
        """The options given that show a file."""
        names = ("svg", "png", "browse", "netron", "inspector")
        given = {name: getattr(self, name) for name in names}
        return [f"--{name}" for name, value in given.items() if value]

"""Drawing where Matplotlib is there; where it is missing that is said before there is work."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from runtime.errors import BackendUnavailable


def plotting(file: Path | None, option: str, figure: str) -> Callable[[Any], None]:
    """What draws to a file; nothing where there is none.

    Args:
        file: Where to; its ending says the format.
        option: That asked for it, for the error.
        figure: The function of ``runtime.experts.plot`` that draws.

    Raises:
        BackendUnavailable: Matplotlib is missing.
        InvalidInput: The file cannot be drawn to.
    """
    if file is None:
        return lambda shown: None
    try:
        plots, writing = import_module("runtime.experts.plot"), import_module("runtime.bench.plot")
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "matplotlib":
            raise
        raise BackendUnavailable(
            f"{option} needs matplotlib; pip install 'twinport[plot]'"
        ) from error
    writing.check_plot_file(file)
    return lambda shown: writing.write_plot(file, getattr(plots, figure)(shown))

"""A picture of the autograd graph behind an output, drawn by torchviz and Graphviz."""

from __future__ import annotations

import shutil
import subprocess
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from torch import Tensor

from exporter.look.files import whole_file
from runtime.errors import BackendUnavailable, ExportError, InvalidInput

if TYPE_CHECKING:
    from graphviz import Digraph

FORMATS = ("png", "svg", "pdf")


def require_graphviz() -> None:
    """Make sure that pictures can be drawn.

    Raises:
        BackendUnavailable: Graphviz' program ``dot`` is not on the path.
    """
    if shutil.which("dot") is None:
        raise BackendUnavailable(
            "Graphviz is missing: the program 'dot', which draws the autograd graph, is not on "
            "the path; apt-get install graphviz"
        )


def save_autograd_graph(
    output: Tensor, params: Mapping[str, Tensor], path_without_suffix: Path, fmt: str = "png"
) -> Path:
    """Draw which operations and parameters an output came from.

    Args:
        output: With its autograd graph, so from a forward pass outside ``no_grad``.
        params: The names to write at the leaves (``dict(module.named_parameters())``).
        path_without_suffix: Where the picture goes; the format is its suffix.
        fmt: One of ``FORMATS``.

    Returns:
        The file that was written.

    Raises:
        BackendUnavailable: Graphviz is not installed.
        InvalidInput: The format is not known, or the output has no graph.
        ExportError: Graphviz could not draw it, or the file cannot be written.
    """
    if fmt not in FORMATS:
        raise InvalidInput(f"the format '{fmt}' is not known; use one of {', '.join(FORMATS)}")
    require_graphviz()
    drawing = dot_from_outputs((output,), params)
    path = Path(f"{path_without_suffix}.{fmt}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ExportError(f"the autograd graph cannot be drawn to '{path}': {error}") from error
    save_dot(drawing, path)
    return path


def dot_from_outputs(outputs: tuple[Tensor, ...], names: Mapping[str, Tensor]) -> Digraph:
    """Torchviz' drawing of what is behind some outputs.

    Args:
        outputs: At least one of them with its autograd graph.
        names: To write at leaves and outputs.

    Raises:
        InvalidInput: No output has a graph.
        ExportError: The graph is deeper than torchviz can follow.
    """
    if all(output.grad_fn is None for output in outputs):
        raise InvalidInput(
            "the output has no autograd graph; run the module outside no_grad, with parameters "
            "that require a gradient"
        )
    with warnings.catch_warnings():
        # torchviz still compares versions with distutils.
        warnings.simplefilter("ignore", DeprecationWarning)
        from torchviz import make_dot

        try:
            drawing: Digraph = make_dot(outputs, params=dict(names))
        except RecursionError as error:
            raise ExportError(
                "the autograd graph is deeper than torchviz can follow; "
                "draw a module with fewer steps"
            ) from error
    return drawing


def save_dot(drawing: Digraph, path: Path) -> None:
    """Have Graphviz draw it, in the format that the suffix names.

    Raises:
        BackendUnavailable: Graphviz is not installed.
        ExportError: Graphviz could not draw it, or the file cannot be written.
    """
    require_graphviz()
    try:
        picture = drawing.pipe(format=path.suffix[1:].lower(), quiet=True)
    except (subprocess.CalledProcessError, OSError) as error:
        raise ExportError(f"the autograd graph cannot be drawn to '{path}': {error}") from error
    with whole_file(path) as draft:
        draft.write_bytes(picture)

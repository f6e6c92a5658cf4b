"""The autograd graph of a whole module on its example, and what receives no gradient in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from graphviz import Digraph
from torch import Tensor, nn

from exporter.graph import example_inputs
from exporter.look.autograd import FORMATS, dot_from_outputs, require_graphviz, save_dot
from exporter.look.files import check_picture
from exporter.outputs import named_outputs
from exporter.source import Source
from runtime.errors import ExportError

FROZEN, UNREACHED, INPUT = "frozen", "not reached", "input"
COLOURS = {FROZEN: "gold", UNREACHED: "salmon", INPUT: "white"}
MEANINGS = {
    FROZEN: "requires_grad is False: no gradient",
    UNREACHED: "parameter that no output depends on: no gradient",
    INPUT: "input: no gradient",
}
NO_GRADIENT_PASSES = {"style": "dashed", "fontcolor": "gray45", "color": "gray45"}


@dataclass(frozen=True)
class Leaves:
    """One forward pass, and the tensors that it began with.

    Attributes:
        outputs: By name.
        tensors: Parameters by their names in the module, inputs as ``input NAME``.
        marks: The key of ``COLOURS`` for every leaf that receives no gradient.
        functions: What backward would run, were there a gradient for every leaf; a function
            comes after those that it hands its results to.
        reached: ``id`` of the leaves that the functions end at.
    """

    outputs: dict[str, Tensor]
    tensors: dict[str, Tensor]
    marks: dict[str, str]
    functions: tuple[Any, ...]
    reached: frozenset[int]


def draw_gradients(source: Source, picture: Path) -> dict[str, str]:
    """Draw the autograd graph from all outputs back to all parameters and inputs.

    What is frozen and what is an input stands in its place in the graph, marked, as do the
    functions that no gradient passes through; what no output depends on stands beside it.

    Args:
        source: A module; it is run once on its example.
        picture: What to write; the format is its suffix, one of ``FORMATS``.

    Returns:
        The leaves that receive no gradient, each with its mark.

    Raises:
        InvalidInput: The picture has another suffix, or the outputs have no graph.
        BackendUnavailable: Graphviz is not installed.
        ExportError: The module fails on the example, or the picture cannot be written.
    """
    check_picture(picture, tuple(f".{fmt}" for fmt in FORMATS))
    require_graphviz()
    leaves = leaves_of(source)
    outputs = {f"output {name}": output for name, output in leaves.outputs.items()}
    drawing = dot_from_outputs(tuple(outputs.values()), {**leaves.tensors, **outputs})
    _mark(drawing, leaves)
    save_dot(drawing, picture)
    return leaves.marks


def leaves_of(source: Source) -> Leaves:
    """Run the module once on its example and see what its outputs depend on.

    Raises:
        ExportError: The module fails on the example.
    """
    inputs = example_inputs(source)
    tensors = _named_parameters(source.module)
    frozen = {name for name, tensor in tensors.items() if not tensor.requires_grad}
    tensors |= {f"input {name}": tensor for name, tensor in inputs.items()}
    outputs, asked = _forward(source.module, inputs)
    if len(source.output_names) == len(outputs):
        outputs = dict(zip(source.output_names, outputs.values(), strict=True))
    functions = tuple(_functions(outputs.values()))
    reached = frozenset(id(fn.variable) for fn in functions if hasattr(fn, "variable"))
    marks = {}
    for name, tensor in tensors.items():
        if name.startswith("input "):
            marks[name] = INPUT
        elif id(tensor) not in reached and (id(tensor) in asked or name not in frozen):
            marks[name] = UNREACHED
        elif name in frozen:
            marks[name] = FROZEN
    return Leaves(outputs, tensors, marks, functions, reached)


def _named_parameters(module: nn.Module) -> dict[str, Tensor]:
    """One entry a parameter; one with several names has all of them."""
    names: dict[int, list[str]] = {}
    parameters: dict[int, Tensor] = {}
    for name, parameter in module.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
        parameters[id(parameter)] = parameter
    return {" = ".join(names[key]): parameter for key, parameter in parameters.items()}


def _forward(
    module: nn.Module, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, Tensor], frozenset[int]]:
    """Outputs, and the ``id`` of the leaves that were asked for a gradient.

    As many as possible, so that they have their place in the graph; a module that changes
    its input or a frozen parameter in place runs only where those are not among them.
    """
    parameters: list[Tensor] = [item for item in module.parameters() if _differentiable(item)]
    wanted = [item for item in inputs.values() if _differentiable(item)]
    trained = [item for item in parameters if item.requires_grad]
    problem: Exception | None = None
    for leaves in ([*parameters, *wanted], parameters, trained):
        try:
            with torch.enable_grad(), _requiring_gradients(leaves):
                given = module(**inputs)
        except Exception as error:  # the user's code may raise anything
            problem = error
        else:
            return named_outputs(given), frozenset(map(id, leaves))
    first = (str(problem).strip().splitlines() or [""])[0]
    raise ExportError(f"the module fails on an example: {first}; check --input") from problem


def _differentiable(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


@contextmanager
def _requiring_gradients(leaves: list[Tensor]) -> Iterator[None]:
    before = [leaf.requires_grad for leaf in leaves]
    try:
        for leaf in leaves:
            leaf.requires_grad_(True)
        yield
    finally:
        for leaf, required in zip(leaves, before, strict=True):
            leaf.requires_grad_(required)


def _functions(outputs: Iterable[Tensor]) -> Iterator[Any]:
    """Those behind the outputs; each after the ones that it hands its results to."""
    waiting = [(output.grad_fn, False) for output in outputs if output.grad_fn is not None]
    seen: set[Any] = set()
    while waiting:
        function, done = waiting.pop()
        if done:
            yield function
        elif function not in seen:
            seen.add(function)
            waiting.append((function, True))
            waiting += [(fn, False) for fn, _ in function.next_functions if fn is not None]


def _mark(drawing: Digraph, leaves: Leaves) -> None:
    """Torchviz names its nodes by ``id``; what is said of one again comes on top."""
    beside = Digraph("cluster_beside", graph_attr={"label": "not in the graph", "style": "dotted"})
    for name, mark in leaves.marks.items():
        tensor = leaves.tensors[name]
        where = drawing if id(tensor) in leaves.reached else beside
        label = f"{name}\n ({', '.join(map(str, tensor.shape))})\n{mark}"  # torchviz' form
        where.node(str(id(tensor)), label, fillcolor=COLOURS[mark])
    marked = {id(leaves.tensors[name]) for name in leaves.marks}
    passes: dict[Any, bool] = {}
    for function in leaves.functions:
        if hasattr(function, "variable"):
            passes[function] = id(function.variable) not in marked
        else:
            given = (fn for fn, _ in function.next_functions if fn is not None)
            passes[function] = any(passes[fn] for fn in given)
        if not passes[function]:
            drawing.node(str(id(function)), _attributes=NO_GRADIENT_PASSES)
    if beside.body:
        drawing.subgraph(beside)
    drawing.subgraph(_legend(leaves, all(passes.values())))


def _legend(leaves: Leaves, all_pass: bool) -> Digraph:
    """Only what occurs."""
    entries = [("parameter that receives a gradient", {"fillcolor": "lightblue"})]
    for mark, colour in COLOURS.items():
        if mark in leaves.marks.values():
            entries.append((MEANINGS[mark], {"fillcolor": colour}))
    if not all_pass:
        entries.append(("no gradient passes here", NO_GRADIENT_PASSES))
    entries.append(("output", {"fillcolor": "darkolivegreen1"}))
    legend = Digraph("cluster_legend", graph_attr={"label": "legend", "style": "dotted"})
    for number, (text, look) in enumerate(entries):
        legend.node(f"legend {number}", text, _attributes=look)
        if number:  # one below the other
            legend.edge(f"legend {number - 1}", f"legend {number}", style="invis")
    return legend

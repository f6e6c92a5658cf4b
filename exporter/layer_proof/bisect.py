"""A fault that only the fused graph has: cut the graph, build the piece, compare its end.

To read an inner value it must be an output, and a value that is an output cannot be fused
away. So no inner value is read here: pieces that end at a value are built as a whole, and
their end is compared with the same value of the graph that nothing was done to. The shortest
piece from the inputs that is wrong gives the end, the shortest of those with that end the
beginning; both are found by halving.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import onnx

from exporter.layer_proof.compare import Sample
from exporter.layer_proof.inner import Open, opened, with_outputs
from exporter.layer_proof.owners import OwnedGraph
from exporter.layer_proof.records import Fused
from runtime.error_pool import ErrorPool, Scale
from runtime.errors import TwinportError
from runtime.proof import judge
from runtime.proof_records import Judgement
from runtime.tensors import Array


@dataclass(frozen=True)
class Probe:
    """Where and with what is cut.

    Attributes:
        model: The artifact.
        cuts: Values at which it may be cut.
        samples: Inputs of the whole graph.
        yardsticks: By value, how far float32 may be from the truth there.
    """

    model: onnx.ModelProto
    graph: OwnedGraph
    cuts: Sequence[str]
    samples: Sequence[Sample]
    yardsticks: Mapping[str, Scale]

    def places(self) -> list[str]:
        """The float values among the cuts, in graph order, each once."""
        there = (name for name in dict.fromkeys(self.cuts) if name in self.yardsticks)
        return sorted(there, key=self.graph.position)


@dataclass
class _Pieces:
    """Builds pieces and judges their ends.

    Attributes:
        values: What the graph that nothing was done to gives, by sample.
        built: Pieces so far.
        refused: Why pieces could not be built, by their end.
    """

    probe: Probe
    build: Open
    values: Sequence[Mapping[str, Array]]
    built: int = 0
    refused: dict[str, str] = field(default_factory=dict)

    def judged(self, starts: Sequence[str], end: str) -> Judgement | None:
        """The end of a piece against the plain value; none where the piece cannot be built."""
        self.built += 1
        pool = ErrorPool(rows=False)
        try:
            piece = cut_out(self.probe.graph, self.probe.model, starts, end, self.values[0])
            with opened(piece, self.build) as infer:
                for values in self.values:
                    given = infer({item.name: values[item.name] for item in piece.graph.input})
                    plain = values[end].astype(np.float64)
                    pool.add(given[end], plain, values[end])
        except TwinportError as error:
            self.refused[end] = str(error)
            return None
        return judge(pool, end, "piece", extreme=False, scale=self.probe.yardsticks[end])

    def wrong(self, starts: Sequence[str], end: str) -> bool:
        """Whether a piece is shown to be wrong."""
        judged = self.judged(starts, end)
        return judged is not None and judged.verdict != "passed"


def find_fused(
    probe: Probe,
    build: Open,
    plain: Open,
    modules_of: Callable[[Iterable[int]], tuple[str, ...]],
) -> Fused | None:
    """The smallest piece that is wrong when it is built as one.

    Args:
        probe: The graph and its cuts; the last one is an output that is wrong.
        build: Builds a piece as the artifact is built, and loads it.
        plain: Builds the graph with nothing done to it, so that inner values can be read.
        modules_of: Modules that nodes are in.

    Returns:
        The piece; none where no piece is wrong.
    """
    places = probe.places()
    if not places or not probe.samples:
        return None
    with opened(with_outputs(probe.model, places), plain) as infer:
        values = [{**sample.inputs, **infer(sample.inputs)} for sample in probe.samples]
    pieces, inputs = _Pieces(probe, build, values), probe.graph.inputs

    def wrong(before: int, end: int) -> bool:
        """Of the piece from the first ``before`` places to one of the places."""
        return pieces.wrong([*inputs, *places[:before]], places[end])

    ends = [i for i, name in enumerate(places) if name in probe.graph.outputs]
    last = next((i for i in ends if wrong(0, i)), None)
    if last is None:
        return None
    end = _first(0, last, lambda i: wrong(0, i))
    # The later a piece begins, the smaller it is.
    begin = _first(1, end + 1, lambda before: not wrong(before, end)) - 1
    return _found(pieces, [*inputs, *places[:begin]], places[end], modules_of)


def _found(
    pieces: _Pieces,
    starts: Sequence[str],
    end: str,
    modules_of: Callable[[Iterable[int]], tuple[str, ...]],
) -> Fused:
    graph = pieces.probe.graph
    nodes = graph.between(end, starts)
    judged = pieces.judged(starts, end)
    read = graph.read_by(nodes)
    return Fused(
        start=tuple(name for name in starts if name in read),
        end=end,
        modules=modules_of(nodes),
        nodes=tuple(graph.nodes[i].name or f"#{i}" for i in nodes),
        operators=tuple(graph.nodes[i].op_type for i in nodes),
        rms_factor=judged.rms_factor if judged else None,
        reason=judged.reason if judged else "",
        built=pieces.built,
    )


def _first(low: int, high: int, holds: Callable[[int], bool]) -> int:
    """The least number from ``low`` on that holds, where ``high`` is known to."""
    while low < high:
        middle = (low + high) // 2
        if holds(middle):
            high = middle
        else:
            low = middle + 1
    return high


def cut_out(
    graph: OwnedGraph,
    model: onnx.ModelProto,
    starts: Collection[str],
    end: str,
    arrays: Mapping[str, Array],
) -> onnx.ModelProto:
    """The part of a graph between ``starts`` and ``end``, as a model of its own.

    Args:
        graph: Of the whole.
        model: The whole.
        starts: Values that it may begin with; those that it does not need are left out.
        end: Its one output.
        arrays: An example of each value, for its type.
    """
    nodes = graph.made_of(end, starts)
    read = graph.read_by(nodes)
    piece = onnx.ModelProto(ir_version=model.ir_version, producer_name=model.producer_name)
    piece.opset_import.extend(model.opset_import)
    piece.functions.extend(model.functions)
    piece.graph.name = f"{model.graph.name} to {end}"
    piece.graph.node.extend(graph.nodes[i] for i in nodes)
    piece.graph.initializer.extend(w for w in model.graph.initializer if w.name in read)
    whole = {item.name: item for item in model.graph.input}
    for name in (name for name in dict.fromkeys(starts) if name in read):
        piece.graph.input.append(whole.get(name) or _described(name, arrays[name]))
    piece.graph.output.append(onnx.ValueInfoProto(name=end))
    return piece


def _described(name: str, array: Array) -> onnx.ValueInfoProto:
    kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
    return onnx.helper.make_tensor_value_info(name, kind, [None] * array.ndim)

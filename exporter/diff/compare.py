"""Compare two artifacts; what one of them cannot show is said and left out."""

from __future__ import annotations

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

from exporter.diff.graphs import node_changes, operator_changes, shape_changes, weight_changes
from exporter.diff.record import Difference, Fact
from exporter.diff.runs import inputs_for, measured_speed, output_numbers
from exporter.diff.side import Side, side_from_path
from runtime.errors import TwinportError
from runtime.manifest import Manifest


def compare(first: Path, second: Path, *, speed: bool = True) -> Difference:
    """Compare what lies at two paths.

    Args:
        first: An ``.onnx`` file, a version's folder, or ``REPOSITORY/NAME``.
        second: The same.
        speed: Whether both are timed.

    Raises:
        TwinportError: One of the paths holds nothing that can be compared.
    """
    a, b = side_from_path(first), side_from_path(second)
    parts: dict[str, Any] = {"facts": _facts(a, b)}
    left_out: list[str] = []
    if a.model and b.model and a.graph and b.graph:
        parts |= {
            "operators": operator_changes(a.model, b.model),
            "nodes": node_changes(a.graph, b.graph),
            "shapes": shape_changes(a.model, b.model),
            "weights": weight_changes((a.model, a.graph), (b.model, b.graph)),
        }
    else:
        engine = a if a.model is None else b
        parts["shapes"] = _manifest_shapes(a, b)
        left_out.append(f"nodes and weights: {engine.name} is an engine, which shows none")
    try:
        parts |= _run(a, b, speed=speed)
    except TwinportError as error:
        left_out.append(f"numbers and speed: {error}")
    same = a.file.read_bytes() == b.file.read_bytes()
    return Difference(a.name, b.name, same, left_out=tuple(left_out), **parts)


def _run(a: Side, b: Side, *, speed: bool) -> dict[str, Any]:
    with ExitStack() as stack:
        one, other = (stack.enter_context(closing(side.open())) for side in (a, b))
        calls, shown = inputs_for(a, b, one)
        numbers = output_numbers(one, other, calls, _classes(a, b))
        timed = measured_speed(one, other, calls[0]) if speed else None
        return {"numbers": numbers, "inputs": shown, "speed": timed}


def _facts(a: Side, b: Side) -> tuple[Fact, ...]:
    """What the files and manifests say of both that is not the same."""
    one, other = _facts_of(a), _facts_of(b)
    return tuple(
        Fact(what, said, other[what]) for what, said in one.items()
        if other.get(what, said) != said
    )  # fmt: skip


def _facts_of(side: Side) -> dict[str, str]:
    facts = {"bytes": f"{_bytes(side):,}"}
    if side.model is not None:
        versions = {item.domain: item.version for item in side.model.opset_import}
        facts["opset"] = str(versions.get("", "-"))
    if side.manifest is not None:
        facts |= _facts_of_manifest(side.manifest)
    return facts


def _bytes(side: Side) -> int:
    beside = side.manifest.artifact.data if side.manifest else ()
    return side.file.stat().st_size + sum(item.bytes for item in beside)


def _classes(a: Side, b: Side) -> set[int] | None:
    """How many classes the manifests name; none where there is no manifest to ask."""
    manifests = [side.manifest for side in (a, b) if side.manifest is not None]
    return {len(item.labels) for item in manifests if item.labels} if manifests else None


def _facts_of_manifest(manifest: Manifest) -> dict[str, str]:
    source, artifact, proof = manifest.source, manifest.artifact, manifest.proof
    return {
        "source": source.factory,
        "class": source.module_class,
        "parameters": f"{source.parameters:,}",
        "checkpoint": (source.checkpoint_sha256 or "-")[:12],
        "state": (source.state_sha256 or "-")[:12],
        "format": artifact.format,
        "precision": artifact.precision,
        "max_batch_size": str(manifest.max_batch_size),
        "proof": proof.verdict if proof else "-",
        **{f"made with {name}": version for name, version in artifact.producers.items()},
    }


def _manifest_shapes(a: Side, b: Side) -> tuple[Fact, ...]:
    """Inputs and outputs as the manifests have them, for engines."""
    sides = [_ends(side) for side in (a, b)]
    return tuple(
        Fact(what, sides[0].get(what, "not there"), sides[1].get(what, "not there"))
        for what in dict.fromkeys((*sides[0], *sides[1]))
        if sides[0].get(what) != sides[1].get(what)
    )


def _ends(side: Side) -> dict[str, str]:
    if side.manifest is not None:
        pairs = (("input", side.manifest.inputs), ("output", side.manifest.outputs))
        return {f"{kind} {spec.name}": str(spec) for kind, specs in pairs for spec in specs}
    with closing(side.open()) as backend:
        ends = (("input", backend.inputs), ("output", backend.outputs))
        return {f"{kind} {name}": str(spec) for kind, specs in ends for name, spec in specs.items()}

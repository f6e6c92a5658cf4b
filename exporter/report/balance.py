"""How the tokens of the evidence fell on the experts of each layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.report.here import Here
from runtime.golden import Case, Golden
from runtime.manifest import LOAD_OUTPUT, Manifest
from runtime.tensors import Array


@dataclass(frozen=True)
class LayerBalance:
    """One layer of experts.

    Attributes:
        busiest: Tokens of its busiest expert over the mean of all; 1 is even.
        least: Share of the layer's tokens that the least used expert got.
        unused: Experts without a token.
    """

    layer: str
    tokens: int
    busiest: float
    least: float
    unused: int


@dataclass(frozen=True)
class KindLoad:
    """The load on one kind of inputs.

    Attributes:
        tokens: ``[layers, experts]``.
        counted_by: ``truth`` or ``artifact``.
        layers: Each with its balance.
    """

    kind: str
    samples: int
    tokens: Array
    counted_by: str
    layers: tuple[LayerBalance, ...]


def expert_loads(golden: Golden, manifests: Sequence[Manifest], here: Here) -> tuple[KindLoad, ...]:
    """Sum ``expert_load`` over the ordinary inputs, kind by kind; empty without experts.

    The truth counts where it was kept whole, else the artifact where it ran.

    Args:
        golden: The evidence.
        manifests: Of the version, and of the one it was built from: who names the layers.
        here: The artifact on this machine.
    """
    pairs = [(index, case) for index, case in enumerate(golden.cases) if not case.extreme]
    kinds = dict.fromkeys(case.kind for _, case in pairs)
    loads: list[KindLoad] = []
    for kind in kinds:
        of_kind = [(index, case) for index, case in pairs if case.kind == kind]
        counted = [(case, *_count(index, case, here)) for index, case in of_kind]
        known = [(case, tokens, by) for case, tokens, by in counted if tokens is not None]
        if known and len(known) == len(of_kind):
            tokens = np.sum([tokens for _, tokens, _ in known], axis=0)
            samples = sum(case.rows() if golden.batchable else 1 for case, _, _ in known)
            by = known[0][2]
            loads.append(KindLoad(kind, samples, tokens, by, _balances(tokens, manifests)))
    return tuple(loads)


def _count(index: int, case: Case, here: Here) -> tuple[Array | None, str]:
    """``[layers, experts]`` tokens of one call, and who counted them."""
    kept = case.truth.get(LOAD_OUTPUT)
    if kept is None:
        return None, ""
    if kept.positions_seed is None and kept.values.ndim == 3:
        return kept.values.sum(0), "truth"
    answer = here.answers[index].get(LOAD_OUTPUT) if here.answers else None
    if answer is None or answer.ndim != 3:
        return None, ""
    return answer.sum(0), "artifact"


def _balances(tokens: Array, manifests: Sequence[Manifest]) -> tuple[LayerBalance, ...]:
    names = _layer_names(manifests, len(tokens))
    return tuple(_balance(name, row) for name, row in zip(names, tokens, strict=True))


def _balance(name: str, row: Array) -> LayerBalance:
    total = int(row.sum())
    mean = total / len(row) if len(row) else 0.0
    return LayerBalance(
        layer=name,
        tokens=total,
        busiest=float(row.max() / mean) if mean else 0.0,
        least=float(row.min() / total) if total else 0.0,
        unused=int((row == 0).sum()),
    )


def _layer_names(manifests: Sequence[Manifest], count: int) -> tuple[str, ...]:
    """Paths of the layers as a routing check has them; numbers where none does."""
    for proof in (proof for manifest in manifests for proof in manifest.proofs):
        if proof.routing is not None and len(proof.routing.layers) == count:
            return proof.routing.layers
    return tuple(f"layer {index}" for index in range(count))

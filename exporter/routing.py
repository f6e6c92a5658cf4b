"""The part of a proof that is about experts: who was reached, and how clearly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from exporter.experts.reach import Search, search_inputs, unreached_targets
from exporter.experts.spec import ExpertLayers
from exporter.samples import Plan, Sample
from exporter.trio import Answered
from runtime.manifest import LOAD_OUTPUT
from runtime.proof_records import RoutingCheck
from runtime.tensors import Array

ILL_CONDITIONED = 0.01
"""Share of unstable samples of an ordinary kind from which on the proof warns."""


@dataclass
class ExpertCoverage:
    """Which experts the samples so far reached, and the search for the rest."""

    experts: ExpertLayers
    search: Search

    def search_for_rest(
        self, plan: Plan, answered: Sequence[Answered], until: float
    ) -> Sequence[Sample]:
        """Samples that reach what none of ``answered`` did."""
        targets = unreached_targets(self._load(answered))
        if targets:
            self.search = search_inputs(plan.source.module, self.experts, plan, targets, until)
        return self.search.samples

    def check(self, answered: Sequence[Answered]) -> RoutingCheck:
        """The record for the manifest."""
        ordinary = [item for item in answered if not item.sample.extreme]
        load = self._load(answered)
        stable = [item.stable for item in ordinary if item.stable is not None]
        flags = np.concatenate(stable) if stable else np.zeros(0, dtype=bool)
        missing = unreached_targets(load)
        paths = tuple(layer.path for layer in self.experts.layers)
        return RoutingCheck(
            layers=paths,
            experts=self.experts.layers[0].spec.experts,
            samples=len(flags),
            unstable=int((~flags).sum()),
            reached=load.size - len(missing),
            unreached=tuple((paths[layer], expert) for layer, expert in missing),
            search_steps=self.search.steps,
        )

    def _load(self, answered: Sequence[Answered]) -> Array:
        """``[layers, experts]`` tokens of the ordinary samples whose routing is stable."""
        shape = len(self.experts.layers), self.experts.layers[0].spec.experts
        total = np.zeros(shape, dtype=np.int64)
        for item in answered:
            if not item.sample.extreme and item.stable is not None:
                total += item.truth[LOAD_OUTPUT][item.stable].sum(0)
        return total


def routing_warnings(check: RoutingCheck | None, answered: Sequence[Answered]) -> tuple[str, ...]:
    """What is not wrong with the artifact and yet worth knowing."""
    if check is None:
        return ()
    lines: list[str] = []
    for kind in dict.fromkeys(i.sample.kind for i in answered if not i.sample.extreme):
        flags = [i.stable for i in answered if i.sample.kind == kind and i.stable is not None]
        unstable = int(sum((~flag).sum() for flag in flags))
        samples = sum(len(flag) for flag in flags)
        if unstable > ILL_CONDITIONED * samples:
            lines.append(
                f"routing is ill-conditioned: {unstable} of {samples} {kind} samples have a "
                "near tie in their choice of experts"
            )
    if check.unreached:
        shown = ", ".join(f"{layer or 'the layer'}/{expert}" for layer, expert in check.unreached)
        lines.append(
            f"no sample reached {len(check.unreached)} experts in {check.search_steps} steps "
            f"of search: {shown}"
        )
    return tuple(lines)

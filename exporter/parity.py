"""The proof: an artifact against its module in float64, judged by ``runtime.proof``."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from exporter.evidence import evidence_from_samples
from exporter.experts.reach import Search
from exporter.joined import Joined, check_joined
from exporter.labels import check_labels
from exporter.ranges import range_of
from exporter.real import RealData
from exporter.routing import ExpertCoverage, routing_warnings
from exporter.samples import (
    LARGEST_BATCH,
    POOLED_SAMPLES,
    Plan,
    Sample,
    real_samples,
    shared_batch_axis,
)
from exporter.source import Source
from exporter.trio import Answered, Pools, Trio
from runtime.backends.base import Backend
from runtime.golden import Golden, replay
from runtime.precision import FULL, Rule, rule_of
from runtime.proof import first_failure, judge, uncovered
from runtime.proof_records import Judgement, LabelCheck, Proof
from runtime.tensors import TensorSpec

LEAST_BUDGET_S = 5.0


@dataclass(frozen=True)
class ProofOptions:
    """How a proof is made and what it may lean on.

    Attributes:
        seed: Of all drawn inputs.
        budget_s: Seconds after which no more samples are begun; each size is met first.
        allow_constant: Outputs that may be the same for every input.
        allow_degraded_truth: Whether a truth below float64 may pass.
        precision: Of the artifact; its rule is in ``runtime.precision``.
        as_export: Whether the proof may take no longer than loading and exporting did, if that
            is from ``LEAST_BUDGET_S`` to ``budget_s``.
    """

    seed: int = 0
    budget_s: float = 20.0
    allow_constant: frozenset[str] = frozenset()
    allow_degraded_truth: bool = False
    precision: str = FULL
    as_export: bool = False

    def after_export(self, seconds: float) -> ProofOptions:
        """The same, with the budget that an export of so many seconds leaves."""
        if not self.as_export:
            return self
        budget_s = min(self.budget_s, max(LEAST_BUDGET_S, round(seconds, 1)))
        return replace(self, budget_s=budget_s, as_export=False)

    @property
    def rule(self) -> Rule:
        """What the artifact is judged by."""
        return rule_of(self.precision)


@dataclass(frozen=True)
class Proved:
    """A proof and the evidence for whoever wants to run it again."""

    proof: Proof
    golden: Golden


@dataclass
class _Run:
    """What has been run so far."""

    pools: Pools
    answered: list[Answered] = field(default_factory=list)
    cut: bool = False

    def take(self, trio: Trio, samples: Iterable[Sample], first: int, until: float) -> None:
        """Run samples until the time is over; the first ones in any case."""
        for turn, sample in enumerate(samples):
            if turn >= first and time.monotonic() > until:
                self.cut = True
                return
            answered = trio.run(sample, rows=self.pools.rows, until=until)
            self.cut = self.cut or answered.sample is not sample
            self.pools.add(answered)
            self.answered.append(answered)


def prove(
    source: Source,
    outputs: Sequence[TensorSpec],
    backend: Backend,
    real: RealData | None = None,
    options: ProofOptions | None = None,
) -> Proved:
    """Compare an artifact with its module.

    Args:
        source: The module, in eval mode.
        outputs: The artifact's outputs, in the module's order.
        backend: The artifact, loaded.
        real: Real inputs, where there are any.
        options: Seed, budget and waivers.

    Raises:
        ExportError: The module or the artifact cannot take the inputs described.
    """
    options = options or ProofOptions()
    started = time.monotonic()
    until = started + options.budget_s
    axis = shared_batch_axis(tuple(source.inputs))
    rows = axis is not None and shared_batch_axis((*source.inputs, *outputs)) == axis
    plan = Plan(source, axis, rows, options.seed)
    trio = Trio(source, [spec.name for spec in outputs], backend, options.rule.routing_margin)
    trio.check_repeats(next(plan.random()))
    joined = _joined(trio, plan, options.rule)
    plan = replace(plan, rows=joined.batchable)
    run = _Run(Pools(joined.batchable))
    if real is not None:
        run.take(trio, real_samples(real.inputs, plan), len(plan.batch_sizes()), until)
    run.take(trio, plan.extremes(), 3, until)
    run.take(trio, plan.random(), plan.first_round(), until)
    coverage = ExpertCoverage(source.experts, Search()) if source.experts else None
    if coverage is not None:
        run.take(trio, coverage.search_for_rest(plan, run.answered, until), 0, until)
    routing = coverage.check(run.answered) if coverage else None
    judgements = _judged(run.pools, options)
    labels = _labels(trio, run.pools, plan, real, options.rule)
    golden = evidence_from_samples(run.answered, run.pools, joined.batchable)
    replayed = replay(
        golden, backend.infer, max_batch_size=max(plan.batch_sizes()), precision=options.precision
    )
    reason = _reason(source, judgements, trio.lowered, labels, replayed, options)
    identity = backend.identity
    proof = Proof(
        verdict="failed" if reason else "passed",
        backend=identity.backend,
        provider=identity.provider,
        device=identity.device,
        library=identity.library,
        truth="degraded" if trio.lowered else "float64",
        truth_operators=trio.lowered,
        batchable=joined.batchable,
        batchable_reason=joined.reason,
        batch_sizes=plan.batch_sizes() if axis else (),
        axis_sizes=plan.axis_sizes(),
        seed=options.seed,
        seconds=round(time.monotonic() - started, 3),
        cut_by_budget=run.cut,
        judgements=judgements,
        labels=labels,
        routing=routing,
        warnings=(
            *_warnings(run, plan, options),
            *routing_warnings(routing, run.answered),
        ),
        allowed=_waivers_used(run.pools, trio.lowered, options),
        reason=reason,
    )
    return Proved(proof, golden)


def _joined(trio: Trio, plan: Plan, rule: Rule) -> Joined:
    if plan.batch_axis is None or not plan.rows:
        return Joined(False, "not every input and output has the same free axis first")
    several = [sample for sample in plan.first_samples() if sample.axes[plan.batch_axis] > 1]
    return check_joined(trio, several, plan.batch_axis, rule)


def _judged(pools: Pools, options: ProofOptions) -> tuple[Judgement, ...]:
    """A judgement for each output and kind, the ordinary kinds first."""
    judgements = []
    for (output, kind), pool in pools.pools.items():
        # A single real call has nothing to differ from; the random kind answers for it.
        alone = kind == "real" and not pool.compared
        waived = alone or output in options.allow_constant
        extreme = pools.extremes[kind]
        judgements.append(
            judge(pool, output, kind, extreme=extreme, may_be_constant=waived, rule=options.rule)
        )
    return tuple(sorted(judgements, key=lambda item: item.extreme))


def _labels(
    trio: Trio, pools: Pools, plan: Plan, real: RealData | None, rule: Rule
) -> LabelCheck | None:
    if real is None or real.label_output is None:
        return None
    scale = pools.pools[real.label_output, "real"].scale()
    free = plan.batch_axis is not None
    batch = min(LARGEST_BATCH, max(plan.batch_sizes())) if free else None
    return check_labels(trio, real, scale, batch, rule)


def _reason(
    source: Source,
    judgements: Sequence[Judgement],
    lowered: Sequence[str],
    labels: LabelCheck | None,
    replayed: Sequence[Judgement],
    options: ProofOptions,
) -> str:
    """Why the proof fails; empty where it does not."""
    if failure := first_failure(judgements):
        return failure + _hint(failure, source)
    if options.rule.snr_db is not None and (
        missing := uncovered({item.output: None for item in judgements}, judgements, options.rule)
    ):
        return missing
    if lowered and not options.allow_degraded_truth:
        return (
            f"the truth is degraded: {lowered[0]} computes below float64 "
            "(--allow-degraded-truth accepts it)"
        )
    if labels is not None and labels.verdict == "failed":
        return (
            f"{labels.wrong} of {labels.samples} labels of {labels.dataset} differ from the truth's"
        )
    if failure := first_failure(replayed):
        return f"the evidence does not hold when it is replayed: {failure}"
    return ""


def _hint(failure: str, source: Source) -> str:
    """The option that helps, where one may."""
    if " vacuous:" in failure:
        return " (--allow-constant accepts it)"
    if "on random inputs" not in failure or not failure.endswith("values are NaN"):
        return ""
    free = [spec for spec in source.inputs if spec.name not in source.values]
    masks = [spec.name for spec in free if spec.dtype == "bool"]
    if masks:  # a row of attention that is masked as a whole
        return f" (--values {masks[0]}=0:1 draws False only, should all True have no meaning)"
    floats = [spec.name for spec in free if spec.dtype.startswith("float")]
    if floats:
        return f" (--values {floats[0]}=LOW:HIGH draws the input where the module is defined)"
    return ""


def _warnings(run: _Run, plan: Plan, options: ProofOptions) -> tuple[str, ...]:
    return (*_cut_warnings(run, options), *_batch_warnings(plan))


def _batch_warnings(plan: Plan) -> tuple[str, ...]:
    if plan.batch_axis is None or not plan.rows:
        return ()
    proved, served = max(plan.batch_sizes()), range_of(plan.batch_axis, plan.source.ranges)[1]
    if proved == served:
        return ()
    return (f"batches were proved up to {proved}; the model is served up to {served}",)


def _cut_warnings(run: _Run, options: ProofOptions) -> tuple[str, ...]:
    if not run.cut:
        return ()
    kinds = [kind for kind, extreme in run.pools.extremes.items() if not extreme]
    counts = ", ".join(f"{run.pools.samples(kind)} {kind}" for kind in kinds)
    return (
        f"the budget of {options.budget_s:g} s cut the proof: {counts} samples, "
        f"wanted {POOLED_SAMPLES} each; --proof-budget gives it more",
    )


def _waivers_used(pools: Pools, lowered: Sequence[str], options: ProofOptions) -> tuple[str, ...]:
    """The waivers without which the verdict would be another."""
    constant = {
        output
        for (output, kind), pool in pools.pools.items()
        if output in options.allow_constant and not pools.extremes[kind] and not pool.varies()
    }
    waivers = tuple(f"--allow-constant {output}" for output in sorted(constant))
    degraded = bool(lowered) and options.allow_degraded_truth
    return (*waivers, "--allow-degraded-truth") if degraded else waivers

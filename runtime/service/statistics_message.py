"""What a version counted, as the message of ``ModelStatistics``."""

from __future__ import annotations

from protos import (
    InferBatchStatistics,
    InferStatistics,
    ModelStatistics,
    StatisticDuration,
)
from runtime.model import Model
from runtime.statistics import BatchTimes, Duration


def statistics_message(model: Model) -> ModelStatistics:
    """Counts and times of one version since it was loaded."""
    counted = model.statistics
    return ModelStatistics(
        name=model.record.name,
        version=str(model.record.version),
        last_inference=counted.last_ms,
        inference_count=counted.inferences,
        execution_count=counted.executions,
        inference_stats=InferStatistics(
            success=_duration(counted.success),
            fail=_duration(counted.fail),
            queue=_duration(counted.queue),
            compute_input=_duration(counted.input),
            compute_infer=_duration(counted.infer),
            compute_output=_duration(counted.output),
            # Nothing is cached here; clients read the fields all the same.
            cache_hit=StatisticDuration(),
            cache_miss=StatisticDuration(),
        ),
        batch_stats=[_of_size(rows, counted.batches[rows]) for rows in sorted(counted.batches)],
    )


def _of_size(rows: int, times: BatchTimes) -> InferBatchStatistics:
    return InferBatchStatistics(
        batch_size=rows,
        compute_input=_duration(times.input),
        compute_infer=_duration(times.infer),
        compute_output=_duration(times.output),
    )


def _duration(duration: Duration) -> StatisticDuration:
    return StatisticDuration(count=duration.count, ns=duration.ns)

"""What a version counted, as the message of ``ModelStatistics``."""

from __future__ import annotations

from protos import (
    InferBatchStatistics,
    InferStatistics,
    ModelStatistics,
    StatisticDuration,
)
from runtime.observe.snapshot import BatchWork, Work


def statistics_message(model: str, version: int, work: Work) -> ModelStatistics:
    """Counts and times of one version since it was loaded."""
    answered = work.success
    return ModelStatistics(
        name=model,
        version=str(version),
        last_inference=work.last_ms,
        inference_count=work.inferences,
        execution_count=work.executions,
        inference_stats=InferStatistics(
            success=_duration(answered, work.request_ns),
            fail=_duration(sum(work.failures.values()), work.fail_ns),
            queue=_duration(answered, work.queue_ns),
            compute_input=_duration(answered, work.input_ns),
            compute_infer=_duration(answered, work.infer_ns),
            compute_output=_duration(answered, work.output_ns),
            # Nothing is cached here; clients read the fields all the same.
            cache_hit=StatisticDuration(),
            cache_miss=StatisticDuration(),
        ),
        batch_stats=[_of_size(batch) for batch in work.batches],
    )


def _of_size(batch: BatchWork) -> InferBatchStatistics:
    return InferBatchStatistics(
        batch_size=batch.rows,
        compute_input=_duration(batch.calls, batch.input_ns),
        compute_infer=_duration(batch.calls, batch.infer_ns),
        compute_output=_duration(batch.calls, batch.output_ns),
    )


def _duration(count: int, ns: int) -> StatisticDuration:
    return StatisticDuration(count=count, ns=ns)

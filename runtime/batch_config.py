"""``dynamic_batching`` of ``config.pbtxt`` as settings; what Triton refuses is refused."""

from __future__ import annotations

from protos import ModelConfig, ModelQueuePolicy
from runtime.batch_settings import BatchSettings
from runtime.errors import RepositoryError
from runtime.layout import CONFIG_FILE
from runtime.queueing import QueuePolicy, QueueSettings

_MICRO = 1e-6


def batching_from_config(config: ModelConfig, where: str = CONFIG_FILE) -> BatchSettings | None:
    """How requests are joined; none where the file says nothing of it.

    Raises:
        RepositoryError: A preferred size or a level of priority that cannot be.
    """
    if not config.HasField("dynamic_batching"):
        return None
    batching = config.dynamic_batching
    for size in batching.preferred_batch_size:
        if not 1 <= size <= config.max_batch_size:
            raise RepositoryError(
                f"{where} has the preferred_batch_size {size}; "
                f"wanted 1 to max_batch_size, which is {config.max_batch_size}"
            )
    return BatchSettings(
        max_rows=config.max_batch_size,
        delay_s=batching.max_queue_delay_microseconds * _MICRO,
        preferred=tuple(sorted(batching.preferred_batch_size)),
        queue=_queue(config, where),
    )


def _queue(config: ModelConfig, where: str) -> QueueSettings:
    batching = config.dynamic_batching
    levels, default = batching.priority_levels, batching.default_priority_level
    if bool(levels) != bool(default) or default > levels:
        raise RepositoryError(
            f"{where} has priority_levels {levels} and default_priority_level {default}; "
            "wanted a default from 1 to the number of levels"
        )
    for level in batching.priority_queue_policy:
        if not 1 <= level <= levels:
            raise RepositoryError(
                f"{where} has a priority_queue_policy for level {level}; wanted 1 to {levels}"
            )
    return QueueSettings(
        levels=levels,
        default_level=default,
        policy=_policy(batching.default_queue_policy),
        policies={
            level: _policy(policy) for level, policy in batching.priority_queue_policy.items()
        },
    )


def _policy(policy: ModelQueuePolicy) -> QueuePolicy:
    return QueuePolicy(
        max_queue_size=policy.max_queue_size,
        timeout_s=policy.default_timeout_microseconds * _MICRO,
        delay_on_timeout=policy.timeout_action == ModelQueuePolicy.DELAY,
        allow_timeout_override=policy.allow_timeout_override,
    )

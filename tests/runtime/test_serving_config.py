"""What a server takes of ``config.pbtxt``, and what it does not serve."""

from __future__ import annotations

import pytest

from runtime.errors import RepositoryError
from runtime.layout import CONFIG_FILE
from runtime.serving_config import read_serving_config


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("sequence_batching {}", "sequence_batching"),
        ("ensemble_scheduling {}", "ensemble_scheduling"),
        ("batch_input { kind: BATCH_ELEMENT_COUNT }", "batch_input"),
        ("batch_output { kind: BATCH_SCATTER_WITH_INPUT_SHAPE }", "batch_output"),
        ('input { name: "x" allow_ragged_batch: true }', "allow_ragged_batch"),
        ("model_transaction_policy { decoupled: true }", "model_transaction_policy.decoupled"),
    ],
)
def test_what_would_be_answered_in_another_sense_is_not_served(text, name, tmp_path):
    (tmp_path / CONFIG_FILE).write_text(text)
    with pytest.raises(RepositoryError, match=f"has {name}, which is not served here"):
        read_serving_config(tmp_path)


def test_what_has_no_effect_is_taken(tmp_path):
    (tmp_path / CONFIG_FILE).write_text(
        "optimization { graph { level: 1 } } response_cache { enable: true } dynamic_batching {}"
    )
    assert read_serving_config(tmp_path).batching is not None

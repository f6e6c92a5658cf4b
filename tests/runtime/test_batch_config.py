"""``dynamic_batching`` means here what it means in Triton."""

from __future__ import annotations

import pytest

from protos import ModelInferRequest
from runtime.batch_config import batching_from_config
from runtime.batch_settings import BatchSettings
from runtime.errors import InvalidInput, RepositoryError
from runtime.model_config import config_from_text
from runtime.queueing import QueuePolicy
from runtime.request_parameters import priority_of, timeout_s_of
from runtime.serving_config import ServingConfig, batching_of


def read(text):
    return batching_from_config(config_from_text(f'name: "net" max_batch_size: 16 {text}'))


def test_a_file_that_says_nothing_leaves_it_open():
    assert read("") is None


def test_an_empty_section_joins_without_any_delay():
    assert read("dynamic_batching { }") == BatchSettings(max_rows=16)


def test_every_field_is_read():
    settings = read(
        """dynamic_batching {
            preferred_batch_size: [8, 4] max_queue_delay_microseconds: 250
            priority_levels: 2 default_priority_level: 2
            default_queue_policy { max_queue_size: 10 default_timeout_microseconds: 5000 }
            priority_queue_policy { key: 1 value {
                timeout_action: DELAY allow_timeout_override: true } } }"""
    )
    assert settings.delay_s == pytest.approx(250e-6)
    assert settings.preferred == (4, 8)
    queue = settings.queue
    assert (queue.levels, queue.level(0), queue.level(1), queue.level(7)) == (2, 2, 1, 2)
    assert queue.policy_of(2) == QueuePolicy(max_queue_size=10, timeout_s=pytest.approx(0.005))
    assert queue.policy_of(1) == QueuePolicy(delay_on_timeout=True, allow_timeout_override=True)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("preferred_batch_size: 17", "preferred_batch_size 17; wanted 1 to max_batch_size"),
        ("preferred_batch_size: 0", "preferred_batch_size 0"),
        ("priority_levels: 2", "priority_levels 2 and default_priority_level 0"),
        ("default_priority_level: 1", "priority_levels 0 and default_priority_level 1"),
        ("priority_levels: 1 default_priority_level: 2", "default from 1 to the number"),
        ("priority_queue_policy { key: 1 value { } }", "for level 1; wanted 1 to 0"),
    ],
)
def test_what_cannot_be_is_refused(text, said):
    with pytest.raises(RepositoryError, match=said):
        read(f"dynamic_batching {{ {text} }}")


def test_the_proof_says_what_is_joined_and_the_configuration_where_there_is_none():
    silent, asking = ServingConfig("net"), ServingConfig("net", batching=BatchSettings(16, 0.5))
    assert batching_of(silent, 16, proved=True).max_rows == 16
    assert batching_of(silent, 16, proved=False).max_rows == 0
    assert batching_of(silent, 16, proved=None).max_rows == 0
    assert batching_of(asking, 16, proved=True) == BatchSettings(16, 0.5)
    assert batching_of(asking, 16, proved=False).max_rows == 0
    assert batching_of(asking, 16, proved=None) == BatchSettings(16, 0.5)
    assert batching_of(asking, 0, proved=None).max_rows == 0


def test_a_request_may_name_its_priority_and_its_time_in_the_queue():
    request = ModelInferRequest()
    assert (priority_of(request), timeout_s_of(request)) == (0, 0.0)
    request.parameters["priority"].uint64_param = 3
    request.parameters["timeout"].int64_param = 1500
    assert (priority_of(request), timeout_s_of(request)) == (3, pytest.approx(0.0015))


@pytest.mark.parametrize(("field", "value"), [("string_param", "1"), ("int64_param", -1)])
def test_a_priority_that_is_no_number_is_refused(field, value):
    request = ModelInferRequest()
    setattr(request.parameters["priority"], field, value)
    with pytest.raises(InvalidInput, match="'priority' is not a whole number"):
        priority_of(request)

"""The logic of both clients, without a connection: steps out, answers in."""

from __future__ import annotations

import math

import numpy as np
import pytest

import protos
from runtime.client_steps import LARGE_BYTES, LONGEST_S, Ask, Logic, Pause, Retry, stream_answer
from runtime.codec import arrays_from_request, response_from_arrays
from runtime.errors import (
    BackendUnavailable,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    ResourceExhausted,
    Unavailable,
    Unimplemented,
)
from runtime.tensors import TensorSpec
from runtime.transports.wire import check_length

X = TensorSpec("x", "float32", ("batch", 2))


PATIENT = Retry(first_s=1.0, longest_s=3.0)


class Driver:
    """Carries steps out against a function, on a clock of its own."""

    def __init__(self, answer, retry=PATIENT):
        self.now = 0.0
        self.asked = []
        self.pauses = []
        self.answer = answer
        self.logic = Logic("127.0.0.1:1", 60.0, retry, clock=lambda: self.now)

    def run(self, steps):
        try:
            step = next(steps)
            while True:
                try:
                    result = self.do(step)
                except Exception as error:
                    step = steps.throw(error)
                else:
                    step = steps.send(result)
        except StopIteration as end:
            return end.value

    def do(self, step):
        if isinstance(step, Pause):
            self.now += step.seconds
            self.pauses.append(step.seconds)
            return None
        assert isinstance(step, Ask)
        self.asked.append(step)
        return self.answer(step)

    def infer(self, rows, timeout_s=None):
        x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        return x, self.run(self.logic.infer("m", {"x": x}, "", (), "r7", timeout_s))


def failing(times, error):
    """Fails so many times, then says that the server lives."""
    left = [error] * times

    def answer(step):
        if left:
            raise left.pop()
        return protos.ServerLiveResponse(live=True)

    return answer


@pytest.mark.parametrize("error", [Unavailable("x"), ResourceExhausted("full")])
def test_what_the_server_did_not_take_is_tried_again_with_growing_pauses(error):
    driver = Driver(failing(3, error))
    assert driver.run(driver.logic.live())
    assert len(driver.asked) == 4
    for pause, whole in zip(driver.pauses, [1, 2, 3], strict=True):
        assert whole / 2 <= pause <= whole


def test_the_last_attempt_fails_with_the_servers_error():
    driver = Driver(failing(9, Unavailable("draining")))
    with pytest.raises(Unavailable, match="draining"):
        driver.run(driver.logic.live())
    assert len(driver.asked) == 4


def too_long(length, limit):
    with pytest.raises(ResourceExhausted) as caught:
        check_length(length, limit)
    return caught.value


@pytest.mark.parametrize(
    "error",
    [
        NotFound("x"),
        InvalidInput("x"),
        DeadlineExceeded("x"),
        BackendUnavailable("no library"),
        ResourceExhausted("Received message larger than max (9 vs. 4)"),
        too_long(9, 4),
    ],
)
def test_what_will_fail_again_is_not_tried_again(error):
    driver = Driver(failing(1, error))
    with pytest.raises(type(error)):
        driver.run(driver.logic.live())
    assert len(driver.asked) == 1


def test_retries_stay_inside_the_time_of_the_call():
    driver = Driver(failing(9, Unavailable("x")), Retry(attempts=9, first_s=4.0, longest_s=4.0))
    driver.logic.timeout_s = 5.0
    with pytest.raises(Unavailable):
        driver.run(driver.logic.live())
    assert driver.now <= 5.0
    first, *later = [step.timeout_s for step in driver.asked]
    assert first == 5.0
    assert later
    assert all(timeout_s <= 5.0 - 2.0 for timeout_s in later)


def test_no_retry_is_one_attempt():
    driver = Driver(failing(1, Unavailable("x")), Retry(attempts=1))
    with pytest.raises(Unavailable):
        driver.run(driver.logic.live())


@pytest.mark.parametrize("fields", [{"attempts": 0}, {"first_s": -1}, {"first_s": 9}])
def test_a_policy_that_is_none_is_refused(fields):
    with pytest.raises(InvalidInput):
        Retry(**fields)


def doubling(limit, *, config=True):
    """A server of a model that doubles rows, up to ``limit`` at once."""

    def answer(step):
        if step.method == "ModelConfig":
            if not config:
                raise Unimplemented("no such call")
            return protos.ModelConfigResponse(config=protos.ModelConfig(max_batch_size=limit))
        array = arrays_from_request(step.request, {"x": X})["x"]
        if len(array) > limit:
            raise InvalidInput(f"a batch of {len(array)}")
        return response_from_arrays(
            {"y": array * 2, "sum": array.sum(1)}, model="m", version="1", request_id="r7"
        )

    return answer


def methods(driver):
    return [step.method for step in driver.asked]


def test_a_batch_that_fits_is_one_request_and_nothing_is_asked_before():
    driver = Driver(doubling(4))
    x, outputs = driver.infer(4)
    np.testing.assert_array_equal(outputs["y"], x * 2)
    assert methods(driver) == ["ModelInfer"]


def test_a_batch_beyond_the_maximum_goes_in_parts_and_comes_back_whole():
    driver = Driver(doubling(4))
    x, outputs = driver.infer(10)
    np.testing.assert_array_equal(outputs["y"], x * 2)
    np.testing.assert_array_equal(outputs["sum"], x.sum(1))
    assert methods(driver) == ["ModelInfer", "ModelConfig", *["ModelInfer"] * 3]
    assert {step.request.id for step in driver.asked[2:]} == {"r7"}
    driver.asked.clear()
    driver.infer(5)
    assert methods(driver) == ["ModelInfer"] * 2, "the maximum is known now"


LARGE = LARGE_BYTES // 8
"""Rows of ``X``."""


@pytest.mark.parametrize("before", [1, 60_000])
def test_a_large_batch_is_not_sent_before_the_maximum_is_known(before):
    driver = Driver(doubling(50_000))
    driver.infer(before)
    driver.asked.clear()
    x, outputs = driver.infer(LARGE)
    np.testing.assert_array_equal(outputs["y"], x * 2)
    question = ["ModelConfig"] if before == 1 else []
    assert methods(driver) == [*question, *["ModelInfer"] * 3]


def without_maximum(*, config=True):
    """A server of a model that takes any batch."""

    def answer(step):
        return doubling(0 if step.method == "ModelConfig" else LARGE, config=config)(step)

    return answer


@pytest.mark.parametrize("config", [True, False])
def test_a_server_that_has_no_maximum_is_asked_for_it_once(config):
    driver = Driver(without_maximum(config=config))
    driver.infer(LARGE)
    driver.infer(LARGE)
    assert methods(driver) == ["ModelConfig", "ModelInfer", "ModelInfer"]


@pytest.mark.parametrize("error", [Unavailable("draining"), DeadlineExceeded("slow")])
def test_a_large_batch_is_not_sent_where_the_question_for_the_maximum_has_no_answer(error):
    driver = Driver(failing(9, error), Retry(attempts=2))
    with pytest.raises(type(error), match=str(error)):
        driver.infer(LARGE)
    assert set(methods(driver)) == {"ModelConfig"}


def limited(largest, message_rows):
    """``doubling`` that takes only so many rows in a message."""

    def answer(step):
        if step.method == "ModelInfer" and step.request.inputs[0].shape[0] > message_rows:
            raise too_long(9, 4)
        return doubling(largest)(step)

    return answer


def test_a_message_over_the_limit_goes_in_parts_where_it_is_beyond_the_maximum():
    driver = Driver(limited(4, 6))
    x, outputs = driver.infer(10)
    np.testing.assert_array_equal(outputs["y"], x * 2)
    assert methods(driver) == ["ModelInfer", "ModelConfig", *["ModelInfer"] * 3]


@pytest.mark.parametrize("rows", [1, 4, 10])
def test_a_part_over_the_limit_of_messages_is_the_servers_own_error(rows):
    driver = Driver(limited(4, 0))
    with pytest.raises(ResourceExhausted, match="is too long"):
        driver.infer(rows)
    sent = [step.request.inputs[0].shape[0] for step in driver.asked if step.method == "ModelInfer"]
    assert sent == ([10, 4] if rows == 10 else [rows])


def test_a_full_queue_is_no_reason_to_ask_for_the_maximum():
    def answer(step):
        raise ResourceExhausted("full")

    driver = Driver(answer)
    with pytest.raises(ResourceExhausted, match="full"):
        driver.infer(10)
    assert set(methods(driver)) == {"ModelInfer"}


def test_a_maximum_that_came_or_shrank_is_found_by_large_batches_too():
    driver = Driver(without_maximum())
    driver.infer(LARGE)
    for largest in (50_000, 30_000):
        driver.answer = doubling(largest)
        x, outputs = driver.infer(LARGE)
        np.testing.assert_array_equal(outputs["y"], x * 2)


@pytest.mark.parametrize("config", [True, False])
def test_another_mistake_is_the_servers_own_error(config):
    def answer(step):
        if step.method == "ModelInfer":
            raise InvalidInput("another mistake")
        return doubling(64, config=config)(step)

    with pytest.raises(InvalidInput, match="another mistake"):
        Driver(answer).infer(10)


def test_all_parts_share_the_time_of_the_request():
    def slow(step):
        driver.now += 4.0
        return doubling(4)(step)

    driver = Driver(slow)
    with pytest.raises(DeadlineExceeded, match="all parts"):
        driver.infer(12, timeout_s=12.0)
    assert driver.now == 12.0


def test_a_part_that_the_server_did_not_take_is_sent_again():
    calls = []

    def answer(step):
        calls.append(step)
        if len(calls) == 4:
            raise ResourceExhausted("full")
        return doubling(4)(step)

    driver = Driver(answer)
    x, outputs = driver.infer(10)
    np.testing.assert_array_equal(outputs["y"], x * 2)


def test_a_maximum_that_shrank_is_asked_for_again():
    driver = Driver(doubling(4))
    driver.infer(10)
    driver.answer = doubling(3)
    for rows in (4, 10):
        x, outputs = driver.infer(rows)
        np.testing.assert_array_equal(outputs["y"], x * 2)


def versions(*numbers):
    """A server whose answers come from one version after the other."""
    left = list(numbers)

    def answer(step):
        response = doubling(4)(step)
        if step.method == "ModelInfer":
            response.model_version = left.pop(0)
        return response

    return answer


def test_parts_that_two_versions_answered_are_asked_for_again():
    driver = Driver(versions("1", "1", "2", "2", "2", "2"))
    x, outputs = driver.infer(10)
    np.testing.assert_array_equal(outputs["y"], x * 2)
    assert methods(driver) == ["ModelInfer", "ModelConfig", *["ModelInfer"] * 6]


def test_a_server_that_changes_its_version_all_the_time_gives_no_mixed_answer():
    with pytest.raises(Unavailable, match="versions 1 and 2 answered parts"):
        Driver(versions(*"12" * 10)).infer(8)


def test_outputs_without_a_row_each_cannot_be_joined():
    def answer(step):
        if step.method == "ModelInfer" and step.request.inputs[0].shape[0] <= 4:
            return response_from_arrays({"y": np.zeros((1, 3))}, model="m", version="1")
        return doubling(4)(step)

    with pytest.raises(InvalidInput, match="'y' has 3 rows for 10"):
        Driver(answer).infer(10)


def test_an_error_inside_a_stream_is_an_answer():
    message = protos.ModelStreamInferResponse(error_message="wrong")
    message.infer_response.id = "3"
    answer = stream_answer(message)
    assert (answer.request_id, dict(answer.outputs), str(answer.error)) == ("3", {}, "wrong")


def test_the_question_for_the_maximum_shares_the_time_too():
    def slow(step):
        driver.now += 4.0
        return doubling(4)(step)

    driver = Driver(slow)
    with pytest.raises(DeadlineExceeded):
        driver.infer(12, timeout_s=12.0)
    assert [step.timeout_s for step in driver.asked] == [12.0, 8.0, 4.0]


@pytest.mark.parametrize("error", [Unimplemented("no such call"), NotFound("no such model")])
def test_what_was_wrong_is_said_where_the_maximum_is_not(error):
    def answer(step):
        if step.method == "ModelConfig":
            raise error
        raise InvalidInput("a mistake")

    with pytest.raises(InvalidInput, match="a mistake"):
        Driver(answer).infer(10)


@pytest.mark.parametrize("timeout_s", [1e12, math.inf])
def test_a_time_without_an_end_is_one_that_grpc_can_count(timeout_s):
    driver = Driver(doubling(4))
    driver.infer(2, timeout_s=timeout_s)
    assert [step.timeout_s for step in driver.asked] == [LONGEST_S]


@pytest.mark.parametrize("call", ["model_ready", "model_metadata", "model_config"])
@pytest.mark.parametrize(("name", "version"), [(5, ""), ("m", 1), (None, "")])
def test_a_name_or_version_that_is_no_text_is_refused(call, name, version):
    driver = Driver(doubling(4))
    with pytest.raises(InvalidInput, match=r"(model|version) is .*; wanted text"):
        driver.run(getattr(driver.logic, call)(name, version))


@pytest.mark.parametrize("arrays", [[1], {"x": [[1], [1, 2]]}, None])
def test_inputs_that_are_no_arrays_are_refused(arrays):
    driver = Driver(doubling(4))
    with pytest.raises(InvalidInput, match="wanted a"):
        driver.run(driver.logic.infer("m", arrays, "", (), "", None))

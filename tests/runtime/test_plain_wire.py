"""The short way of an answer gives what the long way gives, and leaves to it what is unusual."""

from __future__ import annotations

import numpy as np
import pytest

from protos import ModelInferResponse
from runtime.codec import response_from_arrays
from runtime.plain_wire import PlainAnswers
from runtime.tensors import BY_NAME

NUMBERS = [name for name in BY_NAME if name not in ("bool", "string")]


@pytest.mark.parametrize("request_id", ["", "7", "ü" * 200])
def test_answers_are_those_of_the_long_way(request_id):
    plain = PlainAnswers()
    for rows in (1, 3, 1, 0):
        arrays = {
            "logits": np.arange(rows * 400, dtype=np.float32).reshape(rows, 400),
            "best": np.arange(rows, dtype=np.int64),
        }
        data = plain.answer(arrays, model="m", version=3, request_id=request_id)
        wanted = response_from_arrays(arrays, model="m", version="3", request_id=request_id)
        assert ModelInferResponse.FromString(data) == wanted


@pytest.mark.parametrize("name", NUMBERS)
def test_every_type_of_number_is_answered(name):
    arrays = {"y": np.arange(4).astype(name)[::2]}
    data = PlainAnswers().answer(arrays, model="m", version=1)
    wanted = response_from_arrays(arrays, model="m", version="1")
    assert ModelInferResponse.FromString(data) == wanted


@pytest.mark.parametrize(
    "array", [np.array([b"a"], object), np.array([True]), np.array([1.0], ">f4")]
)
def test_other_answers_go_the_long_way(array):
    assert PlainAnswers().answer({"y": array}, model="m", version=1) is None


def test_models_and_versions_do_not_share_an_answer():
    plain = PlainAnswers()
    arrays = {"y": np.zeros(1, np.float32)}
    seen = {
        (answer.model_name, answer.model_version)
        for model in "ab"
        for version in (1, 2)
        for answer in [
            ModelInferResponse.FromString(plain.answer(arrays, model=model, version=version))
        ]
    }
    assert seen == {("a", "1"), ("a", "2"), ("b", "1"), ("b", "2")}

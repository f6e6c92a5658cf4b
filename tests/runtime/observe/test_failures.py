"""The log of failed calls: what a line says, and how many there are in a flood."""

from __future__ import annotations

import asyncio
import json
import logging

import pytest

from runtime.errors import InvalidInput, NotFound, TwinportError
from runtime.observe.failures import FailureLog, JsonLines, RequestNames

INFER = "/inference.GRPCInferenceService/ModelInfer"


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def log(clock):
    return FailureLog(lines_per_second=1, burst=2, clock=clock)


def lines(caplog):
    return [json.loads(record.getMessage()) for record in caplog.records]


def test_a_line_says_which_request_failed_and_why(log, caplog):
    names = RequestNames("lenet5", "3", "r\n7")
    log.note(INFER, NotFound("there is no such\nthing"), 0.0012, lambda: names)
    (record,) = caplog.records
    assert "\n" not in record.getMessage()
    assert record.levelno == logging.WARNING
    assert lines(caplog) == [
        {
            "event": "failed_request", "method": "ModelInfer", "model": "lenet5", "version": "3",
            "id": "r\n7", "code": "NOT_FOUND", "text": "there is no such\nthing", "ms": 1.2,
        }
    ]  # fmt: skip


def test_our_own_fault_is_an_error(log, caplog):
    log.note(INFER, TwinportError("internal error 01ab"), 0)
    assert caplog.records[0].levelno == logging.ERROR


def test_who_gave_up_is_cancelled(log, caplog):
    log.note(INFER, asyncio.CancelledError(), 0)
    (line,) = lines(caplog)
    assert (line["code"], line["text"]) == ("CANCELLED", "the client gave up")


def test_a_call_that_was_noted_is_not_noted_by_who_passes_its_error_on(log):
    seen, fresh = NotFound("x"), NotFound("x")
    log.note(INFER, seen, 0)
    log.note_once(INFER, seen)
    log.note_once(INFER, fresh)
    log.note_once(INFER, fresh)
    assert log.counts == {"ModelInfer NOT_FOUND": 2}


async def test_a_flood_leaves_few_lines_and_a_number(log, clock, caplog):
    read = []

    def names():
        read.append(1)
        return RequestNames()

    for _ in range(1000):
        log.note(INFER, NotFound("x"), 0, names)
    assert len(caplog.records) == len(read) == 2
    clock.now += 1
    log.note(INFER, NotFound("x"), 0)
    assert [line.get("left_out") for line in lines(caplog)] == [None, None, 998]
    assert log.counts == {"ModelInfer NOT_FOUND": 1001}
    log.close()


async def test_a_flood_of_one_code_hides_no_other(log, caplog):
    for _ in range(10):
        log.note(INFER, NotFound("x"), 0)
    log.note(INFER, InvalidInput("other"), 0)
    assert lines(caplog)[-1]["code"] == "INVALID_ARGUMENT"
    log.close()


async def test_what_was_left_out_is_said_when_no_other_call_fails(clock, caplog):
    log = FailureLog(lines_per_second=1e6, burst=1, clock=clock)
    for _ in range(5):
        log.note(INFER, NotFound("x"), 0)
    async with asyncio.timeout(60):
        while len(caplog.records) < 2:
            await asyncio.sleep(0)
    assert lines(caplog)[-1] == {"event": "failed_requests", "code": "NOT_FOUND", "left_out": 4}


async def test_the_end_says_what_was_left_out(log, caplog):
    for _ in range(5):
        log.note(INFER, NotFound("x"), 0)
    log.close()
    log.close()
    assert [line.get("left_out") for line in lines(caplog)] == [None, None, 3]


def test_names_and_texts_of_any_length_make_short_lines(log, caplog):
    log.note(INFER, NotFound("x" * 10**6), 0, lambda: RequestNames("y" * 10**6, "", "z" * 10**6))
    assert len(caplog.records[0].getMessage()) < 2000


def test_json_lines_have_the_fields_among_the_rest(log, caplog):
    log.note(INFER, NotFound("x"), 0)
    line = json.loads(JsonLines().format(caplog.records[0]))
    assert (line["level"], line["code"]) == ("WARNING", "NOT_FOUND")
    assert line["time"].endswith("Z")
    assert "message" not in line


def test_json_lines_hold_any_other_record_too(caplog):
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError:
        logging.getLogger("other").exception("went %s", "wrong")
    text = JsonLines().format(caplog.records[0])
    assert "\n" not in text
    line = json.loads(text)
    assert line["message"] == "went wrong"
    assert "ZeroDivisionError" in line["traceback"]

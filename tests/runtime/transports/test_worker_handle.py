"""What a process says that a worker should not, or says in part, does its parent no harm."""

from __future__ import annotations

import asyncio
import logging
import os
import time

import pytest
import uvloop

from runtime.settings import ServerSettings
from runtime.transports import lines, worker_handle
from runtime.transports.worker_handle import Heard, start_worker

BEGINNING = """
import json, os, sys
words = json.loads(os.environ["TWINPORT_SERVE"])["words"]
"""


@pytest.fixture
def start_stub(tmp_path, monkeypatch):
    """A worker that runs a few lines of Python, and the list of what it is heard to say."""

    async def start(program):
        (tmp_path / "stub_worker.py").write_text(BEGINNING + program)
        monkeypatch.setattr(worker_handle, "PROGRAM", "stub_worker")
        monkeypatch.setenv("PYTHONPATH", str(tmp_path))
        said = []
        heard = Heard(lambda worker: None, said.append, lambda *_: None)
        return await start_worker(ServerSettings(tmp_path), 1, heard), said

    return start


@pytest.fixture
def run_stub(start_stub):
    """What such a worker is heard to say until it ends."""

    async def run(program):
        worker, said = await start_stub(program)
        await worker.run()
        return said

    return run


async def test_a_line_that_the_end_cuts_off_is_left_out(run_stub, caplog):
    said = await run_stub("""
os.write(words, b'{"say": "whole"}\\n{"say": "cut o')
os.kill(os.getpid(), 9)
""")
    assert said == ["whole"]
    assert not caplog.records


@pytest.mark.parametrize("line", ["a library says hello", "[1]", "7", "\\xff", ""])
async def test_what_is_no_record_is_left_out_and_logged_in_one_line(run_stub, caplog, line):
    said = await run_stub(f"""
os.write(words, b'{line}\\n')
os.write(words, b'{{"say": "next"}}\\n')
""")
    assert said == ["next"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "what is left out" in record.getMessage()
    assert "\n" not in record.getMessage()


@pytest.mark.parametrize("size", [2000, 200_000])
async def test_a_line_that_is_too_long_is_left_out(run_stub, caplog, monkeypatch, size):
    monkeypatch.setattr(lines, "MAX_LINE", 1000)
    said = await run_stub(f"""
for text in ("before", "x" * {size}, "after"):
    line = json.dumps({{"say": text}}).encode() + b"\\n"
    while line:
        line = line[os.write(words, line):]
""")
    assert said == ["before", "after"]
    (record,) = caplog.records
    length = len('{"say": ""}\n') + size
    assert record.getMessage() == f"a line of {length} bytes is left out; it is too long"


async def test_what_a_library_prints_is_none_of_its_words(run_stub, caplog, capfd):
    said = await run_stub("""
os.write(1, b'{"say": "printed"}\\nhello\\n')
os.write(words, b'{"say": "said"}\\n')
""")
    assert said == ["said"]
    assert not caplog.records
    assert capfd.readouterr().out == '{"say": "printed"}\nhello\n'


async def test_loading_is_not_serving(start_stub):
    worker, _ = await start_stub("""
os.write(words, b'{"loaded": true}\\n')
sys.stdin.readline()
os.write(words, b'{"listening": "an address"}\\n')
""")
    end = asyncio.create_task(worker.run())
    while not worker.loaded:
        await asyncio.sleep(0)
    assert worker.served_s == 0
    told = time.monotonic()
    worker.tell("listen")
    await end
    assert 0 < worker.served_s <= time.monotonic() - told


async def test_nothing_stays_open_where_no_process_can_be_started(run_stub, monkeypatch):
    await run_stub("")  # what is opened once
    before = os.listdir("/proc/self/fd")
    monkeypatch.setattr(worker_handle.sys, "executable", "/nowhere")
    with pytest.raises(FileNotFoundError):
        await run_stub("")
    async with asyncio.timeout(10):
        while os.listdir("/proc/self/fd") != before:
            await asyncio.sleep(0)


def test_one_whose_pipe_is_closed_before_its_end_is_seen_can_be_told_and_asked(start_stub):
    async def told():
        worker, _ = await start_stub("import time; time.sleep(60)")
        running = asyncio.create_task(worker.run())
        worker._process.stdin.close()
        for _turn in range(10):
            worker.tell("a command")
            await asyncio.sleep(0)
        asked = asyncio.create_task(worker.ask("a question", 60))
        await asyncio.sleep(0)
        worker._process.kill()
        assert await asked, "it has nothing more to say"
        assert await running == -9

    uvloop.run(told())


def test_one_that_has_ended_leaves_nothing_open(start_stub):
    async def ended():
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(2):
            worker, _ = await start_stub("")
            await worker.run()
        async with asyncio.timeout(30):
            while len(os.listdir("/proc/self/fd")) > before + 1:  # what the loop itself needs
                await asyncio.sleep(0.01)

    uvloop.run(ended())

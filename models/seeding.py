"""One seed for every source of chance, their states for a resume, and the device."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch

from models.errors import DeviceMissing

DEVICES = ("auto", "cpu", "cuda")


def seed_everything(seed: int) -> None:
    """Seed Python, NumPy, torch and CUDA, and make cuDNN deterministic."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)  # the CPU and every CUDA device
    torch.backends.cudnn.deterministic = True
    torch.backends.cudnn.benchmark = False


def random_state() -> dict[str, Any]:
    """Where every global generator stands, as plain data and tensors."""
    version, words, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state(legacy=True)
    return {
        "python": [version, list(words), gauss],
        "numpy": [name, np.asarray(keys).tolist(), position, has_gauss, cached],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def set_random_state(state: dict[str, Any]) -> None:
    """Put every global generator back where ``random_state`` found it."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    np.random.set_state((name, np.array(keys, np.uint32), position, has_gauss, cached))
    torch.set_rng_state(state["torch"])
    if torch.cuda.is_available() and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])


def choose_device(name: str) -> torch.device:
    """``auto`` takes the GPU where there is one.

    Raises:
        DeviceMissing: ``cuda`` was asked for and torch sees no GPU, or the name is not known.
    """
    if name not in DEVICES:
        raise DeviceMissing(f"device '{name}' is not known; use one of {', '.join(DEVICES)}")
    available = torch.cuda.is_available()
    if name == "cuda" and not available:
        raise DeviceMissing("device 'cuda' was asked for, but torch sees no GPU; use --device cpu")
    return torch.device("cuda" if available and name != "cpu" else "cpu")


def describe_device(device: torch.device) -> str:
    """The device for a person: a GPU with its name and memory, a CPU with its threads."""
    if device.type != "cuda":
        return f"cpu ({torch.get_num_threads()} threads)"
    properties = torch.cuda.get_device_properties(device)
    return f"cuda ({properties.name}, {properties.total_memory / 2**30:.1f} GiB)"

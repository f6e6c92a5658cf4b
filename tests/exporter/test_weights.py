"""Weights fit strictly or are refused by name; a pickle never runs code."""

from __future__ import annotations

import hashlib
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from exporter.weights import file_sha256, load_weights
from runtime.errors import ExportError, NotFound


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".pth", ".bin"])
def test_weights_and_buffers_are_taken_from_the_file(tmp_path, ending):
    path, trained = tmp_path / f"weights{ending}", net(7)
    trained[1].running_mean += 5
    if ending == ".safetensors":
        save_file(trained.state_dict(), path)
    else:
        torch.save(trained.state_dict(), path)
    module = net()
    sha256 = load_weights(module, path)
    for name, value in trained.state_dict().items():
        assert torch.equal(module.state_dict()[name], value), name
    assert sha256 == file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_malicious_pickle_is_refused_and_does_not_run(tmp_path):
    class Malicious:
        def __reduce__(self):
            return (exec, (f"open({str(tmp_path / 'ran')!r}, 'w').close()",))

    path = tmp_path / "weights.pt"
    for save in (torch.save, lambda value, to: to.write_bytes(pickle.dumps(value))):
        save({"0.weight": Malicious()}, path)
        with pytest.raises(ExportError, match=r"holds more than weights or is damaged") as caught:
            load_weights(net(), path)
        assert "\n" not in str(caught.value)
    assert not (tmp_path / "ran").exists()
    pickle.loads(path.read_bytes())
    assert (tmp_path / "ran").exists(), "the pickle would have run"


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda s: s.pop("1.bias"), r"has no '1.bias', .*\(1 missing, 0 not known\)"),
        (lambda s: s.update(more=torch.ones(1)), r"has 'more', which the module does not know"),
        (lambda s: s.update({"0.bias": torch.ones(9)}),
         r"'0.bias' in .* has shape \[9\]; the module wants \[2\]"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_what_does_not_fit_is_named_and_nothing_is_loaded(tmp_path, ending, change, text):
    state = {name: value + 1 for name, value in net().state_dict().items()}
    change(state)
    path = tmp_path / f"weights{ending}"
    (save_file if ending == ".safetensors" else torch.save)(state, path)
    module = net()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    with pytest.raises(ExportError, match=text):
        load_weights(module, path)
    assert all(torch.equal(before[n], v) for n, v in module.state_dict().items())


@pytest.mark.parametrize(
    ("name", "content", "text"),
    [
        ("w.safetensors", b"not weights", "is no safetensors file"),
        ("w.pt", b"not weights", "is damaged"),
        ("w.pt", b"", "is damaged"),
        ("w.h5", b"x", r"unknown ending; use .safetensors or .pt"),
    ],
)
def test_a_file_that_holds_no_weights_is_one_line(tmp_path, name, content, text):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExportError, match=text) as caught:
        load_weights(net(), tmp_path / name)
    assert "\n" not in str(caught.value)


def test_a_pickle_of_something_else_is_no_state_dict(tmp_path):
    torch.save([torch.ones(1)], tmp_path / "w.pt")
    with pytest.raises(ExportError, match=r"no state dict; save module.state_dict\(\)"):
        load_weights(net(), tmp_path / "w.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"gone.pt do not exist"):
        load_weights(net(), tmp_path / "gone.pt")

"""Weights fit strictly or are refused by name; a pickle never runs code."""

from __future__ import annotations

import argparse
import hashlib
import pickle
import re
import warnings
from pathlib import Path

import numpy as np
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
        with pytest.raises(ExportError, match=r"was not read: .*would run code") as caught:
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
        ("w.pt", b"not weights", "was not read: it is no file of torch.save"),
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


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_file_without_permission_says_so(tmp_path, monkeypatch, ending):
    def refuse(self, *_args, **_more):
        raise PermissionError(13, "Permission denied", str(self))

    (tmp_path / f"w{ending}").write_bytes(b"")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ExportError, match=rf"weights w{ending} cannot be read: Permission denied$"):
        load_weights(net(), tmp_path / f"w{ending}")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(NotFound, match=r"gone.pt do not exist"):
        load_weights(net(), tmp_path / "gone.pt")


WRAPPED = {
    "under state_dict, as Lightning": lambda s: {
        "state_dict": {f"model.{k}": v for k, v in s.items()} | {"loss.weight": torch.ones(2)},
        "pytorch-lightning_version": "2.4.0",
        "hyper_parameters": argparse.Namespace(lr=0.1),
    },
    "under model, with what else training keeps": lambda s: {
        "model": s, "epoch": 3, "best": np.float64(0.5), "args": argparse.Namespace(to=Path("x")),
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
    },
    "twice": lambda s: {"checkpoint": 1, "model": {"state_dict": s, "epoch": 1}},
    "by DataParallel": lambda s: {f"module.{k}": v for k, v in s.items()},
    "by DataParallel and torch.compile": lambda s: {
        f"module._orig_mod.{k}": v for k, v in s.items()
    },
    "without the counters of BatchNorm": lambda s: {
        k: v for k, v in s.items() if "num_batches" not in k
    },
}  # fmt: skip


@pytest.mark.parametrize("how", WRAPPED)
def test_weights_as_training_programs_keep_them_are_found(tmp_path, how):
    trained, module = net(7), net()
    torch.save(WRAPPED[how](trained.state_dict()), tmp_path / "w.ckpt")
    load_weights(module, tmp_path / "w.ckpt")
    assert torch.equal(module[0].weight, trained[0].weight)
    assert torch.equal(module[1].bias, trained[1].bias)


def test_a_prefix_that_the_module_has_itself_stays(tmp_path):
    module, trained = (nn.ModuleDict({"model": net(seed)}) for seed in (0, 7))
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    load_weights(module, tmp_path / "w.pt")
    assert torch.equal(module["model"][0].weight, trained["model"][0].weight)


def test_the_weights_go_into_the_module_that_a_wrapper_holds(tmp_path):
    trained, module = net(7), net()
    torch.save(trained.state_dict(), tmp_path / "w.pt")
    for wrapped in (nn.DataParallel(module), torch.compile(module)):
        load_weights(wrapped, tmp_path / "w.pt")
    assert torch.equal(module[0].weight, trained[0].weight)


def test_tied_weights_may_lie_in_the_file_once(tmp_path):
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.head = nn.Embedding(4, 3), nn.Linear(3, 4, bias=False)
            self.head.weight = self.table.weight

    trained, module = Tied(), Tied()
    save_file({"table.weight": trained.table.weight}, tmp_path / "w.safetensors")
    load_weights(module, tmp_path / "w.safetensors")
    assert torch.equal(module.head.weight, trained.table.weight)


def test_weights_made_on_a_gpu_are_read_on_the_cpu(tmp_path, monkeypatch):
    """The file says of every tensor that it was in the memory of GPU 1."""
    trained, module, path = net(7), net(), tmp_path / "w.pt"
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:1")
    torch.save(trained.state_dict(), path)
    monkeypatch.undo()
    assert b"cuda:1" in path.read_bytes()
    if not torch.cuda.is_available():
        with pytest.raises(RuntimeError, match="CUDA"):
            torch.load(path, weights_only=True)
    load_weights(module, path)
    assert module[0].weight.device.type == "cpu"
    assert torch.equal(module[0].weight, trained[0].weight)


def test_a_whole_module_is_refused_with_what_to_save_instead(tmp_path):
    torch.save(net(), tmp_path / "whole.pt")
    with pytest.raises(ExportError) as caught:
        load_weights(net(), tmp_path / "whole.pt")
    assert "would run code (torch.nn.modules.container.Sequential)" in str(caught.value)
    assert "save torch.save(module.state_dict(), 'weights.pt')" in str(caught.value)


def test_a_torchscript_archive_is_named_as_one(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # jit is deprecated
        torch.jit.script(nn.Linear(3, 2)).save(tmp_path / "w.pt")
    with pytest.raises(ExportError, match=r"w.pt is a TorchScript archive; save the state_dict"):
        load_weights(net(), tmp_path / "w.pt")


@pytest.mark.parametrize("ending", [".safetensors", ".pt"])
def test_a_cut_file_is_refused_at_any_length(tmp_path, ending):
    path = tmp_path / f"w{ending}"
    (save_file if ending == ".safetensors" else torch.save)(net().state_dict(), path)
    whole = path.read_bytes()
    for length in (1, 9, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(ExportError) as caught:
            load_weights(net(), path)
        assert re.match(rf"w{ending} (is|was) ", str(caught.value))
        assert "\n" not in str(caught.value)


def test_keys_that_are_no_weights_are_named(tmp_path):
    torch.save({"epoch": 3, "optimizer": {"state": {}}}, tmp_path / "w.pt")
    with pytest.raises(ExportError, match=r"it holds 'epoch', 'optimizer'; save module.state_d"):
        load_weights(net(), tmp_path / "w.pt")
    torch.save({"model": {"lr": 1}}, tmp_path / "w.pt")
    with pytest.raises(ExportError, match=r"'model' of w.pt is no state dict: it holds 'lr'"):
        load_weights(net(), tmp_path / "w.pt")


def test_a_tensor_of_another_name_is_said_beside_the_missing_one(tmp_path):
    torch.save({f"encoder.{k}": v for k, v in net().state_dict().items()}, tmp_path / "w.pt")
    with pytest.raises(ExportError, match=r"no '0.weight', .*\(6 missing, 7 not known: 'encoder.0"):
        load_weights(net(), tmp_path / "w.pt")

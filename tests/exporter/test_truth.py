"""The truth is float64 all the way, or names what is not; the module stays as it was."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

from exporter.truth import Truth, torch_float32
from runtime.errors import ExportError

THIRDS = {"x": (np.arange(32, dtype=np.float32).reshape(4, 8) - 11) / 3}


class Zeros(nn.Module):
    """``torch.zeros`` asks for no type; a weight written into it loses half its digits."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        held = torch.zeros(x.shape[0], 8)
        held[:] = self.layer(x)
        return held


class Float32Zeros(Zeros):
    def forward(self, x):
        held = torch.zeros(x.shape[0], 8, dtype=torch.float32)
        held[:] = self.layer(x)
        return held


class CastingNorm(Zeros):
    """As RMSNorm of most language models."""

    def forward(self, x):
        h = self.layer(x).to(torch.float32)
        h = h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + 1e-6)
        return h.type_as(x)


class HalfWay(Zeros):
    def forward(self, x):
        return self.layer(x).half().float()


class PlainTensor(Zeros):
    """Neither parameter nor buffer, so ``.double()`` does not reach it."""

    def __init__(self):
        super().__init__()
        self.scale = torch.linspace(0.1, 1, 8)

    def forward(self, x):
        return self.layer(x) * self.scale + self.scale


class PlainTensorAlone(PlainTensor):
    def forward(self, x):
        return x + (self.scale / 3).sum()


class Autocast(Zeros):
    def forward(self, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.layer(x)


class Spectrum(Zeros):
    def forward(self, x):
        return torch.fft.rfft(self.layer(x).to(torch.float32)).abs()


def by_hand(module, x):
    """The same in NumPy's float64."""
    weight = module.layer.weight.detach().double().numpy()
    y = x.astype(np.float64) @ weight.T + module.layer.bias.detach().double().numpy()
    if isinstance(module, CastingNorm):
        return y / np.sqrt((y**2).mean(-1, keepdims=True) + 1e-6)
    if isinstance(module, PlainTensorAlone):
        return x.astype(np.float64) + (module.scale.double().numpy() / 3).sum()
    if isinstance(module, PlainTensor):
        scale = module.scale.double().numpy()
        return y * scale + scale
    if isinstance(module, Spectrum):
        return np.abs(np.fft.rfft(y))
    return y


@pytest.mark.parametrize(
    "kind",
    [Zeros, Float32Zeros, CastingNorm, HalfWay, PlainTensor, PlainTensorAlone, Autocast, Spectrum],
)
def test_the_truth_is_float64_whatever_the_module_asks_for(kind):
    module = kind().eval()
    truth = Truth(module)
    answer = truth(THIRDS)["output"]
    assert answer.dtype == np.float64
    assert truth.lowered == ()
    expected = by_hand(module, THIRDS["x"])
    assert np.abs(answer - expected).max() <= 1e-13 * np.abs(expected).max()
    narrow = torch_float32(module)(THIRDS)["output"]
    assert np.abs(narrow - expected).max() > 1e-9, "float32 itself is off, so the test can tell"


@pytest.fixture(scope="module")
def stubborn():
    """An operator of the user's own that computes in float32 whatever it is given."""
    library = torch.library.Library("twinport_test", "DEF")
    library.define("stubborn(Tensor x) -> Tensor")
    library.impl("stubborn", lambda x: x.float() * 0.1, "CompositeExplicitAutograd")
    yield torch.ops.twinport_test.stubborn
    library._destroy()


def test_an_operator_that_stays_below_float64_is_named(stubborn):
    class Net(nn.Module):
        def forward(self, x):
            return stubborn(x).double() + x

    truth = Truth(Net().eval())
    truth(THIRDS)
    assert truth.lowered == ("twinport_test.stubborn.default",)


def test_writing_into_a_plain_float32_tensor_is_named():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.held = torch.zeros(4, 8)

        def forward(self, x):
            self.held.copy_(x)
            return self.held * 3

    truth = Truth(Net().eval())
    truth(THIRDS)
    assert truth.lowered == ("aten.copy_.default",)


def test_integers_and_booleans_stay_what_they_are():
    class Net(nn.Module):
        def forward(self, x, k):
            return {"k": k * 2, "positive": x > 0, "best": x.argmax(-1)}

    answers = Truth(Net().eval())({**THIRDS, "k": np.array([7, 2**40])})
    assert [answers[name].dtype.name for name in ("k", "positive", "best")] == [
        "int64", "bool", "int64",
    ]  # fmt: skip
    assert answers["k"].tolist() == [14, 2**41]


class Doubled(nn.Module):
    def forward(self, x):
        return x * 2


@pytest.mark.parametrize("scalar", [np.asarray(1.5, np.float32), np.float32(1.5), np.int64(3)])
def test_scalars_of_numpy_are_inputs_as_arrays_without_axes_are(scalar):
    for run in (Truth(Doubled().eval()), torch_float32(Doubled().eval())):
        answer = run({"x": scalar})["output"]
        assert (answer.shape, answer.item()) == ((), scalar.item() * 2)


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(8, 2)

    def forward(self, x):
        raise RuntimeError(str(torch.zeros(1).dtype))


def test_the_default_type_comes_back_even_after_a_failure():
    with pytest.raises(RuntimeError, match="float64"):
        Truth(Fails().eval())(THIRDS)
    assert torch.get_default_dtype() is torch.float32
    assert torch.zeros(1).dtype is torch.float32


def test_the_users_module_and_its_inputs_stay_as_they_were():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.BatchNorm1d(8)
            self.register_buffer("calls", torch.zeros(()))

        def forward(self, x):
            self.calls += 1
            return self.norm(x.mul_(0.5))

    module = Net().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    given = {"x": THIRDS["x"].copy()}
    Truth(module)(given)
    assert module.training
    for name, value in module.state_dict().items():
        assert value.dtype is before[name].dtype
        assert torch.equal(value, before[name]), name
    np.testing.assert_array_equal(given["x"], THIRDS["x"])
    torch_float32(module)(given)
    np.testing.assert_array_equal(given["x"], THIRDS["x"])


def test_the_truth_runs_in_eval_mode():
    answer = Truth(nn.Sequential(nn.Dropout(0.5)).train())
    with pytest.raises(TypeError):
        answer(THIRDS)  # Sequential names its argument "input"
    np.testing.assert_array_equal(answer({"input": THIRDS["x"]})["output"], THIRDS["x"])


def test_a_module_that_cannot_be_copied_is_one_line():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.half = nn.Parameter(torch.ones(3)) * 0.5  # no leaf of the graph

    with pytest.raises(ExportError, match=r"^Net cannot be copied .*__deepcopy__ that works$"):
        Truth(Net())

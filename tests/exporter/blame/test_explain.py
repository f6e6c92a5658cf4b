"""A module that cannot be exported: the message names module, line and the usual cure."""

from __future__ import annotations

import sys

import pytest
import torch
from torch import nn

from exporter.graph import onnx_from_module
from runtime.errors import ExportError


class Branch(nn.Module):
    def forward(self, x):
        if x.sum() > 0:
            return x * 2
        return x * 3


class Deep(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Linear(4, 4), nn.Sequential(nn.ReLU(), Branch())])

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return x


class Count(nn.Module):
    def forward(self, x):
        return x.new_zeros(int(x.sum()) + 1)


class Asserts(nn.Module):
    def forward(self, x):
        assert (x > -100).all(), "too small"
        return x * 2


class Leaves(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() * 2)


class OtherDevice(nn.Module):
    def forward(self, x):
        return x + torch.ones(4, device="meta" if torch.compiler.is_compiling() else "cpu")


class Eigen(nn.Module):
    def forward(self, x):
        return torch.linalg.eigvals(x.T @ x).real


class Holds(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Eigen()

    def forward(self, x):
        return self.inner(x) + 1


class Sparse(nn.Module):
    def forward(self, x):
        return x.to_sparse() @ x.T


class Wrong(nn.Module):
    def __init__(self):
        super().__init__()
        self.head = nn.Linear(5, 3)

    def forward(self, x):
        return self.head(x)


KINDS = {
    Deep: (
        "torch.export cannot capture module 'blocks.1.1' (Branch): a branch, a loop or a number "
        "of Python depends on the values of a tensor ({file}:{line}: if x.sum() > 0:); choose "
        "with torch.where or torch.cond, or make the number a constant of the module",
        "if x.sum() > 0:",
    ),
    Count: (
        "torch.export cannot capture Count: a branch, a loop or a number of Python depends on "
        "the values of a tensor ({file}:{line}: return x.new_zeros(int(x.sum()) + 1)); choose",
        "int(x.sum())",
    ),
    Asserts: (
        "cannot capture Asserts: an assertion depends on the values of a tensor ({file}:{line}: "
        'assert (x > -100).all(), "too small"); leave the assertion out',
        "(x > -100)",
    ),
    Leaves: (
        "cannot capture Leaves: the values of a tensor leave torch, for NumPy as a rule "
        "({file}:{line}: return torch.from_numpy(x.numpy() * 2)); use operators of torch",
        "x.numpy()",
    ),
    OtherDevice: (
        "cannot capture OtherDevice: tensors of two devices meet, and the export runs on the CPU "
        "({file}:{line}: return x + torch.ones(",
        'device="meta"',
    ),
    Sparse: (
        "cannot capture Sparse: aten._to_sparse.default has no rule by which it can be traced "
        "({file}:{line}: return x.to_sparse() @ x.T); replace it",
        "x.to_sparse()",
    ),
    Holds: (
        "torch.onnx cannot convert module 'inner' (Eigen): operator aten.linalg_eig has no form "
        "in ONNX ({file}:{line}: return torch.linalg.eigvals(x.T @ x).real); write it with other",
        "eigvals",
    ),
    Wrong: (
        "the module itself fails on x [2, 4] in module 'head' (Linear): RuntimeError: mat1 and "
        "mat2 shapes cannot be multiplied (2x4 and 5x3) ({file}:{line}: return self.head(x)); "
        "check --input",
        "self.head(x)",
    ),
}


def line_of(text: str) -> int:
    """The first line of this file that holds a text."""
    with open(__file__, encoding="utf-8") as file:
        return next(i for i, line in enumerate(file, 1) if text in line)


def refused(source) -> str:
    with pytest.raises(ExportError) as caught:
        onnx_from_module(source)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_module_line_and_cure_are_named(source_of, kind, capfd):
    wanted, marked = KINDS[kind]
    wanted = wanted.format(file="test_explain.py", line=line_of(marked))
    assert wanted in refused(source_of(kind(), "x:float32[n,4]"))
    assert capfd.readouterr() == ("", "")


class Steps(nn.Module):
    """A Python loop over an axis."""

    def __init__(self):
        super().__init__()
        self.cell = nn.GRUCell(4, 5)

    def forward(self, x):
        state = x.new_zeros(x.shape[0], 5)
        for step in range(x.shape[1]):
            state = self.cell(x[:, step], state)
        return state


class Pairs(nn.Module):
    def forward(self, x):
        halves = x.reshape(x.shape[0], -1, 8)
        return halves.sum(1)


class Chain(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), inner

    def forward(self, x):
        y = self.first(x)
        return self.second(y)


AXES = {
    Steps: (
        "capture module 'second' (Steps): it fixes the free axis 'seq' to 4 ",
        "for step in range(x.shape[1]):",
        "use an operator of torch in place of a Python loop or number, or ",
    ),
    Pairs: (
        "capture module 'second' (Pairs): not every size of the free axis 'seq' is possible ",
        "halves = x.reshape(x.shape[0], -1, 8)",
        " is false for 5; narrow it with --range, or ",
    ),
}


@pytest.mark.parametrize("inner", AXES)
def test_an_axis_that_is_not_free_names_the_line_that_fixes_it(source_of, inner):
    said, code, cure = AXES[inner]
    tracing = sys.gettrace()
    text = refused(source_of(Chain(inner()), "x:float32[n,seq,4]", ranges={"seq": (4, 32)}))
    assert f"{said}(test_explain.py:{line_of(code)}: {code})" in text
    assert text.endswith(f"{cure}give that axis a number in --input, or one size with --range")
    assert sys.gettrace() is tracing, "the lines are watched no longer"

"""Recurrent layers become one operator each, of any length, and give what PyTorch gives."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx_ir as ir
import onnxruntime
import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence

from exporter.graph import onnx_from_module
from runtime.errors import ExportError

LAYERS = {
    "lstm": lambda: nn.LSTM(8, 6, batch_first=True),
    "stacked": lambda: nn.LSTM(8, 6, num_layers=2, bidirectional=True, dropout=0.5),
    "without bias": lambda: nn.LSTM(8, 5, bias=False, bidirectional=True),
    "gru": lambda: nn.GRU(8, 6, num_layers=2, batch_first=True),
    "gru both ways": lambda: nn.GRU(8, 5, bidirectional=True),
    "rnn": lambda: nn.RNN(8, 6, batch_first=True),
    "rnn with relu": lambda: nn.RNN(8, 5, nonlinearity="relu", bidirectional=True),
}


class All(nn.Module):
    """Every kind on the same input, with all that it returns."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleDict({name: make() for name, make in LAYERS.items()})

    def forward(self, x):
        return {name: layer(x) for name, layer in self.layers.items()}


class WithStates(nn.Module):
    """Starting states, and sequences without a batch axis."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.lstm, self.gru = nn.LSTM(8, 6, num_layers=2, bidirectional=True), nn.GRU(8, 5)

    def forward(self, x, h, c):
        return self.lstm(x, (h, c)), self.gru(x[:, 0]), self.gru(x[:, 0], h[:1, 0, :5])


def session_of(source):
    model = onnx_from_module(source)
    data = ir.to_proto(model).SerializeToString()
    return model, onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])


def check(source, session, **arrays):
    with torch.no_grad():
        wanted = source.module(**{name: torch.from_numpy(a) for name, a in arrays.items()})
    leaves = torch.utils._pytree.tree_leaves(wanted)
    for value, answer in zip(leaves, session.run(None, arrays), strict=True):
        assert answer.shape == tuple(value.shape)
        np.testing.assert_allclose(answer, value.numpy(), atol=2e-6, rtol=0)


def test_every_kind_is_an_operator_and_takes_any_length_and_batch(source_of):
    module = All()
    state, buffers = list(module.state_dict()), dict(module.named_buffers())
    source = source_of(module, "x:float32[a,b,8]")
    model, session = session_of(source)
    assert (list(module.state_dict()), dict(module.named_buffers())) == (state, buffers)
    assert all("forward" not in vars(layer) for layer in module.modules())
    operators = Counter(node.op_type for node in model.graph)
    assert (operators["LSTM"], operators["GRU"], operators["RNN"]) == (4, 3, 2)
    assert not {"Loop", "Scan", "Sigmoid", "Tanh", "MatMul", "Gemm"} & set(operators)
    draw = np.random.RandomState(0)
    for shape in ((1, 1, 8), (2, 33, 8), (64, 3, 8)):
        check(source, session, x=draw.standard_normal(shape).astype(np.float32))


def test_starting_states_and_single_sequences_are_taken(source_of):
    source = source_of(WithStates(), "x:float32[seq,batch,8]", "h:float32[4,batch,6]",
                       "c:float32[4,batch,6]")  # fmt: skip
    _, session = session_of(source)
    draw = np.random.RandomState(0)
    for length, batch in ((1, 1), (9, 2), (40, 3)):
        shapes = {"x": (length, batch, 8), "h": (4, batch, 6), "c": (4, batch, 6)}
        check(source, session, **{n: draw.standard_normal(s).astype(np.float32)
                                  for n, s in shapes.items()})  # fmt: skip


def test_a_packed_sequence_says_what_to_pass_instead(source_of):
    class Packed(nn.Module):
        def __init__(self):
            super().__init__()
            self.lstm = nn.LSTM(8, 6, batch_first=True)

        def forward(self, x):
            return self.lstm(pack_padded_sequence(x, torch.tensor([3, 2]), True))[1][0]

    with pytest.raises(ExportError, match=r"gets a PackedSequence.* pass padded sequences"):
        onnx_from_module(source_of(Packed(), "x:float32[2,3,8]"))


def test_a_projection_which_onnx_has_no_operator_for_is_refused(source_of):
    module = nn.Sequential(nn.Identity(), nn.LSTM(8, 6, proj_size=3))
    with pytest.raises(ExportError, match=r"module '1' \(LSTM\) projects its state"):
        onnx_from_module(source_of(module, "input:float32[4,batch,8]"))

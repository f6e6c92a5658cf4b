"""LSTM, GRU and RNN layers leave PyTorch as the ONNX operator of that name.

torch.export would unroll them over the length of its example, which fixes that length and
repeats the cell for each step. The operators take any length and runtimes have kernels for
them. Gates are ordered as ONNX wants them (``docs/Operators.md``: LSTM ``iofc``, GRU
``zrh``), PyTorch has ``ifgo`` and ``rzn``.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence

from exporter.forwards import Forward, replaced_forwards
from runtime.errors import ExportError

_VERSION = 14
"""Of the three operators since then; later versions only add data types."""


@dataclass(frozen=True)
class _Kind:
    """How one PyTorch mode is written in ONNX."""

    operator: str
    gates: tuple[int, ...]
    """PyTorch's gates in ONNX's order."""
    attributes: dict[str, int]
    activation: str | None = None
    states: int = 1


_KINDS = {
    "LSTM": _Kind("LSTM", (0, 3, 1, 2), {}, states=2),
    # PyTorch applies the reset gate after the linear layer.
    "GRU": _Kind("GRU", (1, 0, 2), {"linear_before_reset": 1}),
    "RNN_TANH": _Kind("RNN", (0,), {}, "Tanh"),
    "RNN_RELU": _Kind("RNN", (0,), {}, "Relu"),
}


@contextmanager
def recurrent_operators(module: nn.Module) -> Iterator[None]:
    """Give the recurrent layers of a module forwards that export as operators, until the end.

    Layers with a forward of their own are left to torch.export.

    Raises:
        ExportError: A layer has a projection, which ONNX's operator lacks.
    """
    layers = [layer for layer in module.modules() if _is_plain(layer)]
    for path, layer in module.named_modules():
        if isinstance(layer, nn.RNNBase) and layer.proj_size:
            raise ExportError(
                f"module '{path}' (LSTM) projects its state (proj_size {layer.proj_size}), which "
                "no operator of ONNX does; use one without, or write the steps out"
            )
    weights = {layer: _ordered_weights(layer) for layer in layers}
    try:
        with replaced_forwards() as replace:
            for layer, buffers in weights.items():
                for name, value in buffers.items():
                    layer.register_buffer(name, value, persistent=False)
                replace(layer, _operator_forward(layer))
            yield
    finally:
        for layer, buffers in weights.items():
            for name in buffers:
                delattr(layer, name)


def _is_plain(layer: nn.Module) -> TypeGuard[nn.RNNBase]:
    known = (nn.LSTM.forward, nn.GRU.forward, nn.RNN.forward)
    return isinstance(layer, nn.RNNBase) and type(layer).forward in known


def _ordered_weights(layer: nn.RNNBase) -> dict[str, torch.Tensor]:
    """For each layer ``onnx_weight`` ``[directions, gates * hidden, inputs]`` and so on."""
    gates = _KINDS[layer.mode].gates
    buffers: dict[str, torch.Tensor] = {}
    for index in range(layer.num_layers):
        for name, parts in _NAMES.items():
            if "bias" in name and not layer.bias:
                continue
            rows = [
                torch.cat([_reordered(layer, f"{part}_l{index}{end}", gates) for part in parts])
                for end in ("", "_reverse")[: _directions(layer)]
            ]
            buffers[f"{name}_{index}"] = torch.stack(rows)
    return buffers


_NAMES = {
    "onnx_weight": ("weight_ih",),
    "onnx_recurrence": ("weight_hh",),
    "onnx_bias": ("bias_ih", "bias_hh"),
}


def _reordered(layer: nn.RNNBase, name: str, gates: tuple[int, ...]) -> torch.Tensor:
    parts = getattr(layer, name).detach().chunk(len(gates))
    return torch.cat([parts[gate] for gate in gates])


def _directions(layer: nn.RNNBase) -> int:
    return 2 if layer.bidirectional else 1


def _operator_forward(layer: nn.RNNBase) -> Forward:
    kind = _KINDS[layer.mode]

    def forward(input: torch.Tensor, hx: Any = None) -> Any:
        if isinstance(input, PackedSequence):
            raise ExportError(
                f"{type(layer).__name__} gets a PackedSequence, which no graph can take; pass "
                "padded sequences and mask what is beyond their lengths"
            )
        states = hx if kind.states == 2 or hx is None else (hx,)
        single = input.dim() == 2
        if single:
            input = input.unsqueeze(1)
            states = states and tuple(state.unsqueeze(1) for state in states)
        elif layer.batch_first:
            input = input.transpose(0, 1)
        output, last = _all_layers(layer, kind, input, states)
        if single:
            output, last = output.squeeze(1), [state.squeeze(1) for state in last]
        elif layer.batch_first:
            output = output.transpose(0, 1)
        return output, tuple(last) if kind.states == 2 else last[0]

    return forward


def _all_layers(
    layer: nn.RNNBase, kind: _Kind, x: torch.Tensor, states: Any
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    """``[length, batch, directions * hidden]`` and each state ``[all layers, batch, hidden]``."""
    directions, last = _directions(layer), []
    for index in range(layer.num_layers):
        part = slice(index * directions, (index + 1) * directions)
        first = [state[part] for state in states] if states is not None else []
        y, *ends = _operator(layer, kind, index, x, first)
        x = y.transpose(1, 2).flatten(2)  # [length, batch, directions * hidden]
        last.append(ends)
    return x, [torch.cat(parts) for parts in zip(*last, strict=True)]


def _operator(
    layer: nn.RNNBase, kind: _Kind, index: int, x: torch.Tensor, states: list[torch.Tensor]
) -> list[torch.Tensor]:
    """One ONNX node: ``[length, directions, batch, hidden]`` and the states at the end."""
    directions = _directions(layer)
    attributes: dict[str, Any] = {"hidden_size": layer.hidden_size, **kind.attributes}
    if directions == 2:
        attributes["direction"] = "bidirectional"
    if kind.activation:
        attributes["activations"] = [kind.activation] * directions
    end = (directions, x.shape[1], layer.hidden_size)
    weights = [getattr(layer, f"{name}_{index}", None) for name in _NAMES]
    return list(
        torch.onnx.ops.symbolic_multi_out(
            kind.operator,
            (x, *weights, None, *states),  # no lengths: all rows are as long as the input
            attributes,
            dtypes=(x.dtype,) * (1 + kind.states),
            shapes=((x.shape[0], *end), *(end,) * kind.states),
            version=_VERSION,
        )
    )

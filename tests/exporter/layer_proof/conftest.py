"""Models with a trait each, exported once, and faults that are planted into their graphs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx import helper, numpy_helper
from torch import nn

from exporter.experts.adapters import find_layers
from exporter.graph import onnx_from_module
from exporter.layer_proof.prove import LayerOptions, layer_proof
from exporter.layer_proof.records import LayerProof
from exporter.layers import module_map
from exporter.passes.expand_experts import expand_experts
from exporter.passes.run import run_passes
from exporter.source import Source
from models.moe import MoELayer
from runtime.golden import Case, Golden
from runtime.manifest import ModuleOrigin
from runtime.tensors import spec_from_text

Plant = Callable[[onnx.ModelProto], None]


class Pictures(nn.Module):
    """A norm that is folded into the convolution before it, one that is not, a lone ReLU."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.folded = nn.BatchNorm2d(8)
        self.act = nn.ReLU(inplace=True)
        self.norm = nn.BatchNorm2d(8)
        self.second = nn.Conv2d(8, 8, 3, padding=1)
        self.body = nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Dropout(), nn.Linear(16, 16))
        self.scale = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)
        for norm in (self.folded, self.norm):
            norm.running_mean.normal_()
            norm.running_var.uniform_(0.01, 0.5)

    def forward(self, image):
        x = self.norm(self.act(self.folded(self.stem(image))))
        x = torch.tanh(self.second(x)).mean((2, 3))
        return self.head(self.scale(self.body(x)))


class Two(nn.Module):
    """Two tensors in, two out, one of them by name."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x, other):
        return self.first(x) + 0.5 * other, torch.tanh(self.second(other)) - x


class Calls(nn.Module):
    """Modules called twice, shared, in a loop, never; recurrent ones with a part unused."""

    def __init__(self):
        super().__init__()
        self.shared = nn.Linear(4, 4)
        self.again = self.shared
        self.act = nn.ReLU(inplace=True)
        self.block = nn.Sequential(nn.Linear(4, 4), nn.GELU())
        self.two = Two()
        self.lstm = nn.LSTM(4, 4, batch_first=True)
        self.cell = nn.GRUCell(4, 4)
        self.borrowed = nn.Linear(4, 4)

    def forward(self, x, y):
        x = self.act(self.shared(x))
        x = self.act(self.again(x) + y)
        x = self.block(self.block(x) * 2)
        p, q = self.two(x, y)
        p, q = self.two(q, other=p)
        steps, (_, c) = self.lstm(x.unsqueeze(1).expand(-1, 3, -1))
        h = torch.zeros_like(x)
        for _ in range(3):
            h = self.cell(p, h)
        mixed = nn.functional.linear(steps[:, -1] + c[0] + h, self.borrowed.weight)
        return {"mixed": mixed * q, "best": (x + y).argmax(-1)}


class Routed(nn.Module):
    """Two layers of experts between linear ones."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 3)
        self.moe = MoELayer(width=8, hidden=16, experts=4, top_k=2)

    def forward(self, x):
        return self.last(self.moe(self.first(x))[0])


@dataclass(frozen=True)
class Exported:
    """A source, its graph, and inputs to run both on."""

    source: Source
    model: onnx.ModelProto
    origins: Mapping[str, ModuleOrigin]
    golden: Golden

    def proof(self, *plants: Plant, **options: Any) -> LayerProof:
        """The layer proof of the graph with faults planted into a copy of it."""
        model = onnx.ModelProto()
        model.CopyFrom(self.model)
        for plant in plants:
            plant(model)
        return layer_proof(
            self.source, model, self.origins, self.golden, LayerOptions(**options)
        )  # fmt: skip


def export(make: Callable[[], nn.Module], *inputs: str) -> Exported:
    torch.manual_seed(0)
    module = make().eval()
    specs = tuple(spec_from_text(text) for text in inputs)
    source = Source("net", "net:make", module, specs, (), {}, {}, None, experts=find_layers(module))
    graph = onnx_from_module(source)
    origins = module_map(graph)
    graph = run_passes(graph, [expand_experts()])
    draw = np.random.RandomState(0)
    cases = [
        Case("random", False, {
            spec.name: draw.standard_normal((rows, *spec.shape[1:])).astype(np.float32)
            for spec in specs
        }, {})
        for rows in (2, 7)
    ]  # fmt: skip
    golden = Golden(True, tuple(cases))
    return Exported(source, ir.to_proto(graph), origins, golden)


@pytest.fixture(scope="session")
def pictures() -> Exported:
    return export(Pictures, "image:float32[batch,3,10,10]")


@pytest.fixture(scope="session")
def calls() -> Exported:
    return export(Calls, "x:float32[batch,4]", "y:float32[batch,4]")


@pytest.fixture(scope="session")
def routed() -> Exported:
    return export(Routed, "x:float32[batch,6]")


class Plants:
    """Faults by what they do to a graph."""

    @staticmethod
    def weight(name: str, change: Callable[[Any], Any]) -> Plant:
        def plant(model):
            tensor = next(item for item in model.graph.initializer if item.name == name)
            changed = change(numpy_helper.to_array(tensor).copy())
            tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(changed), name))

        return plant

    @staticmethod
    def one_off(name: str) -> Plant:
        """One weight of middle size off by one per cent."""

        def change(array):
            at = np.argsort(np.abs(array), axis=None)[array.size // 2]
            array.reshape(-1)[at] *= np.float32(1.01)
            return array

        return Plants.weight(name, change)

    @staticmethod
    def attribute(node: str, name: str, value: Any) -> Plant:
        def plant(model):
            found = next(item for item in model.graph.node if item.name == node)
            kept = [item for item in found.attribute if item.name != name]
            del found.attribute[:]
            found.attribute.extend([*kept, helper.make_attribute(name, value)])

        return plant

    @staticmethod
    def lose(operator: str, turn: int) -> Plant:
        """Take a node out; who read its output reads its input."""

        def plant(model):
            nodes = [node for node in model.graph.node if node.op_type == operator]
            gone = nodes[turn]
            for node in model.graph.node:
                for i, name in enumerate(node.input):
                    if name == gone.output[0]:
                        node.input[i] = gone.input[0]
            model.graph.node.remove(gone)

        return plant

    @staticmethod
    def swap(one: str, other: str) -> Plant:
        """Give each of two weights the other's numbers."""

        def plant(model):
            found = {item.name: item for item in model.graph.initializer}
            arrays = {name: numpy_helper.to_array(found[name]).copy() for name in (one, other)}
            found[one].CopyFrom(numpy_helper.from_array(arrays[other], one))
            found[other].CopyFrom(numpy_helper.from_array(arrays[one], other))

        return plant


@pytest.fixture(scope="session")
def plants() -> type[Plants]:
    return Plants

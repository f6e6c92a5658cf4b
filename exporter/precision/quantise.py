"""Static int8: Q and DQ nodes around the inputs of matrix products, weights stored as int8.

After "Integer Quantization for Deep Learning Inference" (H. Wu et al., 2020, arXiv
2004.09602): symmetric, weights with a scale for each output channel, activations with one
scale a tensor. What is between the products, biases too, stays float32; a runtime fuses
DQ, product and Q into integer arithmetic.

1. Conv: channels of the weight are its axis 0. ConvTranspose with one group: axis 1.
2. Gemm: axis 0 with transB, else axis 1. MatMul by a matrix: axis 1.
3. One pair of Q and DQ a value, however many products read it; one DQ a weight.
4. A weight that something else reads too stays there in float32 as well.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from exporter.experts.builder import Names
from exporter.experts.replace import is_read
from exporter.passes.conditions import is_ordered, names_differ
from exporter.passes.run import Pass, graph_pass
from exporter.precision.choose import NAMED, ROUTES, Choice
from exporter.precision.lower import constant_of
from exporter.precision.routing import nodes_that_route
from exporter.precision.slots import is_float
from exporter.precision.typed import is_in, module_of
from runtime.errors import ExportError
from runtime.manifest import QuantisedOperator
from runtime.tensors import Array

OPERATORS = ("Conv", "ConvTranspose", "Gemm", "MatMul")
LEVELS = 127
"""Symmetric: -128 is not used, as TensorRT wants it."""


@dataclass(frozen=True)
class _Product:
    """A product that can be quantised."""

    node: ir.Node
    value: ir.Value
    weight: ir.Value
    array: Array
    axis: int


def choose_products(model: ir.Model, keep: Sequence[str], largest: Mapping[str, float]) -> Choice:
    """Decide for every product of the outer graph.

    Args:
        model: Typed.
        keep: Modules that the user keeps.
        largest: By value, the largest magnitude seen.
    """
    routing = nodes_that_route(model)
    choice = Choice()
    for node in model.graph:
        if node.op_type not in OPERATORS or node.domain != "" or not is_float(node.outputs[0]):
            continue
        place = str(node.name)
        if is_in(node, keep):
            choice.kept[place] = module_of(node), NAMED
        elif place in routing:
            choice.kept[place] = module_of(node), ROUTES
        elif reason := _why_not(node, largest):
            choice.kept[place] = module_of(node), reason
        else:
            choice.chosen[place] = module_of(node)
    return choice


def quantise(
    chosen: Mapping[str, str], scales: Mapping[str, float], record: list[QuantisedOperator]
) -> Pass:
    """A pass that puts Q and DQ in.

    Args:
        chosen: Names of products, from ``choose_products``, and their modules.
        scales: By value that a product reads: the value of one step.
        record: What was quantised is appended.

    Returns:
        The pass. It raises ExportError where nothing is quantised.
    """

    @graph_pass(ensures=(is_ordered, names_differ))
    def quantise(model: ir.Model) -> tuple[ir.Model, bool]:
        """Postcondition: each chosen product reads two DequantizeLinear."""
        change = _Change(model)
        for node in [node for node in model.graph if str(node.name) in chosen]:
            product = _product(node)
            if product is not None:
                record.append(change.quantise(product, scales[str(product.value.name)]))
        if not record:
            raise ExportError("int8 quantised nothing; this graph has no such product")
        change.drop_unread()
        return model, True

    return quantise


class _Change:
    """One run of the pass over a model."""

    def __init__(self, model: ir.Model) -> None:
        self._graph = model.graph
        self._names = Names(model)
        self._values: dict[int, ir.Value] = {}
        self._weights: dict[tuple[int, int], tuple[ir.Value, ir.Value]] = {}
        self._replaced: list[ir.Value] = []
        self._zero: ir.Value | None = None

    def quantise(self, product: _Product, scale: float) -> QuantisedOperator:
        """Put the nodes of one product in."""
        node = product.node
        if id(product.value) not in self._values:
            self._values[id(product.value)] = self._through_int8(product, scale)
        key = id(product.weight), product.axis
        if key not in self._weights:
            self._weights[key] = self._stored(product)
        stored, weight = self._weights[key]
        node.replace_input_with(0, self._values[id(product.value)])
        node.replace_input_with(1, weight)
        return QuantisedOperator(
            node=str(node.name),
            module=module_of(node),
            operator=node.op_type,
            weight=str(stored.name),
            channels=product.array.shape[product.axis],
            input_scale=float(np.float32(scale)),
        )

    def _through_int8(self, product: _Product, scale: float) -> ir.Value:
        name = str(product.value.name)
        step = self._initializer(f"{name}.scale", np.array(scale, dtype=np.float32))
        if self._zero is None:
            self._zero = self._initializer("int8_zero", np.array(0, dtype=np.int8))
        inputs = [product.value, step, self._zero]
        quantised = self._node("QuantizeLinear", inputs, name, ir.DataType.INT8, product.node)
        inputs = [quantised, step, self._zero]
        return self._node("DequantizeLinear", inputs, name, ir.DataType.FLOAT, product.node)

    def _stored(self, product: _Product) -> tuple[ir.Value, ir.Value]:
        """The int8 weight and the value that a product reads in its place."""
        name = str(product.weight.name)
        scale = weight_scales(product.array, product.axis)
        numbers = quantised_weight(product.array, scale, product.axis)
        stored = self._initializer(f"{name}.int8", numbers)
        step = self._initializer(f"{name}.scale", scale)
        self._replaced.append(product.weight)
        result = self._node(
            "DequantizeLinear", [stored, step], name, ir.DataType.FLOAT, product.node, product.axis
        )
        return stored, result

    def _initializer(self, wanted: str, array: Array) -> ir.Value:
        name = self._names.fresh(wanted)
        tensor = ir.Tensor(array, name=name)
        value = ir.Value(
            name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor
        )
        self._graph.register_initializer(value)
        return value

    def _node(
        self,
        op_type: str,
        inputs: Sequence[ir.Value],
        name: str,
        dtype: ir.DataType,
        reader: ir.Node,
        axis: int | None = None,
    ) -> ir.Value:
        node = ir.node(
            op_type, inputs, attributes=None if axis is None else {"axis": axis},
            name=self._names.fresh(f"{name}/{op_type}"), metadata_props=dict(reader.metadata_props),
        )  # fmt: skip
        result = node.outputs[0]
        result.name = self._names.fresh(f"{node.name}.out")
        result.type, result.shape = ir.TensorType(dtype), inputs[0].shape
        self._graph.insert_before(reader, node)
        return result

    def drop_unread(self) -> None:
        """Float weights that nothing reads any more, and Constant nodes that held them."""
        for value in self._replaced:
            if is_read(value):
                continue
            maker = value.producer()
            if maker is not None:
                self._graph.remove(maker, safe=True)
            else:
                self._graph.initializers.pop(str(value.name), None)


def weight_scales(array: Array, axis: int) -> Array:
    """float32 ``[channels]``: the value of one step, so that the largest weight is 127 steps.

    A channel of zeros gets 1: no step is as good as another, and none may be 0.
    """
    others = tuple(i for i in range(array.ndim) if i != axis % array.ndim)
    largest = np.abs(array).max(axis=others)
    return np.where(largest > 0, largest / LEVELS, 1.0).astype(np.float32)


def quantised_weight(array: Array, scale: Array, axis: int) -> Array:
    """int8 in the shape of ``array``; halves go to the even step, as in QuantizeLinear."""
    shape = [1] * array.ndim
    shape[axis] = -1
    steps = np.rint(array / scale.reshape(shape))
    return np.asarray(np.clip(steps, -LEVELS, LEVELS).astype(np.int8))


def _product(node: ir.Node) -> _Product | None:
    """What a product multiplies; none where its weight is no constant."""
    value, weight = node.inputs[0], node.inputs[1]
    array = None if weight is None else constant_of(weight)
    if value is None or weight is None or array is None or constant_of(value) is not None:
        return None
    axis = _channel_axis(node, array)
    return None if axis is None else _Product(node, value, weight, array, axis)


def _channel_axis(node: ir.Node, array: Array) -> int | None:
    attributes = node.attributes
    if node.op_type == "Conv":
        return 0
    if node.op_type == "ConvTranspose":
        return 1 if attributes.get_int("group", 1) == 1 else None
    if node.op_type == "Gemm":
        plain = not attributes.get_int("transA", 0) and attributes.get_float("alpha", 1.0) == 1.0
        return (0 if attributes.get_int("transB", 0) else 1) if plain else None
    return 1 if array.ndim == 2 else None


def _why_not(node: ir.Node, largest: Mapping[str, float]) -> str:
    product = _product(node)
    if product is None:
        return "its weight is no constant matrix"
    size = largest.get(str(product.value.name))
    if size is None:
        return "its input was not measured"
    if not np.isfinite(product.array).all():
        return "its weight is not finite"
    return ""

"""Put a form in an opaque node's place, under the names that the rest of the graph uses."""

from __future__ import annotations

import functools
import math

import numpy as np
import onnx_ir as ir

from exporter.experts.builder import Builder, Names, Weights
from exporter.experts.forms import FORMS, Form
from exporter.experts.forms.fused import DOMAIN as FUSED_DOMAIN
from exporter.experts.forms.static import build_static
from exporter.experts.node import MoENode
from exporter.experts.replace import is_read, replace_node
from exporter.experts.routing import Routing, build_load, build_routing, build_shaped


def expand_node(
    model: ir.Model,
    moe: MoENode,
    form: str,
    *,
    most_tokens: float = math.inf,
    few: tuple[str, int] | None = None,
    store: tuple[Names, Weights] | None = None,
) -> None:
    """Replace one opaque node; its weights' initializers stay where they are.

    Args:
        model: Changed in place.
        moe: The node, read.
        form: A key of ``FORMS``.
        most_tokens: The most tokens of a call, for the static form.
        few: A form, and up to how many tokens it runs in place of ``form``.
        store: Names and re-laid weights shared with the model's other layers.
    """
    names, weights = store or new_store(model)
    opset = model.graph.opset_imports[""]
    prefix = moe.layer or "moe"
    build = Builder(prefix, opset, moe.node.metadata_props, names, weights)
    routing = build_routing(moe, build)
    main = _form(form, most_tokens)
    if few is None:
        y = main(moe, routing, build)
    else:
        y = _chosen_at_run_time(moe, routing, build, _form(few[0], few[1]), few[1], main)
    y = build_shaped(moe, y, build)
    load = build_load(moe, routing, build) if is_read(moe.node.outputs[1]) else None
    made = [y] if load is None else [y, load]
    build.drop_unused(made)
    replace_node(moe.node, build.nodes, made)
    if "fused" in (form, few[0] if few else None):
        model.graph.opset_imports[FUSED_DOMAIN] = 1


def new_store(model: ir.Model) -> tuple[Names, Weights]:
    """Names and re-laid weights for all layers of a model."""
    names = Names(model)
    return names, Weights(model.graph, names)


def _form(name: str, most_tokens: float) -> Form:
    if name == "static":
        return functools.partial(build_static, most_tokens=most_tokens)
    return FORMS[name]


def _chosen_at_run_time(
    moe: MoENode, routing: Routing, build: Builder, few: Form, most: int, many: Form
) -> ir.Value:
    """An If on the number of tokens; both branches read the routing and weights outside."""
    count = build.op("Shape", routing.tokens, attributes={"start": 0, "end": 1})
    limit = build.constant(np.array(most, dtype=np.int64))
    is_few = build.op("LessOrEqual", build.op("Squeeze", count), limit)
    branches = {
        "then_branch": _branch(moe, routing, build, few),
        "else_branch": _branch(moe, routing, build, many),
    }
    return build.op("If", is_few, attributes=branches)


def _branch(moe: MoENode, routing: Routing, build: Builder, form: Form) -> ir.Graph:
    inner = build.inner()
    y = form(moe, routing, inner)
    y.type, y.shape = ir.TensorType(ir.DataType.FLOAT), ir.Shape([None, moe.width])
    inner.drop_unused([y])
    return ir.Graph([], [y], nodes=inner.nodes, name=build.name(_form_name(form)))


def _form_name(form: Form) -> str:
    function = form.func if isinstance(form, functools.partial) else form
    return str(getattr(function, "__name__", "form")).removeprefix("build_")

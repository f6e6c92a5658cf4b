"""Each opaque expert layer becomes a sparse graph.

1. ``sorted``, ``static``, ``fused``: that form for every layer.
2. ``auto``: by the tokens of a call; for a range that wants two, both under one If.
3. The load of a layer is left out where nothing reads it.
4. Initializers that no form reads any more go, and so does the opaque op's domain.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping

import onnx_ir as ir

from exporter.experts.choose import MOST_TOKENS_FUSED, plan_layers
from exporter.experts.expand import expand_node, new_store
from exporter.experts.node import DOMAIN, FIRST_WEIGHT, moe_nodes, read_node
from exporter.experts.replace import drop_unused_initializers
from exporter.passes.conditions import is_ordered
from exporter.passes.run import Pass, graph_pass

log = logging.getLogger(__name__)


def expand_experts(form: str = "auto", ranges: Mapping[str, tuple[int, int]] | None = None) -> Pass:
    """A pass that expands every expert layer.

    Args:
        form: One of ``exporter.experts.choose.FORM_NAMES``.
        ranges: Smallest and largest size of the model's free axes; an axis without may
            have any size.

    Returns:
        The pass. It raises ExportError where a layer cannot take the form, and
        InvalidInput where there is no such form.
    """

    @graph_pass(requires=(is_ordered,), ensures=(is_ordered, _no_opaque_layer))
    def expand_experts(model: ir.Model) -> tuple[ir.Model, bool]:
        """Postcondition: no node of the opaque op is left."""
        nodes = list(moe_nodes(model))
        plans = plan_layers([read_node(node) for node in nodes], form, ranges or {})
        store = new_store(model)
        for node, plan in zip(nodes, plans, strict=True):
            moe = read_node(node)  # again: the layer before it gives another value by now
            log.info("layer %s: %s", moe.layer, plan)
            few = (plan.few, MOST_TOKENS_FUSED) if plan.few else None
            weights = list(moe.node.inputs[FIRST_WEIGHT:])
            expand_node(model, moe, plan.form, most_tokens=plan.tokens[1], few=few, store=store)
            drop_unused_initializers(model.graph, weights)
        model.graph.opset_imports.pop(DOMAIN, None)
        return model, bool(nodes)

    return expand_experts


def _no_opaque_layer(model: ir.Model) -> str:
    return next((f"layer '{node.name}' is left" for node in moe_nodes(model)), "")

"""What no output depends on goes, by onnx_ir.

1. Nodes, those inside subgraphs too, whose values nothing reads.
2. Initializers that nothing reads; inputs of the graph stay.
3. Outputs of a node that are optional and not read.
4. Functions that nothing calls, operator sets that nothing is of.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common

from exporter.passes.conditions import all_is_read, is_ordered
from exporter.passes.run import graph_pass


@graph_pass(requires=(is_ordered,), ensures=(is_ordered, all_is_read))
def drop_dead_code(model: ir.Model) -> tuple[ir.Model, bool]:
    """Postcondition: every node and initializer has a reader."""
    changed = False
    for drop in (
        common.RemoveUnusedNodesPass(),
        common.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]  # onnx_ir's own
        common.RemoveUnusedOpsetsPass(),
    ):
        changed = bool(drop(model).modified) or changed
    return model, changed

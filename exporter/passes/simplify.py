"""Known patterns become shorter ones, by onnxscript's rules, and keep name and module.

1. Reshapes, transposes, slices, casts, clips and paddings in a row become one, or none.
2. A product of matrices with a sum is one Gemm; a bias of zeros goes.
3. Normalisations are left to ``fuse_batchnorm``, which keeps the convolution's name.
"""

from __future__ import annotations

import onnx_ir as ir
import onnx_ir.passes.common as common
from onnxscript import rewriter
from onnxscript.rewriter.rules.common import _fuse_batchnorm

from exporter.passes.conditions import is_ordered, names_differ
from exporter.passes.names import nodes_kept
from exporter.passes.run import graph_pass

_RULES = tuple(
    rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule not in _fuse_batchnorm.rules
)


@graph_pass(requires=(is_ordered,), ensures=(is_ordered, names_differ))
def simplify(model: ir.Model) -> tuple[ir.Model, bool]:
    """Postcondition: a value that is still there has the same numbers, name and module."""
    with nodes_kept(model):
        changed = bool(rewriter.RewritePass(_RULES)(model).modified)
        lift = common.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)
        changed = bool(lift(model).modified) or changed
    return model, changed

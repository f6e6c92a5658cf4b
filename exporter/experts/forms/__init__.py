"""The forms that an expert layer can take in ONNX, one a file."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import onnx_ir as ir

from exporter.experts.builder import Builder
from exporter.experts.forms.fused import build_fused
from exporter.experts.forms.sorted import build_sorted
from exporter.experts.forms.static import build_static
from exporter.experts.node import MoENode
from exporter.experts.routing import Routing

Form = Callable[[MoENode, Routing, Builder], ir.Value]
"""Builds ``[T, width]`` from the routing."""

FORMS: Mapping[str, Form] = {
    "sorted": build_sorted,
    "static": build_static,
    "fused": build_fused,
}

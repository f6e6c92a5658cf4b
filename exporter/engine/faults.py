"""What parser and builder complain of, in one line: the node, its module, what to do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from exporter.engine.origins import Module, Origins

if TYPE_CHECKING:
    import tensorrt as trt

_LONGEST = 240
_NOISE = re.compile(r"catchCudaError|CUDA driver version is insufficient")
"""Without a driver every other error is followed by one that says so."""
_ASSERTION = re.compile(r"(?:Assertion failed: .*?(?: && \"|: )|^\w+ && \")(?P<text>\S.*)")
_API = re.compile(r"Error Code \d+: [\w ]+ \((?P<text>.*)\)\s*$", re.DOTALL)
_SOURCE = re.compile(r"^\[\S+\.(?:cpp|h):\d+: \w+\]\s*")
_PLACE = re.compile(r"\.?\s+In \w+ at \S+:\d+")
_WORD = re.compile(r"[\w.:/-]+")
_EXPERTS = "export with --moe-form static where it comes from a layer of experts"
_CURES = (
    (re.compile(r"\bNonZero\b"), f"{_EXPERTS}; else make sizes independent of data"),
    (re.compile(r"ScatterND"), f"{_EXPERTS}; else add with scatter_add along one axis"),
    (re.compile(r"Plugin not found|not found in plugin registry|No importer|not found in registry"),
     "write it with other operators in the module"),
    (re.compile(r"workspace memory|scratch", re.I), "raise --workspace"),
    (re.compile(r"Turing|SM75"), "leave compute capability 7.5 out"),
    (re.compile(r"timing cache", re.I), "give --timing-cache a new file"),
)  # fmt: skip


@dataclass(frozen=True)
class Fault:
    """One complaint.

    Attributes:
        node: Name of the ONNX node; empty where it is about none.
        operator: Of that node.
        text: What is wrong, shortened.
        module: Where the node comes from.
        within: The node whose body or function the node is in.
    """

    node: str
    operator: str
    text: str
    module: Module | None = None
    within: str = ""

    @property
    def cure(self) -> str:
        """What to do; empty where nothing is known."""
        said = f"{self.operator} {self.text}"
        return next((cure for pattern, cure in _CURES if pattern.search(said)), "")

    def __str__(self) -> str:
        place = f"node '{self.node}'" if self.node else ""
        if self.operator:
            place += f" ({self.operator})"
        if self.within:
            place += f" inside '{self.within}'"
        if self.module:
            place += f" of module {self.module}"
        parts = [f"{place}: {self.text}" if place else self.text, self.cure]
        return "; ".join(part for part in parts if part)


def fault_from_error(error: trt.ParserError, origins: Origins) -> Fault:
    """One error of the parser."""
    node = error.node_name()
    stack = error.local_function_stack()
    within = stack[0].partition(" (")[0] if stack else ""
    module = origins.module_of_node(node) or (origins.module_of_node(within) if within else None)
    return Fault(node, error.node_operator(), short_text(error.desc()), module, within)


def fault_from_log(lines: Sequence[str], origins: Origins) -> Fault:
    """What the library logged as errors, the first that says something; nodes are named in it."""
    telling = [line for line in lines if not _NOISE.search(line)] or list(lines)
    if not telling:
        return Fault("", "", "the library gave no plan and no reason")
    words = _WORD.findall(telling[0])
    named = [word.strip(".:") for word in words if word.strip(".:") in origins.nodes]
    node = max(named, key=len, default="")
    operator = origins.nodes[node].op_type if node else ""
    module = origins.module_of_node(node) if node else None
    return Fault(node, operator, short_text(telling[0]), module)


def short_text(text: str) -> str:
    """The library's text without assertions, places in its source and its own prefixes."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    telling = [line for line in lines if not _NOISE.search(line)] or lines
    if len(telling) > 1 and telling[0].startswith("Invalid Node"):
        telling = telling[1:]
    line = telling[0] if telling else "no reason given"
    if found := _ASSERTION.search(line):
        line = found["text"]
    if found := _API.search(line):
        line = found["text"]
    line = _PLACE.sub("", _SOURCE.sub("", line)).strip(" .\"'")
    return line if len(line) <= _LONGEST else f"{line[:_LONGEST]}…"

"""The graph that is looked at: an artifact's own, its view, or an engine's fused layers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from exporter.engine.layers import EngineNetwork
from exporter.engine.summary import holds_engine
from exporter.look.asked import Looks
from exporter.look.engine_view import inspector_of, network_of_inspector, view_of_engine
from exporter.summary import graph_to_look_at
from runtime.errors import UsageProblem


@dataclass(frozen=True)
class Graph:
    """What there is to look at.

    Attributes:
        file: For Netron; the artifact itself where nobody asked to see it.
        fused: The layers that the inspector told of, where it was asked.
        record: What it said, for ``--json``.
    """

    file: Path
    fused: EngineNetwork | None = None
    record: Mapping[str, Any] = field(default_factory=dict)


@contextmanager
def graph_of(artifact: Path, looks: Looks) -> Iterator[Graph]:
    """The graph that the options mean; a file made for it is gone when the block ends.

    Raises:
        UsageProblem: The inspector is asked of what is no engine.
        NotFound: An engine has no view beside it.
        BackendUnavailable: The inspector is asked where the engine cannot be loaded.
        RepositoryError: The engine is not sound.
    """
    if not looks.inspector:
        yield Graph(graph_to_look_at(artifact) if looks.of_graph else artifact)
        return
    if not holds_engine(artifact):
        raise UsageProblem(f"--inspector asks an engine and {artifact} is none; leave it away")
    information = inspector_of(artifact, engine_code=looks.engine_code)
    network = network_of_inspector(artifact, information)
    with tempfile.TemporaryDirectory(prefix="twinport-inspector-") as folder:
        file = Path(folder) / "inspector.onnx"
        file.write_bytes(view_of_engine(artifact, network))
        yield Graph(file, network, {"inspector": information})

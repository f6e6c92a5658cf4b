"""What is shown of an engine: how it was built, for which sizes, of which layers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.table import Table
from rich.text import Text

from exporter.engine.layers import FILE_NAME as LAYERS_FILE
from exporter.engine.layers import EngineLayer, EngineNetwork, read_network
from runtime.backends.plan import FLAVOURS, PlanHeader, header_version, read_header
from runtime.errors import RepositoryError
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import EngineRecord, Manifest, read_manifest
from runtime.replay import check_artifact
from runtime.tables import console
from runtime.tensors import format_shape

MIB = 1024 * 1024


@dataclass(frozen=True)
class EngineSummary:
    """An engine as far as its files tell; the plan itself is not loaded.

    Attributes:
        flavour: Which library built it, from the plan's header.
        version: Of that library.
        layers: By TensorRT's kind; empty where they were not kept.
        network: The layers one by one.
        manifest: Where the file lies in a repository.
        troubles: What the file and the manifest contradict each other in, a line each.
    """

    file: Path
    bytes: int
    flavour: str
    version: str
    layers: dict[str, int]
    network: EngineNetwork | None
    manifest: Manifest | None
    troubles: tuple[str, ...] = ()


def holds_engine(file: Path) -> bool:
    """Whether a file is an engine, or its manifest says so."""
    if not file.is_file():
        return False
    beside = file.with_name(MANIFEST_FILE)
    with file.open("rb") as opened:
        head = opened.read(4)
    if any(head == flavour.magic for flavour in FLAVOURS.values()):
        return True
    if not beside.is_file():
        return False
    artifact = read_manifest(beside).artifact
    return artifact.file == file.name and artifact.engine is not None


def engine_summary(file: Path) -> EngineSummary:
    """Summarise an engine's file, and what lies beside it.

    Raises:
        RepositoryError: It is cut or is no engine, or a file beside it cannot be read.
    """
    header = read_header(file)
    beside, layers = file.with_name(MANIFEST_FILE), file.with_name(LAYERS_FILE)
    network = read_network(layers) if layers.is_file() else None
    kinds = Counter(layer.kind for layer in network.layers) if network else Counter[str]()
    manifest = read_manifest(beside) if beside.is_file() else None
    return EngineSummary(
        file=file,
        bytes=file.stat().st_size,
        flavour=header.flavour.name,
        version=".".join(map(str, header.version)),
        layers=dict(kinds.most_common()),
        network=network,
        manifest=manifest,
        troubles=_troubles(file, header, manifest) if manifest is not None else (),
    )


def _troubles(file: Path, header: PlanHeader, manifest: Manifest) -> tuple[str, ...]:
    if manifest.artifact.file != file.name or manifest.artifact.engine is None:
        return (f"the manifest beside it is of '{manifest.artifact.file}', not of this engine",)
    engine, found = manifest.artifact.engine, []
    if not _built_by(engine, header.flavour.name, ".".join(map(str, header.version))):
        found.append(
            f"its header says {header.title}, the manifest "
            f"{FLAVOURS[engine.flavour].title} {engine.version}; build the engine again"
        )
    try:
        check_artifact(file.parent, manifest)
    except RepositoryError as error:
        found.append(str(error))
    return tuple(found)


def _built_by(engine: EngineRecord, flavour: str, version: str) -> bool:
    """Whether the manifest names the library that the header names, as far as a header tells."""
    return engine.flavour == flavour and header_version(engine.version) == header_version(version)


def print_engine(summary: EngineSummary) -> None:
    """How it was built, for which sizes, of which layers and modules, and how it is proved."""
    out = console()
    out.print(f"{summary.file}  {summary.bytes:,} bytes", markup=False, soft_wrap=True)
    for trouble in summary.troubles:
        out.print(f"warning: {trouble}", markup=False, soft_wrap=True)
    manifest = summary.manifest
    title = f"{FLAVOURS[summary.flavour].title} {summary.version}"
    if manifest is None or manifest.artifact.engine is None:
        out.print(f"{title} engine", markup=False)
    if manifest is None:
        out.print("no manifest beside it: nothing is known of where it came from", markup=False)
    if manifest is None or manifest.artifact.engine is None:
        return
    same = _built_by(manifest.artifact.engine, summary.flavour, summary.version)
    for what, specs in (("input", manifest.inputs), ("output", manifest.outputs)):
        for spec in specs:
            out.print(f"{what} {spec.name}: {spec}", markup=False)
    for line in lines_of_engine(manifest, summary.network, "" if same else title):
        out.print(line, markup=False, soft_wrap=True)
    if manifest.artifact.engine.profiles:
        out.print(profile_table(manifest))
    if summary.network is not None:
        out.print(module_table(summary.network))


def engine_record(manifest: Manifest) -> EngineRecord:
    """How the manifest's engine was built; ask only where its format is ``engine``."""
    assert manifest.artifact.engine is not None
    return manifest.artifact.engine


def lines_of_engine(
    manifest: Manifest, network: EngineNetwork | None, title: str = ""
) -> list[str]:
    """What there is to say in lines; ``profile_table`` has the sizes.

    Args:
        manifest: Of an engine.
        network: From the file beside it; none where that is missing.
        title: Library and version where the plan's header contradicts the manifest's.
    """
    engine = engine_record(manifest)
    title = title or f"{FLAVOURS[engine.flavour].title} {engine.version}"
    lines = [
        f"{title} engine, {manifest.artifact.precision}, TF32 {'on' if engine.tf32 else 'off'}, "
        f"optimisation level {engine.optimization_level}{_extras(engine)}",
        f"built from {engine.onnx} (sha256 {engine.onnx_sha256[:12]}) {_targets(engine)}",
    ]
    if network is not None:
        kinds = Counter(layer.kind for layer in network.layers)
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        lines.append(f"{len(network.layers)} layers: {words}")
        placed = [layer for layer in network.layers if layer.module is not None]
        modules = {layer.module for layer in placed}
        lines.append(f"{len(placed)} of them from {len(modules)} modules of the source")
    return lines


def profile_table(manifest: Manifest) -> Table:
    """A row for each profile and input with a free axis."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("profile", justify="right")
    for heading in ("input", "smallest", "tuned for", "largest"):
        table.add_column(heading)
    for number, profile in enumerate(engine_record(manifest).profiles):
        for item in profile:
            shapes = (item.smallest, item.optimal, item.largest)
            table.add_row(str(number), Text(item.input), *(Text(format_shape(s)) for s in shapes))
    return table


def module_table(network: EngineNetwork) -> Table:
    """A row a torch module, in the order of the network: the layers that come from it."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for heading in ("module", "class", "layers"):
        table.add_column(heading)
    by_module: dict[str | None, list[EngineLayer]] = {}
    for layer in network.layers:
        by_module.setdefault(layer.module, []).append(layer)
    for module, layers in by_module.items():
        kinds = Counter(layer.kind for layer in layers)
        words = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
        name = "unknown" if module is None else module or "(root)"
        class_name = (layers[0].module_class or "").rpartition(".")[2]
        table.add_row(Text(name), Text(class_name), Text(words))
    return table


def _extras(engine: EngineRecord) -> str:
    parts = []
    if engine.workspace_bytes is not None:
        parts.append(f"workspace {engine.workspace_bytes / MIB:g} MiB")
    if engine.version_compatible:
        parts.append("version-compatible")
    return "".join(f", {part}" for part in parts)


def _targets(engine: EngineRecord) -> str:
    here = f"on {engine.built_on}" if engine.built_on else "on a machine without a GPU"
    if engine.compute_capabilities:
        return f"{here}, for compute capability {', '.join(engine.compute_capabilities)}"
    if engine.hardware_compatibility != "none":
        return f"{here}, for {engine.hardware_compatibility.replace('_', ' ')}"
    return here

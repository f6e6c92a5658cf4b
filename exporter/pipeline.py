"""The main flow: from a module to a proved version in the repository."""

from __future__ import annotations

import functools
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import onnx_ir as ir

from exporter.artifact import DATA_ABOVE_BYTES, SerializedGraph, serialized_graph
from exporter.engine.after_export import EngineWish, with_engine
from exporter.experts.suspects import dense_warnings, suspects_of
from exporter.experts.view import expert_view
from exporter.graph import (
    DEFAULT_OPSET,
    free_axes,
    onnx_from_module,
    specs_from_values,
)
from exporter.inner import is_inner
from exporter.layer_proof.blame import located
from exporter.layers import module_map
from exporter.parity import ProofOptions, Proved, prove
from exporter.passes.drop_dead_code import drop_dead_code
from exporter.passes.expand_experts import expand_experts
from exporter.passes.merge_duplicates import merge_duplicates
from exporter.passes.run import Pass, run_passes
from exporter.passes.strip_provenance import strip_provenance
from exporter.precision.pipeline import FullVersion, PrecisionWish, lower_versions
from exporter.preprocess.source import load_prepared
from exporter.preprocess.words import PreprocessWords
from exporter.ranges import Range, range_of
from exporter.real import RealData, real_data
from exporter.source import Source, SourceRequest
from exporter.write import VIEW_FILE, Written, writable, write_version
from runtime.backends.factory import open_backend
from runtime.errors import InvalidInput, RepositoryError
from runtime.layout import check_model_name, staged_folder, version_numbers
from runtime.manifest import FILE_NAME as MANIFEST_FILE
from runtime.manifest import LOAD_OUTPUT, Artifact, Manifest, ModuleOrigin, read_manifest
from runtime.manifest import Source as SourceRecord
from runtime.replay import check_artifact
from runtime.tensors import TensorSpec

MODEL_FILE = "model.onnx"
PRODUCERS = ("twinport", "torch", "onnx", "onnxscript", "onnx-ir", "onnxruntime")


@dataclass(frozen=True)
class ExportRequest:
    """One export.

    Attributes:
        source: Which module, with which weights and inputs.
        repository: The model repository; made where it is not there.
        name: The model's name in it; the source's own where none is given.
        opset: ONNX operator set.
        data: Folder of MNIST for the built-in models.
        samples: An ``.npz`` of real inputs.
        moe_form: How layers of experts are written, see ``exporter.experts.choose``.
        proof: How the proof is made.
        engine: The engine to build from each version once it is proved; none where no engine
            is wanted.
        data_above: Bytes of weights above which they get a file of their own.
        precisions: The lower precisions to make of it, beside it.
        preprocess: How the artifact prepares pictures itself; none where clients do.
    """

    source: SourceRequest
    repository: Path
    name: str | None = None
    opset: int = DEFAULT_OPSET
    data: Path | None = None
    samples: Path | None = None
    moe_form: str = "auto"
    proof: ProofOptions = field(default_factory=ProofOptions)
    engine: EngineWish | None = None
    data_above: int = DATA_ABOVE_BYTES
    precisions: PrecisionWish | None = None
    preprocess: PreprocessWords | None = None


@dataclass(frozen=True)
class _Graph:
    """The graph as it will be written, and what is read off it."""

    file: SerializedGraph
    outputs: tuple[TensorSpec, ...]
    origins: dict[str, ModuleOrigin]
    view: SerializedGraph | None
    warnings: tuple[str, ...]

    @property
    def data(self) -> bytes:
        """Of the ONNX file, without the weights that lie beside it."""
        return self.file.data


def export_model(request: ExportRequest, notify: Callable[[str], None] = lambda _: None) -> Written:
    """Export one model, prove it against PyTorch, write it to the repository.

    Args:
        request: What, where and how.
        notify: Called with a line as each step begins.

    Returns:
        The version's folder and manifest; in ``failed/N`` where the proof failed.

    Raises:
        TwinportError: Nothing was written, or the version and no engine; the text says why.
    """
    started = time.monotonic()
    writable(request.repository)
    notify(f"loading {request.source.model}")
    source = load_prepared(request.source, request.preprocess)
    folder = request.repository / check_model_name(request.name or source.name)
    if request.engine is not None:
        request.engine.check(source.inputs, _sizes(source))
    real = real_data(source, request.data, request.samples)
    if request.precisions is not None:
        request.precisions.check(source, real, request.moe_form)
    notify(f"exporting {source.module_class}, {source.parameters:,} parameters")
    graph = _graph(source, request.opset, passes_for(request, source), request.data_above)
    _check_waivers(request.proof, graph)
    request = replace(request, proof=request.proof.after_export(time.monotonic() - started))
    label_output = source.output_names[0] if source.labels else None
    written = _same_version(folder, graph, source) if request.precisions else None
    if written is None:
        written = _proved_version(request, source, graph, real, folder, label_output, notify)
    else:
        notify(f"{written.folder} is this model already, and proved")
    written = with_engine(written, request.engine) if request.engine else written
    if request.precisions is None:
        return written
    full = FullVersion(
        written, source, real, _graphs_of(request, source, written), label_output, request.proof,
        request.data_above,
    )  # fmt: skip
    lower = lower_versions(full, request.precisions, notify)
    if request.engine is not None:
        lower = tuple(with_engine(item, request.engine) for item in lower)
    return replace(written, lower=lower)


def _proved_version(
    request: ExportRequest,
    source: Source,
    graph: _Graph,
    real: RealData | None,
    folder: Path,
    label_output: str | None,
    notify: Callable[[str], None],
) -> Written:
    with staged_folder(folder) as staging:
        data = graph.file.write(staging / MODEL_FILE)
        if graph.view is not None:
            graph.view.write(staging / VIEW_FILE)
        notify(f"proving against PyTorch in float64{_on(real)}")
        proved = _prove(source, graph, staging / MODEL_FILE, real, request.proof)
        proved = located(source, staging / MODEL_FILE, graph.origins, proved, notify)
        manifest = _manifest(folder.name, source, graph, proved, request.opset)
        manifest = replace(manifest, artifact=replace(manifest.artifact, data=data))
        if request.precisions is not None:
            request.precisions.check_names(folder, manifest, label_output)
        return write_version(staging, folder, manifest, proved.golden, label_output)


def _same_version(folder: Path, graph: _Graph, source: Source) -> Written | None:
    """The model's highest version, where it is this graph and was proved; else none."""
    numbers = version_numbers(folder)
    if not numbers:
        return None
    version_folder = folder / str(numbers[-1])
    try:
        manifest = read_manifest(version_folder / MANIFEST_FILE)
        check_artifact(version_folder, manifest)
    except RepositoryError:
        return None
    same = manifest.artifact.sha256 == hashlib.sha256(graph.data).hexdigest()
    proved = manifest.proof is not None and manifest.proof.verdict == "passed"
    weights = manifest.source.state_sha256 == source.state_sha256()
    complete = manifest.evidence is not None
    return Written(version_folder, manifest) if same and proved and weights and complete else None


def _graphs_of(
    request: ExportRequest, source: Source, written: Written
) -> Callable[[int], ir.Model]:
    """Makes the graph that lower precisions start from.

    That of the version itself; exported once more where the opset is too low for the
    precision, or where one graph has two forms of its experts.
    """
    two_forms = bool(source.experts) and request.moe_form == "auto" and request.engine is None

    def graph(opset: int) -> ir.Model:
        if opset <= request.opset and not two_forms:
            model = ir.load(written.folder / written.manifest.artifact.file)
            return ir.external_data.load_to_model(model)
        form = "sorted" if two_forms else request.moe_form
        model = onnx_from_module(source, max(opset, request.opset))
        return run_passes(model, passes_for(replace(request, moe_form=form), source))

    return functools.lru_cache(maxsize=2)(graph)


def passes_for(request: ExportRequest, source: Source) -> Sequence[Pass]:
    """The graph changes of an export, in their order."""
    form = request.moe_form
    if request.engine is not None and form == "auto":
        form = "static"  # an engine is built from the very file that was proved
    return (
        expand_experts(form, _sizes(source)), merge_duplicates, drop_dead_code, strip_provenance
    )  # fmt: skip


def _sizes(source: Source) -> dict[str, Range]:
    return {axis: range_of(axis, source.ranges) for axis in free_axes(source.inputs)}


def _graph(
    source: Source, opset: int, passes: Sequence[Pass], data_above: int = DATA_ABOVE_BYTES
) -> _Graph:
    model = onnx_from_module(source, opset)
    origins = module_map(model)
    view = _view(model, data_above) if source.experts else None
    warnings = dense_warnings(model, suspects_of(source.module, source.experts))
    model = run_passes(model, passes)
    outputs = specs_from_values(model.graph.outputs)
    file = serialized_graph(model, MODEL_FILE, data_above)
    return _Graph(file, outputs, origins, view, warnings)


def _view(model: ir.Model, data_above: int) -> SerializedGraph:
    view = run_passes(expert_view(model), (strip_provenance,))
    return serialized_graph(view, VIEW_FILE, data_above)


def _check_waivers(options: ProofOptions, graph: _Graph) -> None:
    names = [spec.name for spec in graph.outputs]
    for name in sorted(options.allow_constant):
        if name not in names:
            raise InvalidInput(
                f"--allow-constant names the output '{name}'; the outputs are {', '.join(names)}"
            )


def _prove(
    source: Source, graph: _Graph, artifact: Path, real: RealData | None, options: ProofOptions
) -> Proved:
    backend = open_backend("onnxruntime", artifact)
    try:
        return prove(source, graph.outputs, backend, real, options)
    finally:
        backend.close()


def _manifest(name: str, source: Source, graph: _Graph, proved: Proved, opset: int) -> Manifest:
    batch_axis = source.inputs[0].shape[0] if proved.proof.batchable else None
    return Manifest(
        name=name,
        version=0,  # write_version knows it
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        source=SourceRecord(
            factory=source.factory,
            module_class=source.module_class,
            parameters=source.parameters,
            checkpoint_sha256=source.checkpoint_sha256,
            state_sha256=source.state_sha256(),
        ),
        artifact=Artifact(
            file=MODEL_FILE,
            sha256=hashlib.sha256(graph.data).hexdigest(),
            format="onnx",
            precision="fp32",
            opset=opset,
            producers={package: _version(package) for package in PRODUCERS},
        ),
        inputs=source.inputs,
        outputs=graph.outputs,
        ranges=dict(source.ranges),
        max_batch_size=range_of(str(batch_axis), source.ranges)[1] if batch_axis else 0,
        module_map=graph.origins,
        proofs=(replace(proved.proof, warnings=(*proved.proof.warnings, *graph.warnings)),),
        preprocessing=source.preprocessing,
        on_request=_on_request(source, graph.outputs),
        labels=source.labels,
    )


def _on_request(source: Source, outputs: Sequence[TensorSpec]) -> tuple[str, ...]:
    """The load of the experts and the outputs of inner modules, where there are any."""
    own = (LOAD_OUTPUT,) if source.experts else ()
    return own + tuple(spec.name for spec in outputs if is_inner(spec.name, source.also))


def _version(package: str) -> str:
    names = ("onnxruntime", "onnxruntime-gpu") if package == "onnxruntime" else (package,)
    for name in names:
        try:
            return version(name)
        except ModuleNotFoundError:  # PackageNotFoundError is one
            continue
    return "unknown"


def _on(real: RealData | None) -> str:
    return f", real inputs from {real.name}" if real else ""

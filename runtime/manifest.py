"""``manifest.json``: where a version came from and what was proved of it.

Standard library only. Every record is a frozen dataclass and maps one to one to
JSON; a field that is not known, missing or of the wrong kind is refused, so that a
manifest is either understood whole or not used.
"""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin

from runtime.errors import ManifestError, TwinportError
from runtime.tensors import TensorSpec

SCHEMA_VERSION = 2
FILE_NAME = "manifest.json"
LOAD_OUTPUT = "expert_load"
"""int32 ``[batch, layers, experts]``: the tokens that each expert of a mixture received."""

Verdict = Literal["passed", "failed", "pending"]
T = TypeVar("T")


@dataclass(frozen=True)
class Source:
    """The PyTorch module that the artifact was made from."""

    factory: str
    """``lenet5``, ``package.module:factory`` or ``file.py:factory`` (no folder of the machine)."""
    module_class: str
    parameters: int
    checkpoint_sha256: str | None = None
    """Of the weights' file; none where the factory made the weights itself."""
    state_sha256: str | None = None
    """Of all parameters and buffers by name, type, shape and bytes."""


@dataclass(frozen=True)
class ProfileShape:
    """The sizes of one input that one optimisation profile of an engine takes."""

    input: str
    smallest: tuple[int, ...]
    optimal: tuple[int, ...]
    """What the builder tuned for."""
    largest: tuple[int, ...]


@dataclass(frozen=True)
class EngineRecord:
    """How a TensorRT engine was built."""

    flavour: Literal["tensorrt", "tensorrt_rtx"]
    version: str
    """Of the library (``11.4.0.106``)."""
    onnx: str
    """The version it was built from, in the same repository (``lenet5/1``)."""
    onnx_sha256: str
    """Of that version's artifact, which its own proof is about."""
    profiles: tuple[tuple[ProfileShape, ...], ...]
    """By profile, a shape for each input with a free axis."""
    tf32: bool
    optimization_level: int
    workspace_bytes: int | None
    """Limit of scratch memory; none is the library's own."""
    hardware_compatibility: str
    """``none`` means the GPU it was built on."""
    version_compatible: bool
    compute_capabilities: tuple[str, ...] = ()
    """GPU targets named at build time (``8.9``); empty means the flavour's default."""
    built_on: str | None = None
    """The GPU of the machine that built it; none where there was none."""


@dataclass(frozen=True)
class QuantisedOperator:
    """One operator whose input and weights are int8."""

    node: str
    """Name of the node."""
    module: str
    operator: str
    weight: str
    """The initializer, int8 now."""
    channels: int
    """Each has a scale of its own."""
    input_scale: float
    """The value of one step of the input."""


@dataclass(frozen=True)
class KeptModule:
    """A module that stayed fp32 in an artifact of a lower precision."""

    module: str
    """Path in the module tree; empty for operators of the root itself."""
    operators: int
    """That stayed."""
    reason: str


@dataclass(frozen=True)
class Lowering:
    """How an artifact of a lower precision was made."""

    onnx: str
    """The version in fp32 that was proved beside it (``lenet5/1``)."""
    operators: int
    """That compute in the lower precision."""
    calibration: str
    """What inner values were measured on, and on how many samples."""
    snr_db: float | None = None
    """Of the worst output there, every lowered value rounded; none without any noise."""
    kept: tuple[KeptModule, ...] = ()
    quantised: tuple[QuantisedOperator, ...] = ()
    """Of int8: everything that was quantised."""


@dataclass(frozen=True)
class DataFile:
    """Weights of an ONNX artifact in a file of their own beside it."""

    file: str
    sha256: str
    bytes: int


@dataclass(frozen=True)
class Artifact:
    """The file that is served."""

    file: str
    sha256: str
    format: str
    """``onnx`` or ``engine``."""
    precision: str
    opset: int | None = None
    producers: dict[str, str] = field(default_factory=dict)
    """Library and version of everything that had a hand in it."""
    engine: EngineRecord | None = None
    """How it was built, where the format is ``engine``."""
    lowering: Lowering | None = None
    """How it was made of the one in fp32, where the precision is lower."""
    data: tuple[DataFile, ...] = ()
    """Every file beside it that it reads weights from."""


@dataclass(frozen=True)
class ModuleOrigin:
    """Which torch module made an ONNX value."""

    module: str
    """Path in the module tree (``features.0``); empty for the root."""
    module_class: str
    operator: str
    """The ONNX operator that gives the value."""
    fused: tuple[str, ...] = ()
    """Modules after it that a pass put into the same node; the value is what the last gives."""


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the input of the model; see ``runtime/preprocess.py``.

    Pixels are resized, scaled to ``[0, 1]``, then ``(x - mean) / std`` per channel. Height and
    width are what the model gets; zero where pixels of any size go in as they are.
    """

    input: str
    color: Literal["gray", "rgb"]
    height: int
    width: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    resample: Literal["bilinear"] = "bilinear"
    short_side: int | None = None
    """Where set, the shorter side becomes so long and the middle is cut out; else the picture
    is stretched."""
    done_by: Literal["client", "artifact"] = "client"
    """The artifact takes pixels, uint8 ``[batch, height, width, channels]``, and does it itself."""


@dataclass(frozen=True)
class Judgement:
    """One output over all pooled samples of one kind, judged (``runtime/proof.py``)."""

    output: str
    kind: str
    extreme: bool
    samples: int
    elements: int
    rms_error: float | None
    """RMS(artifact - truth); for integers the share of elements that differ."""
    rms_scale: float | None
    """max(RMS(torch float32 - truth), floor)."""
    rms_factor: float | None
    rms_limit: float | None
    max_error: float | None
    max_scale: float | None
    max_factor: float | None
    max_limit: float | None
    relative_rms: float | None
    verdict: Literal["passed", "failed", "vacuous"]
    reason: str = ""
    relative_limit: float | None = None
    """On extreme inputs; wider than usual where the truth itself is ill-conditioned."""
    unstable: int = 0
    """Samples left out because their choice of experts is a near tie."""
    snr_db: float | None = None
    """Of a precision below fp32: the truth's power over the error's; none where there is no
    error at all."""
    snr_limit_db: float | None = None
    """At least; none where the ratio is shown and not judged."""


@dataclass(frozen=True)
class LabelCheck:
    """Predicted classes over a labelled data set."""

    dataset: str
    samples: int
    agreeing: int
    """Samples on which the artifact and the truth name the same class."""
    excused: int
    """Disagreements where the truth's logits of the two classes are within the tolerance."""
    artifact_accuracy: float
    torch_accuracy: float
    verdict: Literal["passed", "failed"]
    fewest: int | None = None
    """Of a precision below fp32: how many must agree, near ties included."""

    @property
    def wrong(self) -> int:
        """Disagreements that nothing excuses."""
        return self.samples - self.agreeing - (self.excused if self.fewest is None else 0)


@dataclass(frozen=True)
class RoutingCheck:
    """How the proof's ordinary samples were routed through the layers of experts."""

    layers: tuple[str, ...]
    """Paths in the module tree, in the order of ``expert_load``."""
    experts: int
    samples: int
    unstable: int
    """Samples with a near tie somewhere, which are judged by less."""
    reached: int
    """Pairs of layer and expert that some stable sample sent tokens to."""
    unreached: tuple[tuple[str, int], ...]
    """Layers and experts that no sample reached."""
    search_steps: int
    """Steps of the search for inputs that reach the rest."""


@dataclass(frozen=True)
class Divergence:
    """Where an artifact stops being its module (``exporter/layer_proof``)."""

    modules: tuple[str, ...]
    """The first module over its local budget; several where only their fusion is wrong."""
    value: str
    """The ONNX value that is wrong."""
    nodes: tuple[str, ...]
    """The ONNX nodes that make it out of values that are right."""
    level: Literal["plain", "full", "fused"]
    """Whether inner values were read without optimisation, with all of it, or not at all."""
    rms_factor: float | None
    text: str
    """The same in one line."""


@dataclass(frozen=True)
class Proof:
    """What was found when the artifact was compared with the module in float64."""

    verdict: Verdict
    backend: str
    provider: str
    device: str
    library: str
    """Name and version of what ran the artifact (``onnxruntime 1.31.1``)."""
    truth: Literal["float64", "degraded"]
    truth_operators: tuple[str, ...]
    """The operators that fell below float64, where the truth is degraded."""
    batchable: bool
    batchable_reason: str
    batch_sizes: tuple[int, ...]
    axis_sizes: dict[str, tuple[int, ...]]
    seed: int
    seconds: float
    cut_by_budget: bool
    judgements: tuple[Judgement, ...]
    labels: LabelCheck | None = None
    routing: RoutingCheck | None = None
    warnings: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    """Waivers that the verdict leans on (``--allow-constant logits``)."""
    reason: str = ""
    diverges: Divergence | None = None
    """Where, if the proof failed and a module shows it."""


@dataclass(frozen=True)
class Evidence:
    """The file with which anybody can run the proof again."""

    file: str
    sha256: str
    samples: int


@dataclass(frozen=True)
class Manifest:
    """Everything that is known of one version of one model."""

    name: str
    version: int
    created: str
    """UTC, ISO 8601."""
    source: Source
    artifact: Artifact
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    ranges: dict[str, tuple[int, int]]
    """Smallest and largest size of each free axis that was declared."""
    max_batch_size: int
    module_map: dict[str, ModuleOrigin]
    proofs: tuple[Proof, ...]
    evidence: Evidence | None = None
    preprocessing: Preprocessing | None = None
    labels: tuple[str, ...] | None = None
    on_request: tuple[str, ...] = ()
    """Outputs that are sent only when a client names them."""
    schema_version: int = SCHEMA_VERSION

    @property
    def proof(self) -> Proof | None:
        """The proof made with the artifact, which decides where it may lie."""
        return self.proofs[0] if self.proofs else None


def manifest_to_text(manifest: Manifest) -> str:
    """JSON, indented, with a last newline."""
    return json.dumps(dataclasses.asdict(manifest), indent=2, allow_nan=False) + "\n"


def manifest_from_text(text: str) -> Manifest:
    """Read a manifest back.

    Raises:
        ManifestError: Not JSON, another schema, or a field that is missing, not known
            or of the wrong kind; the text names the field.
    """
    try:
        data = json.loads(text)
    except ValueError as error:
        raise ManifestError(f"the manifest is not JSON: {error}") from error
    if not isinstance(data, dict):
        raise ManifestError(f"the manifest holds a {type(data).__name__}, wanted an object")
    found = data.get("schema_version")
    if found != SCHEMA_VERSION:
        raise ManifestError(
            f"the manifest has schema version {found!r}, this release reads {SCHEMA_VERSION}; "
            "export the model again or use the release that wrote it"
        )
    return record_from_data(Manifest, data, "manifest")


def read_manifest(path: Path) -> Manifest:
    """Read a manifest file; errors name it.

    Raises:
        ManifestError: The file cannot be read, or is not a manifest.
    """
    try:
        return manifest_from_text(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"{path} cannot be read: {error}") from error
    except ManifestError as error:
        raise ManifestError(f"{path}: {error}") from error


def record_from_data(kind: type[T], data: dict[str, Any], where: str) -> T:
    """Read one record of this module from what JSON gave; ``where`` names it in errors.

    Raises:
        ManifestError: A field is missing, not known or of the wrong kind.
    """
    hints = typing.get_type_hints(kind)
    fields = {item.name: item for item in dataclasses.fields(typing.cast(Any, kind))}
    unknown = sorted(set(data) - set(fields))
    if unknown:
        raise ManifestError(f"{where} has the field '{unknown[0]}', which is not known")
    values: dict[str, Any] = {}
    for name, item in fields.items():
        if name in data:
            values[name] = _value(hints[name], data[name], f"{where}.{name}")
        elif item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING:
            raise ManifestError(f"{where} has no field '{name}'")
    try:
        return kind(**values)
    except TwinportError as error:
        raise ManifestError(f"{where}: {error}") from error


def _value(hint: Any, value: Any, where: str) -> Any:
    """``value`` as ``hint`` wants it; the cases are those the records above use."""
    origin, args = get_origin(hint), get_args(hint)
    if hint is Any:
        return value
    if origin in (types.UnionType, typing.Union):
        return _union(args, value, where)
    if origin is Literal:
        return _checked(value in args, value, where, f"one of {', '.join(map(str, args))}")
    if dataclasses.is_dataclass(hint):
        _checked(isinstance(value, dict), value, where, "an object")
        return record_from_data(typing.cast("type[Any]", hint), value, where)
    if origin is tuple:
        return _sequence(args, _checked(isinstance(value, list), value, where, "a list"), where)
    if origin is dict:
        _checked(isinstance(value, dict), value, where, "an object")
        return {key: _value(args[1], item, f"{where}.{key}") for key, item in value.items()}
    if hint is float:
        number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return float(_checked(number, value, where, "a number"))
    exact = isinstance(value, hint) and not (hint is int and isinstance(value, bool))
    return _checked(exact, value, where, f"a {hint.__name__}")


def _union(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if value is None and type(None) in args:
        return None
    choices = [arg for arg in args if arg is not type(None)]
    for choice in choices[:-1]:
        try:
            return _value(choice, value, where)
        except ManifestError:
            continue
    return _value(choices[-1], value, where)


def _sequence(args: tuple[Any, ...], value: list[Any], where: str) -> tuple[Any, ...]:
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_value(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    _checked(len(value) == len(args), value, where, f"{len(args)} items")
    pairs = zip(args, value, strict=True)
    return tuple(_value(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(pairs))


def _checked(holds: bool, value: Any, where: str, wanted: str) -> Any:
    if not holds:
        raise ManifestError(f"{where} is {value!r}; wanted {wanted}")
    return value

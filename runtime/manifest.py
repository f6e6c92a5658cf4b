"""``manifest.json``: where a version came from and what was proved of it.

Standard library only. Every record is a frozen dataclass and maps one to one to JSON; what
the proofs found are the records of ``proof_records.py``, and ``json_records.py`` reads them all.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from runtime.errors import ManifestError
from runtime.json_records import record_from_data
from runtime.proof_records import Proof
from runtime.tensors import TensorSpec

SCHEMA_VERSION = 2
FILE_NAME = "manifest.json"
LOAD_OUTPUT = "expert_load"
"""int32 ``[batch, layers, experts]``: the tokens that each expert of a mixture received."""


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

"""What a server needs of ``config.pbtxt``, and what it completes where the file is silent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from runtime.batch_config import batching_from_config
from runtime.batch_settings import BatchSettings
from runtime.errors import RepositoryError
from runtime.instances import InstanceGroup, instances_from_config
from runtime.layout import CONFIG_FILE
from runtime.model_config import (
    ModelFacts,
    check_servable,
    config_from_facts,
    config_from_text,
    config_to_text,
    read_config,
    reshaped_dims,
    specs_from_config,
)
from runtime.reshape import Reshapes, reshapes_from_dims
from runtime.session_config import SessionConfig, session_from_config
from runtime.tensors import Axis, TensorSpec, format_shape
from runtime.warmup import WarmupSample, warmups_from_config

DEFAULT_BACKEND = "onnxruntime"
DEFAULT_FILENAMES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""By backend, what Triton looks for where no name is given."""


@dataclass(frozen=True)
class VersionPolicy:
    """Which versions are loaded; all of them where nothing is set.

    Attributes:
        latest: Only so many of the highest.
        specific: Only these.
    """

    latest: int | None = None
    specific: tuple[int, ...] | None = None

    def chosen(self, present: Sequence[int]) -> set[int]:
        """Those of ``present`` (ascending) that are to be loaded."""
        if self.specific is not None:
            return set(present) & set(self.specific)
        return set(present if self.latest is None else present[-self.latest :])


@dataclass(frozen=True)
class ServingConfig:
    """The configuration of one model; empty and none where the file leaves it open.

    Attributes:
        name: The folder's name.
        backend: What runs the artifact.
        filename: The artifact in a version's folder.
        max_batch_size: None without a file: then the manifest says it.
        policy: Which versions to load; none where the file does not say.
        inputs: As the artifact has them, with the batch axis; empty where the file lists none.
        outputs: Likewise.
        text: The file, canonical.
        batching: How requests are joined; none where the file does not say.
        instances: How often a version is opened; once where there are none.
        warmups: What a version runs before it is ready.
        label_files: By output: a file in the model's folder with a class a line.
        session: The threads that it asks for.
    """

    name: str
    backend: str = ""
    filename: str = ""
    max_batch_size: int | None = None
    policy: VersionPolicy | None = None
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    text: str = ""
    batching: BatchSettings | None = None
    instances: tuple[InstanceGroup, ...] = ()
    warmups: tuple[WarmupSample, ...] = ()
    label_files: Mapping[str, str] = field(default_factory=dict)
    session: SessionConfig = field(default_factory=SessionConfig)


def read_serving_config(folder: Path) -> ServingConfig:
    """Read a model's configuration; a folder without one is left to its model.

    Raises:
        RepositoryError: The file cannot be read, names another model, a file that does not
            lie in the version's folder, or something that is not served.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        return ServingConfig(folder.name)
    config = read_config(path)
    if config.name and config.name != folder.name:
        raise RepositoryError(
            f"{path} names the model '{config.name}'; its folder is '{folder.name}', "
            "so rename one of the two"
        )
    check_servable(config, str(path))
    filename = config.default_model_filename
    if filename:
        check_file_name(filename, path)
    inputs, outputs = specs_from_config(config)
    policy = None
    chosen = config.version_policy.WhichOneof("policy_choice")
    if chosen == "latest":
        policy = VersionPolicy(latest=config.version_policy.latest.num_versions or 1)
    elif chosen == "all":
        policy = VersionPolicy()
    elif chosen == "specific":
        policy = VersionPolicy(specific=tuple(config.version_policy.specific.versions))
    return ServingConfig(
        folder.name, config.backend or config.platform, filename, config.max_batch_size,
        policy, inputs, outputs, config_to_text(config), batching_from_config(config, str(path)),
        instances_from_config(config, str(path)), warmups_from_config(config, str(path)),
        {
            output.name: _label_file(output.label_filename, path)
            for output in config.output
            if output.label_filename
        },
        session_from_config(config, str(path)),
    )  # fmt: skip


def _label_file(name: str, where: Path) -> str:
    """Give the path back if it stays in the model's folder.

    Raises:
        RepositoryError: It leads to another folder.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise RepositoryError(f"{where} names the labels '{name}'; wanted a file beside it")
    return name


def check_file_name(name: str, where: Path) -> str:
    """Give the name back if it is one of a file and of nothing else.

    Raises:
        RepositoryError: It leads to another folder.
    """
    if Path(name).name != name:
        raise RepositoryError(
            f"{where} names the file '{name}'; wanted one in the version's folder"
        )
    return name


def complete_config(config: ServingConfig, facts: ModelFacts) -> bytes:
    """The ``ModelConfig`` message that the server goes by, serialised.

    What the file says stays as it is; what it leaves open comes from the model.
    """
    found = config_from_facts(facts)
    if not config.text:
        return found.SerializeToString(deterministic=True)
    full = config_from_text(config.text)
    full.name = facts.name
    full.backend = full.backend or ("" if full.platform else facts.backend)
    full.default_model_filename = facts.filename
    if not full.input:
        full.input.extend(found.input)
    if not full.output:
        full.output.extend(found.output)
    return full.SerializeToString(deterministic=True)


def reshapes_of(config: bytes, facts: ModelFacts) -> Reshapes:
    """The tensors that clients see in another shape than the artifact has.

    Args:
        config: What ``complete_config`` gave.
        facts: The artifact's tensors, narrowed by the configuration.
    """
    inputs, outputs = reshaped_dims(config)
    batched = facts.max_batch_size > 0
    return Reshapes(
        reshapes_from_dims(inputs, {spec.name: spec for spec in facts.inputs}, batched=batched),
        reshapes_from_dims(outputs, {spec.name: spec for spec in facts.outputs}, batched=batched),
    )


def batching_of(
    config: ServingConfig, max_batch_size: int, *, proved: bool | None
) -> BatchSettings:
    """How the requests to a version are joined, if at all.

    Args:
        config: Its configuration.
        max_batch_size: Of the version; 0 where axis 0 is no batch.
        proved: Whether the proof showed that joined requests give the separate answers. Without
            a proof (none) the configuration's word is taken for it.
    """
    stated = config.batching
    if not max_batch_size or not (stated is not None if proved is None else proved):
        return BatchSettings() if stated is None else replace(stated, max_rows=0)
    return replace(stated or BatchSettings(), max_rows=max_batch_size)


def merged_specs(
    model: Mapping[str, TensorSpec], config: Iterable[TensorSpec], kind: str, *, all_of_them: bool
) -> dict[str, TensorSpec]:
    """The tensors that are served: the artifact's, narrowed by the configuration.

    Args:
        model: The artifact's tensors by name.
        config: Those that the configuration lists; none leaves everything to the artifact.
        kind: ``input`` or ``output``, for the error.
        all_of_them: Whether the configuration has to list each one.

    Raises:
        RepositoryError: The two contradict each other; the text has both sides.
    """
    listed = {spec.name: spec for spec in config}
    if not listed:
        return dict(model)
    for name in listed:
        if name not in model:
            raise RepositoryError(
                f"{CONFIG_FILE} has the {kind} '{name}'; the artifact has {', '.join(model)}"
            )
    missing = [name for name in model if name not in listed]
    if all_of_them and missing:
        raise RepositoryError(f"{CONFIG_FILE} lacks the {kind} '{missing[0]}' of the artifact")
    return {
        name: _merged(spec, listed[name], kind) for name, spec in model.items() if name in listed
    }


def _merged(model: TensorSpec, config: TensorSpec, kind: str) -> TensorSpec:
    """A free axis of the artifact may be fixed by the configuration, and no other way."""
    axes: list[Axis] = []
    fits = model.dtype == config.dtype and len(model.shape) == len(config.shape)
    for ours, theirs in zip(model.shape, config.shape, strict=False):
        fits = fits and (isinstance(ours, str) or ours == theirs)
        axes.append(theirs if isinstance(theirs, int) else ours)
    if not fits:
        raise RepositoryError(
            f"{CONFIG_FILE} has {kind} '{model.name}' as {config.dtype} "
            f"{format_shape(config.wire_shape)}; the artifact has {model}"
        )
    return TensorSpec(model.name, model.dtype, tuple(axes))

"""``config.pbtxt``: reads it, writes it, and says whether an export fits the one that is there.

Tensors carry their batch axis everywhere in Twinport. The file leaves it out where
``max_batch_size`` is above 0, calls a free axis -1 and cannot say "no axes": a tensor
without any has ``dims: [1]`` and an empty ``reshape``, which is what Triton wants. Tensors
here have the artifact's shape; what clients see of a ``reshape`` is ``runtime/reshape.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from google.protobuf import text_format

from protos import DataType, ModelConfig, ModelInput, ModelOutput
from runtime.errors import InvalidInput, RepositoryError, TwinportError
from runtime.layout import CONFIG_FILE
from runtime.reshape import check_reshape
from runtime.tensors import BY_CONFIG, Axis, TensorSpec, dtype_named, format_shape

MAX_BATCH_SIZE = 2**31 - 1
BATCH_AXIS = "batch"


@dataclass(frozen=True)
class ModelFacts:
    """What an export knows of the configuration that it needs.

    Attributes:
        name: The model's name, which is that of its folder.
        backend: ``onnxruntime``, ``tensorrt`` or ``tensorrt_rtx``.
        filename: The artifact's name in the version folder.
        max_batch_size: 0 where requests cannot be joined.
        inputs: With the batch axis.
        outputs: With the batch axis.
        label_files: By output: the file beside ``config.pbtxt`` with a class a line.
    """

    name: str
    backend: str
    filename: str
    max_batch_size: int
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    label_files: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse a batch size without a batch axis, and labels of no output."""
        if not 0 <= self.max_batch_size <= MAX_BATCH_SIZE:
            raise InvalidInput(
                f"max_batch_size is {self.max_batch_size}; wanted 0 to {MAX_BATCH_SIZE}"
            )
        if self.max_batch_size:
            self._check_batch_axis()
        names = [spec.name for spec in self.outputs]
        for output in self.label_files:
            if output not in names:
                raise InvalidInput(
                    f"labels are given for output '{output}'; the model has {', '.join(names)}"
                )

    def _check_batch_axis(self) -> None:
        """Every tensor has the same free axis 0."""
        specs = (*self.inputs, *self.outputs)
        axes = {spec.name: spec.shape[0] if spec.shape else 0 for spec in specs}
        for spec in specs:
            if isinstance(axes[spec.name], int) or axes[spec.name] != axes[specs[0].name]:
                raise InvalidInput(
                    f"'{spec.name}' has shape {format_shape(spec.shape)}; max_batch_size "
                    f"{self.max_batch_size} wants one free axis 0 in all tensors, "
                    "so use 0 for this model"
                )


def with_batch_axis(specs: Mapping[str, TensorSpec]) -> dict[str, TensorSpec]:
    """The tensors with one name for axis 0, where it is free; the batch is the same in all."""
    return {
        name: replace(spec, shape=(BATCH_AXIS, *spec.shape[1:]))
        if isinstance(next(iter(spec.shape), 0), str)
        else spec
        for name, spec in specs.items()
    }


def config_from_facts(facts: ModelFacts) -> ModelConfig:
    """The configuration that an export writes; batchable models join requests in Triton too."""
    config = ModelConfig(
        name=facts.name,
        backend=facts.backend,
        default_model_filename=facts.filename,
        max_batch_size=facts.max_batch_size,
    )
    for spec in facts.inputs:
        _describe(config.input.add(), spec, facts.max_batch_size)
    for spec in facts.outputs:
        output = config.output.add(label_filename=facts.label_files.get(spec.name, ""))
        _describe(output, spec, facts.max_batch_size)
    if facts.max_batch_size > 1:
        config.dynamic_batching.SetInParent()
    return config


def config_to_text(config: ModelConfig) -> str:
    """The text form; the same for equal messages, fields in the order of their numbers."""
    return text_format.MessageToString(config, use_short_repeated_primitives=True)


def config_from_text(text: str, where: str = CONFIG_FILE) -> ModelConfig:
    """Read the text form.

    Args:
        text: What the file holds.
        where: Its name for the error.

    Raises:
        RepositoryError: A field that does not exist or a value that does not fit; the text
            names the line.
    """
    try:
        return text_format.Parse(text, ModelConfig())
    except text_format.ParseError as error:
        line, column = error.GetLine(), error.GetColumn()
        reason = " ".join(str(error).removeprefix(f"{line}:{column} : ").split()).rstrip(".")
        raise RepositoryError(
            f"{where}, line {line}, column {column}: {reason}; correct it there"
        ) from error


def read_config(path: Path) -> ModelConfig:
    """Read a ``config.pbtxt``.

    Raises:
        RepositoryError: The file cannot be read, or is no configuration.
    """
    return config_from_text(_read(path), str(path))


def specs_from_config(
    config: ModelConfig, where: str = CONFIG_FILE
) -> tuple[tuple[TensorSpec, ...], tuple[TensorSpec, ...]]:
    """Inputs and outputs, with the batch axis where ``max_batch_size`` is above 0.

    The file knows no names of free axes: axis 0 is called ``batch``, and each other one
    gets a name of its own (``image_2`` for axis 2 of ``image``).

    Raises:
        RepositoryError: A data type that is not known here, an axis below -1, or a
            ``reshape`` of another number of elements.
    """
    batch: tuple[Axis, ...] = (BATCH_AXIS,) if config.max_batch_size > 0 else ()
    inputs = tuple(_spec(tensor, batch, f"{where}: input") for tensor in config.input)
    return inputs, tuple(_spec(tensor, batch, f"{where}: output") for tensor in config.output)


def check_servable(config: ModelConfig, where: str = CONFIG_FILE) -> None:
    """Refuse what would be answered wrongly, as other answers than its owner means.

    Raises:
        RepositoryError: It keeps state between requests, is made of other models, or joins
            requests in a way that there is not here.
    """
    meant = {
        "sequence_batching": config.HasField("sequence_batching"),
        "ensemble_scheduling": config.HasField("ensemble_scheduling"),
        "batch_input": bool(config.batch_input),
        "batch_output": bool(config.batch_output),
        "allow_ragged_batch": any(tensor.allow_ragged_batch for tensor in config.input),
        "model_transaction_policy.decoupled": config.model_transaction_policy.decoupled,
    }
    for name, is_meant in meant.items():
        if is_meant:
            raise RepositoryError(
                f"{where} has {name}, which is not served here: a request is answered by itself "
                "and once; take it out, or serve this model elsewhere"
            )


def reshaped_dims(
    serialised: bytes,
) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """By name, ``dims`` of the inputs and of the outputs that have a ``reshape``."""
    config = ModelConfig.FromString(serialised)
    inputs, outputs = (
        {tensor.name: tuple(tensor.dims) for tensor in tensors if tensor.HasField("reshape")}
        for tensors in (config.input, config.output)
    )
    return inputs, outputs


def config_to_write(path: Path, facts: ModelFacts) -> str | None:
    """The text that an export has to write to ``path``; none where one that fits is there.

    A file that is there is never rewritten: it may hold fields that its owner added.

    Raises:
        RepositoryError: The one that is there cannot be read or does not fit.
    """
    if not path.exists():
        return config_to_text(config_from_facts(facts))
    check_same_interface(_read(path), facts, str(path))
    return None


def check_same_interface(text: str, facts: ModelFacts, where: str = CONFIG_FILE) -> None:
    """Refuse an export that does not fit the configuration that all versions share.

    A configuration without any input and output leaves them to the model, as Triton
    allows. The order of the tensors does not matter.

    Raises:
        RepositoryError: It cannot be read, or the two differ; the text has both sides.
    """
    config = config_from_text(text, where)
    for shared, given in _differences(config, facts, where):
        raise RepositoryError(
            f"{where} has {shared}, this export has {given}; "
            "all versions of a model share one configuration, so export under another --name"
        )


def _differences(config: ModelConfig, facts: ModelFacts, where: str) -> Iterator[tuple[str, str]]:
    """What differs, as the file has it and as the export has it."""
    stated = (
        ("name", config.name, facts.name),
        ("backend", config.backend, facts.backend),
        ("default_model_filename", config.default_model_filename, facts.filename),
    )
    for what, shared, given in stated:
        if shared and shared != given:
            yield f"{what} '{shared}'", f"'{given}'"
    if config.max_batch_size != facts.max_batch_size:
        yield f"max_batch_size {config.max_batch_size}", str(facts.max_batch_size)
    if not config.input and not config.output:
        return
    inputs, outputs = specs_from_config(config, where)
    for kind, shared_specs, given_specs in (
        ("input", inputs, facts.inputs),
        ("output", outputs, facts.outputs),
    ):
        there, here = _by_name(shared_specs), _by_name(given_specs)
        for name in sorted(there.keys() | here.keys()):
            if name not in there:
                yield f"no {kind} '{name}'", here[name]
            elif there[name] != here.get(name):
                yield f"{kind} '{name}' {there[name]}", here.get(name, "none")


def _by_name(specs: Sequence[TensorSpec]) -> dict[str, str]:
    return {spec.name: f"{spec.dtype} {format_shape(spec.wire_shape)}" for spec in specs}


def _describe(tensor: ModelInput | ModelOutput, spec: TensorSpec, max_batch_size: int) -> None:
    """Fill in name, type and dims of one tensor."""
    tensor.name = spec.name
    tensor.data_type = DataType.Value(dtype_named(spec.dtype).config)
    dims = spec.wire_shape[1:] if max_batch_size else spec.wire_shape
    tensor.dims.extend(dims or (1,))
    if not dims:
        tensor.reshape.SetInParent()


def _spec(tensor: ModelInput | ModelOutput, batch: tuple[Axis, ...], where: str) -> TensorSpec:
    names = {number: name for name, number in DataType.items()}
    config_name = names.get(tensor.data_type, str(tensor.data_type))
    if config_name not in BY_CONFIG:
        raise RepositoryError(
            f"{where} '{tensor.name}' has data type {config_name}; "
            f"use one of {', '.join(BY_CONFIG)}"
        )
    dims = tensor.dims
    if tensor.HasField("reshape"):
        check_reshape(tensor.dims, tensor.reshape.shape, f"{where} '{tensor.name}'")
        dims = tensor.reshape.shape
    axes = tuple(
        f"{tensor.name}_{number}" if size == -1 else size
        for number, size in enumerate(dims, start=len(batch))
    )
    try:
        return TensorSpec(tensor.name, BY_CONFIG[config_name].name, (*batch, *axes))
    except TwinportError as error:
        raise RepositoryError(f"{where}: {error}") from error


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise RepositoryError(f"{path} cannot be read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise RepositoryError(f"{path} is not UTF-8 text: {error}") from error

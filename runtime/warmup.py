"""``model_warmup`` of ``config.pbtxt``: requests that a version runs before it is ready."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from protos import DataType, ModelConfig, ModelWarmup
from runtime.errors import InvalidInput, RepositoryError, TwinportError, Unavailable
from runtime.layout import CONFIG_FILE
from runtime.tensor_bytes import array_from_bytes
from runtime.tensors import BY_CONFIG, Array, TensorSpec, check_array, dtype_named, numpy_dtype

FOLDER = "warmup"
"""In the model's folder: the files that samples name."""
_ZERO, _RANDOM, _FILE = "zero_data", "random_data", "input_data_file"


@dataclass(frozen=True)
class WarmupInput:
    """Data of one input.

    Attributes:
        dtype: One of ``tensors.BY_NAME``.
        dims: Without the batch axis.
        source: ``zero_data``, ``random_data`` or ``input_data_file``.
        file: Its name in ``warmup/``; else empty.
    """

    dtype: str
    dims: tuple[int, ...]
    source: str
    file: str = ""


@dataclass(frozen=True)
class WarmupSample:
    """One request and how often it runs.

    Attributes:
        name: For errors.
        batch_size: Rows, all alike.
        inputs: By name.
        count: Times.
    """

    name: str
    batch_size: int
    inputs: Mapping[str, WarmupInput]
    count: int


def warmups_from_config(config: ModelConfig, where: str = CONFIG_FILE) -> tuple[WarmupSample, ...]:
    """The samples of a configuration; those with a batch of 0 are left out, as in Triton.

    Raises:
        RepositoryError: An input without data, or a file that is not in ``warmup/``.
    """
    return tuple(
        WarmupSample(
            sample.name,
            sample.batch_size,
            {name: _input(name, data, sample, where) for name, data in sample.inputs.items()},
            sample.count or 1,
        )
        for sample in config.model_warmup
        if sample.batch_size
    )


def warm_up(
    run: Callable[[Mapping[str, Array]], object],
    samples: tuple[WarmupSample, ...],
    inputs: Mapping[str, TensorSpec],
    *,
    max_batch_size: int,
    folder: Path,
) -> None:
    """Run every sample, each as a request of a client.

    Args:
        run: Computes the answer to one, on the artifact that is loaded.
        samples: What to run.
        inputs: The version's inputs by name, as clients send them.
        max_batch_size: 0 where axis 0 is no batch.
        folder: The model's.

    Raises:
        RepositoryError: A sample does not fit the model, or its file cannot be read.
        Unavailable: It could not be run.
    """
    for sample in samples:
        arrays = _arrays(sample, inputs, max_batch_size, folder)
        try:
            for _ in range(sample.count):
                run(arrays)
        except TwinportError as error:
            raise Unavailable(f"the warm-up '{sample.name}' failed: {error}") from error


def _input(name: str, data: ModelWarmup.Input, sample: ModelWarmup, where: str) -> WarmupInput:
    what = f"{where}: input '{name}' of model_warmup '{sample.name}'"
    config_name = DataType.Name(data.data_type)
    if config_name not in BY_CONFIG:
        raise RepositoryError(
            f"{what} has data type {config_name}; use one of {', '.join(BY_CONFIG)}"
        )
    source = data.WhichOneof("input_data_type")
    if source is None:
        raise RepositoryError(f"{what} has no data; use {_ZERO}, {_RANDOM} or {_FILE}")
    file = data.input_data_file if source == _FILE else ""
    if Path(file).name != file:
        raise RepositoryError(f"{what} names the file '{file}'; wanted one in {FOLDER}/")
    return WarmupInput(BY_CONFIG[config_name].name, tuple(data.dims), source, file)


def _arrays(
    sample: WarmupSample, inputs: Mapping[str, TensorSpec], max_batch_size: int, folder: Path
) -> dict[str, Array]:
    if sample.batch_size > max(max_batch_size, 1):
        raise _wrong(sample, f"has a batch of {sample.batch_size}", f"1 to {max_batch_size or 1}")
    if set(sample.inputs) != set(inputs):
        raise _wrong(sample, f"has {', '.join(sample.inputs) or 'no inputs'}", ", ".join(inputs))
    arrays: dict[str, Array] = {}
    sizes: dict[str, int] = {}
    for name, spec in inputs.items():
        try:
            array = _array(sample.inputs[name], name, folder)
            if max_batch_size:
                array = np.stack([array] * sample.batch_size)
            check_array(array, spec, sizes)
        except InvalidInput as error:
            raise _wrong(sample, str(error), "data that fits the model") from error
        arrays[name] = array
    return arrays


def _array(data: WarmupInput, name: str, folder: Path) -> Array:
    if data.source == _FILE:
        path = folder / FOLDER / data.file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise RepositoryError(f"{path} cannot be read: {error.strerror or error}") from error
        return array_from_bytes(content, dtype_named(data.dtype), data.dims, f"input '{name}'")
    if any(size < 0 for size in data.dims):
        raise InvalidInput(f"input '{name}' has dims {list(data.dims)}, which leave a size open")
    if data.dtype == "string":
        empty = np.empty(data.dims, dtype=object)
        empty.fill(b"")
        return empty
    dtype = numpy_dtype(data.dtype)
    if data.source == _ZERO:
        return np.zeros(data.dims, dtype)
    draw = np.random.default_rng(0)
    if dtype.kind == "f":
        return draw.standard_normal(data.dims).astype(dtype)
    # Whole numbers are often indices; 0 and 1 are in range of almost any table.
    return draw.integers(0, 2, data.dims).astype(dtype)


def _wrong(sample: WarmupSample, given: str, wanted: str) -> RepositoryError:
    return RepositoryError(
        f"model_warmup '{sample.name}' of {CONFIG_FILE} {given}; wanted {wanted}"
    )

"""ONNX Runtime behind the backend protocol; the one place that imports it."""

from __future__ import annotations

import platform
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime as ort

from runtime.backends.base import BackendIdentity, BackendOptions
from runtime.backends.ort_cuda import PROVIDER as CUDA
from runtime.backends.ort_cuda import cuda_session, run_bound
from runtime.errors import (
    BackendUnavailable,
    InvalidInput,
    RepositoryError,
    TwinportError,
    Unavailable,
)
from runtime.external_data import check_external_data
from runtime.tensors import Array, TensorSpec

Run = Callable[[Any, Sequence[str], Mapping[str, Array], Any], list[Array]]
"""Session, outputs, inputs and the library's options to the outputs' arrays."""

_PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": CUDA}
_DTYPES = {
    "tensor(bool)": "bool",
    "tensor(uint8)": "uint8",
    "tensor(uint16)": "uint16",
    "tensor(uint32)": "uint32",
    "tensor(uint64)": "uint64",
    "tensor(int8)": "int8",
    "tensor(int16)": "int16",
    "tensor(int32)": "int32",
    "tensor(int64)": "int64",
    "tensor(float16)": "float16",
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(string)": "string",
}
_ERRORS_ONLY = 3
_CPU = Path("/proc/cpuinfo")
_CODES = re.compile(r"\[ONNXRuntimeError\] : \d+ : \w+ : (Load model from .*? failed: ?)?")
_OF_A_NODE = re.compile(
    r"Non-zero status code returned while running (?P<operator>\S+) node\. "
    r"Name:'(?P<name>.*?)' Status Message: (?P<message>.*)"
)
_PLACE = re.compile(r"\S+\.(cc|cu|cuh|h):\d+ ")
"""Of the library's own sources."""
_NO_MEMORY = re.compile(r"[Ff]ailed to allocate memory|bad_?alloc|out of memory")


class OrtBackend:
    """One inference session."""

    def __init__(self, model: Path, options: BackendOptions) -> None:
        """Load ``model``.

        Raises:
            BackendUnavailable: The device's provider is not in this build or cannot start.
            RepositoryError: The file is not a model that this release can load.
        """
        provider = _provider(options.device)
        self._run: Run = run_bound if provider == CUDA else _run_plainly
        self._session: Any = _session(model, provider, options)
        self._inputs = {arg.name: _spec(arg) for arg in self._session.get_inputs()}
        self._outputs = {arg.name: _spec(arg) for arg in self._session.get_outputs()}
        self._all, self._some = ort.RunOptions(), ort.RunOptions()
        # Else the nodes of outputs that nobody wants run too.
        self._some.only_execute_path_to_fetches = True
        self._identity = BackendIdentity(
            "onnxruntime", provider, _device_name(options.device), f"onnxruntime {ort.__version__}"
        )

    @property
    def identity(self) -> BackendIdentity:
        """Library, provider and processor."""
        return self._identity

    @property
    def inputs(self) -> Mapping[str, TensorSpec]:
        """Inputs of the graph by name."""
        return self._inputs

    @property
    def outputs(self) -> Mapping[str, TensorSpec]:
        """Outputs of the graph by name."""
        return self._outputs

    @property
    def captures(self) -> bool:
        """Every call runs alike."""
        return False

    def infer(
        self, arrays: Mapping[str, Array], outputs: Sequence[str] | None = None
    ) -> dict[str, Array]:
        """Run the graph once; see ``Backend.infer``."""
        if self._session is None:
            raise Unavailable("the session is closed; load the model again")
        names = list(self._outputs) if outputs is None else list(outputs)
        feed = {name: self._fed(name, array) for name, array in arrays.items()}
        run_options = self._some if len(names) < len(self._outputs) else self._all
        results = _translated(
            lambda: self._run(self._session, names, feed, run_options), InvalidInput
        )
        return {
            name: _returned(result, self._outputs[name])
            for name, result in zip(names, results, strict=True)
        }

    def _fed(self, name: str, array: Array) -> Array:
        spec = self._inputs.get(name)
        if spec is not None and spec.dtype == "string":
            return _decoded(array, name)
        # What came over the wire may lie anywhere. (ascontiguousarray gives a scalar an axis.)
        return np.asarray(array, order="C") if array.flags.aligned else array.copy(order="C")

    def close(self) -> None:
        """Drop the session; its memory goes back with it."""
        self._session = None


def _provider(device: str) -> str:
    if device not in _PROVIDERS:
        raise InvalidInput(f"device '{device}' is not known; use one of {', '.join(_PROVIDERS)}")
    provider = _PROVIDERS[device]
    if provider not in ort.get_available_providers():
        raise BackendUnavailable(
            f"this build of ONNX Runtime has no {provider}; "
            "pip uninstall onnxruntime, then pip install 'twinport[gpu]'"
        )
    return provider


@cache
def products_saturate(flags: str | None = None) -> bool:
    """Whether ONNX Runtime's products of int8 are wrong on this processor.

    On x86 without VNNI they are added up in pairs of 16 bits, which saturate. Then the graph's
    products are computed in float from what is dequantized, as the operators say.

    Args:
        flags: Of the processor, as in ``/proc/cpuinfo``; those of this one by default. Where
            nobody tells them, products count as right.
    """
    if flags is None:
        try:
            flags = _CPU.read_text("utf-8")
        except OSError:
            return False
    known = set(flags.split())
    return "avx2" in known and not known & {"avx512_vnni", "avx_vnni"}


def _session(model: Path, provider: str, options: BackendOptions) -> Any:
    def settings() -> Any:
        made = ort.SessionOptions()
        made.intra_op_num_threads = options.threads
        made.inter_op_num_threads = options.node_threads
        if options.parallel:
            made.execution_mode = ort.ExecutionMode.ORT_PARALLEL
        made.log_severity_level = _ERRORS_ONLY
        if not options.layouts:
            made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
        if not options.optimised:
            made.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
        for pool in ("intra_op", "inter_op"):
            made.add_session_config_entry(
                f"session.{pool}.allow_spinning", str(int(options.spinning))
            )
        if provider != CUDA and products_saturate():
            made.add_session_config_entry("session.disable_quant_qdq", "1")
        return made

    def opened() -> Any:
        if provider == CUDA:
            return cuda_session(model, settings)
        return ort.InferenceSession(str(model), settings(), providers=[provider])

    if not model.is_file():
        raise RepositoryError(f"{model} does not exist")
    check_external_data(model)
    return _translated(opened, RepositoryError, f"{model.name} cannot be loaded: ")


def _run_plainly(
    session: Any, names: Sequence[str], feed: Mapping[str, Array], run_options: Any
) -> list[Array]:
    return list(session.run(list(names), dict(feed), run_options))


def _translated(
    call: Callable[[], Any], kind: type[InvalidInput | RepositoryError], prefix: str = ""
) -> Any:
    """Run ``call``; the library's errors become ours, in one line.

    A lack of memory is an error of the server, of whatever kind others are.
    """
    try:
        return call()
    except TwinportError:
        raise
    except Exception as error:
        # Its exceptions share no base but Exception (onnxruntime_pybind11_state).
        text = _useful(str(error))
        raised = TwinportError if _NO_MEMORY.search(text) else kind
        raise raised(f"{prefix}ONNX Runtime: {text[:500]}") from error


def _useful(text: str) -> str:
    """The library's text without its codes and places: the node and what is wrong with it."""
    line = _CODES.sub("", " ".join(text.split()))
    found = _OF_A_NODE.fullmatch(line)
    if found is None:
        return line
    return f"{found['operator']} '{found['name']}': {_PLACE.sub('', found['message'])}"


def _spec(arg: Any) -> TensorSpec:
    if arg.type not in _DTYPES:
        raise RepositoryError(f"'{arg.name}' has the type {arg.type}, which cannot be served")
    shape = tuple(
        axis if isinstance(axis, int) else axis or f"{arg.name}_axis_{i}"
        for i, axis in enumerate(arg.shape)
    )
    return TensorSpec(arg.name, _DTYPES[arg.type], shape)


def _decoded(array: Array, name: str) -> Array:
    """ONNX strings are UTF-8 text, elements on the wire are bytes."""
    try:
        texts = [item.decode() if isinstance(item, bytes) else str(item) for item in array.flat]
    except UnicodeDecodeError as error:
        raise InvalidInput(f"input '{name}' has an element that is not UTF-8: {error}") from error
    decoded = np.empty(array.shape, dtype=object)
    decoded.reshape(-1)[:] = texts
    return decoded


def _returned(result: Array, spec: TensorSpec) -> Array:
    if spec.dtype != "string":
        return result
    encoded = np.empty(result.shape, dtype=object)
    encoded.reshape(-1)[:] = [
        item.encode() if isinstance(item, str) else item for item in result.flat
    ]
    return encoded


def _device_name(device: str) -> str:
    """The processor's or the GPU's own name."""
    if device == "cuda":
        return _gpu_name()
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def _gpu_name() -> str:
    try:
        paths = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        lines = paths[0].read_text(encoding="utf-8").splitlines()
    except (OSError, IndexError):
        return "cuda:0"
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("Model:")]
    return names[0] if names else "cuda:0"

"""ONNX Runtime on an NVIDIA GPU: opened so that it really computes there, or not at all.

The library falls back to the CPU without a word: for a whole session where CUDA cannot be
loaded, and for single nodes that its CUDA provider lacks. A proof made so would be of the
CPU. Matrices are multiplied in full float32, TF32 is off.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnxruntime as ort

from runtime.errors import BackendUnavailable
from runtime.tensors import Array

PROVIDER = "CUDAExecutionProvider"
OPTIONS = {"device_id": "0", "use_tf32": "0"}
SHAPE_OPERATORS = frozenset(
    {"Add", "Cast", "Concat", "ConstantOfShape", "Div", "Equal", "Expand", "Gather", "Identity",
     "Max", "Min", "Mod", "Mul", "Range", "ReduceProd", "Reshape", "Shape", "Size", "Slice",
     "Squeeze", "Sub", "Unsqueeze", "Where"}
)  # fmt: skip
"""What the library computes on the CPU by choice: sizes, a few integers a call."""
_STRICT = {"session.disable_cpu_ep_fallback": "1"}
_RECORDED = {"session.record_ep_graph_assignment_info": "1"}
_REFUSED = "assigned to the default CPU EP"
_FATAL_ONLY = 4
_SHOWN = 3

logger = logging.getLogger(__name__)


def cuda_session(model: Path, settings: Callable[[], Any]) -> Any:
    """Open a model on the first GPU.

    At first no node may be left to the CPU; where the library refuses that, those that it
    does leave there may only compute sizes.

    Args:
        model: The file.
        settings: Makes session options; they are changed.

    Raises:
        BackendUnavailable: CUDA, cuDNN or the driver is not here, or a part of the model
            would run on the CPU; the text says which.
        Exception: The library's own, for a file that it cannot load.
    """
    _load_libraries()
    try:
        return _opened(model, settings(), _STRICT)
    except Exception as error:
        # Its exceptions share no base but Exception.
        if "CUDA failure" in str(error):
            said = " ".join(str(error).split())[:300]
            raise BackendUnavailable(f"CUDA does not work here: {said}") from error
        if _REFUSED not in str(error):
            raise
    session = _opened(model, settings(), _RECORDED)
    left = [
        (node.op_type, node.name)
        for part in session.get_provider_graph_assignment_info()
        if part.ep_name != PROVIDER
        for node in part.get_nodes()
    ]
    check_left_to_cpu(left)
    logger.info("%s: %d nodes that compute sizes run on the CPU", model.name, len(left))
    return session


def check_left_to_cpu(nodes: Iterable[tuple[str, str]]) -> None:
    """Refuse a model of which more than the arithmetic of sizes would run on the CPU.

    Args:
        nodes: Operator and name of each node that is not on the GPU.

    Raises:
        BackendUnavailable: There are others; the text names the first of them.
    """
    others = [f"{operator} '{name}'" for operator, name in nodes if operator not in SHAPE_OPERATORS]
    if others:
        more = f" and {len(others) - _SHOWN} more" if len(others) > _SHOWN else ""
        raise BackendUnavailable(
            f"{', '.join(others[:_SHOWN])}{more} would run on the CPU: ONNX Runtime's "
            f"{PROVIDER} does not take them; use --device cpu"
        )


def run_bound(
    session: Any, names: Sequence[str], feed: Mapping[str, Array], run_options: Any
) -> list[Array]:
    """Run once through a binding.

    Each input is copied once to where its first node wants it, each output once to the host.

    Args:
        session: On any device.
        names: The outputs wanted, in this order.
        feed: An array in C order for each input.
        run_options: Of the library.
    """
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_cpu_input(name, array)
    for name in names:
        binding.bind_output(name, "cpu")
    binding.synchronize_inputs()
    session.run_with_iobinding(binding, run_options)
    binding.synchronize_outputs()
    return list(binding.copy_outputs_to_cpu())


def _opened(model: Path, settings: Any, entries: Mapping[str, str]) -> Any:
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    settings.log_severity_level = _FATAL_ONLY  # what goes wrong is said in one error
    session = ort.InferenceSession(str(model), settings, providers=[(PROVIDER, OPTIONS)])
    used = session.get_providers()[0]
    if used != PROVIDER:
        raise BackendUnavailable(
            f"{PROVIDER} was asked for and {used} is what runs: {_why_not_loaded()}"
        )
    session.disable_fallback()  # else a call that fails is run again on the CPU
    return session


def _load_libraries() -> None:
    """CUDA and cuDNN of pip's wheels, which no loader finds by itself."""
    ort.set_default_logger_severity(_FATAL_ONLY)
    preload = getattr(ort, "preload_dlls", None)
    if preload is None:
        return
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        preload()
    for line in told.getvalue().splitlines():
        logger.debug("%s", line)


def _why_not_loaded() -> str:
    """What the system's loader says of the provider's library."""
    library = Path(ort.__file__).parent / "capi" / "libonnxruntime_providers_cuda.so"
    try:
        ctypes.CDLL(str(library))
    except OSError as error:
        return f"{error}; {_cure(str(error))}"
    return "no GPU that it can use answers"


def _cure(text: str) -> str:
    if "libcuda.so" in text:
        return "install the driver of the GPU"
    return "pip install 'onnxruntime-gpu[cuda,cudnn]'"

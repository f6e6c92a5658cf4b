"""LeNet-5 in ONNX Runtime as the servers have it: one thread in a call, no spinning."""

from __future__ import annotations

from pathlib import Path

import onnxruntime as ort

ARTIFACT = "SERVING_EMPTY_ARTIFACT"
"""The variable that tells ``serving_empty.py`` of an artifact to call."""


def artifact_of(repository: Path) -> Path:
    """Of the version that ``serving.py`` exports."""
    return repository / "lenet5" / "1" / "model.onnx"


def session_of(artifact: Path) -> ort.InferenceSession:
    """A session on the processor."""
    settings = ort.SessionOptions()
    settings.intra_op_num_threads = settings.inter_op_num_threads = 1
    settings.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return ort.InferenceSession(str(artifact), settings, providers=["CPUExecutionProvider"])

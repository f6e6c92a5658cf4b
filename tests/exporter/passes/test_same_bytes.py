"""The same module gives the same file in every process."""

from __future__ import annotations

import os
import subprocess
import sys

SCRIPT = """
import hashlib, sys, torch
import onnx_ir as ir
from torch import nn
from exporter.graph import onnx_from_module
from exporter.passes.run import run_passes
from exporter.passes.strip_provenance import strip_provenance
from exporter.source import Source
from runtime.tensors import spec_from_text

torch.manual_seed(0)
module = nn.Sequential(
    nn.Conv1d(4, 8, 3, padding=1, bias=False), nn.BatchNorm1d(8), nn.ReLU(), nn.Flatten(2),
    nn.TransformerEncoderLayer(16, 4, batch_first=True), nn.LSTM(16, 8, batch_first=True),
).eval()
inputs = (spec_from_text("input:float32[batch,4,16]"),)
source = Source("net", "net", module, inputs, (), {}, {}, None)
model = run_passes(onnx_from_module(source), [strip_provenance])
data = ir.to_proto(model).SerializeToString(deterministic=True)
print(hashlib.sha256(data).hexdigest(), len(model.graph))
"""


def test_two_processes_with_other_hash_seeds_write_the_same_bytes():
    started = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE,
            text=True,
        )
        for seed in ("1", "2")
    ]
    first, second = (process.communicate(timeout=120)[0] for process in started)
    assert first == second != ""

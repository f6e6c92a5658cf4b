"""The correct models of the calibration: what they are called, built from and take."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
import zoo_dense as dense
import zoo_sequence as sequence
import zoo_vision as vision
from torch import nn

from exporter.ranges import Range
from exporter.real import RealData
from exporter.source import Source
from models.data import digits, prepare
from models.registry import entry
from runtime.tensors import TensorSpec

BATCH = "batch"


@dataclass(frozen=True)
class Entry:
    """One correct model.

    Attributes:
        name: In the tables.
        build: Gives the module; the seed is set before it is called.
        inputs: Name, data type and shape of each input.
        ranges: Sizes of the free axes.
        values: Values of integer inputs.
        batchable: What the proof must find about joined requests.
        vacuous: Whether the proof must find that it proves nothing.
    """

    name: str
    build: Callable[[], nn.Module]
    inputs: tuple[TensorSpec, ...]
    ranges: Mapping[str, Range] = field(default_factory=lambda: {BATCH: (1, 64)})
    values: Mapping[str, Range] = field(default_factory=dict)
    batchable: bool = True
    vacuous: bool = False

    def source(self) -> Source:
        """The module with fixed weights, described for the exporter."""
        torch.manual_seed(20240229)
        module = self.build().eval()
        return Source(self.name, self.name, module, self.inputs, (), self.ranges, self.values, None)


def real_digits(name: str) -> RealData | None:
    """Real inputs for the one model that has some."""
    if name != "lenet5":
        return None
    return RealData("scikit-learn digits", {"image": prepare(digits().images[:64]).numpy()})


def _floats(name: str, *shape: int | str) -> TensorSpec:
    return TensorSpec(name, "float32", (BATCH, *shape))


def _vector(width: int) -> tuple[TensorSpec, ...]:
    return (_floats("x", width),)


_SMALL_BATCH = {BATCH: (1, 8)}
_ENTRIES = (
    Entry("lenet5", entry("lenet5").load, (_floats("image", 1, 32, 32),)),
    Entry("residual CNN, BatchNorm", vision.residual_cnn, (_floats("image", 3, 24, 24),)),
    Entry("ResNet-18", vision.resnet18, (_floats("x", 3, 32, 32),), _SMALL_BATCH),
    Entry("MobileNetV3 small", vision.mobilenet, (_floats("x", 3, 32, 32),), _SMALL_BATCH),
    Entry("depthwise CNN", vision.DepthwiseCnn, (_floats("image", 8, 20, 20),)),
    Entry("segmentation, ConvTranspose", vision.Segmenter, (_floats("image", 1, 32, 32),)),
    Entry("InstanceNorm CNN", vision.InstanceNormCnn, (_floats("image", 3, 24, 24),)),
    Entry("vision transformer", vision.vit, (_floats("x", 3, 32, 32),)),
    Entry("ViT with a zero head", vision.zero_head_vit, (_floats("x", 3, 32, 32),),
          vacuous=True),
    Entry("LSTM, both directions", lambda: sequence.Recurrent(nn.LSTM, True),
          (_floats("steps", 30, 12),), {BATCH: (1, 64)}),
    Entry("GRU", lambda: sequence.Recurrent(nn.GRU, False), (_floats("steps", 20, 12),)),
    Entry("transformer encoder", sequence.Encoder, (_floats("steps", "length", 32),),
          {BATCH: (1, 64), "length": (2, 24)}),
    Entry("masked attention", sequence.MaskedAttention,
          (_floats("steps", "length", 24), TensorSpec("keep", "int64", (BATCH, "length"))),
          {BATCH: (1, 64), "length": (2, 24)}),
    Entry("embedded tokens", sequence.Tokens, (TensorSpec("ids", "int64", (BATCH, "length")),),
          {BATCH: (1, 64), "length": (2, 16)}, {"ids": (0, 100)}),
    Entry("LayerNorm MLP", lambda: dense.NormMlp(nn.LayerNorm), _vector(32)),
    Entry("RMSNorm MLP", lambda: dense.NormMlp(dense.RmsNorm), _vector(32)),
    Entry("GELU MLP", lambda: dense.Mlp([24, 48, 48, 8], nn.GELU), _vector(24)),
    Entry("SiLU MLP", lambda: dense.Mlp([24, 48, 48, 8], nn.SiLU), _vector(24)),
    Entry("deep MLP, 50 layers", dense.deep_mlp, _vector(32)),
    Entry("outputs of 1e-12", lambda: dense.Mlp([24, 48, 8], nn.Tanh, 1e-12), _vector(24)),
    Entry("outputs of 1e12", lambda: dense.Mlp([24, 48, 8], nn.ReLU, 1e12), _vector(24)),
    Entry("dict of outputs", dense.Heads, _vector(16)),
    Entry("sigmoid gates", dense.Gates, _vector(24)),
    Entry("softmax over 4,096", dense.LongSoftmax, _vector(4096)),
    Entry("einsum", dense.Bilinear, (_floats("left", 5, 12), _floats("right", 5, 10))),
    Entry("reductions", dense.Reductions, _vector(200)),
    Entry("exponential", dense.Exponential, _vector(16)),
    Entry("Fourier features", dense.Fourier, _vector(8)),
    Entry("dense mixture of experts", dense.DenseExperts, _vector(16)),
    Entry("centred over the batch", dense.BatchCentred, _vector(16), batchable=False),
)  # fmt: skip
ZOO: Mapping[str, Entry] = {item.name: item for item in _ENTRIES}
QUICK = (
    "lenet5", "InstanceNorm CNN", "reductions", "masked attention", "centred over the batch",
)  # fmt: skip

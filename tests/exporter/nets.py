"""Small networks that the tests export, each with one trait that exporters stumble over."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn


class Linear(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        return self.layer(x)


class OverTheBatch(nn.Module):
    """A row's answer depends on its neighbours."""

    def forward(self, x):
        return x - x.mean(0)


class Attention(nn.Module):
    """Two free axes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x):
        return self.attention(x, x, x, need_weights=False)[0]


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.cells = nn.LSTM(8, 12, batch_first=True)

    def forward(self, x):
        return self.cells(x)[0]


class Encoder(nn.Module):
    """Attention of any length over tokens, some of which are hidden."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table, self.places = nn.Embedding(50, 16), nn.Parameter(torch.randn(32, 16))
        layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 1, enable_nested_tensor=False)

    def forward(self, tokens, hidden):
        x = self.table(tokens) + self.places[: tokens.shape[1]]
        return self.layers(x, src_key_padding_mask=hidden)


class Named(nn.Module):
    """A dict with a nested one, floats and integers."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        y = self.layer(x)
        return {"logits": y, "best": y.argmax(-1), "more": {"share": y.softmax(-1)}}


class Tokens(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(50, 8)

    def forward(self, tokens):
        return self.table(tokens).mean(1)


class Training(nn.Module):
    """As factories give it: in train mode, with dropout and batch statistics."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(nn.Linear(4, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
        self.train()

    def forward(self, x):
        return self.layers(x)


class InPlace(nn.Module):
    """Edits its input and a tensor of its own."""

    def forward(self, x):
        y = torch.zeros(x.shape[0], 4)
        y[:, :2] = x[:, :2] * 0.1
        y += 1 / 3
        x.mul_(0.3)
        return y + x


class TwoTables(nn.Module):
    """Inputs with different first axes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x, table):
        return self.layer(x) @ table.T


class WithTotal(nn.Module):
    """The second output has no batch axis."""

    def forward(self, x):
        return x * 0.1, (x * 0.3).sum()


class ZeroHead(nn.Module):
    """As torchvision's ViT without weights."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 3)
        nn.init.zeros_(self.layer.weight)
        nn.init.zeros_(self.layer.bias)

    def forward(self, x):
        return self.layer(x)


class Masked(nn.Module):
    """Scores with minus infinity above the diagonal, as attention masks them."""

    def forward(self, x):
        mask = torch.full((x.shape[1], x.shape[1]), float("-inf")).triu(1)
        return x @ x.transpose(1, 2) + mask


class Exponential(nn.Module):
    """Overflows in float32 on large inputs, and not in float64."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(8, 8)

    def forward(self, x):
        return torch.expm1(self.layer(x) * 0.1)


@dataclass
class Pair:
    logits: torch.Tensor
    hidden: torch.Tensor


class Record(nn.Module):
    """Returns a dataclass."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 3)

    def forward(self, x):
        hidden = self.layer(x)
        return Pair(hidden.relu(), hidden)


class Nested(nn.Module):
    def forward(self, x):
        return x * 0.1, (x + 0.1, [x.abs() * 0.3])


class SameName(nn.Module):
    """An output called as the input is."""

    def forward(self, x):
        return {"x": x * 0.1}


class Dense(nn.Module):
    """Large inputs and 21 planes of outputs, as segmentation has them."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Conv2d(3, 21, 3, padding=1)

    def forward(self, image):
        return self.layer(image)


class Unconverted(nn.Module):
    """Branches on data."""

    def forward(self, x):
        return x * 2 if x.sum() > 0 else x * 3


class Steps(nn.Module):
    """A Python loop over the length."""

    def forward(self, x):
        return sum(x[:, step] * 0.9**step for step in range(x.shape[1]))


instance = Linear()


def wider():
    return nn.Sequential(nn.Linear(4, 5))


class Pictured(nn.Module):
    """A picture and something beside it."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, image, shift):
        return self.conv(image).mean((2, 3)) + shift


class Stacked(nn.Module):
    """Two layers with names."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.second = nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.first(x).relu())


class Difference(nn.Module):
    """What is left of two large values that nearly cancel; half precision loses it."""

    def forward(self, x):
        return (x + 300.0) - 300.0


class Cancelling(nn.Module):
    """One module that cannot be in half precision, among others that can."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.first = nn.Linear(8, 8)
        self.difference = Difference()
        self.second = nn.Linear(8, 3)

    def forward(self, x):
        return self.second(self.difference(self.first(x)))


class Sine(nn.Module):
    """No product and no weight."""

    def forward(self, x):
        return x.sin()

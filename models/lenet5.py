"""LeNet-5 for digits on 32x32 pixels: 61,706 parameters, ten logits.

After Y. LeCun, L. Bottou, Y. Bengio, P. Haffner, "Gradient-based learning applied to
document recognition", 1998, in the form that is taught today: ReLU and max pooling.
"""

from __future__ import annotations

from torch import Tensor, nn


class LeNet5(nn.Module):
    """Two convolutions and three linear layers; every step is a module with a name."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, kernel_size=5)
        self.relu1 = nn.ReLU()
        self.pool1 = nn.MaxPool2d(2)
        self.conv2 = nn.Conv2d(6, 16, kernel_size=5)
        self.relu2 = nn.ReLU()
        self.pool2 = nn.MaxPool2d(2)
        self.flatten = nn.Flatten()
        self.fc1 = nn.Linear(16 * 5 * 5, 120)
        self.relu3 = nn.ReLU()
        self.fc2 = nn.Linear(120, 84)
        self.relu4 = nn.ReLU()
        self.fc3 = nn.Linear(84, 10)

    def forward(self, image: Tensor) -> Tensor:
        """Score the ten digits.

        Args:
            image: ``[batch, 1, 32, 32]``, normalised (``models.data.prepare``).

        Returns:
            ``[batch, 10]`` logits, the digits 0 to 9 in order.
        """
        maps = self.pool1(self.relu1(self.conv1(image)))  # [batch, 6, 14, 14]
        maps = self.pool2(self.relu2(self.conv2(maps)))  # [batch, 16, 5, 5]
        hidden = self.relu3(self.fc1(self.flatten(maps)))  # [batch, 120]
        hidden = self.relu4(self.fc2(hidden))  # [batch, 84]
        logits: Tensor = self.fc3(hidden)
        return logits

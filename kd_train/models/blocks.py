"""Building blocks of students: convolutions with batch normalisation, and residual blocks."""

from __future__ import annotations

from torch import Tensor, nn


def conv_norm(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return a padded convolution with batch normalisation; stride 1 keeps the size."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding=kernel // 2, bias=False), nn.BatchNorm2d(outputs)
    )


def conv_norm_relu(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    """Return the layers of :func:`conv_norm`, followed by a ReLU."""
    return nn.Sequential(*conv_norm(inputs, outputs, kernel, stride), nn.ReLU())


class ResidualBlock(nn.Module):
    """Two convolutions and a shortcut (He et al., 2016), without the last ReLU.

    Args:
        inputs: The number of input channels.
        outputs: The number of output channels.
        kernel: The side of the convolutions' kernels.
        stride: The stride of the first convolution and of the shortcut.
    """

    def __init__(self, inputs: int, outputs: int, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.body = nn.Sequential(conv_norm_relu(inputs, outputs, kernel, stride), conv_norm(outputs, outputs, kernel))
        same = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if same else conv_norm(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        """Return the block's output of a feature ``(N, C, h, w)``, before the last ReLU."""
        added: Tensor = self.body(x) + self.shortcut(x)
        return added


class UpsamplingBlock(nn.Module):
    """A residual block that doubles the size by transposed convolutions, without the last ReLU."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False),
            nn.BatchNorm2d(outputs),
            nn.ReLU(),
            conv_norm(outputs, outputs, 3),
        )
        self.shortcut = nn.Sequential(
            nn.ConvTranspose2d(inputs, outputs, 2, stride=2, bias=False), nn.BatchNorm2d(outputs)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Return ``(N, outputs, 2h, 2w)`` of a feature ``(N, inputs, h, w)``."""
        added: Tensor = self.body(x) + self.shortcut(x)
        return added


def initialise(module: nn.Module) -> None:
    """Initialise every convolution for networks with ReLU (He et al., 2015)."""
    for part in module.modules():
        if isinstance(part, (nn.Conv2d, nn.ConvTranspose2d)):
            nn.init.kaiming_normal_(part.weight, mode="fan_out", nonlinearity="relu")

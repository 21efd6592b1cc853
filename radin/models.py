"""The small networks of the companion."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class DigitsNet(nn.Module):
    """Three convolutions and a linear head for 8 x 8 digits; 58,634 parameters at the default width.

    Args:
        width: channels of the first layer; the later ones have twice as many.

    Input (n, 1, 8, 8), output logits (n, 10).
    """

    # GroupNorm, not batch norm: running statistics belong to one network's activations, and an average of
    # them is not the statistics of the averaged network. A soup would need a pass over the training data
    # to mend them before it could be evaluated at all.
    # GELU, not ReLU: the theory chapters take second derivatives, and ReLU has none at its kinks.
    def __init__(self, width: int = 32) -> None:
        super().__init__()
        wide = 2 * width
        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            nn.GroupNorm(4, width),
            nn.GELU(),
            nn.Conv2d(width, wide, 3, padding=1),
            nn.GroupNorm(4, wide),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, stride=2, padding=1),
            nn.GroupNorm(4, wide),
            nn.GELU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * wide, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class SmallResNet(nn.Module):
    """A residual network for photos of about 32 x 32 pixels, small enough to ship thirteen times.

    A strided convolution, then one pre-activation block (He et al. 2016) for each width, each but the
    first at half the resolution; the mean over all places; a linear head. 309,450 parameters and 12
    million multiplications an image at the default widths and 10 classes.

    Args:
        num_classes: C.
        widths: channels of each block, multiples of 8.

    Input (n, 3, height, width), output logits (n, C).
    """

    def __init__(self, num_classes: int, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False)
        before = (widths[0], *widths)
        self.blocks = nn.Sequential(
            *(Block(before[k], width, stride=1 if k == 0 else 2) for k, width in enumerate(widths))
        )
        self.norm = _group_norm(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        # Channels last: on a CPU the same convolutions are three times as fast.
        return self.head(self.features(images.contiguous(memory_format=torch.channels_last)))

    def features(self, images: Tensor) -> Tensor:
        """What the head sees: (n, last width)."""
        return F.gelu(self.norm(self.blocks(self.stem(images)))).mean((2, 3))


class Block(nn.Module):
    """Normalise, activate, convolve, twice, beside a shortcut."""

    def __init__(self, before: int, width: int, stride: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(before)
        self.conv1 = nn.Conv2d(before, width, 3, stride, padding=1, bias=False)
        self.norm2 = _group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.shortcut = None if stride == 1 and before == width else nn.Conv2d(before, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.gelu(self.norm1(x))
        rest = x if self.shortcut is None else self.shortcut(active)
        return rest + self.conv2(F.gelu(self.norm2(self.conv1(active))))


def _group_norm(width: int) -> nn.GroupNorm:
    # Eight channels a group: a CPU normalises small groups several times more slowly.
    return nn.GroupNorm(width // 8, width)

"""The small networks of the book.

The name of a trained zoo's folder is a hash of the description of its network. So another name of a
class or of a layer here means that stored zoos are not found.
"""

from __future__ import annotations

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radin.errors import ParameterError


class DigitsNet(nn.Module):
    """Three convolutions and a linear head for 8 x 8 digits; 58,634 parameters by default.

    The input is (n, 1, 8, 8), the output is logits (n, 10).

    Args:
        width: channels of the first layer. The later ones have twice as many.
        norm: "group", or "batch" for a network whose soups need `refresh_batch_norm`.

    Raises:
        ParameterError: another norm.
    """

    # GroupNorm, not batch norm: running statistics belong to one network's activations, and their
    # average is not the statistics of the averaged network. A soup would first need a pass over the
    # training data to measure them.
    # GELU, not ReLU: the theory chapters take second derivatives, and ReLU has none at zero.
    def __init__(self, width: int = 32, *, norm: str = "group") -> None:
        super().__init__()
        if norm not in ("group", "batch"):
            raise ParameterError(f'norm must be "group" or "batch", not {norm!r}.')
        wide = 2 * width

        def normalise(channels: int) -> nn.Module:
            return nn.GroupNorm(4, channels) if norm == "group" else nn.BatchNorm2d(channels)

        self.body = nn.Sequential(
            nn.Conv2d(1, width, 3, stride=2, padding=1),
            normalise(width),
            nn.GELU(),
            nn.Conv2d(width, wide, 3, padding=1),
            normalise(wide),
            nn.GELU(),
            nn.Conv2d(wide, wide, 3, stride=2, padding=1),
            normalise(wide),
            nn.GELU(),
            nn.Flatten(),
        )
        self.head = nn.Linear(4 * wide, 10)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class SmallResNet(nn.Module):
    """A residual network for photos of about 32 x 32 pixels, small enough to ship thirteen times.

    It has a strided convolution, then one pre-activation block (He et al. 2016) for each width,
    each but the first at half the resolution, the mean over all pixels, and a linear head. By
    default and with 10 classes it has 309,450 parameters and needs 12 million multiplications an
    image.

    The input is (n, 3, height, width), the output is logits (n, C).

    Args:
        num_classes: C.
        widths: channels of each block, multiples of 8.
    """

    def __init__(self, num_classes: int, *, widths: tuple[int, ...] = (32, 64, 128)) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, widths[0], 5, stride=2, padding=2, bias=False)
        inputs = (widths[0], *widths)
        self.blocks = nn.Sequential(
            *(Block(inputs[k], width, stride=1 if k == 0 else 2) for k, width in enumerate(widths))
        )
        self.norm = _group_norm(widths[-1])
        self.head = nn.Linear(widths[-1], num_classes)

    def forward(self, images: Tensor) -> Tensor:
        # Channels last: on a CPU the same convolutions are three times as fast.
        return self.head(self.features(images.contiguous(memory_format=torch.channels_last)))

    def features(self, images: Tensor) -> Tensor:
        """The input of the head: (n, last width)."""
        return F.gelu(self.norm(self.blocks(self.stem(images)))).mean((2, 3))


class Block(nn.Module):
    """Normalise, activate and convolve, twice, beside a shortcut."""

    def __init__(self, in_channels: int, width: int, *, stride: int) -> None:
        super().__init__()
        self.norm1 = _group_norm(in_channels)
        self.conv1 = nn.Conv2d(in_channels, width, 3, stride, padding=1, bias=False)
        self.norm2 = _group_norm(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        same_shape = stride == 1 and in_channels == width
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, width, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        active = F.gelu(self.norm1(x))
        rest = x if self.shortcut is None else self.shortcut(active)
        return rest + self.conv2(F.gelu(self.norm2(self.conv1(active))))


def _group_norm(width: int) -> nn.GroupNorm:
    # Eight channels a group: a CPU normalises small groups several times more slowly.
    return nn.GroupNorm(width // 8, width)


class Mlp(nn.Module):
    """Two hidden layers between flattened images and logits.

    The input is (n, ...) with `inputs` numbers an image, the output is logits (n, C).

    Args:
        inputs: numbers in an image: channels x height x width.
        num_classes: C.
        width: units of each hidden layer.
    """

    def __init__(self, inputs: int, num_classes: int, *, width: int = 64) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Flatten(), nn.Linear(inputs, width), nn.GELU(), nn.Linear(width, width), nn.GELU()
        )
        self.head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(images))


class SmallTransformer(nn.Module):
    """A vision transformer (Dosovitskiy et al. 2021) for images as small as the digits.

    Patches of 2 x 2 pixels become tokens of 32 numbers, and learned positions are added. Then come
    two pre-norm blocks, the mean over all tokens, and a linear head. For the digits it has 18,154
    parameters.

    The input is (n, channels, size, size), the output is logits (n, C).

    Args:
        num_classes: C.
        size: height and width of the images in pixels, an even number.
        channels: of the images.
        heads: of the attention, a divisor of 32.

    Raises:
        ParameterError: an odd size, or a number of heads that does not divide 32.
    """

    WIDTH = 32
    NUM_BLOCKS = 2
    PATCH_PIXELS = 2

    def __init__(
        self, num_classes: int = 10, *, size: int = 8, channels: int = 1, heads: int = 4
    ) -> None:
        super().__init__()
        patch = self.PATCH_PIXELS
        if size < patch or size % patch:
            raise ParameterError(
                f"size must be an even number of pixels, not {size!r}: patches are 2 x 2."
            )
        if heads < 1 or self.WIDTH % heads:
            raise ParameterError(f"heads must divide {self.WIDTH}, as 2 and 4 do; it is {heads!r}.")
        self.patches = nn.Conv2d(channels, self.WIDTH, patch, stride=patch)
        self.positions = nn.Parameter(0.02 * torch.randn((size // patch) ** 2, self.WIDTH))
        block = partial(
            nn.TransformerEncoderLayer,
            self.WIDTH,
            heads,
            2 * self.WIDTH,
            dropout=0.0,
            activation="gelu",
        )
        self.blocks = nn.Sequential(
            *(block(batch_first=True, norm_first=True) for _ in range(self.NUM_BLOCKS))
        )
        self.norm = nn.LayerNorm(self.WIDTH)
        self.head = nn.Linear(self.WIDTH, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        patches = self.patches(images).flatten(2).transpose(1, 2)  # (n, patches, width)
        return self.head(self.norm(self.blocks(patches + self.positions)).mean(1))

"""The small networks of the companion."""

from __future__ import annotations

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

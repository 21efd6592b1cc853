"""Random changes to training images, whole batches at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, hyperparameters: Mapping[str, float], rng: torch.Generator) -> Tensor:
    """Change each image (n, C, H, W) at random; keys that are absent or 0 change nothing.

    The keys: `augment` moves (see `move`), `flip` mirrors left and right with that probability, `colour`
    changes brightness, contrast and saturation (see `recolour`), `erase` greys out a square (see
    `erase`), `noise` adds Gaussian noise of that standard deviation (pixels run from -1 to 1).
    """
    amount = {
        key: hyperparameters.get(key, 0.0)
        for key in ("augment", "flip", "colour", "erase", "noise")
    }
    if amount["augment"] > 0:
        images = move(images, amount["augment"], rng)
    if amount["flip"] > 0:
        mirrored = torch.rand(len(images), 1, 1, 1, generator=rng) < amount["flip"]
        images = torch.where(mirrored, images.flip(-1), images)
    if amount["colour"] > 0:
        images = recolour(images, amount["colour"], rng)
    if amount["erase"] > 0:
        images = erase(images, amount["erase"], rng)
    if amount["noise"] > 0:
        images = images + amount["noise"] * torch.randn(images.shape, generator=rng)
    return images


def move(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Turn, scale and shift; strength 1 turns by up to 30 degrees, scales by 25% and shifts by an eighth."""
    n = len(images)
    turn, scale, right, down = torch.rand(4, n, generator=rng).mul(2).sub(1).mul(strength)
    angle, scale = turn * math.pi / 6, 1 + scale / 4
    cosine, sine = angle.cos() * scale, angle.sin() * scale
    affine = torch.stack([cosine, -sine, right / 4, sine, cosine, down / 4], 1).view(n, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolour(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Multiply contrast and saturation by 1 - strength to 1 + strength and shift brightness by up to strength / 2."""
    bright, contrast, saturation = (
        torch.rand(3, len(images), 1, 1, 1, generator=rng).mul(2).sub(1).mul(strength)
    )
    grey = images.mean(1, keepdim=True)
    level = grey.mean((2, 3), keepdim=True)
    images = grey + (images - grey) * (1 + saturation)
    return level + (images - level) * (1 + contrast) + bright / 2


def erase(images: Tensor, edge: float, rng: torch.Generator) -> Tensor:
    """Grey out one square of `edge` times the image's own edge, centred anywhere (DeVries and Taylor 2017)."""
    n, _, height, width = images.shape
    centre = torch.rand(2, n, 1, 1, generator=rng)
    down, right = (torch.arange(length).add(0.5).div(length) for length in (height, width))
    outside = ((down[:, None] - centre[0]).abs() > edge / 2) | (
        (right[None, :] - centre[1]).abs() > edge / 2
    )
    return images * outside[:, None]


def mixup(
    images: Tensor, targets: Tensor, alpha: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image and its target (n, C) with another of the batch; the share is Beta(alpha, alpha).

    Source: Zhang et al. 2018, section 2.
    """
    if alpha == 0:
        return images, targets
    # torch's Beta takes no generator, so numpy draws the share from a seed that the generator gives.
    share = float(
        np.random.default_rng(int(torch.randint(2**31, (1,), generator=rng))).beta(alpha, alpha)
    )
    other = torch.randperm(len(images), generator=rng)
    return share * images + (1 - share) * images[other], share * targets + (1 - share) * targets[
        other
    ]

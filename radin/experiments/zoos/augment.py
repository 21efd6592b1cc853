"""Random changes to training images or sentences, whole batches at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


def augment(images: Tensor, hyperparameters: Mapping[str, float], rng: torch.Generator) -> Tensor:
    """Change each image at random. Keys that are absent or 0 change nothing.

    Args:
        images: (n, C, H, W) with pixels from -1 to 1, or token ids (n, length), which only
            `drop_words` changes.
        hyperparameters: `augment` is the strength of `move`. `flip` is the probability of a mirror
            image, left and right. `colour` is the strength of `recolour`. `erase` is the edge of
            the square of `erase`. `noise` is the standard deviation of Gaussian noise.
        rng: for everything that is random.
    """
    if not images.is_floating_point():  # token ids
        return drop_words(images, hyperparameters.get("drop_words", 0.0), rng)
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
    """Turn, scale and shift each image.

    Strength 1 turns by up to 30 degrees, scales by up to 25% and shifts by up to an eighth.
    """
    n = len(images)
    turn, scale, right, down = torch.rand(4, n, generator=rng).mul(2).sub(1).mul(strength)
    angle = turn * math.pi / 6
    scale = 1 + scale / 4
    cosine = angle.cos() * scale
    sine = angle.sin() * scale
    affine = torch.stack([cosine, -sine, right / 4, sine, cosine, down / 4], 1).view(n, 2, 3)
    grid = F.affine_grid(affine, list(images.shape), align_corners=False)
    return F.grid_sample(images, grid, padding_mode="border", align_corners=False)


def recolour(images: Tensor, strength: float, rng: torch.Generator) -> Tensor:
    """Change brightness, contrast and saturation of each image.

    Contrast and saturation are multiplied by 1 - strength to 1 + strength. Brightness moves by up
    to strength / 2.
    """
    brightness, contrast, saturation = (
        torch.rand(3, len(images), 1, 1, 1, generator=rng).mul(2).sub(1).mul(strength)
    )
    grey = images.mean(1, keepdim=True)
    level = grey.mean((2, 3), keepdim=True)
    images = grey + (images - grey) * (1 + saturation)
    return level + (images - level) * (1 + contrast) + brightness / 2


def erase(images: Tensor, edge: float, rng: torch.Generator) -> Tensor:
    """Grey out one square of each image, centred anywhere.

    Args:
        edge: of the square, as a share of the image's own edge.

    Source: DeVries and Taylor 2017.
    """
    n, _, height, width = images.shape
    centre = torch.rand(2, n, 1, 1, generator=rng)
    rows = torch.arange(height).add(0.5).div(height)
    columns = torch.arange(width).add(0.5).div(width)
    above_or_below = (rows[:, None] - centre[0]).abs() > edge / 2
    left_or_right = (columns[None, :] - centre[1]).abs() > edge / 2
    return images * (above_or_below | left_or_right)[:, None]


def drop_words(tokens: Tensor, probability: float, rng: torch.Generator) -> Tensor:
    """Take tokens out of sentences at random, and close the gaps.

    Args:
        tokens: (n, length) ids, 0 after the end. The first and the last token of a sentence, which
            mark its ends, stay.
        probability: of each other token.
        rng: for everything that is random.

    Source: Iyyer et al. 2015, section 3.2.
    """
    if probability == 0:
        return tokens
    lengths = (tokens != 0).sum(1, keepdim=True)
    place = torch.arange(tokens.shape[1])
    inside = (place > 0) & (place < lengths - 1)
    dropped = inside & (torch.rand(tokens.shape, generator=rng) < probability)
    kept = tokens.masked_fill(dropped, 0)
    # A stable sort moves the gaps behind the end and leaves all other tokens in their order.
    order = (kept == 0).to(torch.uint8).sort(dim=1, stable=True).indices
    return kept.gather(1, order)


def mixup(
    images: Tensor, targets: Tensor, alpha: float, rng: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Blend each image and its target with another of the batch.

    Args:
        images: (n, ...).
        targets: (n, C).
        alpha: the share is Beta(alpha, alpha). 0 changes nothing.
        rng: for everything that is random.

    Source: Zhang et al. 2018, section 2.
    """
    if alpha == 0:
        return images, targets
    # torch's Beta takes no generator, so numpy draws the share from a seed of the generator.
    seed = int(torch.randint(2**31, (1,), generator=rng))
    share = float(np.random.default_rng(seed).beta(alpha, alpha))
    other = torch.randperm(len(images), generator=rng)
    mixed_images = share * images + (1 - share) * images[other]
    return mixed_images, share * targets + (1 - share) * targets[other]

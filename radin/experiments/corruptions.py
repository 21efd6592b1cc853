"""Common corruptions of photographs, as ImageNet-C defines them, at a smaller size."""

from __future__ import annotations

import io
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from radin.data.splits import ArraySplit
from radin.errors import ParameterError
from radin.files import hash_text

# The parameter of each corruption at the severities 1 to 5 of ImageNet-C, for 224 pixels.
SEVERITIES: dict[str, tuple[float, ...]] = {
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),  # standard deviation, of pixels from 0 to 1
    "blur": (1, 2, 3, 4, 6),  # standard deviation in pixels
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),  # factor
    "jpeg": (25, 18, 15, 10, 7),  # quality
}
IMAGENET_PIXELS = 224


def corrupt(split: ArraySplit, kind: str, severity: int, *, seed: int = 0) -> ArraySplit:
    """A copy of a split whose images are corrupted.

    Args:
        split: photographs (n, 3, size, size) with pixels from -1 to 1.
        kind: "noise" (Gaussian), "blur" (Gaussian, its width scaled to the size of the images),
            "contrast" or "jpeg".
        severity: 1 to 5.
        seed: of the noise.

    Raises:
        ParameterError: an unknown kind or severity.

    Source: Hendrycks and Dietterich 2019, section 4 and its public code.
    """
    if kind not in SEVERITIES:
        raise ParameterError(f"kind must be one of {', '.join(SEVERITIES)}, not {kind!r}.")
    if severity not in range(1, 6):
        raise ParameterError(f"severity must be 1, 2, 3, 4 or 5, not {severity!r}.")
    amount = SEVERITIES[kind][severity - 1]
    pixels = split.images.add(1).div(2)
    changed = CORRUPTIONS[kind](pixels, amount, seed).clamp(0, 1).mul(2).sub(1)
    corrupted = ArraySplit(
        split.name,
        f"{split.part}+{kind}{severity}",
        changed,
        split.labels,
        split.class_names,
        fingerprint=hash_text(split.fingerprint, kind, str(amount), str(seed)),
    )
    corrupted.projection = split.projection
    return corrupted


def _noise(pixels: Tensor, deviation: float, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return pixels + deviation * torch.randn(pixels.shape, generator=generator)


def _blur(pixels: Tensor, deviation: float, seed: int) -> Tensor:
    from torchvision.transforms.v2.functional import gaussian_blur

    sigma = deviation * pixels.shape[-1] / IMAGENET_PIXELS
    kernel_size = 2 * max(1, round(4 * sigma)) + 1
    return gaussian_blur(pixels, [kernel_size, kernel_size], [sigma, sigma])


def _contrast(pixels: Tensor, factor: float, seed: int) -> Tensor:
    mean = pixels.mean((2, 3), keepdim=True)
    return (pixels - mean) * factor + mean


def _jpeg(pixels: Tensor, quality: float, seed: int) -> Tensor:
    from PIL import Image

    coded = torch.empty_like(pixels)
    for k, image in enumerate(pixels.mul(255).round().to(torch.uint8).movedim(1, -1).numpy()):
        file = io.BytesIO()
        Image.fromarray(image).save(file, "JPEG", quality=int(quality))
        with Image.open(file) as read:
            coded[k] = torch.from_numpy(np.array(read)).movedim(-1, 0).float().div(255)
    return coded


CORRUPTIONS: dict[str, Callable[[Tensor, float, int], Tensor]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "jpeg": _jpeg,
}

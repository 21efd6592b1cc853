"""Synthetic logit banks of any size with the accuracies of a real zoo, for benchmarks."""

from __future__ import annotations

import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer, check_seed
from radin.ranking.bank import LogitBank

# Spread of the label's lead over images; 1 is the mean logit of a wrong class.
LEAD_SPREAD = 4.0
NUM_PILOT_IMAGES = 2000
MAX_PILOT_MODELS = 13
IMAGES_PER_BLOCK = 1000
NUM_BISECTIONS = 16
MAX_NOISE = 16.0
MAX_ACCURACY_ERROR = 0.02


def synthetic_bank(
    num_models: int,
    num_images: int,
    num_classes: int,
    *,
    seed: int = 0,
    single: float = 77.0,
    ensemble: float = 80.0,
    dtype: torch.dtype = torch.float32,
) -> LogitBank:
    """A bank of random logits whose ingredients and ensemble are about as accurate as asked.

    An image's logits are a sum of three parts. The first is the same for all ingredients and
    exponentially distributed, so that a few classes have large logits. The second is the lead of
    the label, which differs from image to image. The third is normal noise of each ingredient. The
    mean lead and the noise are set on a pilot sample of up to 13 ingredients, so that the mean
    accuracy of single ingredients and the accuracy of their ensemble are near the two targets. The
    defaults are those of CLIP models fine-tuned on ImageNet. Real logits have more structure, such
    as similar classes.

    Args:
        num_models: N.
        num_images: n.
        num_classes: C, at least 2.
        seed: of every random choice.
        single, ensemble: accuracies in percent, between chance and 100, the ensemble's the higher.
        dtype: of the logits, half or single precision.

    Raises:
        ParameterError: accuracies that cannot be reached: a single ingredient cannot have two, and
            a few can gain only a little.

    >>> import radin
    >>> radin.synthetic_bank(3, 200, 10, single=70, ensemble=73)
    LogitBank(3 ingredients, 200 images, 10 classes)
    """
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ParameterError(
            f"dtype must be torch.float32, torch.float16 or torch.bfloat16, not {dtype!r}."
        )
    check_integer("num_models", num_models, minimum=1)
    check_integer("num_images", num_images, minimum=1)
    check_integer("num_classes", num_classes, minimum=2)
    if not 100 / num_classes < single <= ensemble < 100:
        raise ParameterError(
            "single and ensemble must keep to chance < single <= ensemble < 100 (percent); "
            f"with {num_classes} classes they are {single} and {ensemble}."
        )
    rng = torch.Generator().manual_seed(check_seed(seed))
    lead, noise = _calibrate(
        min(num_models, MAX_PILOT_MODELS),
        num_classes,
        single=single / 100,
        ensemble=ensemble / 100,
        rng=rng,
    )
    labels = torch.randint(num_classes, (num_images,), generator=rng)
    logits = torch.empty(num_models, num_images, num_classes, dtype=dtype)
    for block in torch.arange(num_images).split(IMAGES_PER_BLOCK):
        shared, leads = _shared(len(block), num_classes, rng)
        shared[torch.arange(len(block)), labels[block]] += lead + leads
        for k in range(num_models):
            own = torch.randn(shared.shape, generator=rng)
            logits[k, block[0] : block[-1] + 1] = shared + noise * own
    return LogitBank(logits, labels)


def _shared(num_images: int, num_classes: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """The logits of all ingredients (n, C), and how far each image's lead is from its mean (n,)."""
    shared = torch.empty(num_images, num_classes).exponential_(generator=rng)
    return shared, LEAD_SPREAD * torch.randn(num_images, generator=rng)


def _calibrate(
    num_models: int, num_classes: int, *, single: float, ensemble: float, rng: torch.Generator
) -> tuple[float, float]:
    """The mean lead and the noise that give the accuracies, on a pilot sample whose labels are 0.

    Args:
        num_models: of the pilot sample.
        num_classes: C.
        single, ensemble: the accuracies as fractions.
        rng: where random numbers are drawn.
    """
    shared, leads = _shared(NUM_PILOT_IMAGES, num_classes, rng)
    draws = torch.randn(num_models, *shared.shape, generator=rng)
    average = draws.mean(0)

    def missing(logits: Tensor) -> Tensor:
        """By how much the label's logit must rise to win."""
        return logits[:, 1:].amax(1) - logits[:, 0] - leads

    low = 0.0
    high = MAX_NOISE
    for _ in range(NUM_BISECTIONS):  # the noisier the ingredients, the more the ensemble gains
        noise = (low + high) / 2
        lead = torch.cat([missing(shared + noise * draw) for draw in draws]).quantile(single).item()
        reached = (missing(shared + noise * average) < lead).double().mean().item()
        if reached < ensemble:
            low = noise
        else:
            high = noise
    if abs(reached - ensemble) > MAX_ACCURACY_ERROR:
        raise ParameterError(
            f"With {num_models} ingredients of {100 * single:g}% an ensemble of "
            f"{100 * ensemble:g}% is out of reach; the nearest is {100 * reached:.0f}%. "
            "Bring single and ensemble closer together."
        )
    return lead, noise

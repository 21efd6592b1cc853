"""Made-up logit banks of any size, with the accuracies of a real zoo: for benchmarks and for trying things out."""

from __future__ import annotations

import torch
from torch import Tensor

from radin.errors import ParameterError, check_seed, check_integer
from radin.ranking.bank import LogitBank

_HARDNESS = (
    4.0  # spread of the label's lead over images, where 1 is the mean logit of a wrong class
)
_PILOT_IMAGES, _PILOT_MODELS = 2000, 13
_IMAGES_AT_ONCE = 1000


def synthetic_bank(
    num_models: int,
    num_images: int,
    num_classes: int,
    seed: int = 0,
    single: float = 77.0,
    ensemble: float = 80.0,
    dtype: torch.dtype = torch.float32,
) -> LogitBank:
    """A bank of random logits whose ingredients and ensemble are about as accurate as asked.

    An image's logits are those on which all ingredients agree, exponentially distributed, so that a few classes
    stand out; the label has a lead that differs from image to image; and each ingredient adds normal noise of its
    own. The mean lead and the noise are set on a pilot sample of up to 13 ingredients, so that the mean accuracy of
    single ingredients and the accuracy of their ensemble come out near the two targets. The defaults are those of
    CLIP models fine-tuned on ImageNet. Real logits have more structure: similar classes, for one.

    Args:
        single, ensemble: accuracies in percent, between chance and 100, the ensemble's the higher.
        dtype: of the logits, half or single precision.

    Raises ParameterError for accuracies that are out of reach: one ingredient alone cannot have two, and a few can
    gain only so much.
    """
    if dtype not in (torch.float16, torch.bfloat16, torch.float32):
        raise ParameterError(
            f"dtype must be torch.float32, torch.float16 or torch.bfloat16, not {dtype!r}."
        )
    for name, number, least in (
        ("num_models", num_models, 1),
        ("num_images", num_images, 1),
        ("num_classes", num_classes, 2),
    ):
        check_integer(name, number, minimum=least)
    if not 100 / num_classes < single <= ensemble < 100:
        raise ParameterError(
            f"single and ensemble must keep to chance < single <= ensemble < 100 (percent); "
            f"with {num_classes} classes they are {single} and {ensemble}."
        )
    rng = torch.Generator().manual_seed(check_seed(seed))
    lead, noise = _calibrate(
        min(num_models, _PILOT_MODELS), num_classes, single / 100, ensemble / 100, rng
    )
    labels = torch.randint(num_classes, (num_images,), generator=rng)
    logits = torch.empty(num_models, num_images, num_classes, dtype=dtype)
    for part in torch.arange(num_images).split(_IMAGES_AT_ONCE):
        shared, leads = _shared(len(part), num_classes, rng)
        shared[torch.arange(len(part)), labels[part]] += lead + leads
        for k in range(num_models):
            logits[k, part[0] : part[-1] + 1] = shared + noise * torch.randn(
                shared.shape, generator=rng
            )
    return LogitBank(logits, labels)


def _shared(num_images: int, num_classes: int, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """What all ingredients see (n, C), and each image's lead of the label beside the mean lead (n,)."""
    shared = torch.empty(num_images, num_classes).exponential_(generator=rng)
    return shared, _HARDNESS * torch.randn(num_images, generator=rng)


def _calibrate(
    num_models: int, num_classes: int, single: float, ensemble: float, rng: torch.Generator
) -> tuple[float, float]:
    """The mean lead and the noise that give the accuracies (as fractions) on a pilot sample whose labels are 0."""
    shared, leads = _shared(_PILOT_IMAGES, num_classes, rng)
    draws = torch.randn(num_models, *shared.shape, generator=rng)
    average = draws.mean(0)

    def missing(logits: Tensor) -> Tensor:
        """By how much the label's logit must rise to win."""
        return logits[:, 1:].amax(1) - logits[:, 0] - leads

    low, high = 0.0, 16.0
    for _ in range(16):  # the noisier the ingredients, the more the ensemble gains
        noise = (low + high) / 2
        lead = torch.cat([missing(shared + noise * draw) for draw in draws]).quantile(single).item()
        reached = (missing(shared + noise * average) < lead).double().mean().item()
        if reached < ensemble:
            low = noise
        else:
            high = noise
    if abs(reached - ensemble) > 0.02:
        raise ParameterError(
            f"With {num_models} ingredients of {100 * single:g}% an ensemble of {100 * ensemble:g}% is out of reach; "
            f"the nearest is {100 * reached:.0f}%. Bring single and ensemble closer together."
        )
    return lead, noise

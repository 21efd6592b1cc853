"""Which images a soup is run on, and what they say about all images.

A soup and its ensemble mostly disagree where the ingredients disagree among themselves, and the
bank shows where that is. So the images are ordered by how contested they are, and an image of rank
r is taken with a chance that falls as 1 / r^2, down from 1. For all other images the ensemble's
answer is taken. The images that were run correct it, each with the inverse of its chance. Whatever
soup and ensemble answer on the images that were not run, the result has no bias.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radin.errors import check_integer, check_seed
from radin.ranking.bank import LogitBank

_BLOCK_LOGITS = 2**22  # read at once: 32 MiB in double precision
MIN_IMAGES = 2  # with one image the errors of two images would be correlated


def contest_scores(bank: LogitBank) -> Tensor:
    """How far from contested each image is: (n,) double, the most contested has the lowest.

    The score is the absolute mean, divided by the spread, of the margin over the ingredients. The
    margin is the logit of the label minus the best other one. The score does not change with the
    scale of the logits.

    Args:
        bank: logits (N, n, C) with classes as labels.

    Returns: on the CPU; infinite where all ingredients have the same margin.

    Raises:
        ParameterError: a bank of targets.
    """
    bank.refuse_targets("A contest score")
    size = max(1, _BLOCK_LOGITS // (bank.num_models * bank.num_classes))
    blocks = zip(bank.logits.split(size, dim=1), bank.labels.split(size), strict=True)
    return torch.cat(
        [_scores(bank.projected(logits.double()), labels) for logits, labels in blocks]
    )


def _scores(logits: Tensor, labels: Tensor) -> Tensor:
    own = labels.expand(len(logits), -1).unsqueeze(-1)
    label_logit = logits.gather(-1, own).squeeze(-1)
    margins = label_logit - logits.scatter(-1, own, -math.inf).amax(-1)
    scores = margins.mean(0).abs() / margins.std(0, correction=0)
    return scores.nan_to_num(nan=0.0, posinf=math.inf).cpu()  # 0 / 0: a tie in all ingredients


@dataclass(frozen=True)
class ImageSample:
    """Images that soups are run on.

    Attributes:
        indices: (k,) int64, ascending.
        chances: (k,) double, the chance with which each was taken, above 0.
        num_images: n, of which these are some.
    """

    indices: Tensor
    chances: Tensor
    num_images: int

    def estimate(
        self, total: float, differences: Tensor, *, tail_rate: float = 0.0, step: float = 0.0
    ) -> tuple[float, float]:
        """A mean over all images, and its standard error, from values on the sample.

        The error is that of the sample alone: how far the mean may be from the one that a whole
        evaluation gives. Its variance is the mean of two: the one that the sample shows, and the
        one that an earlier soup leads to expect. So a sample that met nothing in the tail by chance
        is not taken for certain.

        Args:
            total: the sum of the ensemble's values over all n images.
            differences: (k,) double, on the sample: the soup's value minus its ensemble's.
            tail_rate: the expected variance of a sum for each unit of its squared differences, as
                `expected_variance` gives it for a soup that was run on all images.
            step: the smallest change of a value on one image, 0 for none. Half of it is the
                smallest error of a sum.

        Source: Duffield, Lund and Thorup 2007, priority sampling.
        """
        p = self.chances
        mean = (total + (differences / p).sum().item()) / self.num_images
        if len(p) == self.num_images:
            return mean, 0.0
        squares = differences.square()
        found = (squares * (1 - p) / p.square()).sum().item()
        expected = tail_rate * ((squares / p).sum().item() + step**2)
        variance = (found + expected) / 2 + (step / 2) ** 2
        return mean, math.sqrt(variance) / self.num_images


@dataclass(frozen=True)
class ImageOrder:
    """The images of a bank, the most contested first, with one random number for each.

    A larger sample contains every smaller one.

    Attributes:
        ranks: (n,) double, the rank of each image from 1, the most contested.
        numbers: (n,) double, uniform above 0 and at most 1.

    >>> import radin
    >>> from radin.ranking.image_sample import ImageOrder
    >>> order = ImageOrder.of_bank(radin.SoupBench.load("cifar10").val, seed=0)
    >>> sample = order.draw(1500)
    >>> len(sample.indices), sample.num_images, float(sample.chances.max())
    (1500, 5000, 1.0)
    """

    ranks: Tensor
    numbers: Tensor

    @classmethod
    def of_bank(cls, bank: LogitBank, *, seed: int) -> ImageOrder:
        """The order by `contest_scores`, ties by index, and random numbers of a seed."""
        rng = torch.Generator().manual_seed(check_seed(seed))
        order = contest_scores(bank).argsort(stable=True)
        ranks = torch.empty(bank.num_images, dtype=torch.float64)
        ranks[order] = torch.arange(1, bank.num_images + 1, dtype=torch.float64)
        return cls(ranks, 1 - torch.rand(bank.num_images, dtype=torch.float64, generator=rng))

    def draw(self, count: int) -> ImageSample:
        """A sample of `count` images, or of all if there are not more.

        Image i has the weight 1 / rank^2 and the priority weight / u with a random number u; those
        with the highest priorities are taken. Given all other numbers, i is among them with chance
        min(1, weight / t), where t is the highest priority that is not taken.

        Source: Duffield, Lund and Thorup 2007, priority sampling.
        """
        count = max(MIN_IMAGES, check_integer("count", count, minimum=0))
        total = len(self.ranks)
        if count >= total:
            ones = torch.ones(total, dtype=torch.float64)
            return ImageSample(torch.arange(total), ones, total)
        # The priority, turned round: the lowest keys are the highest priorities.
        keys, order = (self.ranks * self.numbers.sqrt()).sort()
        indices = order[:count].sort().values
        chances = (keys[count] / self.ranks[indices]).square().clamp(max=1)
        return ImageSample(indices, chances, total)

    def expected_variance(self, squares: Tensor, count: int) -> float:
        """About the variance of a sum of differences that a sample of `count` estimates.

        Args:
            squares: (n,) double, the squared difference on each image.
        """
        chances = self.expected_chances(count)
        return (squares * (1 - chances) / chances).sum().item()

    def expected_chances(self, count: int) -> Tensor:
        """About the chance of each image to be in a sample of `count`: (n,) double.

        They sum to about `count`: 1 up to rank h, then (h / rank)^2, with h = n - sqrt(n (n - k)).
        """
        total = len(self.ranks)
        certain = total - math.sqrt(total * max(0, total - count))
        return (max(certain, 1) / self.ranks).square().clamp(max=1)

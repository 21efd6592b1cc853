"""Partial evaluations: soups that are run on a share of the images."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch
from torch import Tensor

from radin.errors import ParameterError
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights, without_scale
from radin.ranking.estimates import values_of_images
from radin.ranking.image_sample import ImageOrder, ImageSample
from radin.ranking.metrics import Metric

MAX_NOISE_RATIO = 1 / 3  # of a sample's error to the noise of the split itself
SHARE_STEP = 0.05  # by which a share grows
PERCENT_STEP = 100.0  # what one image adds to a sum of percentages

# Soups, given by their places in a list, and indices of images (all for None) to their values
# (M, k) on these images.
Run = Callable[[Sequence[int], list[int] | None], Tensor]


@dataclass(frozen=True)
class PartialEvaluation:
    """What one evaluation found and cost.

    Attributes:
        value: the accuracy in percent, or another metric. It has no bias, so it can be a little
            outside the metric's range.
        standard_error: of the sample of images, in the metric's unit; 0 for a whole evaluation.
        num_images: how many images were run.
        cost: those, divided by all images of the split.
    """

    value: float
    standard_error: float
    num_images: int
    cost: Fraction


class PartialEvaluations:
    """Evaluates soups on a share of the images and keeps what was found.

    The first soup of two or more ingredients is run on all images. It shows where soups and
    ensembles disagree here. The share grows until the standard error for that soup is at most
    `max_noise_ratio` times the noise that the split itself has: the standard error of the
    difference between soup and ensemble on so many images.

    Args:
        bank: of the same ingredients and images.
        metric: one that is a mean over images, with classes as labels.
        share: of the images, above 0 and at most 1.
        seed: of the sample.
        max_noise_ratio: of the sample's error to the noise of the split; infinite for a share that
            never grows.

    Attributes:
        evaluations: what was found, one for each soup, in order.
        share: the share of the images that is run, as far as it has grown.
        finding: what the first soup said about the share, in a sentence; empty before it.

    Raises:
        ParameterError: an impossible share or ratio, or another metric.
    """

    def __init__(
        self,
        bank: LogitBank,
        metric: Metric,
        *,
        share: float,
        seed: int = 0,
        max_noise_ratio: float = MAX_NOISE_RATIO,
    ) -> None:
        self.asked_share = check_share(share)
        if not max_noise_ratio > 0:  # NaN fails this too
            raise ParameterError(f"max_noise_ratio must be above 0, not {max_noise_ratio!r}.")
        if metric.per_image is None or metric.labels == "numbers":
            raise ParameterError(
                f"share={share} needs a metric that is a mean over images, such as accuracy or "
                f"nll; {metric.name} is evaluated on all images: leave share out."
            )
        self.bank = bank
        self.metric = metric
        self.share = self.asked_share
        self.evaluations: list[PartialEvaluation] = []
        self._per_image = metric.per_image
        self._step = PERCENT_STEP if metric.is_percentage else 0.0
        self._max_noise_ratio = max_noise_ratio
        self._order = ImageOrder.of_bank(bank, seed=seed)
        self._sample = self._draw()
        self._tail_rate = 0.0
        self.finding = ""
        self._is_calibrated = self._is_whole

    @property
    def next_costs(self) -> tuple[Fraction, Fraction]:
        """What the next soup costs at most, and each one after it, in passes over the split.

        The second is more if the share grows after the next soup.
        """
        later = Fraction(len(self._sample.indices), self.bank.num_images)
        return (later if self._is_calibrated else Fraction(1)), later

    @property
    def cost(self) -> Fraction:
        """What all evaluations cost, in passes over the split."""
        return sum((each.cost for each in self.evaluations), Fraction(0))

    @property
    def last_error(self) -> float:
        """The standard error of the last evaluation; 0 before the first."""
        return self.evaluations[-1].standard_error if self.evaluations else 0.0

    def evaluate(self, soups: Sequence[Tensor | None], run: Run) -> list[float]:
        """Evaluate some soups.

        Args:
            soups: the mixing weights (N,) of each; None for one that no mixing weights describe,
                which is run on all images.
            run: runs soups on images.

        Returns: their values.
        """
        records: dict[int, PartialEvaluation] = {}
        if not self._is_calibrated:
            for k in [k for k, weights in enumerate(soups) if _mixes(weights)][:1]:
                values = run([k], None)
                records[k] = self._whole(values)[0]
                self._calibrate(torch.as_tensor(soups[k]), values[0])
        rest = [k for k in range(len(soups)) if k not in records]
        on_all = [k for k in rest if self._is_whole or soups[k] is None]
        on_sample = [k for k in rest if k not in on_all]
        if on_all:
            records |= zip(on_all, self._whole(run(on_all, None)), strict=True)
        if on_sample:
            rows = torch.stack([torch.as_tensor(soups[k]) for k in on_sample])
            values = run(on_sample, self._sample.indices.tolist())
            records |= zip(on_sample, self._partial(rows, values), strict=True)
        found = [records[k] for k in range(len(soups))]
        self.evaluations += found
        return [each.value for each in found]

    def report(self) -> str:
        """How far the rule was trusted, and what was spent, in sentences."""
        whole = sum(each.cost == 1 for each in self.evaluations)
        cost = float(self.cost)
        lines = [f"{len(self.evaluations)} evaluations cost {cost:.2f} passes, {whole} were whole"]
        errors = [each.standard_error for each in self.evaluations if each.cost < 1]
        if errors:
            largest = self.metric.text_with_unit(max(errors))
            lines.append(f"standard errors of the others up to {largest}")
        return "; ".join([*lines, *filter(None, [self.finding])])

    @property
    def _is_whole(self) -> bool:
        return len(self._sample.indices) == self.bank.num_images

    def _draw(self) -> ImageSample:
        return self._order.draw(self._count(self.share))

    def _count(self, share: float) -> int:
        return math.floor(share * self.bank.num_images + 1e-9)

    def _whole(self, values: Tensor) -> list[PartialEvaluation]:
        """What values (M, n) on all images say."""
        total = self.bank.num_images
        means = (row.sum().item() / total for row in values)
        return [PartialEvaluation(mean, 0.0, total, Fraction(1)) for mean in means]

    def _partial(self, rows: Tensor, values: Tensor) -> list[PartialEvaluation]:
        """What values (M, k) on the sample say of soups with mixing weights (M, N)."""
        sample = self._sample
        count = len(sample.indices)
        records = []
        for found, ensemble in zip(values, self._ensembles(rows), strict=True):
            differences = found - ensemble[sample.indices]
            value, error = sample.estimate(
                ensemble.sum().item(), differences, tail_rate=self._tail_rate, step=self._step
            )
            cost = Fraction(count, sample.num_images)
            records.append(PartialEvaluation(value, error, count, cost))
        return records

    def _ensembles(self, rows: Tensor) -> Tensor:
        """The values of the ensembles (M, n) for mixing weights (M, N)."""
        return ensemble_values(self.bank, rows, self.metric)

    def _calibrate(self, weights: Tensor, values: Tensor) -> None:
        """Let the share grow to what the first soup asks for, by its values (n,)."""
        squares = (values - self._ensembles(weights.unsqueeze(0))[0]).square()
        self._is_calibrated = True
        while self._noise_ratio(squares) > self._max_noise_ratio and self.share < 1:
            self.share = min(1.0, round(self.share + SHARE_STEP, 9))
        self._sample = self._draw()
        variance = self._order.expected_variance(squares, len(self._sample.indices))
        self._tail_rate = variance / self._noise(squares)
        self.finding = self._describe(squares)

    def _noise(self, squares: Tensor) -> float:
        """The variance of a sum of these squared differences (n,) over other images as many."""
        return max(squares.sum().item(), self._step**2, 1e-300)

    def _noise_ratio(self, squares: Tensor) -> float:
        """The expected error of the sample for a soup with these squared differences (n,)."""
        variance = self._order.expected_variance(squares, self._count(self.share))
        return math.sqrt(variance / self._noise(squares))

    def _describe(self, squares: Tensor) -> str:
        chances = self._order.expected_chances(self._count(self.asked_share))
        tail = 100 * squares[chances < 1].sum().item() / max(squares.sum().item(), 1e-300)
        certain = 100 * (chances == 1).double().mean().item()
        text = (
            f"{tail:.0f}% of what the first soup and its ensemble differ by lies outside the "
            f"{certain:.0f}% most contested images"
        )
        if self.share == self.asked_share:
            return text
        if self._is_whole:
            return f"{text}, so soups are run on all images"
        return f"{text}, so the share was raised from {self.asked_share:g} to {self.share:g}"


def ensemble_values(bank: LogitBank, rows: Tensor, metric: Metric) -> Tensor:
    """The metric's values (M, n) of ensembles with mixing weights (M, N) on each image."""
    assert metric.per_image is not None
    p = check_weights(rows, bank.num_models, rows=True)
    p = without_scale(p) if metric.is_percentage else p / p.sum(1, keepdim=True)
    return values_of_images(bank, p, metric.per_image)


def _mixes(weights: Tensor | None) -> bool:
    """Whether a soup can differ from its ensemble: one ingredient alone cannot."""
    return weights is not None and int((torch.as_tensor(weights) > 0).sum()) > 1


def check_share(share: float) -> float:
    """The share of the images as a float.

    Raises:
        ParameterError: it is not above 0 and at most 1.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
        raise ParameterError(
            f"share must be a number above 0 and at most 1, the part of the images that soups are "
            f"run on, not {share!r}."
        )
    return float(share)

"""Where a row of a soup bench is looked up: from mixing weights to the row, and to the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radin.errors import OffGridError, ParameterError
from radin.inference.partial import PartialEvaluations
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights, from_subsets
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY

if TYPE_CHECKING:
    from radin.experiments.bench.bench import SoupBench


class TableEvaluator:
    """An evaluator that looks soups up in a bench instead of running them.

    Called with mixing weights (N,), it returns the soup's accuracy in percent, or its metric.

    Attributes:
        bench, part: where it looks.
        metric: what it looks up.
        count: how many evaluations it was asked for.
        partial: what was found on a share of the images; None where soups are looked up whole.
    """

    def __init__(
        self,
        bench: SoupBench,
        part: str,
        metric: Metric = ACCURACY,
        *,
        partial: PartialEvaluations | None = None,
    ) -> None:
        self.bench = bench
        self.part = part
        self.metric = metric
        self.partial = partial
        self._values = bench.soups(part, metric)
        self.count = 0

    def __call__(self, weights: Tensor | Sequence[float]) -> float:
        row = self.bench.row(weights)
        self.count += 1
        if self.partial is None:
            return self._values[row].item()

        def look_up(_: Sequence[int], images: list[int] | None) -> Tensor:
            return self._look_up([row], images)

        return self.partial.evaluate([check_weights(weights, self.bench.num_models)], look_up)[0]

    def image_values(
        self, soups: Sequence[Tensor], images: list[int] | None, *, bank: LogitBank
    ) -> Tensor:
        """Whether soups are right on some images, in percent: (M, k) double.

        Args:
            soups: M of them, mixing weights (N,).
            images: k indices; all for None.
            bank: not needed here; an `Evaluator` checks its labels.

        Raises:
            ParameterError: another metric than accuracy.
        """
        if self.metric != ACCURACY:
            raise ParameterError(
                f"A bench gives {self.metric} only whole: it holds for single images whether a "
                "soup is right, and no more. Take accuracy."
            )
        self.count += len(soups)
        return self._look_up([self.bench.row(weights) for weights in soups], images)

    def _look_up(self, rows: list[int], images: list[int] | None) -> Tensor:
        right = self.bench.right(self.part, rows)
        return 100 * (right if images is None else right[:, images]).double()

    @property
    def standard_error(self) -> float:
        """Of the last evaluation, in points; 0 where it was whole."""
        return self.partial.last_error if self.partial else 0.0


def members_of_weights(weights: Tensor | Sequence[float], num_models: int) -> list[int]:
    """The members of a subset, given as mixing weights (N,).

    Raises OffGridError for weights that are not equal on a subset: those were never evaluated.
    """
    p = check_weights(weights, num_models)
    used = p > 0
    if not torch.allclose(p[used], p[used].mean(), rtol=1e-4, atol=0):
        raise OffGridError(
            "This soup is not in the bench: it holds subsets with equal weights only. "
            f"The weights were {[round(weight, 4) for weight in p.tolist()]}."
        )
    return used.nonzero().flatten().tolist()


def bitmask_of(members: Sequence[int]) -> int:
    """The bitmask of some ingredients: the sum of 2^k over the members k."""
    return sum(1 << k for k in members)


def weights_of(bitmasks: Tensor, num_models: int) -> Tensor:
    """The mixing weights of subsets that are given as bitmasks (R,): (R, N)."""
    return from_subsets((bitmasks[:, None] >> torch.arange(num_models)) & 1)

"""Where a row of a soup bench is looked up: from mixing weights to the row, and to the accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from radin.errors import OffGridError
from radin.ranking.candidates import check_weights
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
    """

    def __init__(self, bench: SoupBench, part: str, metric: Metric = ACCURACY) -> None:
        self.bench = bench
        self.part = part
        self.metric = metric
        self._values = bench.soups(part, metric)
        self.count = 0

    def __call__(self, weights: Tensor | Sequence[float]) -> float:
        row = row_of_weights(weights, self.bench.num_models)
        self.count += 1
        return self._values[row].item()


def row_of_weights(weights: Tensor | Sequence[float], num_models: int) -> int:
    """The row of a subset, given as mixing weights (N,).

    Raises OffGridError for weights that are not equal on a subset: those were never evaluated.
    """
    p = check_weights(weights, num_models)
    used = p > 0
    if not torch.allclose(p[used], p[used].mean(), rtol=1e-4, atol=0):
        raise OffGridError(
            "This soup is not in the bench: it holds subsets with equal weights only. "
            f"The weights were {[round(weight, 4) for weight in p.tolist()]}."
        )
    return row_of(used.nonzero().flatten().tolist())


def row_of(members: Sequence[int]) -> int:
    """The row of the soup of some ingredients, in a bench of any size."""
    return sum(1 << k for k in members) - 1

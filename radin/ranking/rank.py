"""Stage 1: the fast estimate of every candidate, computed from the logit bank, and the ranking."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from radin.errors import ParameterError, check_integer
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import (
    MAX_MODELS_EXHAUSTIVE,
    are_subsets,
    check_weights,
    effective_number,
    first_occurrences,
    without_scale,
)
from radin.ranking.estimates import class_metric, mean_over_images, one_by_one, squared_error
from radin.ranking.margins import count_candidates, count_every_subset
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import (
    ACCURACY,
    MEAN_SQUARED_ERROR,
    MetricLike,
    find_metric,
    nll_of,
)

_MAX_ENSEMBLE_LOGITS = 2**22  # held in memory at once: 32 MiB in double precision
_TABLE_ROWS_PER_CANDIDATE = 16  # of the table of all subsets, at the price of one candidate (CPU)


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order in which stage 2 should evaluate them.

    Attributes:
        order: (M,) int64, indices of the candidates, best first.
        estimates: (M,) fast estimates, in percent or in the metric's unit, in the candidates' own
            order.
        scores: (M,) estimates with the prior's bonus, in the candidates' own order.
        metric: what the estimates are.

    >>> import radin
    >>> bank = radin.synthetic_bank(num_models=3, num_images=50, num_classes=4, seed=0)
    >>> ranking = radin.rank(bank, radin.exhaustive(3), prior=1.0)
    >>> best = ranking.order[0]
    >>> bool(ranking.scores[best] == ranking.scores.max())
    True
    """

    order: Tensor
    estimates: Tensor
    scores: Tensor
    metric: Metric = ACCURACY


def fast_estimate(
    bank: LogitBank,
    candidates: Tensor,
    metric: MetricLike = "accuracy",
    *,
    higher_is_better: bool | None = None,
) -> Tensor:
    """The metric of each candidate's *ensemble* on the bank, without a forward pass.

    Logits are averaged in double precision. The lowest class index wins a tie, as in argmax.

    Args:
        bank: logits (N, n, C).
        candidates: (M, N) mixing weights.
        metric: "accuracy", "top5_accuracy" (or another number), "macro_f1", "balanced_accuracy",
            "mean_iou" or "calibration_error", all in percent; "nll", the mean negative
            log-likelihood in nats; "mean_squared_error" for regression; a `Metric`; or a function
            of the averaged logits (n, C) and the labels.
        higher_is_better: whether larger numbers of a function are better. An estimate does not
            depend on it.

    Returns:
        (M,) double.

    Raises:
        ParameterError: another metric, labels that it cannot use, or candidates that are not mixing
            weights for this bank.

    Source: RADIN, stage 1.

    >>> import radin, torch
    >>> logits = torch.tensor([[[3.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]])
    >>> bank = radin.LogitBank(logits, labels=torch.tensor([0, 1]))
    >>> radin.fast_estimate(bank, radin.exhaustive(2)).tolist()
    [50.0, 50.0, 100.0]
    >>> radin.fast_estimate(bank, radin.exhaustive(2), metric="macro_f1").round(decimals=2).tolist()
    [33.33, 33.33, 100.0]
    """
    found = find_metric(metric, higher_is_better, needs_direction=False)
    p = check_weights(candidates, bank.num_models, rows=True)
    found.check_labels(bank.labels, num_outputs=bank.num_outputs)
    subsets = bool(are_subsets(p).all())
    if bank.projection is None and (found == ACCURACY or found.class_terms is not None):
        return _by_counting(bank, without_scale(p), found, only_subsets=subsets)
    if found == ACCURACY:
        return _projected_accuracy(bank, without_scale(p))
    if found == MEAN_SQUARED_ERROR:
        return squared_error(bank, p / p.sum(1, keepdim=True))
    if found.per_image is not None:
        # A percentage asks for the order of the logits alone, and rounded thirds would break ties.
        weights = without_scale(p) if found.is_percentage else p / p.sum(1, keepdim=True)
        return mean_over_images(bank, weights, found.per_image)
    return one_by_one(bank, without_scale(p), found)


def single_values(bank: LogitBank, metric: Metric) -> Tensor:
    """The metric of each ingredient alone: (N,) double."""
    return fast_estimate(bank, torch.eye(bank.num_models), metric)


def ensemble_answers(bank: LogitBank, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The values whose means over the images are the accuracy and the negative log-likelihood.

    Args:
        bank: logits (N, n, C).
        candidates: (M, N) mixing weights.

    Returns:
        (M, n) boolean, whether each ensemble is right on each image; and (M, n) double, its
        negative log-likelihood there, in nats.

    Raises:
        ParameterError: candidates that are not mixing weights for this bank.
    """
    bank.refuse_targets("A right or wrong answer")
    p = check_weights(candidates, bank.num_models, rows=True)
    p = without_scale(p).to(bank.logits.device)
    logits = bank.logits.double()
    right = torch.empty(len(p), bank.num_images, dtype=torch.bool)
    losses = torch.empty(len(p), bank.num_images, dtype=torch.float64)
    for rows in torch.arange(len(p)).split(max(1, _MAX_ENSEMBLE_LOGITS // logits[0].numel())):
        ensemble = bank.projected(torch.tensordot(p[rows], logits, 1))
        right[rows] = (ensemble.argmax(-1) == bank.labels).cpu()
        ensemble /= p[rows].sum(1)[:, None, None]
        losses[rows] = nll_of(ensemble, bank.labels).cpu()
    return right, losses


def _by_counting(bank: LogitBank, p: Tensor, metric: Metric, *, only_subsets: bool) -> Tensor:
    """Exact accuracy, or another metric of counts, of each ensemble: (M,).

    No ensemble is formed; `radin.ranking.margins` says why.
    """
    in_table = (
        only_subsets
        and bank.num_models <= MAX_MODELS_EXHAUSTIVE
        and 2**bank.num_models <= _TABLE_ROWS_PER_CANDIDATE * len(p)
    )
    rows = _bitmasks(p)[0] if in_table else None

    def count_right(part: LogitBank) -> Tensor:
        return count_candidates(part, p) if rows is None else count_every_subset(part)[rows]

    if metric == ACCURACY:
        return count_right(bank).double() * 100 / bank.num_images
    return class_metric(bank, metric, count_right, num_candidates=len(p))


def _projected_accuracy(bank: LogitBank, p: Tensor) -> Tensor:
    hits = torch.zeros(len(p), dtype=torch.int64)
    block_images = max(1, _MAX_ENSEMBLE_LOGITS // (bank.num_models * bank.num_classes))
    starts = range(0, bank.num_images, block_images)
    for start in tqdm(starts, desc="ensembles", delay=3, leave=False):
        logits = bank.logits[:, start : start + block_images].double()
        labels = bank.labels[start : start + block_images]
        for row, weights in enumerate(p.to(logits.device)):
            ensemble = bank.projected(torch.tensordot(weights, logits, 1))
            hits[row] += (ensemble.argmax(-1) == labels).sum().cpu()
    return hits.double() * 100 / bank.num_images


def _bitmasks(candidates: Tensor) -> list[Tensor]:
    """The ingredients of positive weight as bits, 62 ingredients in each int64: [(M,), ...]."""
    words = (candidates > 0).long().split(62, dim=1)
    return [(word << torch.arange(word.shape[1])).sum(1) for word in words]


def check_prior(prior: float, metric: Metric = ACCURACY) -> float:
    """The prior's strength lambda as a float.

    Raises:
        ParameterError: it is not a finite number of at least 0, or more than 0 for a metric that is
            no percentage: a bonus in percentage points has no meaning there.
    """
    if (
        isinstance(prior, bool)
        or not isinstance(prior, int | float | np.number)
        or not math.isfinite(prior)
        or prior < 0
    ):
        raise ParameterError(
            f"prior must be a finite number of at least 0 (percentage points), not {prior!r}."
        )
    if prior > 0 and not metric.is_percentage:
        raise ParameterError(
            f"prior is a bonus in percentage points, and {metric.name} is no percentage; rank with "
            "prior=0, or by a metric in percent."
        )
    return float(prior)


def with_prior(
    estimates: Any, sizes: Any, *, num_models: int, prior: float, metric: Metric = ACCURACY
) -> Any:
    """The scores of candidates: fast estimates with the prior's bonus for size.

    The bonus is added, or taken off where smaller numbers are better.

    Args:
        estimates: (M,) in percent; a tensor, an array or one number.
        sizes: (M,) numbers of ingredients.
        metric: what the estimates are.
    """
    bonus = prior * sizes / num_models
    return estimates + bonus if metric.higher_is_better else estimates - bonus


def sort_keys(
    scores: np.ndarray,
    sizes: np.ndarray,
    bitmasks: Sequence[np.ndarray],
    *,
    metric: Metric = ACCURACY,
) -> list[np.ndarray]:
    """Keys for `np.lexsort` that put candidates in RADIN's order, best first.

    The better score comes first, then more ingredients, then the lower bitmask. `rank` in
    book/_static/explorer/explorer.js is the same rule in the page; a test compares the two.

    Args:
        scores: (M,) in the metric's unit.
        sizes: (M,) numbers of ingredients.
        bitmasks: one array (M,) for each word of the candidates' bitmasks, the lowest word first.
        metric: what the scores are.
    """
    return [*bitmasks, -sizes, -metric.comparable(scores)]  # lexsort's last key comes first


def rank(
    bank: LogitBank,
    candidates: Tensor,
    prior: float = 0.0,
    *,
    top: int | None = None,
    metric: MetricLike = "accuracy",
    higher_is_better: bool | None = None,
) -> Ranking:
    """Rank candidates by `accuracy of the ensemble (percent) + prior * |S| / N`.

    Another metric takes the place of accuracy. Where smaller numbers are better, the smallest comes
    first, and the prior's bonus is taken off. The prior is in percentage points, so it must be 0
    for a metric that is no percentage.

    For mixing weights that are not a subset, `|S|` is the effective number 1 / sum p_k^2. Ties go
    to more ingredients, then to the lower bitmask, then to the earlier candidate.

    Args:
        bank: logits (N, n, C).
        candidates: (M, N) mixing weights.
        prior: lambda, in percentage points: the bonus of the full zoo.
        top: how many candidates to put in order, without repeated rows. Default: all M rows,
            with repeats.
        metric: a name, a `Metric`, or a function of averaged logits (n, C) and labels, as in
            `fast_estimate`.
        higher_is_better: whether larger numbers of a function are better.

    Raises:
        ParameterError: an impossible prior, top or metric, or candidates that are not mixing
            weights for this bank.

    Source: RADIN, stage 1. The texts we have do not print the prior's formula; this is our reading.

    >>> import radin, torch
    >>> bank = radin.LogitBank(torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([0]))
    >>> radin.rank(bank, radin.exhaustive(2)).order.tolist()  # both, the first, the second
    [2, 0, 1]
    """
    found = find_metric(metric, higher_is_better)
    prior = check_prior(prior, found)
    if top is not None:
        top = check_integer("top", top, minimum=1)
    candidates = torch.as_tensor(candidates).cpu()
    estimates = fast_estimate(bank, candidates, found)
    sizes = effective_number(candidates)
    scores = with_prior(estimates, sizes, num_models=bank.num_models, prior=prior, metric=found)
    bitmasks = [word.numpy() for word in _bitmasks(candidates)]
    keys = sort_keys(scores.numpy(), sizes.numpy(), bitmasks, metric=found)
    order = np.lexsort(keys) if top is None else _first_distinct(candidates, keys, top)
    return Ranking(torch.from_numpy(order), estimates, scores, found)


def _first_distinct(candidates: Tensor, keys: list[np.ndarray], top: int) -> np.ndarray:
    """The first `top` different candidates in the order of the keys.

    Only `reach` of the best candidates are sorted, and more if too many of them are repeats.
    """
    reach = top
    while True:
        best = np.arange(len(candidates))
        if reach < len(best):
            best = np.flatnonzero(keys[-1] <= np.partition(keys[-1], reach - 1)[reach - 1])
        best = best[np.lexsort([key[best] for key in keys])]
        different = best[first_occurrences(candidates[best]).numpy()]
        if len(different) >= top or len(best) == len(candidates):
            return different[:top]
        reach *= 4

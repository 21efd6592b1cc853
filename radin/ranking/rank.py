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
from radin.ranking.margins import count_candidates, count_every_subset

METRICS = ("accuracy", "nll")
_NLL_BLOCK_LOGITS = 2**18  # 2 MiB in double precision, which fit a core's cache
_MAX_ENSEMBLE_LOGITS = 2**22  # held in memory at once: 32 MiB in double precision
_TABLE_ROWS_PER_CANDIDATE = 16  # of the table of all subsets, at the price of one candidate (CPU)


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order in which stage 2 should evaluate them.

    Attributes:
        order: (M,) int64, indices of the candidates, best first.
        estimates: (M,) fast estimates in percent, in the candidates' own order.
        scores: (M,) estimates plus the prior's bonus, in the candidates' own order.

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


def fast_estimate(bank: LogitBank, candidates: Tensor, metric: str = "accuracy") -> Tensor:
    """The metric of each candidate's *ensemble* on the bank, without a forward pass.

    Logits are averaged in double precision. The lowest class index wins a tie, as in argmax.

    Args:
        bank: logits (N, n, C).
        candidates: (M, N) mixing weights.
        metric: "accuracy" in percent, or "nll", the mean negative log-likelihood in nats.

    Returns:
        (M,) double.

    Raises:
        ParameterError: another metric, or candidates that are not mixing weights for this bank.

    Source: RADIN, stage 1.

    >>> import radin, torch
    >>> logits = torch.tensor([[[3.0, 0.0], [1.0, 0.0]], [[0.0, 1.0], [0.0, 2.0]]])
    >>> bank = radin.LogitBank(logits, labels=torch.tensor([0, 1]))
    >>> radin.fast_estimate(bank, radin.exhaustive(2)).tolist()
    [50.0, 50.0, 100.0]
    """
    check_metric(metric)
    p = check_weights(candidates, bank.num_models, rows=True)
    if metric == "nll":
        return _nll(bank, p / p.sum(1, keepdim=True))
    return _accuracy(bank, without_scale(p), only_subsets=bool(are_subsets(p).all()))


def check_metric(metric: str) -> None:
    """Check that a metric is one of `METRICS`.

    Raises:
        ParameterError: it is not.
    """
    if metric not in METRICS:
        raise ParameterError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}.")


def ensemble_answers(bank: LogitBank, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """The values whose means over the images are the two metrics of `fast_estimate`.

    Args:
        bank: logits (N, n, C).
        candidates: (M, N) mixing weights.

    Returns:
        (M, n) boolean, whether each ensemble is right on each image; and (M, n) double, its
        negative log-likelihood there, in nats.

    Raises:
        ParameterError: candidates that are not mixing weights for this bank.
    """
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


def _accuracy(bank: LogitBank, p: Tensor, *, only_subsets: bool) -> Tensor:
    """Exact accuracy of each ensemble: (M,).

    Without a projection no ensemble is formed; `radin.ranking.margins` says why.
    """
    if bank.projection is not None:
        return _projected_accuracy(bank, p)
    if (
        only_subsets
        and bank.num_models <= MAX_MODELS_EXHAUSTIVE
        and 2**bank.num_models <= _TABLE_ROWS_PER_CANDIDATE * len(p)
    ):
        hits = count_every_subset(bank)[_bitmasks(p)[0]]
    else:
        hits = count_candidates(bank, p)
    return hits.double() * 100 / bank.num_images


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


def _nll(bank: LogitBank, p: Tensor) -> Tensor:
    """Mean negative log-likelihood of each ensemble; p is (M, N), rows of sum 1."""
    device = bank.logits.device
    p = p.to(device)
    total = torch.zeros(len(p), dtype=torch.float64, device=device)
    block_images = max(1, _NLL_BLOCK_LOGITS // (bank.num_models * bank.num_classes))
    starts = range(0, bank.num_images, block_images)
    # Images in the outer loop: each block of the bank is converted to double once.
    for start in tqdm(starts, desc="likelihoods", delay=3, leave=False):
        logits = bank.logits[:, start : start + block_images].double()
        labels = bank.labels[start : start + block_images]
        block_rows = max(1, _NLL_BLOCK_LOGITS // logits[0].numel())
        for first in range(0, len(p), block_rows):
            rows = slice(first, first + block_rows)
            ensemble = p[rows] @ logits.flatten(1)
            ensemble = bank.projected(ensemble.view(-1, *logits.shape[1:]))  # (rows, images, C)
            total[rows] += nll_of(ensemble, labels).sum(-1)
    return total.cpu() / bank.num_images


def nll_of(ensemble: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood (M, n) of logits (M, n, C) and labels (n,), in nats."""
    picked = ensemble.gather(-1, labels.expand(len(ensemble), -1).unsqueeze(-1)).squeeze(-1)
    return ensemble.logsumexp(-1) - picked


def check_prior(prior: float) -> float:
    """The prior's strength lambda as a float.

    Raises:
        ParameterError: it is not a finite number of at least 0.
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
    return float(prior)


def with_prior(estimates: Any, sizes: Any, *, num_models: int, prior: float) -> Any:
    """The scores of candidates: fast estimates plus the prior's bonus for size.

    Args:
        estimates: (M,) in percent; a tensor, an array or one number.
        sizes: (M,) numbers of ingredients.
    """
    return estimates + prior * sizes / num_models


def sort_keys(
    scores: np.ndarray, sizes: np.ndarray, bitmasks: Sequence[np.ndarray]
) -> list[np.ndarray]:
    """Keys for `np.lexsort` that put candidates in RADIN's order, best first.

    The higher score comes first, then more ingredients, then the lower bitmask. `rank` in
    book/_static/explorer/explorer.js is the same rule in the page; a test compares the two.

    Args:
        scores: (M,) in percentage points.
        sizes: (M,) numbers of ingredients.
        bitmasks: one array (M,) for each word of the candidates' bitmasks, the lowest word first.
    """
    # Scores that differ by less than 1e-9 differ by rounding only. lexsort's last key comes first.
    return [*bitmasks, -sizes, -scores.round(9)]


def rank(
    bank: LogitBank, candidates: Tensor, prior: float = 0.0, *, top: int | None = None
) -> Ranking:
    """Rank candidates by `accuracy of the ensemble (percent) + prior * |S| / N`.

    For mixing weights that are not a subset, `|S|` is the effective number 1 / sum p_k^2. Ties go
    to more ingredients, then to the lower bitmask, then to the earlier candidate.

    Args:
        bank: logits (N, n, C).
        candidates: (M, N) mixing weights.
        prior: lambda, in percentage points of accuracy: the bonus of the full zoo.
        top: how many candidates to put in order, without repeated rows. Default: all M rows,
            with repeats.

    Raises:
        ParameterError: an impossible prior or top, or candidates that are not mixing weights for
            this bank.

    Source: RADIN, stage 1. The texts we have do not print the prior's formula; this is our reading.

    >>> import radin, torch
    >>> bank = radin.LogitBank(torch.tensor([[[3.0, 0.0]], [[0.0, 1.0]]]), torch.tensor([0]))
    >>> radin.rank(bank, radin.exhaustive(2)).order.tolist()  # both, the first, the second
    [2, 0, 1]
    """
    prior = check_prior(prior)
    if top is not None:
        top = check_integer("top", top, minimum=1)
    candidates = torch.as_tensor(candidates).cpu()
    estimates = fast_estimate(bank, candidates)
    sizes = effective_number(candidates)
    scores = with_prior(estimates, sizes, num_models=bank.num_models, prior=prior)
    bitmasks = [word.numpy() for word in _bitmasks(candidates)]
    keys = sort_keys(scores.numpy(), sizes.numpy(), bitmasks)
    order = np.lexsort(keys) if top is None else _first_distinct(candidates, keys, top)
    return Ranking(torch.from_numpy(order), estimates, scores)


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

"""Stage 1: the fast estimate of every candidate, read off the logit bank, and the ranking."""

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
_CHUNK = (
    2**18
)  # numbers in one block of the likelihood: 2 MiB in double precision, which a cache holds
_ANSWERS = 2**22  # logits of ensembles held at once where every answer is wanted: 32 MiB
_TABLE_GAIN = 16  # one candidate on its own costs as much as so many rows of the table of all subsets (on a CPU)


@dataclass(frozen=True)
class Ranking:
    """Candidates in the order in which stage 2 should evaluate them.

    Attributes:
        order: (M,) int64, indices of the candidates, best first.
        estimates: (M,) fast estimates in percent, in the candidates' own order.
        scores: (M,) estimates plus the prior's bonus, in the candidates' own order.
    """

    order: Tensor
    estimates: Tensor
    scores: Tensor


def fast_estimate(bank: LogitBank, candidates: Tensor, metric: str = "accuracy") -> Tensor:
    """The metric of each candidate's *ensemble* on the bank; no forward pass.

    Logits are averaged in double precision. A tie between classes goes to the lowest class index, as in argmax.

    Args:
        candidates: (M, N) mixing weights.
        metric: "accuracy" in percent, or "nll", the mean negative log-likelihood in nats.

    Returns: (M,) double.

    Raises ParameterError for another metric, or for candidates that are no mixing weights for this bank.
    """
    check_metric(metric)
    p = check_weights(candidates, bank.num_models, rows=True)
    if metric == "nll":
        return _nll(bank, p / p.sum(1, keepdim=True))
    return _accuracy(bank, without_scale(p), bool(are_subsets(p).all()))


def check_metric(metric: str) -> None:
    """ParameterError for a metric that is none of `METRICS`."""
    if metric not in METRICS:
        raise ParameterError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}.")


def ensemble_answers(bank: LogitBank, candidates: Tensor) -> tuple[Tensor, Tensor]:
    """What `fast_estimate` is the mean of, image by image.

    Args:
        candidates: (M, N) mixing weights.

    Returns: (M, n) boolean, whether each ensemble is right on each image; and (M, n) double, its negative
    log-likelihood there, in nats.

    Raises ParameterError for candidates that are no mixing weights for this bank.
    """
    p = check_weights(candidates, bank.num_models, rows=True)
    p = without_scale(p).to(bank.logits.device)
    logits = bank.logits.double()
    right = torch.empty(len(p), bank.num_images, dtype=torch.bool)
    losses = torch.empty(len(p), bank.num_images, dtype=torch.float64)
    for rows in torch.arange(len(p)).split(max(1, _ANSWERS // logits[0].numel())):
        ensemble = bank.projected(torch.tensordot(p[rows], logits, 1))
        right[rows] = (ensemble.argmax(-1) == bank.labels).cpu()
        ensemble /= p[rows].sum(1)[:, None, None]
        losses[rows] = nll_of(ensemble, bank.labels).cpu()
    return right, losses


def _accuracy(bank: LogitBank, p: Tensor, subsets: bool) -> Tensor:
    """Exact accuracy of each ensemble; without ever forming one (see `radin.ranking.margins`) where a class has one logit."""
    if bank.projection is not None:
        return _projected_accuracy(bank, p)
    if (
        subsets
        and bank.num_models <= MAX_MODELS_EXHAUSTIVE
        and 2**bank.num_models <= _TABLE_GAIN * len(p)
    ):
        hits = count_every_subset(bank)[_bitmasks(p)[0]]
    else:
        hits = count_candidates(bank, p)
    return hits.double() * 100 / bank.num_images


def _projected_accuracy(bank: LogitBank, p: Tensor) -> Tensor:
    right = torch.zeros(len(p), dtype=torch.int64)
    at_once = max(1, _ANSWERS // (bank.num_models * bank.num_classes))
    for start in tqdm(range(0, bank.num_images, at_once), desc="ensembles", delay=3, leave=False):
        logits, labels = (
            bank.logits[:, start : start + at_once].double(),
            bank.labels[start : start + at_once],
        )
        for row, weights in enumerate(p.to(logits.device)):
            ensemble = bank.projected(torch.tensordot(weights, logits, 1))
            right[row] += (ensemble.argmax(-1) == labels).sum().cpu()
    return right.double() * 100 / bank.num_images


def _bitmasks(candidates: Tensor) -> list[Tensor]:
    """Which ingredients have a positive weight, as numbers: (M,) int64 for each 62 ingredients, the lowest first."""
    words = (candidates > 0).long().split(62, dim=1)
    return [(word << torch.arange(word.shape[1])).sum(1) for word in words]


def _nll(bank: LogitBank, p: Tensor) -> Tensor:
    """Mean negative log-likelihood of each ensemble; p is (M, N), rows of sum 1."""
    device = bank.logits.device
    p = p.to(device)
    total = torch.zeros(len(p), dtype=torch.float64, device=device)
    images_at_once = max(1, _CHUNK // (bank.num_models * bank.num_classes))
    # Blocks of images outside, blocks of candidates inside: each block of the bank is converted to double once.
    for start in tqdm(
        range(0, bank.num_images, images_at_once), desc="likelihoods", delay=3, leave=False
    ):
        logits = bank.logits[:, start : start + images_at_once].double()
        labels = bank.labels[start : start + images_at_once]
        candidates_at_once = max(1, _CHUNK // logits[0].numel())
        for first in range(0, len(p), candidates_at_once):
            chosen = slice(first, first + candidates_at_once)
            ensemble = (p[chosen] @ logits.flatten(1)).view(
                -1, *logits.shape[1:]
            )  # (candidates, images, C)
            ensemble = bank.projected(ensemble)
            total[chosen] += nll_of(ensemble, labels).sum(-1)
    return total.cpu() / bank.num_images


def nll_of(ensemble: Tensor, labels: Tensor) -> Tensor:
    """Negative log-likelihood (candidates, images) of logits (candidates, images, C)."""
    picked = ensemble.gather(-1, labels.expand(len(ensemble), -1).unsqueeze(-1)).squeeze(-1)
    return ensemble.logsumexp(-1) - picked


def check_prior(prior: float) -> float:
    """The prior's strength lambda as a float; ParameterError unless it is a finite number of at least 0."""
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
    """The score of candidates: fast estimates plus the prior's bonus for size; tensors, arrays or numbers."""
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
    # 1e-9: below it two scores differ by rounding alone. For lexsort the last key decides first.
    return [*bitmasks, -sizes, -scores.round(9)]


def rank(
    bank: LogitBank, candidates: Tensor, prior: float = 0.0, top: int | None = None
) -> Ranking:
    """Rank candidates by `accuracy of the ensemble (percent) + prior * |S| / N`.

    For mixing weights that are no subset, `|S|` is the effective number 1 / sum p_k^2. Ties go to more
    ingredients, then to the lower bitmask, then to the earlier candidate.

    Args:
        candidates: (M, N) mixing weights.
        prior: lambda, in percentage points of accuracy: the bonus of the full zoo.
        top: how many to put in order, repeated rows left out; all M rows, repeats among them, when not given.

    Source: RADIN, stage 1. The texts we have do not print the prior's formula; this is our reading of it.
    """
    prior = check_prior(prior)
    top = top if top is None else check_integer("top", top, minimum=1)
    candidates = torch.as_tensor(candidates).cpu()
    estimates = fast_estimate(bank, candidates)
    sizes = effective_number(candidates)
    scores = with_prior(estimates, sizes, num_models=bank.num_models, prior=prior)
    bitmasks = [word.numpy() for word in _bitmasks(candidates)]
    keys = sort_keys(scores.numpy(), sizes.numpy(), bitmasks)
    order = np.lexsort(keys) if top is None else _first_distinct(candidates, keys, top)
    return Ranking(torch.from_numpy(order), estimates, scores)


def _first_distinct(candidates: Tensor, keys: list[np.ndarray], top: int) -> np.ndarray:
    """The first `top` different candidates in the order of the keys; only those within reach are sorted."""
    reach = top
    while True:
        best = np.arange(len(candidates))
        if reach < len(best):
            best = np.flatnonzero(keys[-1] <= np.partition(keys[-1], reach - 1)[reach - 1])
        best = best[np.lexsort([key[best] for key in keys])]
        found = best[first_occurrences(candidates[best]).numpy()]
        if len(found) >= top or len(best) == len(candidates):
            return found[:top]
        reach *= 4

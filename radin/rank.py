"""Stage 1: the fast estimate of every candidate, read off the logit bank, and the ranking."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radin.bank import LogitBank
from radin.errors import ParameterError
from radin.soup import check_weights

METRICS = ("accuracy", "nll")
_CHUNK = 2**22  # numbers of one block of ensemble logits in double precision: 32 MiB


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


def effective_number(candidates: Tensor) -> Tensor:
    """1 / sum_k p_k^2 for each row (M, N): the size of a subset, and its generalisation to any mixing weights."""
    p = candidates.double()
    return (p.sum(1) ** 2 / p.square().sum(1)).round(decimals=6)


def fast_estimate(bank: LogitBank, candidates: Tensor, metric: str = "accuracy") -> Tensor:
    """The metric of each candidate's *ensemble* on the bank; no forward pass.

    Logits are averaged in double precision. A tie between classes goes to the lowest class index, as in argmax.

    Args:
        candidates: (M, N) mixing weights.
        metric: "accuracy" in percent, or "nll", the mean negative log-likelihood in nats.

    Returns: (M,) double.

    Raises ParameterError for another metric, or for candidates that are no mixing weights for this bank.
    """
    if metric not in METRICS:
        raise ParameterError(f"metric must be one of {', '.join(METRICS)}, not {metric!r}.")
    p = check_weights(candidates, bank.num_models, rows=True)
    if metric == "nll":
        p = p / p.sum(1, keepdim=True)
    else:
        # argmax does not care about scale. A subset's logits are added as they are, so that a tie between
        # classes stays a tie instead of being broken by the rounding of 1/3.
        subset = ((p == 0) | (p == p.amax(1, keepdim=True))).all(1, keepdim=True)
        p = torch.where(subset, (p > 0).double(), p)
    count, images, classes = bank.logits.shape
    # Blocks of images outside, blocks of candidates inside: each block of the bank is converted to double once.
    images_at_once = max(1, _CHUNK // max(classes * count, 1))
    total = torch.zeros(len(p), dtype=torch.float64)
    for start in range(0, images, images_at_once):
        block = bank.logits[:, start : start + images_at_once].double()
        labels = bank.labels[start : start + images_at_once]
        rows_at_once = max(1, _CHUNK // block[0].numel())
        flat = block.reshape(count, -1)
        for row in range(0, len(p), rows_at_once):
            ensemble = (p[row : row + rows_at_once] @ flat).view(-1, len(labels), classes)
            total[row : row + rows_at_once] += _sum_over_images(ensemble, labels, metric)
    return total * (100 if metric == "accuracy" else 1) / images


def _sum_over_images(ensemble: Tensor, labels: Tensor, metric: str) -> Tensor:
    if metric == "accuracy":
        return (ensemble.argmax(-1) == labels).sum(-1).double()
    picked = ensemble.gather(-1, labels.expand(len(ensemble), -1).unsqueeze(-1)).squeeze(-1)
    return (ensemble.logsumexp(-1) - picked).sum(-1)


def check_prior(prior: float) -> float:
    """The prior's strength lambda as a float; ParameterError unless it is a finite number of at least 0."""
    if (
        isinstance(prior, bool)
        or not isinstance(prior, int | float | np.number)
        or not math.isfinite(prior)
        or prior < 0
    ):
        raise ParameterError(f"prior must be a finite number of at least 0 (percentage points), not {prior!r}.")
    return float(prior)


def rank(bank: LogitBank, candidates: Tensor, prior: float = 0.0) -> Ranking:
    """Rank candidates by  `accuracy of the ensemble (percent) + prior * |S| / N`.

    For mixing weights that are no subset, `|S|` is the effective number 1 / sum p_k^2. Ties go to more
    ingredients, then to the lower bitmask, then to the earlier candidate.

    Args:
        candidates: (M, N) mixing weights.
        prior: lambda, in percentage points of accuracy: the bonus of the full zoo.

    Source: RADIN, stage 1. The texts we have do not print the prior's formula; this is our reading of it.
    """
    prior = check_prior(prior)
    candidates = torch.as_tensor(candidates)
    estimates = fast_estimate(bank, candidates)
    sizes = effective_number(candidates)
    scores = estimates + prior * sizes / bank.num_models
    support = (candidates > 0).numpy().T  # (N, M): for lexsort the last key decides first
    keys = (*support, -sizes.numpy(), -scores.numpy().round(9))  # 1e-9: below it two scores differ by rounding alone
    return Ranking(torch.from_numpy(np.lexsort(keys)), estimates, scores)

"""Stage 1: the fast estimate of every candidate, read off the logit bank, and the ranking."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from radin.bank import LogitBank
from radin.candidates import EXHAUSTIVE_LIMIT, exhaustive
from radin.errors import ParameterError
from radin.soup import check_weights

METRICS = ("accuracy", "nll")
_CHUNK = 2**22  # numbers in one block of work: 32 MiB in double precision
_CANDIDATES_AT_ONCE = 2**12


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
        return _nll(bank, p / p.sum(1, keepdim=True))
    # argmax does not care about scale. A subset's logits are added as they are, so that a tie between
    # classes stays a tie instead of being broken by the rounding of 1/3.
    subset = ((p == 0) | (p == p.amax(1, keepdim=True))).all(1, keepdim=True)
    return _accuracy(bank, torch.where(subset, (p > 0).double(), p))


def _blocks(bank: LogitBank, images_at_once: int, dtype: torch.dtype) -> Iterator[tuple[Tensor, Tensor]]:
    for start in range(0, bank.num_images, images_at_once):
        chosen = slice(start, start + images_at_once)
        yield bank.logits[:, chosen].to(dtype), bank.labels[chosen]


def _accuracy(bank: LogitBank, p: Tensor) -> Tensor:
    """Exact accuracy of each ensemble without ever forming one; p is (M, N), each row of any positive scale.

    Where all ingredients are right, every average of them with weights >= 0 is right; where some class is
    ahead of the label in all of them, every average is wrong. On the images left, a class behind the label
    in all ingredients stays behind in every average and can be dropped. An ensemble is right exactly when
    its margin over each class that remains, a rival, is positive (zero will do where the rival has the
    higher index); margins average as logits do.
    """
    from radin import kernels  # numba, only once it is needed

    every_subset = _is_every_subset(p)
    hits = np.zeros(len(p), np.int64)
    # Single precision is read in place, from disk if it lies there. numba knows no half precision on CPUs.
    whole = bank.logits.dtype == torch.float32 and bank.logits.is_contiguous()
    per_image = bank.num_models * bank.num_classes
    for logits, labels in _blocks(bank, bank.num_images if whole else max(1, _CHUNK // per_image), torch.float32):
        values, truth = logits.contiguous().numpy(), labels.numpy()
        agreed = kernels.right_alone(values, truth).all(0)
        hits += int(agreed.sum())
        contested = np.flatnonzero(~agreed)
        counts = kernels.count_rivals(values, truth, contested)
        contested, counts = contested[counts != kernels.NEVER], counts[counts != kernels.NEVER]
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        margins, wins_ties = kernels.collect_margins(values, truth, contested, starts)
        if every_subset:
            hits += kernels.count_subsets(margins, wins_ties, starts, torch.get_num_threads())
        else:
            _count_candidates(torch.from_numpy(margins), wins_ties, starts, p, hits)
    return torch.from_numpy(hits).double() * 100 / bank.num_images


def _is_every_subset(p: Tensor) -> bool:
    """Whether the rows are those of `exhaustive`, which have a quicker way."""
    models = p.shape[1]
    return models <= EXHAUSTIVE_LIMIT and len(p) == 2**models - 1 and torch.equal(p, (exhaustive(models) > 0).double())


def _count_candidates(margins: Tensor, wins_ties: np.ndarray, starts: np.ndarray, p: Tensor, hits: np.ndarray) -> None:
    """Add to hits (M,) the contested images on which each candidate is right, a block of averages at a time."""
    from radin import kernels

    for first in range(0, len(p), _CANDIDATES_AT_ONCE):
        rows_of_p = p[first : first + _CANDIDATES_AT_ONCE]
        rivals_at_once = _CHUNK // len(rows_of_p)
        image = 0
        while image < len(starts) - 1:
            # As many images as fit, and at least one: an image's rivals are not divided.
            stop = max(image + 1, int(np.searchsorted(starts, starts[image] + rivals_at_once, "right")) - 1)
            rivals = slice(starts[image], starts[stop])
            averages = (margins[rivals] @ rows_of_p.T).numpy()  # (rivals, candidates)
            counted = hits[first : first + len(rows_of_p)]
            kernels.count_candidates(
                averages, wins_ties[rivals], starts[image : stop + 1] - starts[image], counted, torch.get_num_threads()
            )
            image = stop


def _nll(bank: LogitBank, p: Tensor) -> Tensor:
    """Mean negative log-likelihood of each ensemble; p is (M, N), rows of sum 1."""
    total = torch.zeros(len(p), dtype=torch.float64)
    # Blocks of images outside, blocks of candidates inside: each block of the bank is converted to double once.
    per_image = bank.num_models * bank.num_classes
    for logits, labels in _blocks(bank, max(1, _CHUNK // per_image), torch.float64):
        candidates_at_once = max(1, _CHUNK // logits[0].numel())
        for first in range(0, len(p), candidates_at_once):
            chosen = slice(first, first + candidates_at_once)
            ensemble = (p[chosen] @ logits.flatten(1)).view(-1, *logits.shape[1:])  # (candidates, images, C)
            picked = ensemble.gather(-1, labels.expand(len(ensemble), -1).unsqueeze(-1)).squeeze(-1)
            total[chosen] += (ensemble.logsumexp(-1) - picked).sum(-1)
    return total / bank.num_images


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
    candidates = torch.as_tensor(candidates).cpu()
    estimates = fast_estimate(bank, candidates)
    sizes = effective_number(candidates)
    scores = estimates + prior * sizes / bank.num_models
    support = (candidates > 0).numpy().T  # (N, M): for lexsort the last key decides first
    keys = (*support, -sizes.numpy(), -scores.numpy().round(9))  # 1e-9: below it two scores differ by rounding alone
    return Ranking(torch.from_numpy(np.lexsort(keys)), estimates, scores)

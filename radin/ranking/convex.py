"""The mixing weights whose ensemble has the lowest negative log-likelihood: a convex problem.

The loss of averaged logits is convex in the weights, so it has one minimum over the simplex, and a
duality gap proves how near it is. Each step is Newton's, kept in the simplex. It needs one pass
over the bank, in blocks of images. The first steps are made on a part of the images.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from radin.errors import ParameterError, check_integer
from radin.ranking.bank import LogitBank

MAX_GAP_NATS = 1e-6
MAX_STEPS = 60
_BLOCK_LOGITS = 2**18  # 2 MiB in double precision, which fit a core's cache
_MAX_FIRST_LOGITS = 2**22  # a bank of more is first solved on a part of its images
_FIRST_PART = 16  # one image of so many
_RIDGE = 1e-10  # of the mean curvature: equal ingredients share their weight
_SUFFICIENT = 1e-4  # of the expected decrease; less, and the step is halved
_SMALLEST_STEP = 1e-6


@dataclass(frozen=True)
class ConvexCandidate:
    """What `convex_candidate` returns.

    Attributes:
        weights: (N,) double, mixing weights; many may be exactly 0.
        nll: of the ensemble with these weights, in nats.
        gap: the Frank-Wolfe duality gap in nats: no mixing weights have an ensemble whose negative
            log-likelihood is lower by more than this.
        passes: how often the bank was read.
    """

    weights: Tensor
    nll: float
    gap: float
    passes: float


@dataclass(frozen=True)
class _Point:
    """The loss at some weights (N,), its slope (N,) and its curvature (N, N)."""

    weights: Tensor
    loss: float
    slope: Tensor
    curvature: Tensor

    @property
    def gap(self) -> float:
        return max(0.0, (self.slope @ self.weights - self.slope.min()).item())


def convex(bank: LogitBank) -> Tensor:
    """The mixing weights whose ensemble has the lowest negative log-likelihood on the bank.

    They are a candidate like any other. `convex_candidate` tells how near the optimum they are.

    Args:
        bank: logits (N, n, C) with classes as labels.

    Returns:
        (1, N) double, none negative, sum 1.

    Raises:
        ParameterError: a bank with a projection or with targets.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> weights = radin.convex(bench.val)
    >>> weights.shape, round(weights.sum().item(), 9)
    (torch.Size([1, 10]), 1.0)
    >>> best_subset = bench.ensembles("val", "nll").min().item()
    >>> radin.fast_estimate(bench.val, weights, "nll").item() <= best_subset
    True
    """
    return convex_candidate(bank).weights.unsqueeze(0)


def convex_candidate(
    bank: LogitBank, *, max_gap: float = MAX_GAP_NATS, max_steps: int = MAX_STEPS
) -> ConvexCandidate:
    """The minimum of the ensemble's negative log-likelihood over all mixing weights, and its proof.

    Memory is a block of the bank in double precision.

    Args:
        bank: logits (N, n, C) with classes as labels.
        max_gap: stop when the duality gap is at most this, in nats.
        max_steps: stop after so many points, each a pass over the bank.

    Raises:
        ParameterError: an impossible option, or a bank with a projection or with targets.
    """
    bank.refuse_projection("The convex candidate")
    bank.refuse_targets("The convex candidate")
    if not max_gap > 0:  # NaN fails this too
        raise ParameterError(f"max_gap must be above 0, in nats, not {max_gap!r}.")
    max_steps = check_integer("max_steps", max_steps, minimum=1)
    weights = torch.full((bank.num_models,), 1 / bank.num_models, dtype=torch.float64)
    passes = 0.0
    if bank.logits.numel() > _MAX_FIRST_LOGITS:
        rng = torch.Generator().manual_seed(0)
        count = math.ceil(bank.num_images / _FIRST_PART)
        part = torch.randperm(bank.num_images, generator=rng)[:count].sort().values
        point, steps = _minimise(bank, part, weights, max_gap=max_gap, max_steps=max_steps)
        weights = point.weights
        passes += steps * count / bank.num_images
    point, steps = _minimise(bank, None, weights, max_gap=max_gap, max_steps=max_steps)
    return ConvexCandidate(point.weights, point.loss, point.gap, passes + steps)


def _minimise(
    bank: LogitBank, images: Tensor | None, weights: Tensor, *, max_gap: float, max_steps: int
) -> tuple[_Point, int]:
    """Newton's method in the simplex from some weights: the last point, and how many there were."""
    best = _evaluate(bank, images, weights)
    num_points = 1
    while best.gap > max_gap and num_points < max_steps:
        target = minimise_quadratic(best.slope, best.curvature, best.weights)
        direction = target - best.weights
        expected = (best.slope @ direction).item()  # below 0
        step = 1.0
        while num_points < max_steps:
            point = _evaluate(bank, images, best.weights + step * direction)
            num_points += 1
            if point.loss <= best.loss + _SUFFICIENT * step * expected or point.gap <= max_gap:
                break
            step /= 2
            if step < _SMALLEST_STEP:  # the rounding of the loss is all that is left
                return best, num_points
        else:
            break
        best = point
    return best, num_points


def _evaluate(bank: LogitBank, images: Tensor | None, weights: Tensor) -> _Point:
    """Loss, slope and curvature at some weights, on some images (all for None), in one pass."""
    device = bank.logits.device
    N, _, C = bank.logits.shape
    w = weights.to(device)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    slope = torch.zeros(N, dtype=torch.float64, device=device)
    curvature = torch.zeros(N, N, dtype=torch.float64, device=device)
    count = bank.num_images if images is None else len(images)
    size = max(1, _BLOCK_LOGITS // (N * C))
    for start in range(0, count, size):
        block = slice(start, start + size) if images is None else images[start : start + size]
        logits = bank.logits[:, block].double()
        own = bank.labels[block].to(device).unsqueeze(-1)
        of_labels = logits.gather(-1, own.expand(N, -1, -1)).squeeze(-1)  # (N, images)
        ensemble = (w @ logits.flatten(1)).view(-1, C)
        normaliser = ensemble.logsumexp(-1, keepdim=True)
        loss += (normaliser.squeeze(-1) - w @ of_labels).sum()
        weighted = logits * (ensemble - normaliser).exp()
        means = weighted.sum(-1)
        slope += (means - of_labels).sum(1)
        curvature += weighted.flatten(1) @ logits.flatten(1).T - means @ means.T
    curvature = (curvature + curvature.T) / 2
    return _Point(weights, loss.item() / count, slope.cpu() / count, curvature.cpu() / count)


def minimise_quadratic(slope: Tensor, curvature: Tensor, start: Tensor) -> Tensor:
    """The weights in the simplex with the lowest slope . d + d . curvature . d / 2, d = w - start.

    An active set method: on the weights that are not held at 0, the minimum with sum 1 solves
    linear equations. A weight that would become negative on the way there is held at 0; a held one
    that would pay is let go.

    Args:
        slope, start: (N,) double; `start` in the simplex.
        curvature: (N, N) double, positive semidefinite.

    Returns: (N,) double.
    """
    N = len(start)
    scale = curvature.diagonal().mean().clamp(min=1e-300)
    H = curvature + _RIDGE * scale * torch.eye(N, dtype=torch.float64)
    linear = slope - H @ start  # the slope of the quadratic at w is H w + linear
    w = start.clone()
    free = w > 0
    tolerance = 1e-12 * (linear.abs().max() + scale).item()
    for _ in range(20 * N + 20):  # it ends by itself; rounding could make it go in circles
        target, level = _minimum_on(H, linear, free)
        if (target >= 0).all():
            w = target
            reduced = H @ w + linear - level  # 0 where free
            reduced[free] = 0
            k = int(reduced.argmin())
            if reduced[k] >= -tolerance:
                break
            free[k] = True
            continue
        falls = free & (target < 0)
        ratios = torch.where(falls, w / (w - target), math.inf)
        k = int(ratios.argmin())
        w = (w + ratios[k] * (target - w)).clamp(min=0)
        w[k] = 0
        free[k] = False
    w = torch.where(free, w, 0.0).clamp(min=0)
    return w / w.sum()


def _minimum_on(H: Tensor, linear: Tensor, free: Tensor) -> tuple[Tensor, float]:
    """The minimum of the quadratic with sum 1 and zeros outside `free`, and the slope there."""
    where = free.nonzero().flatten()
    count = len(where)
    system = torch.zeros(count + 1, count + 1, dtype=torch.float64)
    system[:count, :count] = H[where][:, where]
    system[:count, count] = -1
    system[count, :count] = 1
    right = torch.cat([-linear[where], torch.ones(1, dtype=torch.float64)])
    solution = torch.linalg.solve(system, right)
    target = torch.zeros(len(linear), dtype=torch.float64)
    target[where] = solution[:count]
    return target, solution[count].item()

"""The mixing weights whose ensemble has the lowest negative log-likelihood: a convex problem.

The loss of averaged logits is convex in the weights, so it has one minimum over the simplex, and a
duality gap proves how near it is. Each step is Newton's, kept in the simplex, and needs one pass
over the bank, in blocks of images. A large bank is first solved on a part of its images. From there
one curvature serves for all steps, as long as each of them makes the gap much smaller, because a
pass for the loss and its slope alone takes half the time.
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
_BLOCK_LOGITS = 2**17  # computed together; they fit a core's cache
_BLOCK_LOGITS_FOR_SLOPE = 2**19  # without the curvature, which needs more memory for each logit
_MAX_FIRST_LOGITS = 2**22  # a bank of more is first solved on a part, and in single precision
_PART_OF_IMAGES = 32  # one image of so many,
_IMAGES_FOR_EACH_MODEL = 100  # or as many for each ingredient,
_MIN_PARTS = 8  # but no more than one of so many
_PART_GAP_NATS = 1e-3  # the part differs from all images by more than that
_MIN_GAP_IN_SINGLE = 1e-7  # below, single precision cannot tell whether the gap is reached
_MIN_GAIN = 10  # of the gap in a step with a curvature that is not its own
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
            log-likelihood is lower by more than this. Of a large bank it is computed in single
            precision, which changes it by less than 1e-7.
        passes: how often the bank was read.
    """

    weights: Tensor
    nll: float
    gap: float
    passes: float


@dataclass(frozen=True)
class _Point:
    """The loss at some weights (N,), its slope (N,) and, if computed, its curvature (N, N)."""

    weights: Tensor
    loss: float
    slope: Tensor
    curvature: Tensor | None

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
    is_large = bank.logits.numel() > _MAX_FIRST_LOGITS
    dtype = torch.float32 if is_large and max_gap >= _MIN_GAP_IN_SINGLE else torch.float64
    passes = 0.0
    if is_large:
        part = _part(bank)
        to_part = max(max_gap, _PART_GAP_NATS)
        point, steps = _minimise(
            bank, part, weights, max_gap=to_part, max_steps=max_steps, dtype=dtype
        )
        weights = point.weights
        passes += steps * len(part) / bank.num_images
    point, steps = _minimise(bank, None, weights, max_gap=max_gap, max_steps=max_steps, dtype=dtype)
    return ConvexCandidate(point.weights, point.loss, point.gap, passes + steps)


def _part(bank: LogitBank) -> Tensor:
    """Some images at random, by their indices: always the same ones."""
    wanted = max(bank.num_images // _PART_OF_IMAGES, _IMAGES_FOR_EACH_MODEL * bank.num_models)
    count = max(1, min(wanted, bank.num_images // _MIN_PARTS))
    order = torch.randperm(bank.num_images, generator=torch.Generator().manual_seed(0))
    return order[:count].sort().values


def _minimise(
    bank: LogitBank,
    images: Tensor | None,
    weights: Tensor,
    *,
    max_gap: float,
    max_steps: int,
    dtype: torch.dtype,
) -> tuple[_Point, int]:
    """Newton's method in the simplex from some weights: the last point, and how many there were."""
    best = _evaluate(bank, images, weights, dtype=dtype, with_curvature=True)
    curvature = best.curvature
    is_stale = False  # whether a step with this curvature has gained little
    num_points = 1
    while best.gap > max_gap and num_points < max_steps:
        assert curvature is not None
        target = minimise_quadratic(best.slope, curvature, best.weights)
        direction = target - best.weights
        expected = (best.slope @ direction).item()  # below 0
        step = 1.0
        while num_points < max_steps:
            tried = best.weights + step * direction
            point = _evaluate(bank, images, tried, dtype=dtype, with_curvature=is_stale)
            num_points += 1
            if point.loss <= best.loss + _SUFFICIENT * step * expected or point.gap <= max_gap:
                break
            is_stale = True
            step /= 2
            if step < _SMALLEST_STEP:  # the rounding of the loss is all that is left
                return best, num_points
        else:
            break
        curvature = curvature if point.curvature is None else point.curvature
        is_stale = point.gap > best.gap / _MIN_GAIN
        best = point
    return best, num_points


def _evaluate(
    bank: LogitBank,
    images: Tensor | None,
    weights: Tensor,
    *,
    dtype: torch.dtype,
    with_curvature: bool,
) -> _Point:
    """Loss, slope and curvature at some weights, on some images (all for None), in one pass."""
    device = bank.logits.device
    N, _, C = bank.logits.shape
    w = weights.to(device, dtype)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    slope = torch.zeros(N, dtype=torch.float64, device=device)
    curvature = torch.zeros(N, N, dtype=torch.float64, device=device)
    count = bank.num_images if images is None else len(images)
    size = max(1, (_BLOCK_LOGITS if with_curvature else _BLOCK_LOGITS_FOR_SLOPE) // (N * C))
    for start in range(0, count, size):
        block = slice(start, start + size) if images is None else images[start : start + size]
        logits = bank.logits[:, block].to(dtype)
        own = bank.labels[block].to(device).unsqueeze(-1)
        of_labels = logits.gather(-1, own.expand(N, -1, -1)).squeeze(-1)  # (N, images)
        ensemble = (w @ logits.flatten(1)).view(-1, C)
        largest = ensemble.amax(-1, keepdim=True)
        chances = (ensemble - largest).exp_()  # times their sum
        total = chances.sum(-1, keepdim=True)
        loss += ((largest + total.log()).squeeze(-1) - w @ of_labels).double().sum()
        if with_curvature:
            weighted = logits * (chances / total)
            means = weighted.sum(-1)
            curvature += weighted.flatten(1) @ logits.flatten(1).T - means @ means.T
        else:
            sums = torch.bmm(logits.transpose(0, 1), chances.unsqueeze(-1)).squeeze(-1)
            means = (sums / total).T
        slope += (means - of_labels).double().sum(1)
    found = (curvature + curvature.T).cpu() / (2 * count) if with_curvature else None
    return _Point(weights, loss.item() / count, slope.cpu() / count, found)


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

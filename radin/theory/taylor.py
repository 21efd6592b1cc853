"""Derivatives along the ingredients' directions: what soup and ensemble share, and what parts them.

Nothing here forms a Jacobian or a Hessian: every term is one forward pass that carries one or two tangents along.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp

from radin.errors import ParameterError
from radin.ranking.candidates import check_weights
from radin.theory.forward_mode import check_evaluation_mode, differentiable, network_logits

State = Mapping[str, Tensor]

BATCH = 64  # images at once: a pass with two tangents holds four times what a plain one does


def directions(start: State, ingredients: Sequence[State]) -> list[dict[str, Tensor]]:
    """Each ingredient's delta_i = theta_i - theta_0, tensor by tensor; counters and other whole numbers have none."""
    return [
        {
            key: ingredient[key] - tensor
            for key, tensor in start.items()
            if tensor.is_floating_point()
        }
        for ingredient in ingredients
    ]


def combine(
    start: State, deltas: Sequence[State], coefficients: Sequence[float] | Tensor
) -> dict[str, Tensor]:
    """theta_0 + sum_i c_i delta_i."""
    moved = dict(start)
    for key in deltas[0]:
        moved[key] = start[key] + sum(
            float(c) * delta[key] for c, delta in zip(coefficients, deltas, strict=True)
        )
    return moved


def derivatives(
    model: nn.Module, centre: State, direction: State, images: Tensor, labels: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivative of the logits along a direction: f, J d and D^2 f[d, d], each (n, C).

    With labels the same of each image's cross-entropy, each (n,): what the loss Hessian does to d, without it.

    Args:
        centre: a state dict, where the derivatives are taken.
        direction: what `directions` returns for one ingredient.
        images: (n, ...), in the same precision as the parameters; use double precision for checks.
        labels: (n,).
    """
    check_evaluation_mode(model)
    fixed = {key: tensor for key, tensor in centre.items() if key not in direction}

    def output(moved: State) -> Tensor:
        logits = network_logits(model, {**fixed, **moved}, images)
        return logits if labels is None else F.cross_entropy(logits, labels, reduction="none")

    def first(moved: State) -> tuple[Tensor, Tensor]:
        return jvp(output, (moved,), (direction,))[:2]

    at = {key: centre[key] for key in direction}
    direction = dict(direction)
    with torch.no_grad(), differentiable():
        (value, slope), (_, curvature) = jvp(first, (at,), (direction,))[:2]
    return value, slope, curvature


def first_order(
    model: nn.Module, start: State, delta: State, images: Tensor
) -> tuple[Tensor, Tensor]:
    """Logits at the start and their directional derivative along delta: f_0 and J_0 delta, both (n, C).

    `derivatives` without the second one, at a third of its cost.
    """
    check_evaluation_mode(model)
    fixed = {key: tensor for key, tensor in start.items() if key not in delta}
    with torch.no_grad(), differentiable():
        value, slope = jvp(
            lambda moved: network_logits(model, {**fixed, **moved}, images),
            ({key: start[key] for key in delta},),
            (dict(delta),),
        )[:2]
    return value, slope


def loss_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's cross-entropy by its logits, (n, C): softmax less the label's unit vector."""
    return logits.softmax(1) - F.one_hot(labels, logits.shape[1])


def soup_ensemble_linear(
    model: nn.Module,
    start: State,
    deltas: Sequence[State],
    weights: Sequence[float] | Tensor,
    images: Tensor,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits (n, C) of the soup, of the ensemble, and of their common first-order expansion around the start.

    Every delta_i is multiplied by `scale` first, so that the three can be compared ever closer to the start.

    Args:
        weights: (N,) mixing weights.
        images: (n, ...), in the same precision as the parameters; use double precision for small scales.

    Source: RADIN, the equivalence of first-order expansions (T1 in the book).
    """
    p = _check(weights, deltas, scale)
    with torch.no_grad():
        soup = network_logits(model, combine(start, deltas, scale * p), images)
        ensemble = torch.zeros_like(soup)
        for weight, delta in zip(p.tolist(), deltas, strict=True):
            ensemble += weight * network_logits(model, combine(start, [delta], [scale]), images)
    at_start, change = first_order(model, start, _mean(deltas, scale * p), images)
    return soup, ensemble, at_start + change


@dataclass(frozen=True)
class Gap:
    """Derivatives at a soup, along the way from it to each ingredient, d_i = theta_i - theta_bar.

    Attributes:
        soup: (n, C) logits of the soup.
        slopes: (N, n, C) first derivatives J d_i.
        curvatures: (N, n, C) second derivatives D^2 f[d_i, d_i].
        weights: (N,) mixing weights.
    """

    soup: Tensor
    slopes: Tensor
    curvatures: Tensor
    weights: Tensor

    @property
    def logits(self) -> Tensor:
        """Predicted logits of the soup minus those of the ensemble, (n, C); its error is of third order (T3)."""
        return -0.5 * torch.tensordot(self.weights, self.curvatures, 1)

    def loss(self, labels: Tensor) -> Tensor:
        """Predicted loss of the soup minus that of the ensemble on each image, (n,), through the logits (T3)."""
        return (loss_gradient(self.soup, labels) * self.logits).sum(1)

    def loss_by_hessian(self, labels: Tensor) -> Tensor:
        """The same (n,) as T3 says it second: variance of the logits less the curvature of the loss."""
        # The curvature of the loss is the Gauss-Newton part, a variance, plus that of the network.
        hessian = self.variance + torch.einsum(
            "nc,knc->kn", loss_gradient(self.soup, labels), self.curvatures
        )
        return 0.5 * torch.tensordot(self.weights, self.variance - hessian, 1)

    @property
    def variance(self) -> Tensor:
        """Var of (J d_i)_Y over Y drawn from the soup's softmax: (N, n)."""
        q = self.soup.softmax(1)
        return (q * self.slopes.square()).sum(2) - (q * self.slopes).sum(2).square()


def gap(
    model: nn.Module,
    start: State,
    deltas: Sequence[State],
    weights: Sequence[float] | Tensor,
    images: Tensor,
    scale: float = 1.0,
    batch_size: int = BATCH,
) -> Gap:
    """All second-order terms of soup minus ensemble, on any number of images: one pass with two tangents for each
    ingredient and batch.

    Args:
        start, deltas: as for `directions`; every delta is multiplied by `scale` first.
        weights: (N,) mixing weights; ingredients of weight zero are not run.
        images: (n, ...), in the same precision as the parameters.

    Source: T3 in the book; for two ingredients Wortsman et al. 2022, section 4.
    """
    p = _check(weights, deltas, scale)
    mean = _mean(deltas, p)
    soup = combine(start, [mean], [scale])
    used = [k for k in range(len(p)) if p[k] > 0]
    away = {
        k: {key: scale * (tensor - mean[key]) for key, tensor in deltas[k].items()} for k in used
    }
    parts = []
    for batch in images.split(batch_size):
        found = [derivatives(model, soup, away[k], batch) for k in used]
        parts.append(
            (found[0][0], torch.stack([f[1] for f in found]), torch.stack([f[2] for f in found]))
        )
    logits, slopes, curvatures = (torch.cat(column, -2) for column in zip(*parts, strict=True))
    return Gap(
        logits,
        _spread_out(slopes, used, len(p)),
        _spread_out(curvatures, used, len(p)),
        p.to(logits),
    )


def _spread_out(rows: Tensor, places: list[int], length: int) -> Tensor:
    if len(places) == length:
        return rows
    full = rows.new_zeros(length, *rows.shape[1:])
    full[places] = rows
    return full


def _mean(deltas: Sequence[State], p: Tensor) -> dict[str, Tensor]:
    return {
        key: sum(w * delta[key] for w, delta in zip(p.tolist(), deltas, strict=True))
        for key in deltas[0]
    }


def _check(weights: Sequence[float] | Tensor, deltas: Sequence[State], scale: float) -> Tensor:
    if not scale > 0:  # NaN fails this too
        raise ParameterError(f"scale must be positive, not {scale}.")
    p = check_weights(weights, len(deltas))
    return (
        p / p.sum()
    )  # given in single precision they miss 1 by more than the differences wanted here


def orders(
    model: nn.Module,
    start: State,
    deltas: Sequence[State],
    weights: Sequence[float] | Tensor,
    images: Tensor,
    labels: Tensor,
    scales: Sequence[float],
) -> dict[str, list[float]]:
    """How soup, ensemble and their expansions part as all deltas are multiplied by each of `scales`.

    "linear" is the expansion to first order around the start, "gap" the predicted gap (T3), taken at each soup, "mean"
    the mean of the ingredients' losses. Differences are root mean squares over images (and classes): their mean would
    change sign somewhere.

    Args:
        images, labels: (n, ...) and (n,), in double precision where scales are small.

    Source: T1 to T3 in the book. All differences shrink with the square of the scale, those with the gap with its cube.
    """
    p = _check(weights, deltas, min(scales))
    mean = _mean(deltas, p)
    at_start, slope = first_order(model, start, mean, images)
    found: dict[str, list[float]] = {}

    def note(kind: str, **differences: Tensor) -> None:
        for name, difference in differences.items():
            size = difference.square().mean().sqrt().item()
            found.setdefault(f"{kind}: {name.replace('_', ' - ')}", []).append(size)

    def losses(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels, reduction="none")

    loss_at_start, loss_slope = losses(at_start), (loss_gradient(at_start, labels) * slope).sum(1)
    for scale in scales:
        terms = gap(model, start, deltas, p, images, scale)
        with torch.no_grad():
            alone = [
                network_logits(model, combine(start, [delta], [scale]), images) for delta in deltas
            ]
        ensemble, mean_loss = (
            sum(w * each for w, each in zip(p.tolist(), row, strict=True))
            for row in (alone, map(losses, alone))
        )
        linear, line = at_start + scale * slope, loss_at_start + scale * loss_slope
        soup, soup_loss, ensemble_loss = terms.soup, losses(terms.soup), losses(ensemble)
        note(
            "logits",
            soup_linear=soup - linear,
            ensemble_linear=ensemble - linear,
            soup_ensemble=soup - ensemble,
            soup_ensemble_gap=soup - ensemble - terms.logits,
        )
        note(
            "loss",
            soup_linear=soup_loss - line,
            ensemble_linear=ensemble_loss - line,
            mean_linear=mean_loss - line,
            soup_ensemble=soup_loss - ensemble_loss,
            soup_ensemble_gap=soup_loss - ensemble_loss - terms.loss(labels),
        )
    return found


def by_image(
    model: nn.Module,
    start: State,
    deltas: Sequence[State],
    weights: Sequence[float] | Tensor,
    images: Tensor,
) -> dict[str, Tensor]:
    """How far a soup went on each image: root mean squares over the classes, each (n,).

    "moved" is soup minus start, "beyond first order" what the linear expansion around the start misses of it, "gap"
    soup minus ensemble, and "beyond second order" what the predicted gap (T3) misses of that.
    """
    soup, ensemble, linear = soup_ensemble_linear(model, start, deltas, weights, images)
    predicted = gap(model, start, deltas, weights, images).logits
    with torch.no_grad():
        at_start = network_logits(model, start, images)
    differences = {
        "moved": soup - at_start,
        "beyond first order": soup - linear,
        "gap": soup - ensemble,
        "beyond second order": soup - ensemble - predicted,
    }
    return {name: difference.square().mean(1).sqrt() for name, difference in differences.items()}

"""Derivatives along the ingredients' task vectors: in what soup and ensemble agree and differ.

No Jacobian and no Hessian is formed: every term is one forward pass with one or two tangents.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import jvp

from radin.checkpoints.dtypes import is_averaged
from radin.data.network_inputs import Inputs
from radin.errors import ParameterError
from radin.inference.forward import functional_logits
from radin.ranking.candidates import check_weights
from radin.theory.forward_mode import check_evaluation_mode, differentiable

StateDict = Mapping[str, Tensor]

BATCH_SIZE = 64  # images; a pass with two tangents needs four times the memory of a plain one


def directions(start: StateDict, ingredients: Sequence[StateDict]) -> list[dict[str, Tensor]]:
    """Each ingredient's delta_i = theta_i - theta_0, for each real or complex tensor."""
    return [
        {
            key: ingredient[key] - tensor
            for key, tensor in start.items()
            if is_averaged(tensor.dtype)
        }
        for ingredient in ingredients
    ]


def combine(
    start: StateDict, deltas: Sequence[StateDict], coefficients: Sequence[float] | Tensor
) -> dict[str, Tensor]:
    """theta_0 + sum_i c_i delta_i."""
    moved = dict(start)
    for key in deltas[0]:
        moved[key] = start[key] + sum(
            float(c) * delta[key] for c, delta in zip(coefficients, deltas, strict=True)
        )
    return moved


def derivatives(
    model: nn.Module,
    centre: StateDict,
    direction: StateDict,
    images: Inputs,
    *,
    labels: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Value, first and second derivative of the logits along a direction d.

    Args:
        centre: a state dict, where the derivatives are taken.
        direction: what `directions` returns for one ingredient.
        images: (n, ...), in the dtype of the parameters; use double precision for checks.
        labels: (n,); with labels the derivatives are those of each image's cross-entropy.

    Returns:
        f, J d and D^2 f[d, d], each (n, C). With labels each (n,): the second derivative is the
        product of the loss Hessian with d on both sides.

    Raises:
        ParameterError: the network has batch norm in training mode, or an operation without
            these derivatives.
    """
    check_evaluation_mode(model)
    fixed = {key: tensor for key, tensor in centre.items() if key not in direction}

    def output(moved: StateDict) -> Tensor:
        logits = functional_logits(model, {**fixed, **moved}, images)
        return logits if labels is None else F.cross_entropy(logits, labels, reduction="none")

    def first(moved: StateDict) -> tuple[Tensor, Tensor]:
        return jvp(output, (moved,), (direction,))[:2]

    at = {key: centre[key] for key in direction}
    direction = dict(direction)
    with torch.no_grad(), differentiable():
        (value, slope), (_, curvature) = jvp(first, (at,), (direction,))[:2]
    return value, slope, curvature


def first_order(
    model: nn.Module, start: StateDict, delta: StateDict, images: Inputs
) -> tuple[Tensor, Tensor]:
    """Logits at the start and their derivative along delta: f_0 and J_0 delta, both (n, C).

    `derivatives` without the second derivative, at a third of the cost.
    """
    check_evaluation_mode(model)
    fixed = {key: tensor for key, tensor in start.items() if key not in delta}
    with torch.no_grad(), differentiable():
        value, slope = jvp(
            lambda moved: functional_logits(model, {**fixed, **moved}, images),
            ({key: start[key] for key in delta},),
            (dict(delta),),
        )[:2]
    return value, slope


def loss_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Gradient of each image's cross-entropy with respect to its logits, (n, C)."""
    return logits.softmax(1) - F.one_hot(labels, logits.shape[1])


def soup_ensemble_linear(
    model: nn.Module,
    start: StateDict,
    deltas: Sequence[StateDict],
    weights: Sequence[float] | Tensor,
    images: Tensor,
    *,
    scale: float = 1.0,
) -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the soup, of the ensemble, and of their common first-order expansion.

    The expansion is taken at the start. Every delta_i is multiplied by `scale` first, so that the
    three can be compared at smaller and smaller distances.

    Args:
        weights: (N,) mixing weights.
        images: (n, ...), in the dtype of the parameters; use double precision for small scales.

    Returns:
        Three tensors (n, C).

    Source: RADIN, the equivalence of first-order expansions (T1 in the book).
    """
    p = normalised_weights(weights, deltas, scale)
    with torch.no_grad():
        soup = functional_logits(model, combine(start, deltas, scale * p), images)
        ensemble = torch.zeros_like(soup)
        for weight, delta in zip(p.tolist(), deltas, strict=True):
            ingredient = combine(start, [delta], [scale])
            ensemble += weight * functional_logits(model, ingredient, images)
    at_start, change = first_order(model, start, mean_delta(deltas, scale * p), images)
    return soup, ensemble, at_start + change


@dataclass(frozen=True)
class SecondOrderGap:
    """Derivatives at a soup, towards each ingredient: along d_i = theta_i - theta_bar.

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
        """Predicted logits of the soup minus those of the ensemble, (n, C).

        The error is of third order (T3).
        """
        return -0.5 * torch.tensordot(self.weights, self.curvatures, 1)

    def loss(self, labels: Tensor) -> Tensor:
        """Predicted loss of the soup minus that of the ensemble on each image, (n,).

        It is the first form of T3, through the logits.
        """
        return (loss_gradient(self.soup, labels) * self.logits).sum(1)

    def loss_by_hessian(self, labels: Tensor) -> Tensor:
        """The same (n,) by the second form of T3.

        That form is the variance of the logits minus the curvature of the loss.
        """
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


def second_order_gap(
    model: nn.Module,
    start: StateDict,
    deltas: Sequence[StateDict],
    weights: Sequence[float] | Tensor,
    images: Tensor,
    *,
    scale: float = 1.0,
    batch_size: int = BATCH_SIZE,
) -> SecondOrderGap:
    """All second-order terms of soup minus ensemble, on any number of images.

    It costs one pass with two tangents for each ingredient and batch.

    Args:
        start: a state dict, the initialisation.
        deltas: what `directions` returns; every delta is multiplied by `scale` first.
        weights: (N,) mixing weights; ingredients of weight zero are not run.
        images: (n, ...), in the dtype of the parameters.

    Source: T3 in the book; for two ingredients Wortsman et al. 2022, section 4.
    """
    p = normalised_weights(weights, deltas, scale)
    mean = mean_delta(deltas, p)
    soup = combine(start, [mean], [scale])
    used = [k for k in range(len(p)) if p[k] > 0]
    from_soup = {
        k: {key: scale * (tensor - mean[key]) for key, tensor in deltas[k].items()} for k in used
    }
    parts = []
    for batch in images.split(batch_size):
        terms = [derivatives(model, soup, from_soup[k], batch) for k in used]
        logits = terms[0][0]
        slopes = torch.stack([slope for _, slope, _ in terms])
        curvatures = torch.stack([curvature for _, _, curvature in terms])
        parts.append((logits, slopes, curvatures))
    logits, slopes, curvatures = (torch.cat(column, -2) for column in zip(*parts, strict=True))
    return SecondOrderGap(
        soup=logits,
        slopes=_insert_zero_rows(slopes, used, len(p)),
        curvatures=_insert_zero_rows(curvatures, used, len(p)),
        weights=p.to(logits),
    )


def _insert_zero_rows(rows: Tensor, indices: list[int], length: int) -> Tensor:
    """A tensor with `length` rows: the given ones at the given indices, zero elsewhere."""
    if len(indices) == length:
        return rows
    full = rows.new_zeros(length, *rows.shape[1:])
    full[indices] = rows
    return full


def mean_delta(deltas: Sequence[StateDict], p: Tensor) -> dict[str, Tensor]:
    """sum_i p_i delta_i, for (N,) mixing weights."""
    return {
        key: sum(w * delta[key] for w, delta in zip(p.tolist(), deltas, strict=True))
        for key in deltas[0]
    }


def normalised_weights(
    weights: Sequence[float] | Tensor, deltas: Sequence[StateDict], scale: float
) -> Tensor:
    """Checked mixing weights (N,) with the sum 1; ParameterError for a scale of 0 or less."""
    if not scale > 0:  # NaN fails this too
        raise ParameterError(f"scale must be positive, not {scale}.")
    p = check_weights(weights, len(deltas))
    # In single precision they miss the sum 1 by more than the differences that are measured here.
    return p / p.sum()


def differences_by_scale(
    model: nn.Module,
    start: StateDict,
    deltas: Sequence[StateDict],
    weights: Sequence[float] | Tensor,
    images: Tensor,
    *,
    labels: Tensor,
    scales: Sequence[float],
) -> dict[str, list[float]]:
    """Differences between soup, ensemble and their expansions, at each of several scales.

    All deltas are multiplied by the scale. In the names "linear" is the expansion to first order
    around the start, "gap" the predicted gap (T3), taken at each soup, and "mean" the mean of the
    ingredients' losses. Differences are root mean squares over images (and classes), since their
    mean would change sign at some scale.

    Args:
        images: (n, ...), in double precision where scales are small.
        labels: (n,).

    Returns:
        For each difference, such as "logits: soup - linear", a number for each scale. All shrink
        with the square of the scale, those with the gap with its cube.

    Source: T1 to T3 in the book.
    """
    p = normalised_weights(weights, deltas, min(scales))
    at_start, slope = first_order(model, start, mean_delta(deltas, p), images)
    loss_at_start = F.cross_entropy(at_start, labels, reduction="none")
    loss_slope = (loss_gradient(at_start, labels) * slope).sum(1)
    found: dict[str, list[float]] = {}
    for scale in scales:
        gap = second_order_gap(model, start, deltas, p, images, scale=scale)
        ensemble, mean_loss = _ensemble_and_mean_loss(
            model, [combine(start, [delta], [scale]) for delta in deltas], p, images, labels
        )
        soup_loss = F.cross_entropy(gap.soup, labels, reduction="none")
        ensemble_loss = F.cross_entropy(ensemble, labels, reduction="none")
        linear = at_start + scale * slope
        linear_loss = loss_at_start + scale * loss_slope
        differences = {
            "logits: soup - linear": gap.soup - linear,
            "logits: ensemble - linear": ensemble - linear,
            "logits: soup - ensemble": gap.soup - ensemble,
            "logits: soup - ensemble - gap": gap.soup - ensemble - gap.logits,
            "loss: soup - linear": soup_loss - linear_loss,
            "loss: ensemble - linear": ensemble_loss - linear_loss,
            "loss: mean - linear": mean_loss - linear_loss,
            "loss: soup - ensemble": soup_loss - ensemble_loss,
            "loss: soup - ensemble - gap": soup_loss - ensemble_loss - gap.loss(labels),
        }
        for name, difference in differences.items():
            found.setdefault(name, []).append(difference.square().mean().sqrt().item())
    return found


def _ensemble_and_mean_loss(
    model: nn.Module,
    ingredients: Sequence[StateDict],
    p: Tensor,
    images: Tensor,
    labels: Tensor,
) -> tuple[Tensor, Tensor]:
    """Logits of the ensemble (n, C), and the mean of the ingredients' losses (n,)."""
    with torch.no_grad():
        logits = [functional_logits(model, ingredient, images) for ingredient in ingredients]
    losses = [F.cross_entropy(each, labels, reduction="none") for each in logits]
    ensemble = sum(w * each for w, each in zip(p.tolist(), logits, strict=True))
    mean_loss = sum(w * each for w, each in zip(p.tolist(), losses, strict=True))
    return ensemble, mean_loss


def differences_by_image(
    model: nn.Module,
    start: StateDict,
    deltas: Sequence[StateDict],
    weights: Sequence[float] | Tensor,
    images: Tensor,
) -> dict[str, Tensor]:
    """How much the logits of a soup differ on each image: root mean squares over the classes.

    Returns:
        Four tensors (n,). "moved" is soup minus start, and "beyond first order" the part of it that
        the linear expansion around the start misses. "gap" is soup minus ensemble, and "beyond
        second order" the part of it that the predicted gap (T3) misses.
    """
    soup, ensemble, linear = soup_ensemble_linear(model, start, deltas, weights, images)
    predicted = second_order_gap(model, start, deltas, weights, images).logits
    with torch.no_grad():
        at_start = functional_logits(model, start, images)
    differences = {
        "moved": soup - at_start,
        "beyond first order": soup - linear,
        "gap": soup - ensemble,
        "beyond second order": soup - ensemble - predicted,
    }
    return {name: difference.square().mean(1).sqrt() for name, difference in differences.items()}

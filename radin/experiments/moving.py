"""Losses along one way through the space of weights: what the moving pictures of the book show."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radin.inference.forward import functional_logits
from radin.theory.taylor import (
    StateDict,
    combine,
    derivatives,
    directions,
    mean_delta,
    normalised_weights,
    second_order_gap,
)


def apart(
    model: nn.Module,
    start: StateDict,
    deltas: Sequence[StateDict],
    weights: Sequence[float] | Tensor,
    images: Tensor,
    *,
    labels: Tensor,
    scales: Sequence[float],
) -> dict[str, list[float]]:
    """Soup and ensemble of ingredients theta_0 + t delta_i, and what two orders say of them.

    Args:
        start: a state dict, theta_0.
        deltas: what `directions` returns.
        weights: (N,) mixing weights.
        images: (n, ...), in the dtype of the parameters.
        labels: (n,).
        scales: the values of t, 0 or more.

    Returns:
        A number for each t, means over the images. "soup" and "ensemble" are losses in nats,
        "first order" is their common expansion around the start. "gap" is the loss of the soup
        minus that of the ensemble. Its second order is taken once at the start ("gap from the
        start"), or at the soup of each t ("gap from the soup"). "soup accuracy" and "ensemble
        accuracy" are in percent.

    Source: T1 and T3 in the book.
    """
    p = normalised_weights(weights, deltas, 1.0)
    mean = mean_delta(deltas, p)
    loss, slope, _ = derivatives(model, start, mean, images, labels=labels)
    # Steps from their own mean have the mean zero: the soup in which the gap is expanded is then
    # the start.
    centred = [{key: tensor - mean[key] for key, tensor in delta.items()} for delta in deltas]
    at_start = second_order_gap(model, start, centred, p, images).loss(labels).mean().item()
    found: dict[str, list[float]] = {}
    for scale in scales:
        with torch.no_grad():
            ingredients = [
                functional_logits(model, combine(start, [delta], [scale]), images)
                for delta in deltas
            ]
            soup = functional_logits(model, combine(start, [mean], [scale]), images)
        ensemble = torch.tensordot(p.to(soup), torch.stack(ingredients), 1)
        losses = [F.cross_entropy(logits, labels).item() for logits in (soup, ensemble)]
        at_soup = 0.0  # at t = 0 all ingredients are the start
        if scale > 0:
            second = second_order_gap(
                model, start, deltas, p, images, scale=scale, batch_size=len(images)
            )
            at_soup = second.loss(labels).mean().item()
        numbers = {
            "soup": losses[0],
            "ensemble": losses[1],
            "first order": (loss + scale * slope).mean().item(),
            "gap": losses[0] - losses[1],
            "gap from the start": scale**2 * at_start,
            "gap from the soup": at_soup,
            "soup accuracy": _accuracy(soup, labels),
            "ensemble accuracy": _accuracy(ensemble, labels),
        }
        for name, value in numbers.items():
            found.setdefault(name, []).append(value)
    return found


def between(
    model: nn.Module,
    first: StateDict,
    second: StateDict,
    images: Tensor,
    *,
    labels: Tensor,
    amounts: Sequence[float],
) -> dict[str, list[float]]:
    """Soup and ensemble on the straight line through two ingredients, also beyond them.

    Args:
        model: in evaluation mode.
        first: state dict of the ingredient where the amount is 0.
        second: state dict of the ingredient where it is 1.
        images: (n, ...), in the dtype of the parameters.
        labels: (n,).
        amounts: shares of the second ingredient.

    Returns:
        A number for each amount: "soup" and "ensemble", losses in nats, "soup accuracy" and
        "ensemble accuracy" in percent. A soup without finite logits has NaN: beyond the
        ingredients a running variance of batch norm may be negative.
    """
    (difference,) = directions(first, [second])
    found: dict[str, list[float]] = {}
    with torch.no_grad():
        ends = [functional_logits(model, state, images) for state in (first, second)]
        for amount in amounts:
            soup = functional_logits(model, combine(first, [difference], [amount]), images)
            ensemble = (1 - amount) * ends[0] + amount * ends[1]
            for name, logits in (("soup", soup), ("ensemble", ensemble)):
                finite = bool(logits.isfinite().all())
                loss = F.cross_entropy(logits, labels).item() if finite else float("nan")
                found.setdefault(name, []).append(loss)
                accuracy = _accuracy(logits, labels) if finite else float("nan")
                found.setdefault(f"{name} accuracy", []).append(accuracy)
    return found


def _accuracy(logits: Tensor, labels: Tensor) -> float:
    return 100 * (logits.argmax(1) == labels).double().mean().item()

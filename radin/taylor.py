"""First-order terms: how far soup and ensemble agree around the initialisation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call, jvp

from radin.errors import ParameterError
from radin.soup import check_weights

State = Mapping[str, Tensor]


def directions(start: State, ingredients: Sequence[State]) -> list[dict[str, Tensor]]:
    """Each ingredient's delta_i = theta_i - theta_0, tensor by tensor."""
    return [{key: ingredient[key] - start[key] for key in start} for ingredient in ingredients]


def combine(start: State, deltas: Sequence[State], coefficients: Sequence[float] | Tensor) -> dict[str, Tensor]:
    """theta_0 + sum_i c_i delta_i."""
    return {
        key: start[key] + sum(float(c) * delta[key] for c, delta in zip(coefficients, deltas, strict=True))
        for key in start
    }


def first_order(model: nn.Module, start: State, delta: State, images: Tensor) -> tuple[Tensor, Tensor]:
    """Logits at the start and their directional derivative along delta: f_0 and J_0 delta, both (n, C).

    One forward-mode pass; no Jacobian is ever formed.
    """

    def logits(state: State) -> Tensor:
        return functional_call(model, dict(state), (images,))

    at_start, change = jvp(logits, (dict(start),), (dict(delta),))[:2]
    return at_start, change


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
    p = check_weights(weights, len(deltas))
    if not scale > 0:  # NaN fails this too
        raise ParameterError(f"scale must be positive, not {scale}.")
    with torch.no_grad():
        soup = functional_call(model, combine(start, deltas, scale * p), (images,))
        ensemble = torch.zeros_like(soup)
        for weight, delta in zip(p.tolist(), deltas, strict=True):
            ensemble += weight * functional_call(model, combine(start, [delta], [scale]), (images,))
        mean_delta = {
            key: sum(w * delta[key] for w, delta in zip(p.tolist(), deltas, strict=True)) * scale for key in start
        }
        at_start, change = first_order(model, start, mean_delta, images)
    return soup, ensemble, at_start + change

"""Soups: weighted averages of the ingredients' parameters, in one reading of the ingredients."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from radin.checkpoints.zoo import Zoo
from radin.errors import ParameterError
from radin.ranking.candidates import check_weights
from radin.soup.blockwise import Gathered, Shares, gather, kind, mix_blocks, shares
from radin.soup.shards import Layout


def average(zoo: Zoo, weights: Tensor | Sequence[float]) -> dict[str, Tensor]:
    """The soup: a state dict of sum_k p_k theta_k.

    Sums run in double precision and are rounded once, to the ingredients' own dtype (the widest of them
    where they differ), so the order of the ingredients does not matter. Integer and boolean buffers
    (counters, position ids) are copied from the heaviest ingredient, the first of equals: an average of
    them has no meaning. Beside the result, a few blocks are held in memory; ingredients of weight 0 are not read.

    Args:
        weights: (N,) mixing weights, not negative, sum 1.

    Source: Wortsman et al. 2022, section 2; RADIN, figure 1 (b).
    """
    p = check_weights(weights, len(zoo))
    return mix([zoo[k] for k in range(len(zoo))], p, zoo.keys())


def average_many(zoo: Zoo, rows: Tensor | Sequence[Sequence[float]]) -> list[dict[str, Tensor]]:
    """Several soups in one reading of the ingredients, each bit for bit what `average` makes of its row.

    All of them are held in memory; `save_soups` writes them to disk instead.

    Args:
        rows: (M, N) mixing weights.
    """
    return _mix(
        [zoo[k] for k in range(len(zoo))], check_weights(rows, len(zoo), rows=True), zoo.keys()
    )


def interpolate(zoo: Zoo, weights: Tensor | Sequence[float], amount: float) -> dict[str, Tensor]:
    """A state dict on the line from the initialisation (amount 0) to the soup (amount 1).

    Raises ParameterError when `amount` is outside [0, 1] or the zoo was opened without `init`.
    """
    if zoo.init is None:
        raise ParameterError(
            "This zoo was opened without init=...; pass the checkpoint that the ingredients started from."
        )
    if not 0 <= amount <= 1:
        raise ParameterError(
            f"amount must lie between 0 (initialisation) and 1 (soup); it is {amount}."
        )
    p = check_weights(weights, len(zoo)) * amount
    sources = [zoo[k] for k in range(len(zoo))] + [zoo.init]
    return mix(sources, torch.cat([p, torch.tensor([1.0 - amount], dtype=p.dtype)]), zoo.keys())


def mix(sources: Sequence[Mapping[str, Tensor]], p: Tensor, keys: list[str]) -> dict[str, Tensor]:
    """Average state dicts, as `average` says, with weights p of any sum."""
    return _mix(sources, p.unsqueeze(0), keys)[0]


def _mix(
    sources: Sequence[Mapping[str, Tensor]], weights: Tensor, keys: list[str]
) -> list[dict[str, Tensor]]:
    rows = shares(weights)
    with gather(sources, rows, keys) as gathered:
        soups = [
            {
                key: torch.empty(shape, dtype=dtype)
                for key, (dtype, shape) in _layout(gathered, row).items()
            }
            for row in rows
        ]
        flat = [{key: tensor.view(-1) for key, tensor in soup.items()} for soup in soups]

        def put(number: int, key: str, start: int, block: Tensor) -> None:
            flat[number][key][start : start + len(block)].copy_(block)

        for _ in mix_blocks(gathered, rows, put):
            pass
    return soups


def _layout(gathered: Gathered, row: Shares) -> Layout:
    return {
        key: (kind(parts, row), tuple(parts[row[0][0]].tensor.shape))
        for key, parts in gathered.parts.items()
    }


SoupLike = Tensor | Sequence[float] | Mapping[str, Tensor]  # mixing weights (N,), or a state dict


def _soup_states(zoo: Zoo, soups: Sequence[SoupLike]) -> list[Mapping[str, Tensor]]:
    """The state dict of each soup; those given as mixing weights are averaged in one reading of the ingredients."""
    for soup in soups:
        if isinstance(soup, Mapping):
            _check_state(zoo, soup)
    rows = [check_weights(soup, len(zoo)) for soup in soups if not isinstance(soup, Mapping)]
    averaged = iter(average_many(zoo, torch.stack(rows)) if rows else ())
    return [soup if isinstance(soup, Mapping) else next(averaged) for soup in soups]


def _check_state(zoo: Zoo, soup: Mapping[str, Tensor]) -> None:
    shapes = {key: tuple(zoo[0][key].shape) for key in zoo.keys()}
    given = {key: tuple(tensor.shape) for key, tensor in soup.items()}
    wrong = sorted(key for key in shapes.keys() | given.keys() if shapes.get(key) != given.get(key))
    if wrong:
        raise ParameterError(
            f"This state dict does not fit the zoo; missing, extra or of another shape: {', '.join(wrong[:8])}."
        )

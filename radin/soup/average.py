"""Soups in memory: weighted averages of the ingredients' parameters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from radin.checkpoints.zoo import Zoo
from radin.errors import ParameterError, list_names
from radin.ranking.candidates import check_weights
from radin.soup.adapted import combine_rows
from radin.soup.blockwise import Shares, Sources, gather, mix_blocks, result_dtype, to_shares
from radin.soup.shards import TensorSpecs


def average(zoo: Zoo, weights: Tensor | Sequence[float]) -> dict[str, Tensor]:
    """The soup: a state dict of sum_k p_k theta_k.

    Sums run in double precision and are rounded once, to the ingredients' own dtype (the narrowest
    one that holds all of theirs if they differ), so the order of the ingredients does not matter.
    Complex tensors are averaged, too. Whole numbers and booleans (counters, position ids) are
    copied from the heaviest ingredient, the first of equals: their average has no meaning, and
    `Zoo.open` has refused those that are no counters and differ. Ingredients of weight 0 are not
    read.

    Args:
        zoo: N ingredients.
        weights: (N,) mixing weights, not negative, sum 1.

    Raises:
        ParameterError: the weights are not mixing weights.

    Source: Wortsman et al. 2022, section 2; RADIN, figure 1 (b).

    >>> import pathlib, tempfile, radin, torch
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for k in (1.0, 3.0):
    ...     torch.save({"w": torch.tensor([k, 0.0])}, folder / f"{k}.pt")
    >>> zoo = radin.Zoo.open(str(folder / "*.pt"), progress=False)
    >>> radin.average(zoo, [0.5, 0.5])
    {'w': tensor([2., 0.])}
    """
    p = check_weights(weights, len(zoo))
    return mix([zoo[k] for k in range(len(zoo))], p, zoo.keys())


def average_many(zoo: Zoo, rows: Tensor | Sequence[Sequence[float]]) -> list[dict[str, Tensor]]:
    """Several soups in one reading of the ingredients; each has the bits that `average` gives.

    All of them are held in memory. `save_soups` writes them to disk instead.

    Args:
        zoo: N ingredients.
        rows: (M, N) mixing weights.

    Raises:
        ParameterError: a row is not mixing weights.
    """
    weights = check_weights(rows, len(zoo), rows=True)
    return _mix([zoo[k] for k in range(len(zoo))], weights, zoo.keys())


def average_by_tensor(zoo: Zoo, tensor_weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A soup with mixing weights of its own for each tensor, rounded once as `average` does.

    Args:
        zoo: N ingredients.
        tensor_weights: (N,) mixing weights by the name of each tensor, as
            `LearnedSoup.tensor_weights` has them.

    Raises:
        ParameterError: a tensor of the zoo is missing, or some weights are not mixing weights.
    """
    if missing := sorted(set(zoo.keys()).difference(tensor_weights)):
        raise ParameterError(f"tensor_weights has no mixing weights for {list_names(missing)}.")
    states = [zoo[k] for k in range(len(zoo))]
    soup: dict[str, Tensor] = {}
    for key in zoo.keys():
        soup |= mix(states, check_weights(tensor_weights[key], len(zoo)), [key])
    return soup


def interpolate(zoo: Zoo, weights: Tensor | Sequence[float], amount: float) -> dict[str, Tensor]:
    """A state dict on the line from the initialisation (amount 0) to the soup (amount 1).

    Args:
        zoo: N ingredients, opened with `init`.
        weights: (N,) mixing weights of the soup.
        amount: from 0 to 1.

    Raises:
        ParameterError: `amount` is outside [0, 1], the zoo was opened without `init`, or the
            weights are not mixing weights.

    >>> import pathlib, tempfile, radin, torch
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for name, value in (("start", 0.0), ("a", 2.0), ("b", 4.0)):
    ...     torch.save({"w": torch.tensor([value, 1.0])}, folder / f"{name}.pt")
    >>> paths = [folder / "a.pt", folder / "b.pt"]
    >>> zoo = radin.Zoo.open(paths, init=folder / "start.pt", progress=False)
    >>> radin.interpolate(zoo, [0.5, 0.5], 0.5)
    {'w': tensor([1.5000, 1.0000])}
    """
    if zoo.init is None:
        raise ParameterError(
            "This zoo was opened without init=...; pass the checkpoint that the ingredients "
            "started from."
        )
    if not 0 <= amount <= 1:
        raise ParameterError(
            f"amount must lie between 0 (initialisation) and 1 (soup); it is {amount}."
        )
    p = check_weights(weights, len(zoo)) * amount
    states = [zoo[k] for k in range(len(zoo))] + [zoo.init]
    return mix(states, torch.cat([p, torch.tensor([1.0 - amount], dtype=p.dtype)]), zoo.keys())


def mix(states: Sequence[Mapping[str, Tensor]], p: Tensor, keys: list[str]) -> dict[str, Tensor]:
    """Average state dicts as `average` does, with weights p (N,) of any sum."""
    return _mix(states, p.unsqueeze(0), keys)[0]


def _mix(
    states: Sequence[Mapping[str, Tensor]], weights: Tensor, keys: list[str]
) -> list[dict[str, Tensor]]:
    rows = to_shares(weights)
    if adapted := combine_rows(states, rows):
        return [{key: soup[key].clone() for key in keys} for soup in adapted]
    with gather(states, rows, keys) as sources:
        soups = [
            {
                key: torch.empty(shape, dtype=dtype)
                for key, (dtype, shape) in tensor_specs(sources, row).items()
            }
            for row in rows
        ]
        flat = [{key: tensor.view(-1) for key, tensor in soup.items()} for soup in soups]

        def write_block(row: int, key: str, start: int, block: Tensor) -> None:
            flat[row][key][start : start + len(block)].copy_(block)

        for _ in mix_blocks(sources, rows, write_block):
            pass
    return soups


def tensor_specs(sources: Sources, row: Shares) -> TensorSpecs:
    """The dtype and shape of each tensor of a soup."""
    first = row[0][0]
    return {
        key: (result_dtype(of_key, row), tuple(of_key[first].tensor.shape))
        for key, of_key in sources.by_key.items()
    }


SoupLike = Tensor | Sequence[float] | Mapping[str, Tensor]  # mixing weights (N,), or a state dict


def soup_states(zoo: Zoo, soups: Sequence[SoupLike]) -> list[Mapping[str, Tensor]]:
    """The state dict of each soup. All mixing weights are averaged in one reading of the zoo."""
    for soup in soups:
        if isinstance(soup, Mapping):
            _check_state(zoo, soup)
    rows = [check_weights(soup, len(zoo)) for soup in soups if not isinstance(soup, Mapping)]
    averaged = iter(average_many(zoo, torch.stack(rows)) if rows else ())
    return [soup if isinstance(soup, Mapping) else next(averaged) for soup in soups]


def _check_state(zoo: Zoo, soup: Mapping[str, Tensor]) -> None:
    expected = {key: tuple(zoo[0][key].shape) for key in zoo.keys()}
    given = {key: tuple(tensor.shape) for key, tensor in soup.items()}
    all_keys = expected.keys() | given.keys()
    wrong = sorted(key for key in all_keys if expected.get(key) != given.get(key))
    if wrong:
        raise ParameterError(
            "This state dict does not fit the zoo; missing, extra or of another shape: "
            f"{list_names(wrong)}."
        )

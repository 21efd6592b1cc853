"""Soups: weighted averages of the ingredients' parameters, one tensor in memory at a time."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from functools import reduce
from pathlib import Path

import torch
from torch import Tensor

from radin.errors import ParameterError
from radin.files import write_safetensors
from radin.zoo import RUNNING_STATISTICS, Zoo

# Room for 1/N rounded to single precision, N times; a forgotten ingredient is far outside it.
SUM_TOLERANCE = 1e-4


def check_weights(weights: Tensor | Sequence[float], num_models: int, rows: bool = False) -> Tensor:
    """Mixing weights as a float64 tensor on the CPU, after checking that they lie in the simplex.

    Args:
        weights: (N,), or (M, N) when `rows`.
        num_models: how many ingredients there are.

    Raises ParameterError when the shape is wrong, or a weight is negative or not finite, or a sum is not 1.
    """
    # A list would pass through single precision, in which three tenths are not three tenths.
    p = torch.as_tensor(weights, dtype=None if isinstance(weights, Tensor) else torch.float64)
    p = p.detach().to("cpu", torch.float64)
    shape = f"(M, {num_models})" if rows else f"({num_models},)"
    if p.ndim != (2 if rows else 1) or p.shape[-1] != num_models or p.shape[0] == 0:
        raise ParameterError(
            f"Mixing weights must have shape {shape}, one weight for each ingredient; these have {tuple(p.shape)}."
        )
    if not torch.isfinite(p).all():
        raise ParameterError("Mixing weights must be finite numbers; these hold NaN or infinity.")
    if (p < 0).any():
        raise ParameterError(f"Mixing weights must not be negative; the smallest here is {p.min().item():.4g}.")
    sums = p.sum(-1)
    if ((sums - 1).abs() > SUM_TOLERANCE).any():
        worst = sums.flatten()[(sums - 1).abs().argmax()].item()
        raise ParameterError(f"Mixing weights must sum to 1; these sum to {worst:.6g}. Divide them by their sum.")
    return p


def average(zoo: Zoo, weights: Tensor | Sequence[float]) -> dict[str, Tensor]:
    """The soup: a state dict of sum_k p_k theta_k.

    Sums run in double precision and are rounded once, to the ingredients' own dtype (the widest of them
    where they differ), so the order of the ingredients does not matter. Integer and boolean buffers
    (counters, position ids) are copied from the heaviest ingredient, the first of equals: an average of
    them has no meaning. Beside the result, one tensor is held in memory.

    Args:
        weights: (N,) mixing weights, not negative, sum 1.

    Source: Wortsman et al. 2022, section 2; RADIN, figure 1 (b).
    """
    p = check_weights(weights, len(zoo))
    return mix([zoo[k] for k in range(len(zoo))], p, zoo.keys())


def interpolate(zoo: Zoo, weights: Tensor | Sequence[float], amount: float) -> dict[str, Tensor]:
    """A state dict on the line from the initialisation (amount 0) to the soup (amount 1).

    Raises ParameterError when `amount` is outside [0, 1] or the zoo was opened without `init`.
    """
    if zoo.init is None:
        raise ParameterError(
            "This zoo was opened without init=...; pass the checkpoint that the ingredients started from."
        )
    if not 0 <= amount <= 1:
        raise ParameterError(f"amount must lie between 0 (initialisation) and 1 (soup); it is {amount}.")
    p = check_weights(weights, len(zoo)) * amount
    sources = [zoo[k] for k in range(len(zoo))] + [zoo.init]
    return mix(sources, torch.cat([p, torch.tensor([1.0 - amount], dtype=p.dtype)]), zoo.keys())


def mix(sources: Sequence[Mapping[str, Tensor]], p: Tensor, keys: list[str]) -> dict[str, Tensor]:
    """Average state dicts, as `average` says, with weights p of any sum."""
    used = _used(sources, p)
    return {key: _mix_tensor([(source[key], weight) for source, weight in used]) for key in keys}


def _used(sources: Sequence[Mapping[str, Tensor]], p: Tensor) -> list[tuple[Mapping[str, Tensor], float]]:
    """The sources of positive weight with their share of the sum."""
    p = p / p.sum()
    return [(sources[k], p[k].item()) for k in range(len(sources)) if p[k] > 0]


def _mix_tensor(used: list[tuple[Tensor, float]]) -> Tensor:
    heaviest, dtype = _model_of(used)
    if not heaviest.is_floating_point():
        return heaviest.detach().clone(memory_format=torch.contiguous_format)
    total = used[0][0].detach().to(torch.float64, copy=True, memory_format=torch.contiguous_format).mul_(used[0][1])
    for tensor, weight in used[1:]:
        total.add_(tensor.detach(), alpha=weight)
    return total.to(dtype)


def _model_of(used: list[tuple[Tensor, float]]) -> tuple[Tensor, torch.dtype]:
    """The heaviest of some tensors, and the kind of number that their average has."""
    heaviest = max(used, key=lambda pair: pair[1])[0]
    if not heaviest.is_floating_point():
        return heaviest, heaviest.dtype
    return heaviest, reduce(torch.promote_types, (tensor.dtype for tensor, _ in used))


def save_soup(
    zoo: Zoo,
    weights: Tensor | Sequence[float],
    path: str | Path,
    provenance: Mapping[str, object] | None = None,
    state: Mapping[str, Tensor] | None = None,
) -> Path:
    """Average the ingredients into a safetensors file that remembers where it came from, one tensor at a time.

    The header's `radin` entry is JSON: the ingredients' names and content hashes, their weights, and
    whatever `provenance` adds (recipe, budget, accuracy, ...). The file is written atomically.

    Args:
        state: the soup's tensors, where they are more than the average: with batch norm what
            `radin.predict.refresh_batch_norm` returns. Without it, a soup with batch norm is saved with a warning.

    Raises ParameterError for a path that does not end in .safetensors, RadinError when the disk refuses.
    """
    path = Path(path)
    if path.suffix != ".safetensors":
        raise ParameterError(f"{path}: a soup is saved as .safetensors; change the ending.")
    p = check_weights(weights, len(zoo))
    ingredients = [
        {"name": name, "sha256": fingerprint, "weight": weight}
        for name, fingerprint, weight in zip(zoo.names, zoo.fingerprints, p.tolist(), strict=True)
    ]
    header = {"radin": json.dumps({**(provenance or {}), "ingredients": ingredients}, sort_keys=True, default=str)}
    if state is None and any(key.endswith(RUNNING_STATISTICS) for key in zoo.keys()):
        warnings.warn(
            f"{path}: saved with averaged running statistics of batch norm, which fit no soup; pass "
            "state=radin.predict.refresh_batch_norm(zoo, weights, training_split).",
            stacklevel=2,
        )
    used = _used([zoo[k] for k in range(len(zoo))], p) if state is None else [(state, 1.0)]

    def tensors(key: str) -> list[tuple[Tensor, float]]:  # mapped, not read
        return [(source[key], weight) for source, weight in used]

    layout = {}
    for key in zoo.keys():
        heaviest, dtype = _model_of(tensors(key))
        layout[key] = dtype, tuple(heaviest.shape)
    write_safetensors(path, layout, lambda key: _mix_tensor(tensors(key)), header)
    return path

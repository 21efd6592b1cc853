"""A base with adapters added: W + sum_k p_k s_k B_k A_k, computed when a tensor is asked for.

The products are summed, never the factors: the average of B A is not the product of the average B
and the average A.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from radin.checkpoints.adapters import Adapter
from radin.checkpoints.checkpoint import Checkpoint
from radin.checkpoints.dtypes import is_averaged, widest

BLOCK_ELEMENTS = 1 << 20  # of a weight, computed together in double precision


class Change(NamedTuple):
    """What an adapter adds to one weight of its base.

    Attributes:
        module: as peft names it.
        is_transposed: whether the weight is stored as (in, out).
    """

    module: str
    is_transposed: bool


class FittedAdapter(NamedTuple):
    """An adapter beside its base.

    Attributes:
        adapter: itself.
        changes: what it adds, by the keys of the base.
        whole: the keys of the tensors that it saves whole, by the keys of the base.
    """

    adapter: Adapter
    changes: Mapping[str, Change]
    whole: Mapping[str, str]

    def matrices(self, key: str) -> tuple[Tensor, Tensor]:
        """Two matrices in double precision whose product is added to a weight's rows.

        Returns:
            s B (rows, r) and A (r, columns), where the rows are the weight's first dimension; in
            turn and transposed where the weight is stored transposed.
        """
        change = self.changes[key]
        keys = self.adapter.factors[change.module]
        up = self.adapter.tensors[keys.up].double().flatten(1) * self.adapter.scale(change.module)
        down = self.adapter.tensors[keys.down].double().flatten(1)
        return (down.T, up.T) if change.is_transposed else (up, down)


class AdaptedCheckpoint(Mapping[str, Tensor]):
    """The state dict of a base with a weighted sum of adapters added to it.

    One adapter of weight 1 is an ingredient, several are a soup, and none is the base. A tensor is
    computed when it is asked for, in double precision, and rounded once to the base's dtype.

    Attributes:
        base: the checkpoint that the adapters change.
        parts: the adapters, and the weight of each; the weights sum to 1.
        path: of the first adapter's tensors, or of the base.
    """

    def __init__(self, base: Checkpoint, parts: Sequence[tuple[FittedAdapter, float]]) -> None:
        self.base = base
        self.parts = list(parts)
        self.path: Path = self.parts[0][0].adapter.path if parts else base.path

    def __iter__(self) -> Iterator[str]:
        yield from self.base
        if self.parts:
            yield from (key for key in self.parts[0][0].whole if key not in self.base)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def __contains__(self, key: object) -> bool:
        return key in self.base or any(key in fitted.whole for fitted, _ in self.parts[:1])

    def __getitem__(self, key: str) -> Tensor:
        if self.is_unchanged(key):
            return self.base[key]
        dtype, shape = self.spec(key)
        tensor = torch.empty(shape, dtype=dtype)
        flat = tensor.view(-1)
        for start, block in self.blocks(key):
            flat[start : start + len(block)] = block
        return tensor

    @property
    def aliases(self) -> dict[str, str]:
        """Other names of the base's tensors, as its file gives them."""
        return self.base.aliases

    @property
    def extra_state(self) -> dict[str, Any]:
        """The extra state of the base's modules."""
        return self.base.extra_state

    def is_unchanged(self, key: str) -> bool:
        """Whether a tensor is the base's own."""
        return not any(key in fitted.changes or key in fitted.whole for fitted, _ in self.parts)

    def spec(self, key: str) -> tuple[torch.dtype, tuple[int, ...]]:
        """The dtype and the shape of a tensor, which is not computed for that."""
        if key in self.base:
            return self.base[key].dtype, tuple(self.base[key].shape)
        tensors = [fitted.adapter.tensors[fitted.whole[key]] for fitted, _ in self.parts]
        return widest(tensor.dtype for tensor in tensors), tuple(tensors[0].shape)

    def meta(self, key: str) -> Tensor:
        """A tensor without data, of the dtype and the shape that one has."""
        dtype, shape = self.spec(key)
        return torch.empty(shape, dtype=dtype, device="meta")

    def blocks(self, key: str) -> Iterator[tuple[int, Tensor]]:
        """A tensor that the adapters change, some rows at a time: (start, flat elements)."""
        dtype, shape = self.spec(key)
        whole = [
            (fitted.adapter.tensors[fitted.whole[key]], weight)
            for fitted, weight in self.parts
            if key in fitted.whole
        ]
        if whole:
            yield 0, average_whole(whole, dtype).reshape(-1)
            return
        left, right = self.summed_matrices(key)
        rows = self.base[key].reshape(shape[0], -1)
        step = max(1, BLOCK_ELEMENTS // max(1, rows.shape[1]))
        for begin in range(0, len(rows), step):
            block = rows[begin : begin + step].double()
            block += left[begin : begin + step] @ right
            yield begin * rows.shape[1], block.to(dtype).view(-1)

    def summed_matrices(self, key: str) -> tuple[Tensor, Tensor]:
        """[p_1 s_1 B_1, p_2 s_2 B_2, ...] and [A_1; A_2; ...]; their product is the change."""
        pairs = [
            (weight, fitted.matrices(key)) for fitted, weight in self.parts if key in fitted.changes
        ]
        left = torch.cat([weight * left for weight, (left, _) in pairs], dim=1)
        return left, torch.cat([right for _, (_, right) in pairs], dim=0)


def average_whole(weighted: Sequence[tuple[Tensor, float]], dtype: torch.dtype) -> Tensor:
    """The weighted sum of whole tensors; the heaviest of whole numbers, which have no average."""
    if not is_averaged(dtype):
        return max(weighted, key=lambda each: each[1])[0].to(dtype)
    wide = torch.complex128 if dtype.is_complex else torch.float64
    total = torch.zeros(weighted[0][0].shape, dtype=wide)
    for tensor, weight in weighted:
        total += weight * tensor.to(wide)
    return total.to(dtype)


def combine(
    states: Sequence[Mapping[str, Tensor]], shares: Sequence[tuple[int, float]]
) -> AdaptedCheckpoint | None:
    """The average of state dicts that are adapters of one base; None where they are not.

    Args:
        states: N state dicts.
        shares: indices of state dicts and their shares of the average, which sum to 1.
    """
    base: Checkpoint | None = None
    parts: list[tuple[FittedAdapter, float]] = []
    for k, share in shares:
        state = states[k]
        if not isinstance(state, AdaptedCheckpoint) or (
            base is not None and state.base is not base
        ):
            return None
        base = state.base
        parts += [(fitted, weight * share) for fitted, weight in state.parts]
    return None if base is None else AdaptedCheckpoint(base, parts)

"""The same elements of all ingredients, some at a time: what a soup's gradient is made of.

Training mixing weights reads every ingredient twice in each step: to average them, and to multiply
the gradient with each of them. Read in blocks, N ingredients need no more memory than one block.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor

from radin.checkpoints.adapted import AdaptedCheckpoint
from radin.checkpoints.dtypes import real_numbers
from radin.soup.blockwise import Scratch, Source, are_contiguous, gather, read_elements

BLOCK_BYTES = 1 << 22  # of all ingredients in single precision, which fit a core's cache

ByKey = dict[str, dict[int, Source]]


class IngredientBlocks:
    """N state dicts, read from their files block by block. Make one with `open_blocks`.

    Complex numbers count as two real ones.
    """

    def __init__(
        self,
        states: Sequence[Mapping[str, Tensor]],
        by_key: ByKey,
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self._states = states
        self._by_key = by_key
        self._dtype = dtype
        self._device = device
        self._scratch = Scratch()
        self._buffer = torch.empty(0, dtype=dtype)
        self._held: dict[str, Tensor] = {}

    def hold(self, keys: Sequence[str]) -> None:
        """Keep whole tensors on the device, all N of each, so that they are read only once."""
        for key in keys:
            blocks = [block.clone() for block in self.of(key)]
            if blocks:
                self._held[key] = torch.cat(blocks, dim=1)

    def of(self, key: str) -> Iterator[Tensor]:
        """Consecutive blocks (N, b) of a flat tensor: a row for each ingredient, on the device.

        A block is valid until the next one is asked for, which takes its memory.
        """
        if key in self._held:
            yield from self._held[key].split(self._num_elements, dim=1)
            return
        blocks = self._of_files(key) if key in self._by_key else self._computed(key)
        for block in blocks:
            yield block.to(self._device)

    def mix(self, key: str, weights: Tensor, target: Tensor) -> None:
        """Fill a contiguous tensor with the ingredients' average for some weights (N,)."""
        flat = real_numbers(target)
        p = weights.to(self._dtype)
        start = 0
        for block in self.of(key):
            flat[start : start + block.shape[1]] = p @ block
            start += block.shape[1]

    def products(self, key: str, soup: Tensor, gradient: Tensor) -> Tensor:
        """(N,) double: inner products of a gradient with the steps from a soup to the ingredients.

        Ingredients have a common start, so the products with themselves would differ in their last
        digits only.

        Args:
            soup, gradient: of the tensor's shape.
        """
        at, slope = (real_numbers(tensor).to(self._dtype) for tensor in (soup, gradient))
        total = torch.zeros(len(self._states), dtype=torch.float64, device=self._device)
        start = 0
        steps = torch.empty(0, dtype=self._dtype, device=self._device)
        for block in self.of(key):
            part = slice(start, start + block.shape[1])
            steps = torch.sub(block, at[part], out=steps.resize_(block.shape))
            total += steps @ slope[part]
            start = part.stop
        return total

    @property
    def _num_elements(self) -> int:
        return max(1, BLOCK_BYTES // (len(self._states) * self._dtype.itemsize))

    def _of_files(self, key: str) -> Iterator[Tensor]:
        sources = list(self._by_key[key].values())
        tensors = [source.tensor for source in sources]
        if not are_contiguous(tensors):
            yield self._stack(tensors)
            return
        count = tensors[0].numel()
        for start in range(0, count, self._num_elements):
            stop = min(start + self._num_elements, count)
            block = self._take(len(real_numbers(tensors[0].view(-1)[start:stop])))
            for row, source in zip(block, sources, strict=True):
                self._fill(row, source, start, stop)
            yield block

    def _fill(self, row: Tensor, source: Source, start: int, stop: int) -> None:
        """Read some elements of a tensor, from its file where it has a region."""
        tensor = source.tensor
        if source.region is not None and tensor.dtype == row.dtype:
            source.region.read(start * tensor.element_size(), row.numpy().view("uint8"))
            return
        (elements,) = read_elements({0: source}, start, stop, self._scratch).values()
        row.copy_(real_numbers(elements))

    def _stack(self, tensors: Sequence[Tensor]) -> Tensor:
        return torch.stack([real_numbers(tensor).to(self._dtype) for tensor in tensors])

    def _take(self, num_elements: int) -> Tensor:
        """Memory for a block, allocated once: new pages cost as much time as filling them."""
        size = len(self._states) * num_elements
        if len(self._buffer) < size:
            self._buffer = torch.empty(size, dtype=self._dtype)
        return self._buffer[:size].view(-1, num_elements)

    def _computed(self, key: str) -> Iterator[Tensor]:
        """Of adapters on a base, whose weights are in no file."""
        states = [state for state in self._states if isinstance(state, AdaptedCheckpoint)]
        if any(state.is_unchanged(key) for state in states):
            yield self._stack([state[key] for state in states])
            return
        for found in zip(*(state.blocks(key) for state in states), strict=True):
            yield self._stack([block for _, block in found])


@contextmanager
def open_blocks(
    states: Sequence[Mapping[str, Tensor]],
    keys: Sequence[str],
    *,
    dtype: torch.dtype,
    device: torch.device,
) -> Iterator[IngredientBlocks]:
    """Yield the blocks of N state dicts, with their files open.

    Args:
        states: N state dicts.
        keys: of the tensors.
        dtype: real, that of the blocks.
        device: where the blocks are.
    """
    if any(isinstance(state, AdaptedCheckpoint) for state in states):
        yield IngredientBlocks(states, {}, dtype=dtype, device=device)
        return
    all_of_them = [(k, 1 / len(states)) for k in range(len(states))]
    with gather(states, [all_of_them], keys) as sources:
        yield IngredientBlocks(states, sources.by_key, dtype=dtype, device=device)

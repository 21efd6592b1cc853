"""Soups of adapters of one base: one product of matrices for each weight, not N merged networks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from torch import Tensor

from radin.checkpoints.adapted import BLOCK_ELEMENTS, AdaptedCheckpoint, combine
from radin.soup.blockwise import Shares, WriteBlock


def combine_rows(
    states: Sequence[Mapping[str, Tensor]], rows: Sequence[Shares]
) -> list[AdaptedCheckpoint]:
    """The soups of adapters of one base, computed when they are used; empty for other state dicts.

    Args:
        states: N state dicts.
        rows: the shares of each soup.
    """
    soups = [combine(states, row) for row in rows]
    found = [soup for soup in soups if soup is not None]
    return found if len(found) == len(soups) else []


def adapted_blocks(
    soups: Sequence[AdaptedCheckpoint], keys: Sequence[str], write_block: WriteBlock
) -> Iterator[int]:
    """Compute soups of adapters some rows at a time, with the bits that their tensors have.

    Args:
        soups: of one base.
        keys: of the tensors.
        write_block: called as (index of the soup, key, start, block).

    Yields:
        After each block, the number of its elements.
    """
    for key in keys:
        for m, soup in enumerate(soups):
            blocks = _pieces(soup[key]) if soup.is_unchanged(key) else soup.blocks(key)
            for start, block in blocks:
                write_block(m, key, start, block)
                yield len(block)


def _pieces(tensor: Tensor) -> Iterator[tuple[int, Tensor]]:
    flat = tensor.reshape(-1)
    for start in range(0, len(flat), BLOCK_ELEMENTS):
        yield start, flat[start : start + BLOCK_ELEMENTS]

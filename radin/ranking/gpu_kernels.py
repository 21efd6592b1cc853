"""The functions of `radin.ranking.cpu_kernels` as torch operations, for banks on a GPU.

Names and counts are the same. Rivals that another one dominates are kept here, and so are images
that only bounds can decide.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

MarginFields = tuple[int, Tensor, Tensor, Tensor]  # of radin.ranking.margins.Margins, in order

_MAX_BLOCK_ANSWERS = 2**24  # in one block of images, one for each image and candidate


def collect(logits: Tensor, labels: Tensor, first: int, last: int) -> MarginFields:
    """The margins that decide some images, as `radin.ranking.cpu_kernels.collect` returns them."""
    block, label = logits[:, first:last], labels[first:last]
    all_right = (block.argmax(2) == label).all(0)
    others = (~all_right).nonzero().flatten()
    block, label = block[:, others], label[others]  # (N, I, C), (I,)
    own = block.gather(2, label.expand(len(block), -1).unsqueeze(2))
    lower = torch.arange(block.shape[2], device=block.device) < label.unsqueeze(1)  # (I, C)
    behind = ((block > own) | ((block == own) & lower)).sum(0, dtype=torch.int32)  # (I, C)
    always_wrong = (behind == len(block)).any(1)
    rival = (behind > 0) & ~always_wrong.unsqueeze(1)
    image, cls = rival.nonzero(as_tuple=True)  # by image, then by class
    margins = (own[:, image, 0].double() - block[:, image, cls].double()).T.contiguous()  # (R, N)
    counts = rival.sum(1)
    starts = torch.nn.functional.pad(counts[counts > 0].cumsum(0), (1, 0))
    always_right = int(all_right.sum()) + int(((counts == 0) & ~always_wrong).sum())
    return always_right, margins, lower[image, cls], starts


def drop_decided(margins: Tensor, wins_ties: Tensor, starts: Tensor, caps: Tensor) -> MarginFields:
    """Drops nothing: a matrix product decides all candidates faster than bounds are computed."""
    return 0, margins, wins_ties, starts


def _subset_sums(margins: Tensor) -> Tensor:
    """(R, K) to (R, 2^K) sums by bitmask."""
    sums = margins.new_zeros(len(margins), 1)
    for k in range(margins.shape[1]):
        sums = torch.cat([sums, sums + margins[:, k : k + 1]], 1)
    return sums


def _rival_by_rival(starts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """(images, rows) of the first rivals of all images, then of the second ones, and so on."""
    counts = starts.diff()
    for number in range(int(counts.max()) if len(counts) else 0):
        images = (counts > number).nonzero().flatten()
        yield images, starts[images] + number


def count_subsets(margins: Tensor, wins_ties: Tensor, starts: Tensor) -> Tensor:
    """On how many contested images each subset is right: (2^N,) by bitmask."""
    models = margins.shape[1]
    low_models = (models + 1) // 2
    hits = torch.zeros(2**models, dtype=torch.int64, device=margins.device)
    block_images = max(1, _MAX_BLOCK_ANSWERS >> models)
    for first in range(0, len(starts) - 1, block_images):
        part = starts[first : first + block_images + 1]
        shape = (len(part) - 1, 2 ** (models - low_models), 2**low_models)
        right = torch.ones(shape, dtype=torch.bool, device=margins.device)
        for images, rows in _rival_by_rival(part):
            low = _subset_sums(margins[rows, :low_models]).unsqueeze(1)
            needed = -_subset_sums(margins[rows, low_models:]).unsqueeze(2)
            right[images] &= torch.where(
                wins_ties[rows].view(-1, 1, 1), low > needed, low >= needed
            )
        hits += right.sum(0).flatten()
    return hits


def count_candidates(margins: Tensor, wins_ties: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """On how many contested images each candidate is right: (M,), with weights (N, M) double."""
    candidates = weights.shape[1]
    hits = torch.zeros(candidates, dtype=torch.int64, device=margins.device)
    block_images = max(1, _MAX_BLOCK_ANSWERS // candidates)
    for first in range(0, len(starts) - 1, block_images):
        part = starts[first : first + block_images + 1]
        right = torch.ones(len(part) - 1, candidates, dtype=torch.bool, device=margins.device)
        for images, rows in _rival_by_rival(part):
            averages = margins[rows] @ weights
            right[images] &= torch.where(wins_ties[rows].unsqueeze(1), averages > 0, averages >= 0)
        hits += right.sum(0)
    return hits


def count_additions(margins: Tensor, wins_ties: Tensor, starts: Tensor, sums: Tensor) -> Tensor:
    """On how many contested images an ensemble is right with one more of each ingredient: (N,)."""
    right = torch.ones(len(starts) - 1, margins.shape[1], dtype=torch.bool, device=margins.device)
    for images, rows in _rival_by_rival(starts):
        after = sums[rows].unsqueeze(1) + margins[rows]
        right[images] &= torch.where(wins_ties[rows].unsqueeze(1), after > 0, after >= 0)
    return right.sum(0)

"""The functions of `radin.ranking.cpu_kernels` in plain torch operations, for banks on a GPU: the same names and counts.

Rivals that another one beats everywhere are kept here, and so are images that only bounds could decide.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

Found = tuple[int, Tensor, Tensor, Tensor]

_AT_ONCE = 2**24  # numbers, one for each image and candidate, in one block


def collect(logits: Tensor, labels: Tensor, first: int, last: int) -> Found:
    """What decides the images first to last - 1 in any ensemble; see `radin.ranking.cpu_kernels.collect`."""
    block, label = logits[:, first:last], labels[first:last]
    agreed = (block.argmax(2) == label).all(0)
    open_images = (~agreed).nonzero().flatten()
    block, label = block[:, open_images], label[open_images]  # (N, I, C), (I,)
    own = block.gather(2, label.expand(len(block), -1).unsqueeze(2))
    lower = torch.arange(block.shape[2], device=block.device) < label.unsqueeze(1)  # (I, C)
    behind = ((block > own) | ((block == own) & lower)).sum(0, dtype=torch.int32)  # (I, C)
    lost = (behind == len(block)).any(1)
    rival = (behind > 0) & ~lost.unsqueeze(1)
    image, cls = rival.nonzero(as_tuple=True)  # by image, then by class
    margins = (own[:, image, 0].double() - block[:, image, cls].double()).T.contiguous()  # (R, N)
    counts = rival.sum(1)
    starts = torch.nn.functional.pad(counts[counts > 0].cumsum(0), (1, 0))
    sure = int(agreed.sum()) + int(((counts == 0) & ~lost).sum())
    return sure, margins, lower[image, cls], starts


def drop_decided(margins: Tensor, wins_ties: Tensor, starts: Tensor, caps: Tensor) -> Found:
    """Nothing is dropped here: one product decides all candidates faster than bounds are found."""
    return 0, margins, wins_ties, starts


def _subset_sums(margins: Tensor) -> Tensor:
    """(R, K) to (R, 2^K) sums by bitmask."""
    sums = margins.new_zeros(len(margins), 1)
    for k in range(margins.shape[1]):
        sums = torch.cat([sums, sums + margins[:, k : k + 1]], 1)
    return sums


def _rival_by_rival(starts: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    """First all images with their first rival, then those that have a second one, ...: (images, rows)."""
    counts = starts.diff()
    for turn in range(int(counts.max()) if len(counts) else 0):
        images = (counts > turn).nonzero().flatten()
        yield images, starts[images] + turn


def count_subsets(margins: Tensor, wins_ties: Tensor, starts: Tensor) -> Tensor:
    """On how many contested images each subset is right: (2^N,) by bitmask."""
    models = margins.shape[1]
    low_models = (models + 1) // 2
    hits = torch.zeros(2**models, dtype=torch.int64, device=margins.device)
    images_at_once = max(1, _AT_ONCE >> models)
    for first in range(0, len(starts) - 1, images_at_once):
        part = starts[first : first + images_at_once + 1]
        shape = (len(part) - 1, 2 ** (models - low_models), 2**low_models)
        right = torch.ones(shape, dtype=torch.bool, device=margins.device)
        for images, rows in _rival_by_rival(part):
            low = _subset_sums(margins[rows, :low_models]).unsqueeze(1)
            least = -_subset_sums(margins[rows, low_models:]).unsqueeze(2)
            right[images] &= torch.where(wins_ties[rows].view(-1, 1, 1), low > least, low >= least)
        hits += right.sum(0).flatten()
    return hits


def count_candidates(margins: Tensor, wins_ties: Tensor, starts: Tensor, weights: Tensor) -> Tensor:
    """On how many contested images each candidate is right: (M,), with weights (N, M) in double precision."""
    candidates = weights.shape[1]
    hits = torch.zeros(candidates, dtype=torch.int64, device=margins.device)
    images_at_once = max(1, _AT_ONCE // candidates)
    for first in range(0, len(starts) - 1, images_at_once):
        part = starts[first : first + images_at_once + 1]
        right = torch.ones(len(part) - 1, candidates, dtype=torch.bool, device=margins.device)
        for images, rows in _rival_by_rival(part):
            averages = margins[rows] @ weights
            right[images] &= torch.where(wins_ties[rows].unsqueeze(1), averages > 0, averages >= 0)
        hits += right.sum(0)
    return hits


def count_additions(margins: Tensor, wins_ties: Tensor, starts: Tensor, sums: Tensor) -> Tensor:
    """On how many contested images one is right with one more of each ingredient: (N,)."""
    right = torch.ones(len(starts) - 1, margins.shape[1], dtype=torch.bool, device=margins.device)
    for images, rows in _rival_by_rival(starts):
        after = sums[rows].unsqueeze(1) + margins[rows]
        right[images] &= torch.where(wins_ties[rows].unsqueeze(1), after > 0, after >= 0)
    return right.sum(0)

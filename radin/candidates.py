"""Candidates: rows of mixing weights for stage 1 to rank."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from radin.errors import ParameterError, check_seed, check_whole

EXHAUSTIVE_LIMIT = 20  # 2^20 - 1 rows of 20 numbers are 84 MB; each further ingredient doubles it


def from_subsets(members: Tensor | np.ndarray) -> Tensor:
    """Rows of 0 and 1 (M, N), none of them empty, as equal mixing weights: p_k = `1/|S|` on each subset S."""
    chosen = torch.as_tensor(members).float()
    return chosen / chosen.sum(1, keepdim=True)


def exhaustive(num_models: int) -> Tensor:
    """Every subset of N ingredients as a candidate: (2^N - 1, N), single precision.

    Row i is the subset whose bitmask is i + 1, where ingredient k is the bit of value 2^k.

    Raises ParameterError when N < 1 or N > 20.
    """
    check_whole("num_models", num_models, least=1)
    if num_models > EXHAUSTIVE_LIMIT:
        raise ParameterError(
            f"All subsets of {num_models} ingredients are too many to list (limit {EXHAUSTIVE_LIMIT}); use monte_carlo."
        )
    masks = np.arange(1, 2**num_models, dtype=np.int64)
    return from_subsets((masks[:, None] >> np.arange(num_models)) & 1)


def monte_carlo(num_models: int, num_candidates: int, seed: int = 0) -> Tensor:
    """M different subsets drawn uniformly from all 2^N - 1: (M, N), single precision.

    Fewer rows come back only when fewer subsets exist. A longer draw begins with a shorter one of the same seed.

    Source: RADIN, stage 1 (candidates by Monte Carlo).
    """
    check_whole("num_models", num_models, least=1)
    check_whole("num_candidates", num_candidates, least=1)
    rng = np.random.default_rng(check_seed(seed))
    if num_models <= EXHAUSTIVE_LIMIT:
        masks = rng.permutation(2**num_models - 1)[:num_candidates] + 1
        return from_subsets((masks[:, None] >> np.arange(num_models)) & 1)
    rows: dict[bytes, np.ndarray] = {}  # in order of first appearance; among 2^21 and more, repeats are rare
    while len(rows) < num_candidates:
        for row in rng.integers(0, 2, (1024, num_models), dtype=np.int8):
            if row.any() and len(rows) < num_candidates:
                rows.setdefault(row.tobytes(), row)
        if len(rows) == 2**num_models - 1:
            break
    return from_subsets(np.stack(list(rows.values())))

"""radin/candidates.py: subsets, all of them or a fair draw."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from radin import exhaustive, monte_carlo
from radin.errors import ParameterError


def bitmasks(candidates: Tensor) -> list[int]:
    return [sum(2**k for k, weight in enumerate(row) if weight > 0) for row in candidates.tolist()]


def check_subsets(candidates: Tensor) -> None:
    assert candidates.dtype == torch.float32
    for row in candidates.tolist():
        positive = [weight for weight in row if weight > 0]
        assert positive == [pytest.approx(1 / len(positive), rel=1e-6)] * len(positive)
        assert all(weight >= 0 for weight in row)


@pytest.mark.parametrize("num_models", [1, 2, 3, 7, 12])
def test_row_i_of_exhaustive_is_bitmask_i_plus_1(num_models):
    candidates = exhaustive(num_models)
    assert candidates.shape == (2**num_models - 1, num_models)
    assert bitmasks(candidates) == list(range(1, 2**num_models))
    check_subsets(candidates)


def test_too_many_subsets_are_refused_at_once():
    with pytest.raises(ParameterError, match="use monte_carlo"):
        exhaustive(21)


@given(num_models=st.integers(1, 80), num_candidates=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_a_draw_holds_different_subsets_and_begins_with_every_shorter_one(num_models, num_candidates, seed):
    candidates = monte_carlo(num_models, num_candidates, seed)
    assert candidates.shape == (min(num_candidates, 2**num_models - 1), num_models)
    assert len(set(bitmasks(candidates))) == len(candidates)
    check_subsets(candidates)
    assert torch.equal(monte_carlo(num_models, num_candidates, seed), candidates)
    shorter = max(1, num_candidates // 2)
    assert torch.equal(monte_carlo(num_models, shorter, seed), candidates[:shorter])
    assert torch.equal(monte_carlo(num_models, num_candidates + 50, seed)[: len(candidates)], candidates)


def test_a_zoo_of_the_papers_size():
    candidates = monte_carlo(72, 5000)
    assert len(set(bitmasks(candidates))) == 5000
    assert (candidates > 0).sum(1).float().mean().item() == pytest.approx(36, abs=0.3)


def test_seeds_differ():
    assert not torch.equal(monte_carlo(10, 50, seed=0), monte_carlo(10, 50, seed=1))


@pytest.mark.parametrize(("num_models", "draws", "seeds"), [(4, 4, 1500), (22, 6000, 1)])
def test_every_ingredient_and_size_is_drawn_as_often_as_it_should_be(num_models, draws, seeds):
    rows = torch.cat([monte_carlo(num_models, draws, seed) for seed in range(seeds)]) > 0
    share = 2 ** (num_models - 1) / (2**num_models - 1)
    assert rows.double().mean(0).numpy() == pytest.approx(np.full(num_models, share), abs=0.03)
    assert rows.sum(1).double().mean().item() == pytest.approx(num_models * share, rel=0.03)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "4", None])
def test_counts_that_are_none_are_refused(count):
    for use in (lambda: exhaustive(count), lambda: monte_carlo(count, 5), lambda: monte_carlo(5, count)):
        with pytest.raises(ParameterError, match="whole number of at least 1, not"):
            use()


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(ParameterError, match="seed"):
        monte_carlo(5, 5, seed)


def test_numpy_counts_are_counts():
    assert torch.equal(exhaustive(np.int64(3)), exhaustive(3))

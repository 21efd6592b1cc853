"""radin/experiments/synthetic.py: banks as accurate as asked."""

from __future__ import annotations

import pytest
import torch

from radin import fast_estimate
from radin.errors import ParameterError
from radin.experiments.synthetic import synthetic_bank


@pytest.mark.parametrize(("N", "C"), [(13, 10), (13, 200), (30, 100)])
def test_accuracies_come_out_near_the_targets(N, C):
    bank = synthetic_bank(N, 4000, C, single=70, ensemble=75)
    assert bank.logits.shape == (N, 4000, C)
    assert bank.accuracies().mean().item() == pytest.approx(70, abs=2)
    assert fast_estimate(bank, torch.full((1, N), 1 / N)).item() == pytest.approx(75, abs=2)


def test_seeds_and_precision():
    one, same, other = (synthetic_bank(2, 50, 5, seed=seed) for seed in (0, 0, 1))
    assert torch.equal(one.logits, same.logits)
    assert torch.equal(one.labels, same.labels)
    assert not torch.equal(one.logits, other.logits)
    half = synthetic_bank(2, 50, 5, dtype=torch.float16)
    assert half.logits.dtype == torch.float16
    torch.testing.assert_close(half.logits.float(), one.logits, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("single", "ensemble"), [(20, 80), (80, 70), (90, 100), (float("nan"), 80)]
)
def test_accuracies_out_of_reach(single, ensemble):
    with pytest.raises(ParameterError, match="chance < single <= ensemble < 100"):
        synthetic_bank(3, 10, 5, single=single, ensemble=ensemble)


@pytest.mark.parametrize("sizes", [(0, 5, 5), (2, 0, 5), (2, 5, 1), (2, 5, 2.5)])
def test_impossible_sizes(sizes):
    with pytest.raises(ParameterError, match="must be a whole number of at least"):
        synthetic_bank(*sizes)


@pytest.mark.parametrize(("N", "single", "ensemble"), [(1, 50, 80), (2, 20, 99)])
def test_gains_that_so_few_ingredients_cannot_have(N, single, ensemble):
    with pytest.raises(ParameterError, match="out of reach; the nearest is"):
        synthetic_bank(N, 10, 10, single=single, ensemble=ensemble)


def test_one_ingredient_is_its_own_ensemble():
    bank = synthetic_bank(1, 2000, 10, single=77, ensemble=77)
    assert bank.accuracies().item() == pytest.approx(77, abs=3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.int32])
def test_impossible_dtypes(dtype):
    with pytest.raises(ParameterError, match="dtype must be"):
        synthetic_bank(3, 10, 5, dtype=dtype)

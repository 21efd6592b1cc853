"""radin/ranking/search.py: searches look at different subsets and find the best of small zoos."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import random_bank, tied_banks
from radin import LogitBank, exhaustive, fast_estimate, monte_carlo, rank, synthetic_bank
from radin.errors import ParameterError
from radin.ranking import search as module
from radin.ranking.projection import Projection
from radin.ranking.search import genetic, local_search

SEARCHES = (genetic, local_search)
each_search = pytest.mark.parametrize("search", SEARCHES, ids=lambda search: search.__name__)


def masks(candidates: torch.Tensor) -> list[int]:
    return [sum(2**k for k, weight in enumerate(row) if weight > 0) for row in candidates.tolist()]


@each_search
@given(
    bank=tied_banks(),
    num_estimates=st.integers(1, 40),
    seed=st.integers(0, 99),
    prior=st.sampled_from([0.0, 1.0]),
)
@settings(max_examples=40, deadline=None)
def test_as_many_different_subsets_as_asked(search, bank, num_estimates, seed, prior):
    found = search(bank, num_estimates, prior=prior, seed=seed)
    every = 2**bank.num_models - 1
    assert found.dtype == torch.float32
    assert found.shape == (min(num_estimates, every), bank.num_models)
    assert len(set(masks(found))) == len(found)
    for row in found:
        positive = row[row > 0]
        assert torch.allclose(positive, torch.full_like(positive, 1 / len(positive)))
    assert torch.equal(search(bank, num_estimates, prior=prior, seed=seed), found)
    shorter = max(1, num_estimates // 2)
    assert torch.equal(search(bank, shorter, prior=prior, seed=seed), found[:shorter])


@given(bank=tied_banks(), subsets=st.data())
@settings(max_examples=40, deadline=None)
def test_scores_are_those_of_a_ranking(bank, subsets):
    prior = subsets.draw(st.sampled_from([0.0, 0.7]))
    looked_at = module._LookedAt(bank, 2**bank.num_models, prior=prior)
    every = exhaustive(bank.num_models)
    indices = looked_at.look(every.numpy() > 0)
    assert indices == list(range(len(every)))
    ranking = rank(bank, every, prior)
    scores = [score for score, _ in looked_at._scores]
    assert scores == pytest.approx(ranking.scores.tolist(), abs=1e-9)
    # Of equal scores and sizes the first one comes first. Here it has the lower bitmask.
    assert looked_at.best(indices, len(every)) == ranking.order.tolist()


@each_search
def test_nothing_is_looked_at_twice_nor_beyond_the_number(search, monkeypatch):
    asked = []
    real = module._LookedAt._estimates

    def counting(self, members):
        asked.extend(row.tobytes() for row in members)
        return real(self, members)

    monkeypatch.setattr(module._LookedAt, "_estimates", counting)
    search(random_bank(7, 30, seed=3), 60)
    assert len(asked) == len(set(asked)) == 60


@each_search
def test_a_search_finds_the_best_subset_where_blind_draws_do_not(search):
    clean = synthetic_bank(14, 1500, 10, seed=5)
    noise = torch.randn(clean.logits.shape, generator=torch.Generator().manual_seed(6))
    bank = LogitBank(clean.logits + noise * torch.linspace(0, 12, 14)[:, None, None], clean.labels)
    best = fast_estimate(bank, exhaustive(14)).max().item()
    number = 800  # of 16,383
    found = [fast_estimate(bank, search(bank, number, seed=seed)).max().item() for seed in range(3)]
    blind = [fast_estimate(bank, monte_carlo(14, number, seed)).max().item() for seed in range(3)]
    assert max(found) == pytest.approx(best)
    assert min(found) > max(blind)


@each_search
def test_the_prior_is_climbed_too(search):
    bank = random_bank(12, 60, 3, seed=8)
    for prior in (0.0, 1000.0):
        found = search(bank, 200, prior=prior)
        largest = (found > 0).sum(1)[rank(bank, found, prior).order[0]]
        assert (largest == 12) == (prior == 1000.0)


@each_search
def test_one_ingredient(search):
    assert search(random_bank(1), 5).tolist() == [[1.0]]


@each_search
def test_seeds_differ(search):
    bank = random_bank(10, 40, seed=1)
    assert not torch.equal(search(bank, 100, seed=0), search(bank, 100, seed=1))


@each_search
def test_half_precision_and_large_zoos(search):
    bank = synthetic_bank(70, 200, 5, dtype=torch.float16)
    assert len(set(masks(search(bank, 300)))) == 300


def test_the_population_is_as_large_as_asked():
    bank = random_bank(10, 40, seed=1)
    first = genetic(bank, 4, population=4)
    assert torch.equal(genetic(bank, 100, population=4)[:4], first)
    assert torch.equal(first, monte_carlo(10, 4))


@each_search
@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"num_estimates": 0}, "num_estimates must be a whole number of at least 1, not 0"),
        ({"num_estimates": 5, "prior": -1.0}, "prior must be a finite number"),
        ({"num_estimates": 5, "seed": -1}, "seed must be a whole number"),
    ],
)
def test_impossible_values(search, wrong, said):
    with pytest.raises(ParameterError, match=said):
        search(random_bank(), **wrong)


@pytest.mark.parametrize("population", [0, 1, 2.5, True])
def test_impossible_populations(population):
    with pytest.raises(ParameterError, match="population must be a whole number of at least 2"):
        genetic(random_bank(), 5, population=population)


@each_search
def test_projected_logits_have_no_margins(search):
    logits = random_bank(3, 8, 4).logits
    projection = Projection(((0, 1), (2,)), 4)
    bank = LogitBank(logits, torch.zeros(8, dtype=torch.long), projection=projection)
    with pytest.raises(ParameterError, match="A search needs one logit for each class"):
        search(bank, 5)

"""radin/ranking/convex.py: the minimum over all mixing weights, and the proof that it is one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize

import radin
from helpers import random_bank
from radin import LogitBank, convex, craft, dirichlet, exhaustive, fast_estimate, synthetic_bank
from radin.errors import ParameterError
from radin.ranking.convex import _evaluate, convex_candidate, minimise_quadratic
from radin.ranking.projection import Projection


def noisy_bank(num_models: int, seed: int, num_images: int = 60) -> LogitBank:
    """Models of different quality: random logits with more or less of the label in them."""
    bank = random_bank(num_models, num_images, num_classes=4, seed=seed)
    rng = torch.Generator().manual_seed(seed + 1000)
    lead = 2 * torch.rand(num_models, 1, generator=rng)
    logits = bank.logits * (0.5 + 2 * torch.rand(num_models, 1, 1, generator=rng))
    logits[:, torch.arange(num_images), bank.labels] += lead
    return LogitBank(logits, bank.labels)


def loss(bank: LogitBank, weights: np.ndarray) -> float:
    """The NLL of the ensemble by numpy."""
    mixed = np.einsum("k,kic->ic", weights, bank.logits.double().numpy())
    top = mixed.max(1, keepdims=True)
    log_sum = np.log(np.exp(mixed - top).sum(1)) + top[:, 0]
    return float((log_sum - mixed[np.arange(len(mixed)), bank.labels.numpy()]).mean())


def minimum_by_scipy(bank: LogitBank) -> float:
    N = bank.num_models
    found = minimize(
        lambda w: loss(bank, w),
        np.full(N, 1 / N),
        method="SLSQP",
        bounds=[(0, 1)] * N,
        constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
        options={"ftol": 1e-13, "maxiter": 500},
    )
    return float(found.fun)


def minimum_on_grid(bank: LogitBank, steps: int = 60) -> float:
    """The lowest loss on a grid over the simplex of two or three ingredients."""
    if bank.num_models == 2:
        return min(loss(bank, np.array([i, steps - i]) / steps) for i in range(steps + 1))
    return min(
        loss(bank, np.array([i, j, steps - i - j]) / steps)
        for i in range(steps + 1)
        for j in range(steps + 1 - i)
    )


@given(num_models=st.integers(1, 6), seed=st.integers(0, 10_000), half=st.booleans())
@settings(max_examples=25, deadline=None)
def test_it_is_the_minimum_of_scipy(num_models, seed, half):
    bank = noisy_bank(num_models, seed)
    if half:
        bank = LogitBank(bank.logits.half(), bank.labels)
    found = convex_candidate(bank)
    assert found.weights.dtype == torch.float64
    assert found.weights.shape == (num_models,)
    assert (found.weights >= 0).all()
    assert found.weights.sum().item() == pytest.approx(1, abs=1e-12)
    assert found.nll == pytest.approx(loss(bank, found.weights.numpy()), abs=1e-10)
    assert 0 <= found.gap <= 1e-6
    truth = minimum_by_scipy(bank)
    assert found.nll - found.gap - 1e-9 <= truth
    assert found.nll <= truth + 1e-6


@pytest.mark.parametrize("num_models", [2, 3])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_point_of_a_grid_is_lower(num_models, seed):
    bank = noisy_bank(num_models, seed, num_images=30)
    found = convex_candidate(bank)
    lowest = minimum_on_grid(bank)
    assert found.nll - 1e-9 <= lowest <= found.nll + 0.01


@given(seed=st.integers(0, 10_000), max_steps=st.integers(1, 4))
@settings(max_examples=20, deadline=None)
def test_the_gap_bounds_what_is_missing_wherever_it_stops(seed, max_steps):
    bank = noisy_bank(4, seed)
    stopped = convex_candidate(bank, max_steps=max_steps)
    assert stopped.passes <= max_steps
    best = convex_candidate(bank, max_gap=1e-9)
    assert -1e-12 <= stopped.nll - best.nll <= stopped.gap + 1e-9
    assert stopped.nll <= loss(bank, np.full(4, 1 / 4)) + 1e-12


def test_a_large_bank_is_first_solved_on_a_part(monkeypatch):
    bank = synthetic_bank(num_models=6, num_images=4000, num_classes=10, seed=3)
    whole = convex_candidate(bank)
    assert whole.passes == int(whole.passes)
    monkeypatch.setattr("radin.ranking.convex._MAX_FIRST_LOGITS", 1000)
    monkeypatch.setattr("radin.ranking.convex._BLOCK_LOGITS", 7 * 60)
    monkeypatch.setattr("radin.ranking.convex._BLOCK_LOGITS_FOR_SLOPE", 11 * 60)
    started = convex_candidate(bank)
    assert started.nll == pytest.approx(whole.nll, abs=2e-6)
    assert started.passes % 1 > 0  # of the part
    assert started.passes < whole.passes + 2
    assert 0 <= started.gap <= 1e-6
    # What single precision says of the point, in double precision
    exact = _evaluate(bank, None, started.weights, dtype=torch.float64, with_curvature=True)
    assert started.gap == pytest.approx(exact.gap, abs=1e-7)
    assert started.nll == pytest.approx(exact.loss, abs=1e-7)
    assert started.nll - started.gap - 1e-7 <= whole.nll <= started.nll + whole.gap + 1e-7


@given(seed=st.integers(0, 10_000), num_models=st.integers(1, 6), half=st.booleans())
@settings(max_examples=25, deadline=None)
def test_a_pass_without_curvature_finds_the_same_slope(seed, num_models, half):
    bank = noisy_bank(num_models, seed)
    if half:
        bank = LogitBank(bank.logits.half(), bank.labels)
    rng = torch.Generator().manual_seed(seed)
    weights = torch.rand(num_models, dtype=torch.float64, generator=rng)
    weights /= weights.sum()
    images = torch.randperm(bank.num_images, generator=rng)[:17]
    for part in (None, images):
        for dtype, tolerance in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            whole, slope_only = (
                _evaluate(bank, part, weights, dtype=dtype, with_curvature=with_curvature)
                for with_curvature in (True, False)
            )
            assert slope_only.curvature is None
            assert slope_only.loss == pytest.approx(whole.loss, abs=tolerance)
            torch.testing.assert_close(slope_only.slope, whole.slope, rtol=0, atol=tolerance)
            if part is None:
                expected = loss(bank, weights.numpy())
                assert whole.loss == pytest.approx(expected, abs=max(tolerance, 1e-10))


def test_a_curvature_serves_for_several_steps(monkeypatch):
    """Near the minimum only the first pass over all images computes one."""
    bank = synthetic_bank(num_models=6, num_images=8000, num_classes=10, seed=3)
    monkeypatch.setattr("radin.ranking.convex._MAX_FIRST_LOGITS", 1000)
    asked = []

    def noted(bank, images, weights, *, dtype, with_curvature):
        asked.append((images is None, with_curvature))
        return _evaluate(bank, images, weights, dtype=dtype, with_curvature=with_curvature)

    monkeypatch.setattr("radin.ranking.convex._evaluate", noted)
    found = convex_candidate(bank)
    assert found.gap <= 1e-6
    assert [with_curvature for on_all, with_curvature in asked if on_all].count(True) == 1


def test_a_gap_that_single_precision_cannot_show(monkeypatch):
    bank = synthetic_bank(num_models=4, num_images=2000, num_classes=10, seed=1)
    monkeypatch.setattr("radin.ranking.convex._MAX_FIRST_LOGITS", 1000)
    found = convex_candidate(bank, max_gap=1e-12)
    assert found.gap <= 1e-12


def test_equal_ingredients_and_copies():
    bank = noisy_bank(3, 5)
    doubled = LogitBank(torch.cat([bank.logits, bank.logits]), bank.labels)
    one, two = convex_candidate(bank), convex_candidate(doubled)
    assert two.nll == pytest.approx(one.nll, abs=2e-6)
    assert (two.weights[:3] + two.weights[3:]).tolist() == pytest.approx(
        one.weights.tolist(), abs=1e-2
    )
    alike = LogitBank(bank.logits[:1].expand(4, -1, -1), bank.labels)
    assert convex_candidate(alike).gap <= 1e-12


def test_an_ingredient_that_only_harms_has_no_weight():
    bank = noisy_bank(3, 2)
    harmful = bank.logits[:1].clone()
    harmful[:, torch.arange(bank.num_images), bank.labels] -= 20
    wrong = LogitBank(torch.cat([bank.logits, harmful]), bank.labels)
    found = convex(wrong)
    assert found.shape == (1, 4)
    assert found[0, 3] == 0
    assert torch.allclose(found[0, :3], convex(bank)[0], atol=1e-3)


def slow_quadratic(slope, curvature, start) -> float:
    """The lowest value on the simplex, by scipy from several starts."""

    def value(w):
        d = w - start
        return slope @ d + d @ curvature @ d / 2

    N = len(start)
    results = [
        minimize(
            value,
            first,
            method="SLSQP",
            bounds=[(0, 1)] * N,
            constraints={"type": "eq", "fun": lambda w: w.sum() - 1},
            options={"ftol": 1e-14, "maxiter": 500},
        ).fun
        for first in (np.full(N, 1 / N), np.eye(N)[0])
    ]
    return float(min(results))


@given(data=st.data(), N=st.integers(1, 7), seed=st.integers(0, 10_000))
@settings(max_examples=60, deadline=None)
def test_the_quadratic_is_minimised_in_the_simplex(data, N, seed):
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(N, data.draw(st.integers(1, N))))  # of any rank
    curvature, slope = root @ root.T, rng.normal(size=N)
    start = rng.dirichlet(np.ones(N)) * (rng.random(N) < 0.6)
    start = start / start.sum() if start.sum() > 0 else np.eye(N)[0]
    found = minimise_quadratic(*(torch.from_numpy(x) for x in (slope, curvature, start)))
    assert (found >= 0).all()
    assert found.sum().item() == pytest.approx(1, abs=1e-9)
    d = found.numpy() - start
    reached = slope @ d + d @ curvature @ d / 2
    assert reached <= slow_quadratic(slope, curvature, start) + 1e-6


@pytest.mark.parametrize("name", ["cifar10", "cifar10-wild", "pacs-sketch"])
def test_it_bounds_every_candidate_of_a_bench(name):
    bench = radin.SoupBench.load(name)
    found = convex_candidate(bench.val)
    rows = torch.cat([bench.candidates, dirichlet(bench.num_models, 50)])
    assert fast_estimate(bench.val, rows, "nll").min().item() >= found.nll - found.gap - 1e-9


def test_the_weights_are_a_candidate():
    bank = random_bank(num_models=3, num_images=40)
    rows = torch.cat([exhaustive(3).double(), convex(bank)])
    ranking = radin.rank(bank, rows, metric="nll")
    assert ranking.estimates.argmin() == 7
    seen = []
    soup = craft(
        bank,
        lambda weights: float(seen.append(weights) or 50),
        budget=1,
        candidates=rows,
        metric="nll",
    )
    assert torch.equal(soup.weights, rows[7])
    assert torch.equal(seen[0], rows[7])


def test_impossible_options():
    bank = random_bank()
    for max_gap in (0, -1, math.nan):
        with pytest.raises(ParameterError, match="max_gap must be above 0"):
            convex_candidate(bank, max_gap=max_gap)
    with pytest.raises(ParameterError, match="max_steps must be"):
        convex_candidate(bank, max_steps=0)
    with pytest.raises(ParameterError, match="convex candidate needs classes"):
        convex(LogitBank(torch.randn(2, 5, 1), torch.randn(5)))
    projected = LogitBank(
        bank.logits, bank.labels.clamp(max=1), projection=Projection([[0], [1, 2]], 3)
    )
    with pytest.raises(ParameterError, match="convex candidate needs one logit for each class"):
        convex(projected)

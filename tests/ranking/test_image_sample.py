"""radin/ranking/image_sample.py: contested images, samples of known chance, and no bias."""

from __future__ import annotations

import math
import statistics

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import random_bank, tied_banks
from radin import LogitBank
from radin.errors import ParameterError
from radin.ranking.image_sample import ImageOrder, contest_scores
from radin.ranking.projection import Projection


def slow_scores(bank: LogitBank) -> list[float]:
    """The score of each image by a loop."""
    scores = []
    for i, label in enumerate(bank.labels.tolist()):
        margins = []
        for k in range(bank.num_models):
            row = bank.projected(bank.logits[k, i].double()).tolist()
            margins.append(row[label] - max(row[:label] + row[label + 1 :]))
        mean, spread = abs(statistics.fmean(margins)), statistics.pstdev(margins)
        scores.append(mean / spread if spread > 0 else (math.inf if mean else 0.0))
    return scores


@given(bank=tied_banks())
def test_scores_are_those_of_a_loop(bank):
    assert contest_scores(bank).tolist() == pytest.approx(slow_scores(bank), rel=1e-9)


def test_scores_of_blocks_and_of_a_projection(monkeypatch):
    bank = random_bank(num_models=3, num_images=23, num_classes=4)
    whole = contest_scores(bank)
    monkeypatch.setattr("radin.ranking.image_sample._BLOCK_LOGITS", 5 * 3 * 4)
    assert torch.equal(contest_scores(bank), whole)
    joined = LogitBank(
        bank.logits, bank.labels.clamp(max=1), projection=Projection([[0, 2], [1, 3]], 4)
    )
    assert contest_scores(joined).tolist() == pytest.approx(slow_scores(joined))


def test_targets_have_no_contest():
    with pytest.raises(ParameterError, match="contest score needs classes"):
        contest_scores(LogitBank(torch.randn(2, 5, 1), torch.randn(5)))


@st.composite
def orders(draw: st.DrawFn) -> ImageOrder:
    """Few images, in any order, with any random numbers."""
    n = draw(st.integers(4, 9))
    ranks = torch.tensor(draw(st.permutations(range(1, n + 1))), dtype=torch.float64)
    numbers = draw(st.lists(st.floats(0.001, 1), min_size=n, max_size=n, unique=True))
    return ImageOrder(ranks, torch.tensor(numbers, dtype=torch.float64))


@given(order=orders(), data=st.data())
@settings(max_examples=15)
def test_the_weight_of_each_image_is_one_on_average(order, data):
    """All values of one image's random number, for any of the others': it is the whole proof."""
    n = len(order.ranks)
    count = data.draw(st.integers(2, n))
    i = data.draw(st.integers(0, n - 1))
    steps = 400
    total = 0.0
    for step in range(steps):
        numbers = order.numbers.clone()
        numbers[i] = (step + 0.5) / steps
        sample = ImageOrder(order.ranks, numbers).draw(count)
        where = sample.indices.tolist()
        if i in where:
            total += 1 / sample.chances[where.index(i)].item()
    # The number at which i drops out lies between two steps.
    assert total / steps == pytest.approx(1, abs=n**2 / order.numbers.min().item() / steps * 1.01)


@given(order=orders(), data=st.data())
def test_samples(order, data):
    n = len(order.ranks)
    count = data.draw(st.integers(0, n + 2))
    sample = order.draw(count)
    assert len(sample.indices) == min(n, max(2, count))
    assert sample.indices.tolist() == sorted(set(sample.indices.tolist()))
    assert sample.num_images == n
    assert ((sample.chances > 0) & (sample.chances <= 1)).all()
    larger = order.draw(count + 1)
    assert set(sample.indices.tolist()) <= set(larger.indices.tolist())
    if count >= n:
        assert (sample.chances == 1).all()


def test_the_most_contested_images_are_certain():
    bank = random_bank(num_images=400)
    for seed in range(5):
        order = ImageOrder.of_bank(bank, seed=seed)
        sample = order.draw(120)
        ranks = order.ranks[sample.indices]
        head = (ranks <= 40).sum()
        assert head == 40
        assert (sample.chances[ranks <= 40] == 1).all()
        assert ranks.max() > 150  # and some of the tail
    assert order.ranks.argsort().tolist() == contest_scores(bank).argsort(stable=True).tolist()


@given(n=st.integers(2, 3000), share=st.floats(0.01, 1))
def test_expected_chances_sum_to_the_sample(n, share):
    count = max(2, int(share * n))
    ranks = torch.arange(1, n + 1, dtype=torch.float64)
    chances = ImageOrder(ranks, torch.ones(n, dtype=torch.float64)).expected_chances(count)
    assert chances.sum().item() == pytest.approx(count, abs=2)
    assert ((chances > 0) & (chances <= 1)).all()


def fake_differences(seed: int, *, num_images: int, width: float) -> torch.Tensor:
    """Disagreements of a soup that get rarer down the order, some of them far down."""
    rng = torch.Generator().manual_seed(seed)
    ranks = torch.arange(num_images) / num_images
    happens = torch.rand(num_images, generator=rng) < 0.2 * torch.exp(-ranks / width) + 0.001
    signs = torch.where(torch.rand(num_images, generator=rng) < 0.4, 1.0, -1.0)
    return 100 * (happens * signs).double()


@pytest.mark.parametrize("width", [0.05, 0.1, 0.3])
def test_estimates_have_no_bias_and_their_errors_hold(width):
    """Over soups and samples; one more soup of the same kind was run on all images before."""
    num_images, draws = 1000, 300
    ranks = torch.arange(1, num_images + 1, dtype=torch.float64)
    off, found, misses = [], [], 0
    for seed in range(draws):
        differences = fake_differences(seed % 8, num_images=num_images, width=width)
        earlier = fake_differences(8 + seed % 5, num_images=num_images, width=width).square()
        rng = torch.Generator().manual_seed(1000 + seed)
        numbers = 1 - torch.rand(num_images, dtype=torch.float64, generator=rng)
        order = ImageOrder(ranks, numbers)
        sample = order.draw(300)
        rate = order.expected_variance(earlier, 300) / earlier.sum().item()
        of_sample = differences[sample.indices]
        value, error = sample.estimate(5000.0, of_sample, tail_rate=rate, step=100)
        truth = (5000 + differences.sum().item()) / num_images
        off.append(value - truth)
        found.append(2 * sample.estimate(5000.0, of_sample)[1] ** 2)
        misses += abs(value - truth) > 1.96 * error
    spread = statistics.pstdev(off)
    assert abs(statistics.fmean(off)) < 4 * spread / math.sqrt(draws)
    # What a sample alone shows is on average the variance that there is.
    assert statistics.fmean(found) == pytest.approx(spread**2, rel=0.3)
    assert misses / draws < 0.1


def test_a_whole_sample_is_exact():
    differences = fake_differences(0, num_images=50, width=0.1)
    order = ImageOrder.of_bank(random_bank(num_images=50), seed=0)
    value, error = order.draw(50).estimate(700.0, differences, tail_rate=3, step=100)
    assert (value, error) == ((700 + differences.sum().item()) / 50, 0)


def test_a_sample_that_met_nothing_is_not_certain():
    order = ImageOrder.of_bank(random_bank(num_images=50), seed=0)
    nothing = torch.zeros(20, dtype=torch.float64)
    value, error = order.draw(20).estimate(700.0, nothing, tail_rate=0, step=100)
    assert (value, error) == (14, 1)  # half an image of fifty


def test_the_random_numbers_follow_the_seed():
    bank = random_bank(num_images=50)
    one, again, other = (ImageOrder.of_bank(bank, seed=seed).numbers for seed in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert ((one > 0) & (one <= 1)).all()

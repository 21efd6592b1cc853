"""radin/experiments/intervals.py: intervals cover the truth as often as they should."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from radin.errors import ParameterError
from radin.experiments.intervals import (
    accuracy_interval,
    claim_in_words,
    in_words,
    jackknife_interval,
    paired_interval,
    paired_metric_interval,
    write_interval,
)
from radin.ranking.named_metrics import METRICS, class_weighted_accuracy, find_metric
from radin.ranking.resampling import bootstrap_difference

ANSWERS = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60)


def columns(pairs: list[tuple[bool, bool]]) -> tuple[torch.Tensor, torch.Tensor]:
    table = torch.tensor(pairs, dtype=torch.bool)
    return table[:, 0], table[:, 1]


@given(pairs=ANSWERS)
def test_difference_and_bounds(pairs):
    a, b = columns(pairs)
    difference, low, high = paired_interval(a, b)
    assert difference == pytest.approx(
        100 * (sum(x for x, _ in pairs) - sum(y for _, y in pairs)) / len(pairs)
    )
    assert -100 <= low < high <= 100
    assert paired_interval(b, a) == pytest.approx((-difference, -high, -low))


def test_a_worked_example():
    """Of 100 images 9 only a has right, 4 only b: p = 10/102, q = 5/102, half width 7.381."""
    a = torch.tensor([True] * 9 + [False] * 4 + [True] * 60 + [False] * 27)
    b = torch.tensor([False] * 9 + [True] * 4 + [True] * 60 + [False] * 27)
    assert paired_interval(a, b) == pytest.approx((5.0, -2.479, 12.283), abs=1e-3)


def test_agreement_narrows_and_never_collapses():
    widths = []
    for n in (10, 100, 1000):
        right = torch.ones(n, dtype=torch.bool)
        difference, low, high = paired_interval(right, right)
        assert difference == 0
        assert low == pytest.approx(-high)
        widths.append(high - low)
    assert widths[0] > widths[1] > widths[2] > 0


@pytest.mark.parametrize(("only_a", "only_b"), [(0.10, 0.05), (0.02, 0.02), (0.30, 0.10)])
def test_coverage_is_near_95_percent(only_a, only_b):
    rng = np.random.default_rng(0)
    truth, covered, runs = 100 * (only_a - only_b), 0, 2000
    for _ in range(runs):
        draw = rng.random(200)
        a, b = (
            torch.from_numpy(draw < only_a),
            torch.from_numpy((draw >= only_a) & (draw < only_a + only_b)),
        )
        _, low, high = paired_interval(a, b)
        covered += low <= truth <= high
    assert 0.93 <= covered / runs <= 0.99


@pytest.mark.parametrize(
    ("a", "b"),
    [
        (torch.ones(3), torch.ones(3)),
        (torch.ones(3, dtype=torch.bool), torch.ones(4, dtype=torch.bool)),
        (torch.ones(3, dtype=torch.int64), torch.ones(3, dtype=torch.bool)),
        (torch.ones(0, dtype=torch.bool), torch.ones(0, dtype=torch.bool)),
    ],
)
def test_impossible_answers_are_refused(a, b):
    with pytest.raises(ParameterError, match="paired_interval needs"):
        paired_interval(a, b)


def test_draws_by_hand():
    """Two images, two draws: mean differences of 1/2 and 0, and their spread of 0.3536."""
    a = torch.tensor([[True, True], [True, False]])
    b = torch.tensor([[True, False], [True, False]])
    difference, low, high = paired_interval(a, b)
    assert difference == pytest.approx(25)
    assert (high - low) / 2 == pytest.approx(1.959964 * 100 * 0.35355339 / 2**0.5, rel=1e-6)
    assert (high + low) / 2 == pytest.approx(25)


def test_draws_of_one_image_do_not_count_as_new_images():
    rng = torch.Generator().manual_seed(0)
    a, b = (torch.rand(2, 400, 1, generator=rng) < 0.8).repeat(1, 1, 50)
    one, fifty = paired_interval(a[:, :1], b[:, :1]), paired_interval(a, b)
    assert fifty == pytest.approx(one, abs=1e-9)


def test_intervals_over_draws_cover_the_truth():
    """With images of different difficulty, 95% of the intervals hold the true mean difference."""
    rng = torch.Generator().manual_seed(1)
    covered = 0
    for _ in range(400):
        chance = torch.rand(
            2, 150, 1, generator=rng
        )  # both models are right half of the time on average
        a, b = torch.rand(2, 150, 8, generator=rng) < chance
        _, low, high = paired_interval(a, b)
        covered += low <= 0 <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_the_jackknife_of_a_mean_is_the_interval_of_a_mean():
    values = np.random.default_rng(0).normal(3, 2, 4000)
    middle, low, high = jackknife_interval(lambda kept: values[kept].mean(), [4000])
    assert middle == pytest.approx(values.mean())
    assert (high - low) / 2 == pytest.approx(2.09 * 2 / 4000**0.5, rel=0.4)
    assert (low + high) / 2 == pytest.approx(middle)


def test_the_jackknife_covers_in_95_percent_of_the_cases():
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(300):
        first, second = rng.normal(0, 1, 200), rng.normal(0.5, 1, 100)
        _, low, high = jackknife_interval(
            lambda a, b, x=first, y=second: y[b].mean() - x[a].mean(), [200, 100]
        )
        covered += low <= 0.5 <= high
    assert 0.91 < covered / 300 < 0.985


def test_the_jackknife_leaves_each_image_out_once():
    seen = np.zeros((2, 60))

    def statistic(*kept):
        for part, mask in enumerate(kept):
            seen[part, : len(mask)] += mask
        return 0.0

    jackknife_interval(statistic, [60, 45], groups=5)
    assert (seen[0] == 5).all()  # four of five groups, and all of them once
    assert (seen[1, :45] == 5).all()


def test_images_drawn_with_replacement_lower_a_rank_correlation():
    """The reason for the jackknife: such draws add noise of their own; leaving out adds little."""
    from scipy.stats import spearmanr

    rng = np.random.default_rng(3)
    quality = rng.uniform(0.6, 0.7, (40, 1))
    first, second = (rng.random((40, 400)) < quality for _ in range(2))

    def correlation(columns: np.ndarray) -> float:
        return spearmanr(first[:, columns].mean(1), second[:, columns].mean(1)).statistic

    everything = correlation(np.arange(400))
    drawn = [correlation(rng.integers(400, size=400)) for _ in range(200)]
    left_out = [correlation(np.arange(400)[np.arange(400) % 20 != k]) for k in range(20)]
    assert np.mean(drawn) < everything - 0.05
    assert np.mean(left_out) == pytest.approx(everything, abs=0.03)


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [(0.1, 2.0, "up"), (-2.0, -0.1, "down"), (-0.1, 0.1, "?"), (0.0, 1.0, "?"), (-1.0, 0.0, "?")],
)
def test_the_words_of_an_interval(low, high, said):
    assert in_words((0.0, low, high), "up", "down", "?") == said
    claim = {"up": "holds", "down": "does not hold here", "?": "open"}[said]
    assert claim_in_words((0.0, low, high)) == claim


@pytest.mark.parametrize(
    ("low", "high", "said"),
    [
        (-0.2, 0.2, "holds"),
        (0.05, 0.2, "holds"),  # apart from zero and still within the margin
        (-0.1, 0.25, "open"),
        (-0.3, 0.1, "open"),
        (0.26, 0.9, "does not hold here"),
        (-0.9, -0.26, "does not hold here"),
    ],
)
def test_a_claim_that_two_are_equal(low, high, said):
    assert claim_in_words((0.0, low, high), margin=0.25) == said


def test_an_interval_as_text():
    assert write_interval((0.204, -0.096, 0.5)) == "+0.20 (−0.10 to +0.50)"
    assert write_interval((81.0, 80.25, 81.75), ".1f") == "81.0 (80.2 to 81.8)"
    assert write_interval((-0.004, -0.1, -0.0)) == "+0.00 (−0.10 to +0.00)"
    assert write_interval((-0.4, -1.2, 0.2), ".0f") == "0 (−1 to 0)"
    assert write_interval((1.0, float("nan"), float("nan"))) == "+1.00 (+nan to +nan)"


@pytest.mark.parametrize(("num_images", "groups"), [([10, 30], 20), ([30], 1)])
def test_too_few_images_for_the_groups(num_images, groups):
    with pytest.raises(ParameterError, match="groups need at least as many images"):
        jackknife_interval(lambda *kept: 0.0, num_images, groups=groups)


@given(right=st.lists(st.booleans(), min_size=1, max_size=80))
def test_the_interval_of_an_accuracy_solves_wilsons_equation(right):
    """At both ends p the score test just rejects: |share - p| = z sqrt(p (1 - p) / n)."""
    share, low, high = accuracy_interval(torch.tensor(right))
    assert share == pytest.approx(100 * sum(right) / len(right))
    assert 0 <= low <= share <= high <= 100
    for end in (low / 100, high / 100):
        distance = 1.959964 * (end * (1 - end) / len(right)) ** 0.5
        assert abs(share / 100 - end) == pytest.approx(distance, abs=1e-6)


def test_the_interval_of_an_accuracy_covers_in_95_percent_of_the_cases():
    rng = np.random.default_rng(0)
    covered = 0
    for chance in rng.random(3000):
        _, low, high = accuracy_interval(torch.from_numpy(rng.random(60) < chance))
        covered += low <= 100 * chance <= high
    assert 0.935 < covered / 3000 < 0.965


@pytest.mark.parametrize(
    "answers", [torch.ones(3), torch.ones(0, dtype=torch.bool), torch.ones(2, 2, dtype=torch.bool)]
)
def test_an_accuracy_needs_answers(answers):
    with pytest.raises(ParameterError, match="one boolean for each image"):
        accuracy_interval(answers)


# By any metric ----------------------------------------------------------------------------------

CLASS_METRICS = ("macro_f1", "balanced_accuracy", "mean_iou")


def outputs_and_labels(
    rng: torch.Generator, num_images: int, *, gain: float = 0.0
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Logits of two networks that share much of their noise, and rare classes among the labels."""
    labels = (torch.rand(num_images, generator=rng) ** 2 * 4).long()
    shared = torch.randn(num_images, 4, generator=rng)
    shared[torch.arange(num_images), labels] += 1
    a, b = shared + 0.5 * torch.randn(2, num_images, 4, generator=rng)
    a[torch.arange(num_images), labels] += gain
    return a, b, labels


def test_accuracy_has_the_interval_of_pairs():
    a, b, labels = outputs_and_labels(torch.Generator().manual_seed(0), 200)
    assert paired_metric_interval(METRICS["accuracy"], a, b, labels) == paired_interval(
        a.argmax(1) == labels, b.argmax(1) == labels
    )


@pytest.mark.parametrize("name", ["nll", "top2_accuracy"])
def test_a_mean_over_images_has_a_normal_interval(name):
    metric = find_metric(name)
    a, b, labels = outputs_and_labels(torch.Generator().manual_seed(0), 300)
    value, low, high = paired_metric_interval(metric, a, b, labels)
    assert value == pytest.approx(metric(a, labels) - metric(b, labels))
    found = bootstrap_difference(metric, a, b, labels, resamples=2000)
    assert found.value == pytest.approx(value)
    assert (high - low) / 2 == pytest.approx(1.96 * found.standard_error, rel=0.1)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.1 * (high - low))


@pytest.mark.parametrize("name", [*CLASS_METRICS, "class_weighted", "calibration_error"])
def test_other_metrics_draw_images_again(name):
    """The same draws, each computed by scikit-learn on its own."""
    a, b, labels = outputs_and_labels(torch.Generator().manual_seed(0), 80)
    metric = class_weighted_accuracy([1, 2, 0, 5]) if name == "class_weighted" else METRICS[name]
    value, low, high = paired_metric_interval(metric, a, b, labels, resamples=60)
    assert value == pytest.approx(metric(a, labels) - metric(b, labels))
    drawn = np.random.default_rng(0).integers(0, 80, (60, 80))
    differences = [
        metric(a[images], labels[images]) - metric(b[images], labels[images])
        for images in torch.from_numpy(drawn)
    ]
    assert (low, high) == pytest.approx(tuple(np.percentile(differences, [2.5, 97.5])), abs=1e-9)
    assert paired_metric_interval(metric, a, b, labels, resamples=60) == (value, low, high)
    assert paired_metric_interval(metric, a, a, labels, resamples=20) == (0, 0, 0)


def test_the_interval_of_macro_f1_covers_the_truth():
    """The truth is the difference on many images of the same kind."""
    metric = METRICS["macro_f1"]
    a, b, labels = outputs_and_labels(torch.Generator().manual_seed(99), 100_000, gain=0.3)
    truth = metric(a, labels) - metric(b, labels)
    rng = torch.Generator().manual_seed(1)
    covered = 0
    for seed in range(100):
        some = outputs_and_labels(rng, 200, gain=0.3)
        _, low, high = paired_metric_interval(metric, *some, resamples=100, seed=seed)
        covered += low <= truth <= high
    assert 0.88 <= covered / 100 <= 0.99


def test_outputs_that_are_no_pair():
    a, b, labels = outputs_and_labels(torch.Generator().manual_seed(0), 20)
    for use in (paired_metric_interval, bootstrap_difference):
        for case in ((a[:5], b, labels), (a, b, labels[:5]), (a[:1], b[:1], labels[:1])):
            with pytest.raises(ParameterError, match="for the same images, at least 2"):
                use(METRICS["macro_f1"], *case)
    with pytest.raises(ParameterError, match="mean_squared_error is for regression"):
        paired_metric_interval(METRICS["mean_squared_error"], a, b, labels)

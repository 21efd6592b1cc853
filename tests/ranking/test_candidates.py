"""radin/ranking/candidates.py: subsets, all of them or a fair draw, and other mixing weights."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import Tensor

from helpers import exact_accuracy, random_bank, tied_banks
from radin import dirichlet, exhaustive, greedy_path, monte_carlo
from radin.errors import ParameterError
from radin.ranking import candidates as module
from radin.ranking.candidates import check_weights, distinct, from_subsets

UNLIKELY = 1e-4  # seeds are fixed, so a fair draw passes always


def bitmasks(candidates: Tensor) -> list[int]:
    return [sum(2**k for k, weight in enumerate(row) if weight > 0) for row in candidates.tolist()]


def check_subsets(candidates: Tensor) -> None:
    assert candidates.dtype == torch.float32
    for row in candidates.tolist():
        positive = [weight for weight in row if weight > 0]
        assert positive == [pytest.approx(1 / len(positive), rel=1e-6)] * len(positive)
        assert all(weight >= 0 for weight in row)


def sizes_of(candidates: Tensor) -> list[int]:
    return (candidates > 0).sum(1).tolist()


def check_fair(seen: list, outcomes: list, shares: list[float] | None = None) -> None:
    """Chi-square: the outcomes seen are all among those possible, each as often as it should be."""
    counts = Counter(seen)
    assert set(counts) <= set(outcomes)
    expected = np.array(shares or [1 / len(outcomes)] * len(outcomes)) * len(seen)
    assert stats.chisquare([counts[outcome] for outcome in outcomes], expected).pvalue > UNLIKELY


@st.composite
def limits(draw: st.DrawFn, most_models: int = 9) -> tuple[int, int, int]:
    """A number of ingredients, and a smallest and a largest size of its subsets."""
    num_models = draw(st.integers(1, most_models))
    min_size = draw(st.integers(1, num_models))
    return num_models, min_size, draw(st.integers(min_size, num_models))


def masks_within(num_models: int, min_size: int, max_size: int) -> list[int]:
    return [mask for mask in range(1, 2**num_models) if min_size <= mask.bit_count() <= max_size]


@pytest.fixture
def no_lists(monkeypatch):
    """Draw block after block, as among subsets too many to list, whatever their number."""
    monkeypatch.setattr(module, "_MAX_LISTED_SUBSETS", 0)


@pytest.mark.parametrize("num_models", [1, 2, 3, 7, 12])
def test_row_i_of_exhaustive_is_bitmask_i_plus_1(num_models):
    candidates = exhaustive(num_models)
    assert candidates.shape == (2**num_models - 1, num_models)
    assert bitmasks(candidates) == list(range(1, 2**num_models))
    check_subsets(candidates)


def test_too_many_subsets_are_refused_at_once():
    with pytest.raises(ParameterError, match="use monte_carlo"):
        exhaustive(21)


@given(
    num_models=st.integers(1, 80),
    num_candidates=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
)
@settings(max_examples=60)
def test_a_draw_holds_different_subsets_and_begins_with_every_shorter_one(
    num_models, num_candidates, seed
):
    candidates = monte_carlo(num_models, num_candidates, seed)
    assert candidates.shape == (min(num_candidates, 2**num_models - 1), num_models)
    assert len(set(bitmasks(candidates))) == len(candidates)
    check_subsets(candidates)
    assert torch.equal(monte_carlo(num_models, num_candidates, seed), candidates)
    shorter = max(1, num_candidates // 2)
    assert torch.equal(monte_carlo(num_models, shorter, seed), candidates[:shorter])
    assert torch.equal(
        monte_carlo(num_models, num_candidates + 50, seed)[: len(candidates)], candidates
    )


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
    for use in (
        lambda: exhaustive(count),
        lambda: monte_carlo(count, 5),
        lambda: monte_carlo(5, count),
    ):
        with pytest.raises(ParameterError, match="whole number of at least 1, not"):
            use()


@pytest.mark.parametrize("seed", [-1, 1.5, "x"])
def test_seeds_that_are_none_are_refused(seed):
    with pytest.raises(ParameterError, match="seed"):
        monte_carlo(5, 5, seed)


def test_numpy_counts_are_counts():
    assert torch.equal(exhaustive(np.int64(3)), exhaustive(3))


def test_rows_of_0_and_1_are_left_as_they_were():
    members = torch.tensor([[1.0, 1.0, 0.0]])
    assert from_subsets(members).tolist() == [[0.5, 0.5, 0.0]]
    assert members.tolist() == [[1.0, 1.0, 0.0]]


# Sizes within limits


@given(limits())
def test_every_subset_within_limits_comes_in_order_of_its_bitmask(limits):
    num_models, min_size, max_size = limits
    candidates = exhaustive(num_models, min_size=min_size, max_size=max_size)
    assert bitmasks(candidates) == masks_within(*limits)
    assert candidates.is_contiguous()
    check_subsets(candidates)


@pytest.mark.parametrize(
    ("num_models", "min_size", "max_size"),
    [(21, 1, 2), (30, 3, 3), (72, 70, None), (72, 72, 72), (90, 88, 89)],
)
def test_large_zoos_can_be_listed_within_limits(num_models, min_size, max_size):
    masks = bitmasks(exhaustive(num_models, min_size=min_size, max_size=max_size))
    sizes = range(min_size, (max_size or num_models) + 1)
    assert masks == sorted(set(masks))
    assert Counter(mask.bit_count() for mask in masks) == {
        size: math.comb(num_models, size) for size in sizes
    }


def test_as_many_subsets_are_listed_as_the_limit_allows():
    assert math.comb(24, 7) + math.comb(24, 8) == 1_081_575
    with pytest.raises(
        ParameterError, match=r"1,081,575 subsets of 7 to 8 of 24 .* \(limit 1,048,575\)"
    ):
        exhaustive(24, min_size=7, max_size=8)
    assert len(exhaustive(24, min_size=8, max_size=8)) == 735_471
    assert len(exhaustive(20, min_size=1, max_size=20)) == 1_048_575


@pytest.mark.parametrize(
    ("num_models", "count"),
    [(21, "2,097,151"), (72, "more than 2\\^71 "), (20_000, "more than 2\\^19999 ")],
)
def test_the_refusal_names_how_many_subsets_there_are(num_models, count):
    with pytest.raises(ParameterError, match=count):
        exhaustive(num_models)


@given(
    limits=limits(),
    num_candidates=st.integers(1, 300),
    seed=st.integers(0, 2**32 - 1),
    uniform=st.sampled_from(["subsets", "sizes"]),
)
@settings(max_examples=60)
def test_a_draw_keeps_to_its_limits(limits, num_candidates, seed, uniform):
    num_models, min_size, max_size = limits
    options = {"uniform": uniform, "min_size": min_size, "max_size": max_size}
    candidates = monte_carlo(num_models, num_candidates, seed, **options)
    allowed = masks_within(*limits)
    drawn = bitmasks(candidates)
    assert len(drawn) == len(set(drawn)) == min(num_candidates, len(allowed))
    assert set(drawn) <= set(allowed)
    check_subsets(candidates)
    shorter = monte_carlo(num_models, max(1, num_candidates // 3), seed, **options)
    assert torch.equal(shorter, candidates[: len(shorter)])


@given(
    num_models=st.integers(21, 90),
    data=st.data(),
    num_candidates=st.integers(2, 1500),
    seed=st.integers(0, 2**32 - 1),
    uniform=st.sampled_from(["subsets", "sizes"]),
)
@settings(max_examples=40)
def test_a_draw_from_a_large_zoo_keeps_to_its_limits(
    num_models, data, num_candidates, seed, uniform
):
    min_size = data.draw(st.integers(1, num_models))
    max_size = data.draw(st.integers(min_size, num_models))
    options = {"uniform": uniform, "min_size": min_size, "max_size": max_size}
    candidates = monte_carlo(num_models, num_candidates, seed, **options)
    total = sum(math.comb(num_models, size) for size in range(min_size, max_size + 1))
    assert len(set(bitmasks(candidates))) == len(candidates) == min(num_candidates, total)
    assert all(min_size <= size <= max_size for size in sizes_of(candidates))
    shorter = monte_carlo(num_models, num_candidates // 2, seed, **options)
    assert torch.equal(shorter, candidates[: len(shorter)])


def published_draw(num_models: int, num_candidates: int, seed: int) -> list[int]:
    """The bitmasks as the book's first edition drew them, row by row."""
    rng = np.random.default_rng(seed)
    if num_models <= 20:
        return (rng.permutation(2**num_models - 1)[:num_candidates] + 1).tolist()
    rows: dict[int, None] = {}
    while len(rows) < num_candidates:
        for row in rng.integers(0, 2, (1024, num_models), dtype=np.int8).tolist():
            if any(row):
                rows.setdefault(sum(bit << k for k, bit in enumerate(row)))
    return list(rows)[:num_candidates]


@pytest.mark.parametrize("num_models", [1, 4, 13, 20, 21, 22, 64, 72])
@pytest.mark.parametrize(("num_candidates", "seed"), [(1, 0), (700, 3), (2500, 2**32 - 1)])
def test_a_seed_means_what_it_meant_in_the_published_book(num_models, num_candidates, seed):
    drawn = bitmasks(monte_carlo(num_models, num_candidates, seed))
    assert drawn == published_draw(num_models, num_candidates, seed)
    assert drawn == bitmasks(
        monte_carlo(
            num_models, num_candidates, seed, uniform="subsets", min_size=1, max_size=num_models
        )
    )


@pytest.mark.parametrize("uniform", ["subsets", "sizes"])
def test_asking_for_more_than_exist_brings_all_of_them(uniform):
    pairs = monte_carlo(72, 10_000, uniform=uniform, max_size=2)
    assert sorted(bitmasks(pairs)) == bitmasks(exhaustive(72, max_size=2))
    assert len(pairs) == 2628
    everything = monte_carlo(16, 10**9, uniform=uniform)
    assert torch.equal(everything[np.argsort(bitmasks(everything))], exhaustive(16))


@pytest.mark.usefixtures("no_lists")
@pytest.mark.parametrize("uniform", ["subsets", "sizes"])
@pytest.mark.parametrize(("num_models", "min_size", "max_size"), [(8, 1, 8), (8, 2, 5), (1, 1, 1)])
def test_blocks_of_draws_reach_every_subset_too(uniform, num_models, min_size, max_size):
    candidates = monte_carlo(
        num_models, 10**9, 0, uniform=uniform, min_size=min_size, max_size=max_size
    )
    assert sorted(bitmasks(candidates)) == masks_within(num_models, min_size, max_size)


# Fair draws


def check_subsets_are_equally_likely() -> None:
    """No subset is favoured in row 0, 1, ... of many seeds, and no pair of rows is."""
    rows = [bitmasks(monte_carlo(4, 3, seed, min_size=2, max_size=3)) for seed in range(3000)]
    subsets = masks_within(4, 2, 3)
    for i in range(3):
        check_fair([row[i] for row in rows], subsets)
    check_fair(
        [(row[0], row[2]) for row in rows], [(a, b) for a in subsets for b in subsets if a != b]
    )


def test_subsets_within_limits_are_equally_likely():
    check_subsets_are_equally_likely()


@pytest.mark.usefixtures("no_lists")
def test_subsets_are_equally_likely_block_by_block_too():
    check_subsets_are_equally_likely()


@pytest.mark.parametrize(
    ("num_models", "min_size", "max_size"),
    [(24, 9, 12), (72, 1, 5), (72, 66, 72), (72, 35, 37), (90, 1, 45)],
)
def test_sizes_come_as_often_as_they_have_subsets(num_models, min_size, max_size):
    candidates = monte_carlo(num_models, 20_000, 7, min_size=min_size, max_size=max_size)
    sizes = range(min_size, max_size + 1)
    counts = [math.comb(num_models, size) for size in sizes]
    shares = [float(Fraction(count, sum(counts))) for count in counts]
    often = [size for size, share in zip(sizes, shares, strict=True) if share > 1e-3]
    merged = [size if size in often else 0 for size in sizes_of(candidates)]
    check_fair(
        merged,
        [0, *often],
        [max(1e-9, 1 - sum(shares[s - min_size] for s in often))]
        + [shares[s - min_size] for s in often],
    )
    members = (candidates > 0).double().sum(0).numpy()
    assert stats.chisquare(members).pvalue > UNLIKELY  # every ingredient as often as the others


def test_counts_of_subsets_beyond_every_float_are_no_trouble():
    assert math.comb(2000, 1000) > 10**308
    for uniform in ("subsets", "sizes"):
        sizes = sizes_of(monte_carlo(2000, 20, 0, uniform=uniform, min_size=2, max_size=1001))
        assert all(2 <= size <= 1001 for size in sizes)
        assert (min(sizes) > 900) == (uniform == "subsets")


def test_sizes_are_equally_likely_and_so_are_the_subsets_of_each():
    rows = [
        bitmasks(monte_carlo(5, 2, seed, uniform="sizes", min_size=2, max_size=4))
        for seed in range(3000)
    ]
    for i in range(2):
        drawn = [row[i] for row in rows]
        check_fair([mask.bit_count() for mask in drawn], [2, 3, 4])
        for size in (2, 3, 4):
            check_fair(
                [mask for mask in drawn if mask.bit_count() == size], masks_within(5, size, size)
            )
    pairs = [
        tuple(sorted(row, key=int.bit_count))
        for row in rows
        if {mask.bit_count() for mask in row} == {2, 3}
    ]
    check_fair(
        pairs, [(a, b) for a in masks_within(5, 2, 2) for b in masks_within(5, 3, 3)]
    )  # independent


def test_a_size_without_subsets_left_is_left_out_from_then_on():
    orders = [tuple(sizes_of(monte_carlo(2, 3, seed, uniform="sizes"))) for seed in range(2000)]
    check_fair(orders, [(2, 1, 1), (1, 2, 1), (1, 1, 2)], [1 / 2, 1 / 4, 1 / 4])
    # 20,000 rows in 72 sizes are some 278 each: three sizes have fewer subsets,
    # and the others share the rest.
    counts = Counter(sizes_of(monte_carlo(72, 20_000, uniform="sizes")))
    assert (counts[1], counts[71], counts[72]) == (72, 72, 1)
    assert stats.chisquare([counts[size] for size in range(2, 71)]).pvalue > UNLIKELY


# Other mixing weights


@given(
    num_models=st.integers(1, 30),
    num_candidates=st.integers(1, 1500),
    seed=st.integers(0, 2**32 - 1),
    concentration=st.floats(5e-324, 1.7e308)
    | st.floats(-320, 308).map(lambda power: max(10.0**power, 5e-324)),
)
@settings(max_examples=80)
def test_dirichlet_rows_are_different_mixing_weights(
    num_models, num_candidates, seed, concentration
):
    candidates = dirichlet(num_models, num_candidates, seed, concentration=concentration)
    assert candidates.dtype == torch.float32
    p = check_weights(candidates, num_models, rows=True)
    assert (p.sum(1) - 1).abs().max() < 1e-6
    assert torch.equal(distinct(candidates), candidates)
    assert 1 <= len(candidates) <= num_candidates
    assert num_models > 1 or len(candidates) == 1
    shorter = dirichlet(num_models, max(1, num_candidates // 3), seed, concentration=concentration)
    assert torch.equal(shorter, candidates[: len(shorter)])
    longer = dirichlet(num_models, num_candidates + 40, seed, concentration=concentration)
    assert torch.equal(longer[: len(candidates)], candidates)


def check_beta(values: np.ndarray, a: float, b: float) -> None:
    """Chi-square against the Beta distribution, in bins much wider than single precision."""
    edges = np.array(
        [1e-30, 1e-12, 1e-6, 1e-3, 0.01, 0.05, 0.1, 0.2, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999]
    )
    shares = np.diff(stats.beta(a, b).cdf(edges), prepend=0, append=1)
    edges = edges[(shares[:-1] > 0.002) & (shares[1:] > 0.002)]
    assert len(edges) >= 2
    expected = np.diff(stats.beta(a, b).cdf(edges), prepend=0, append=1) * len(values)
    counts = np.bincount(np.searchsorted(edges, values), minlength=len(expected))
    assert stats.chisquare(counts, expected).pvalue > UNLIKELY


@pytest.mark.parametrize(
    ("num_models", "concentration"),
    [(2, 1.0), (5, 1.0), (72, 1.0), (3, 0.05), (8, 0.3), (4, 0.01), (3, 7.5)],
)
def test_dirichlet_weights_are_distributed_as_they_should_be(num_models, concentration):
    p = dirichlet(num_models, 6000, 1, concentration=concentration).double().numpy()
    assert p.shape == (6000, num_models)
    for k in {0, num_models // 2, num_models - 1}:
        check_beta(p[:, k], concentration, (num_models - 1) * concentration)
    if num_models > 2:  # two ingredients together
        check_beta(p[:, 0] + p[:, -1], 2 * concentration, (num_models - 2) * concentration)


def test_a_tiny_concentration_leaves_one_ingredient_in_each_row():
    for concentration in (1e-9, 1e-300, 5e-324):
        candidates = dirichlet(7, 1000, 0, concentration=concentration)
        assert sorted(candidates.tolist(), reverse=True) == torch.eye(7).tolist()
    first = [dirichlet(3, 1, seed, concentration=1e-30).argmax().item() for seed in range(1500)]
    check_fair(first, [0, 1, 2])


def test_a_huge_concentration_leaves_the_uniform_soup():
    for concentration in (1e40, 1.7e308, 10**300):
        assert torch.equal(
            dirichlet(6, 1000, 0, concentration=concentration), torch.full((1, 6), 1 / 6)
        )


def test_dirichlet_seeds_differ():
    assert not torch.equal(dirichlet(5, 10, seed=0), dirichlet(5, 10, seed=1))


@pytest.mark.parametrize(
    "rows",
    [
        [[0.5, 0.5], [1.0, 0.0], [0.5, 0.5], [0.0, 1.0], [1.0, 0.0]],
        [[1.0, 0.0], [1.0, -0.0], [0.0, 1.0], [-0.0, 1.0]],
        [[1.0]],
        [[0.0, 0.0], [1.0, 0.0], [0.0, 0.0]],  # zero bytes at the end of a row count
    ],
)
@pytest.mark.parametrize(
    "dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, torch.int64, torch.bool]
)
def test_distinct_rows_come_once_in_order(rows, dtype):
    candidates = torch.tensor(rows).to(dtype)
    found = distinct(candidates)
    assert found.dtype == dtype
    assert found.tolist() == [list(row) for row in dict.fromkeys(map(tuple, candidates.tolist()))]


@given(
    st.lists(
        st.lists(st.sampled_from([0.0, -0.0, 1e-45, 0.25, 1.0]), min_size=3, max_size=3), min_size=1
    )
)
def test_distinct_rows_are_those_of_a_plain_loop(rows):
    candidates = torch.tensor(rows)
    expected = [list(row) for row in dict.fromkeys(map(tuple, candidates.tolist()))]
    assert distinct(candidates).tolist() == expected
    assert (
        distinct(candidates.T.contiguous().T).tolist() == expected
    )  # whatever the layout in memory


def test_distinct_of_nothing_repeated_is_everything():
    assert torch.equal(distinct(exhaustive(12)), exhaustive(12))
    assert torch.equal(
        distinct(torch.cat([exhaustive(12), exhaustive(12).flip(0)])), exhaustive(12)
    )
    assert distinct(torch.zeros(0, 4)).shape == (0, 4)


# What is refused


@pytest.mark.parametrize("size", [0, -1, 1.5, True, "4", 2.0])
def test_sizes_that_are_none_are_refused(size):
    for name in ("min_size", "max_size"):
        for use in (lambda limit: exhaustive(5, **limit), lambda limit: monte_carlo(5, 5, **limit)):
            with pytest.raises(
                ParameterError, match=f"{name} must be a whole number of at least 1, not"
            ):
                use({name: size})


@pytest.mark.parametrize(("min_size", "max_size"), [(3, 2), (6, None), (1, 6), (6, 6), (6, 7)])
def test_limits_that_leave_no_size_or_pass_the_zoo_are_refused(min_size, max_size):
    shown = f"min_size <= max_size <= num_models; here they are {min_size}, {max_size or 5} and 5"
    with pytest.raises(ParameterError, match=shown):
        exhaustive(5, min_size=min_size, max_size=max_size)
    for uniform in ("subsets", "sizes"):
        with pytest.raises(ParameterError, match=shown):
            monte_carlo(5, 5, 0, uniform=uniform, min_size=min_size, max_size=max_size)


@pytest.mark.parametrize("uniform", ["x", "", None, 1, ["sizes"]])
def test_an_unknown_kind_of_draw_is_refused(uniform):
    with pytest.raises(ParameterError, match="uniform must be one of subsets, sizes, not"):
        monte_carlo(5, 5, uniform=uniform)


@pytest.mark.parametrize(
    "concentration", [0, -1.0, math.nan, math.inf, 10**400, True, "1", None, 1j, [1.0]]
)
def test_a_concentration_that_is_none_is_refused(concentration):
    with pytest.raises(ParameterError, match="concentration must be a finite number above 0, not"):
        dirichlet(5, 5, concentration=concentration)


def test_dirichlet_checks_its_counts_and_its_seed():
    for arguments in ((0, 5), (5, 0), (5.0, 5), (5, True)):
        with pytest.raises(ParameterError, match="whole number of at least 1, not"):
            dirichlet(*arguments)
    with pytest.raises(ParameterError, match="seed"):
        dirichlet(5, 5, -1)


@pytest.mark.parametrize("shape", [(3,), (2, 2, 2), (), (3, 0)])
def test_distinct_wants_a_table(shape):
    with pytest.raises(ParameterError, match=r"shape \(M, N\)"):
        distinct(torch.zeros(shape))


def test_numpy_numbers_are_numbers():
    listed = exhaustive(np.int64(5), min_size=np.int32(2), max_size=np.uint8(3))
    assert torch.equal(listed, exhaustive(5, min_size=2, max_size=3))
    for uniform in ("subsets", "sizes"):
        numpy_draw = monte_carlo(
            np.int64(30),
            np.int16(9),
            np.uint32(4),
            uniform=uniform,
            min_size=np.int8(2),
            max_size=np.int64(20),
        )
        expected = monte_carlo(30, 9, 4, uniform=uniform, min_size=2, max_size=20)
        assert torch.equal(numpy_draw, expected)
    for concentration in (np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        assert torch.equal(
            dirichlet(4, 9, 2, concentration=concentration), dirichlet(4, 9, 2, concentration=0.5)
        )
    assert torch.equal(dirichlet(4, 9, 2, concentration=np.int64(1)), dirichlet(4, 9, 2))


@given(bank=tied_banks(), replacement=st.booleans(), steps=st.integers(1, 7))
@settings(max_examples=60)
def test_the_greedy_path_takes_the_best_step_each_time(bank, replacement, steps):
    N = bank.num_models
    counts, expected = [0] * N, []
    for _ in range(steps if replacement else min(steps, N)):
        scores = []
        for k in range(N):
            more = torch.tensor([count + (j == k) for j, count in enumerate(counts)])
            scores.append(-1 if counts[k] and not replacement else exact_accuracy(bank, more))
        counts[scores.index(max(scores))] += 1
        expected.append(from_subsets(torch.tensor([counts])))
    path = greedy_path(bank, steps, replacement=replacement)
    assert torch.equal(path, distinct(torch.cat(expected)))
    check_weights(path, N, rows=True)


def test_the_greedy_path_starts_at_the_best_single_and_can_use_one_twice():
    bank = random_bank(5, 200, seed=4)
    path = greedy_path(bank, 30)
    assert path[0].argmax() == bank.accuracies().argmax()
    assert (
        (path > 0).sum(1).max() < 30 == len(greedy_path(random_bank(40, 50), 30, replacement=False))
    )
    assert len(greedy_path(bank, replacement=False)) == 5, "each ingredient once"


@pytest.mark.parametrize("steps", [0, -1, True, 1.5])
def test_impossible_numbers_of_steps(steps):
    with pytest.raises(ParameterError, match="steps must be a whole number of at least 1"):
        greedy_path(random_bank(), steps)

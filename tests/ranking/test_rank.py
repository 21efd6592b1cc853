"""radin/ranking/rank.py: fast estimates are exact, rankings reproducible."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import exact_accuracy, exact_ensemble, mixing_weights, random_bank, tied_banks
from radin import LogitBank, exhaustive, fast_estimate, monte_carlo, rank
from radin.errors import ParameterError
from radin.ranking import estimates
from radin.ranking import rank as rank_module
from radin.ranking.candidates import effective_number
from radin.ranking.rank import ensemble_answers


@st.composite
def banks_with_candidates(draw: st.DrawFn) -> tuple[LogitBank, Tensor]:
    bank = draw(tied_banks())
    if draw(st.booleans()):
        return bank, exhaustive(bank.num_models)
    rows = draw(st.lists(mixing_weights(bank.num_models), min_size=1, max_size=6))
    return bank, torch.stack(rows)


@given(case=banks_with_candidates())
@settings(max_examples=150)
def test_accuracy_is_exact_with_ties_everywhere(case):
    bank, candidates = case
    estimates = fast_estimate(bank, candidates)
    assert estimates.dtype == torch.float64
    assert estimates.tolist() == pytest.approx(
        [float(exact_accuracy(bank, p)) for p in candidates], abs=1e-9
    )


@given(case=banks_with_candidates(), block_logits=st.integers(1, 40))
@settings(max_examples=50)
def test_blocks_of_any_size_give_the_same_estimates(case, block_logits):
    bank, candidates = case
    whole = {metric: fast_estimate(bank, candidates, metric) for metric in ("accuracy", "nll")}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(estimates, "_BLOCK_LOGITS", block_logits)
        patch.setattr("radin.ranking.margins._MAX_BLOCK_LOGITS", block_logits)
        assert torch.equal(fast_estimate(bank, candidates), whole["accuracy"])
        torch.testing.assert_close(
            fast_estimate(bank, candidates, "nll"), whole["nll"], rtol=1e-12, atol=1e-12
        )


@given(bank=tied_banks(), max_logits=st.integers(1, 40))
@settings(max_examples=50)
def test_answers_to_each_image_are_what_the_estimates_are_means_of(bank, max_logits):
    subsets = exhaustive(bank.num_models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rank_module, "_MAX_ENSEMBLE_LOGITS", max_logits)
        right, losses = ensemble_answers(bank, subsets)
    assert right.shape == losses.shape == (len(subsets), bank.num_images)
    assert (100 * right.double().mean(1)).tolist() == pytest.approx(
        fast_estimate(bank, subsets).tolist(), abs=1e-9
    )
    # A loss is the difference of two numbers as large as the logits, with their rounding in
    # double precision.
    rounding = 16 * torch.finfo(torch.float64).eps * max(1.0, bank.logits.abs().max().item())
    torch.testing.assert_close(
        losses.mean(1), fast_estimate(bank, subsets, "nll"), rtol=1e-12, atol=rounding
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
@pytest.mark.parametrize("rows", [None, 300])
def test_many_classes_and_images_agree_with_the_loop(dtype, rows):
    """As many rivals, blocks and threads as a real bank has; the reference forms every ensemble."""
    rng = torch.Generator().manual_seed(3)
    labels = torch.randint(200, (700,), generator=rng)
    shared = torch.randn(700, 200, generator=rng)
    shared[torch.arange(700), labels] += 3
    logits = (shared + 0.6 * torch.randn(9, 700, 200, generator=rng)).to(dtype)
    bank = LogitBank(logits, labels)
    if rows is None:
        candidates = exhaustive(9)
    else:
        p = torch.rand(rows, 9, generator=rng)
        candidates = p / p.sum(1, keepdim=True)
    expected = [
        (torch.einsum("k,knc->nc", p, logits.double()).argmax(1) == labels).double().mean().item()
        * 100
        for p in candidates.double()
    ]
    assert fast_estimate(bank, candidates).tolist() == pytest.approx(expected, abs=1e-9)


@given(bank=tied_banks(), data=st.data())
@settings(max_examples=100)
def test_the_table_of_all_subsets_and_candidates_one_by_one_agree(bank, data):
    N = bank.num_models
    masks = data.draw(st.lists(st.integers(1, 2**N - 1), min_size=1, max_size=8))
    subsets = exhaustive(N)[[mask - 1 for mask in masks]]
    expected = [float(exact_accuracy(bank, p)) for p in subsets]
    for table_rows, unused in ((0, "count_every_subset"), (2**30, "count_candidates")):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(rank_module, "_TABLE_ROWS_PER_CANDIDATE", table_rows)
            patch.setattr(rank_module, unused, None)
            assert fast_estimate(bank, subsets).tolist() == expected


def exact_nll(bank: LogitBank, weights: Tensor) -> float:
    total = sum(Fraction(w) for w in weights.tolist())
    losses = []
    for row, label in zip(exact_ensemble(bank, weights), bank.labels.tolist(), strict=True):
        top = max(row)
        rest = math.fsum(math.exp(max(float((z - top) / total), -1e6)) for z in row)
        losses.append(float((top - row[label]) / total) + math.log(rest))
    return math.fsum(losses) / len(losses)


@given(case=banks_with_candidates())
@settings(max_examples=100)
def test_nll_is_exact_at_every_scale(case):
    bank, candidates = case
    size = bank.logits.abs().max().item()
    for found, p in zip(fast_estimate(bank, candidates, "nll").tolist(), candidates, strict=True):
        assert found == pytest.approx(exact_nll(bank, p), rel=1e-12, abs=1e-12 * (1 + size))


def test_nll_by_hand():
    bank = LogitBank(torch.tensor([[[0.0, 0.0]], [[2.0, 0.0]]]), torch.tensor([1]))
    found = fast_estimate(bank, torch.tensor([[1.0, 0.0], [0.5, 0.5]]), "nll").tolist()
    assert found == pytest.approx([math.log(2), math.log(1 + math.e)])


@given(bank=tied_banks())
@settings(max_examples=50)
def test_the_ensemble_of_one_is_the_model(bank):
    alone = fast_estimate(bank, torch.eye(bank.num_models))
    right = [
        sum(
            max(range(bank.num_classes), key=lambda c: (row[c], -c)) == y
            for row, y in zip(model, labels, strict=True)
        )
        for labels in [bank.labels.tolist()]
        for model in bank.logits.tolist()
    ]
    assert alone.tolist() == pytest.approx([100 * r / bank.num_images for r in right])
    assert torch.equal(alone, bank.accuracies()), (
        "one accuracy, two roundings: ties break by chance"
    )


def test_one_number_for_one_accuracy():
    """r right answers of n are the same percentage from the bank, an estimate, an evaluation."""
    for n in range(1, 200):
        labels = (torch.arange(n) >= n // 3).long()
        bank = LogitBank(torch.tensor([1.0, 0.0]).expand(1, n, 2).contiguous(), labels)
        assert fast_estimate(bank, torch.ones(1, 1)).item() == bank.accuracies().item(), (
            f"{n // 3} of {n}"
        )


@pytest.mark.parametrize(("label", "expected"), [(0, 100), (1, 0)])
def test_a_tie_stays_a_tie_with_weights_in_double_precision(label, expected):
    logits = torch.tensor([[[3.0, 0.0]], [[0.0, 3.0]], [[1.0, 1.0]], [[1.0, 1.0]]])
    p = torch.tensor([[1 / 3, 1 / 3, 1 / 6, 1 / 6]], dtype=torch.float64)
    assert fast_estimate(LogitBank(logits, torch.tensor([label])), p).item() == expected


def test_ensembles_of_equal_models_are_the_model():
    one = random_bank(1, 50)
    bank = LogitBank(one.logits.repeat(4, 1, 1), one.labels)
    estimates = fast_estimate(bank, exhaustive(4))
    assert torch.equal(estimates, estimates[:1].expand(15))


@given(data=st.data(), bank=tied_banks(), prior=st.sampled_from([0, 0.25, 1, 8, 100]))
@settings(max_examples=150)
def test_order_of_the_ranking(data, bank, prior):
    N = bank.num_models
    rows = data.draw(st.lists(st.integers(1, 2**N - 1), min_size=1, max_size=12))
    candidates = exhaustive(N)[[row - 1 for row in rows]]  # repeats among them
    sizes = [mask.bit_count() for mask in rows]
    scores = [
        exact_accuracy(bank, p) + Fraction(prior) * s / N
        for p, s in zip(candidates, sizes, strict=True)
    ]
    ranking = rank(bank, candidates, prior)
    expected = sorted(range(len(rows)), key=lambda i: (-scores[i], -sizes[i], rows[i], i))
    assert ranking.order.tolist() == expected
    assert ranking.order.dtype == torch.int64
    assert ranking.scores.tolist() == pytest.approx([float(score) for score in scores], abs=1e-9)
    assert torch.equal(ranking.estimates, fast_estimate(bank, candidates))


def first_distinct(candidates: Tensor, order: Tensor, count: int) -> list[int]:
    """The first `count` indices in the order whose rows of weights have not come before."""
    seen, chosen = [], []
    for i in order.tolist():
        if candidates[i].tolist() not in seen:
            seen.append(candidates[i].tolist())
            chosen.append(i)
    return chosen[:count]


@given(data=st.data(), bank=tied_banks(), prior=st.sampled_from([0, 0.25, 1, 8, 100, 1e6]))
@settings(max_examples=200)
def test_top_is_the_beginning_of_the_whole_order(data, bank, prior):
    N = bank.num_models
    rows = data.draw(st.lists(mixing_weights(N), min_size=1, max_size=5))
    rows += [
        row * data.draw(st.sampled_from([1.0, 1.0, 1 + 2**-20])) for row in rows
    ]  # repeats, and nearly so
    rows = [torch.where(row == 0, data.draw(st.sampled_from([0.0, -0.0])), row) for row in rows]
    subsets = exhaustive(N)[data.draw(st.lists(st.integers(0, 2**N - 2), max_size=8))]
    candidates = torch.cat([torch.stack(rows), subsets])
    candidates = candidates[data.draw(st.permutations(range(len(candidates))))]
    whole = rank(bank, candidates, prior)
    top = data.draw(st.integers(1, len(candidates) + 2))
    some = rank(bank, candidates, prior, top=top)
    assert some.order.tolist() == first_distinct(candidates, whole.order, top)
    assert some.order.dtype == torch.int64
    assert torch.equal(some.estimates, whole.estimates)
    assert torch.equal(some.scores, whole.scores)


@pytest.mark.parametrize("top", [1, 2, 3, 20, 63, 64, 500])
def test_top_finds_enough_behind_many_repeats(top):
    """The best candidate a thousand times over, then ties, then all that is left."""
    bank = random_bank(6, 7)
    best = int(rank(bank, exhaustive(6)).order[0])
    candidates = torch.cat([exhaustive(6)[best].repeat(1000, 1), exhaustive(6).repeat(2, 1)])
    whole = rank(bank, candidates)
    assert rank(bank, candidates, top=top).order.tolist() == first_distinct(
        candidates, whole.order, top
    )
    assert len(rank(bank, candidates, top=top).order) == min(top, 63)


def test_zero_and_minus_zero_are_one_weight():
    candidates = torch.tensor([[1.0, -0.0], [1.0, 0.0], [0.0, 1.0]])
    assert sorted(rank(random_bank(2), candidates, top=3).order.tolist()) == [0, 2]


@pytest.mark.parametrize("top", [0, -1, True, 1.5, "1", math.nan, [1]])
def test_impossible_tops(top):
    with pytest.raises(ParameterError, match="top must be a whole number of at least 1, not "):
        rank(random_bank(), exhaustive(3), top=top)


def test_numpy_tops_are_tops():
    assert len(rank(random_bank(), exhaustive(3), top=np.int64(2)).order) == 2
    assert len(rank(random_bank(), exhaustive(3), top=None).order) == 7


@pytest.mark.parametrize("top", [None, 1, 5])
def test_one_candidate_is_the_first(top):
    for p in ([[0.0, 1.0, 0.0]], [[0.2, 0.3, 0.5]]):
        ranking = rank(random_bank(), torch.tensor(p), prior=1.0, top=top)
        assert ranking.order.tolist() == [0]
        assert ranking.estimates.shape == ranking.scores.shape == (1,)


@pytest.mark.parametrize("N", [61, 62, 63, 64, 124, 125, 200])
def test_bitmasks_of_any_length_order_as_whole_numbers_do(N):
    """One image and few sizes: nearly all is tied, down to the bitmask."""
    rng = torch.Generator().manual_seed(N)
    bank = random_bank(N, 1, 2, seed=N)
    size = torch.randint(1, 4, (120, 1), generator=rng)
    members = torch.rand(120, N, generator=rng).argsort(1) < size
    members[:20] = members[20:40]
    members = torch.cat([members, torch.eye(N, dtype=torch.bool)])  # each bit alone
    masks = [sum(1 << k for k in row.nonzero().flatten().tolist()) for row in members]
    ranking = rank(bank, members / members.sum(1, keepdim=True))
    keys = zip(ranking.estimates.tolist(), members.sum(1).tolist(), masks, strict=True)
    expected = [(-estimate, -held, mask, i) for i, (estimate, held, mask) in enumerate(keys)]
    assert ranking.order.tolist() == [key[-1] for key in sorted(expected)]


def test_a_strong_prior_favours_the_most_ingredients():
    bank = random_bank(5, 30)
    order = rank(bank, exhaustive(5), prior=1e6).order
    sizes = (exhaustive(5) > 0).sum(1)[order]
    assert sizes.tolist() == sorted(sizes.tolist(), reverse=True)


def test_the_prior_is_in_points_of_accuracy():
    """The full zoo, 10 points worse than the best single, wins if lambda * (1 - 1/N) > 10."""
    labels = torch.zeros(10, dtype=torch.int64)
    right, wrong = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 3.0])
    bank = LogitBank(
        torch.stack([right.repeat(10, 1), torch.cat([right.repeat(9, 1), wrong.view(1, 2)])]),
        labels,
    )
    candidates = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    assert rank(bank, candidates, prior=19.9).order.tolist() == [0, 1]
    assert rank(bank, candidates, prior=20.1).order.tolist() == [1, 0]
    assert rank(bank, candidates, prior=20.0).order.tolist() == [
        1,
        0,
    ]  # a tie goes to more ingredients


@given(weights=st.integers(1, 6).flatmap(mixing_weights))
def test_effective_number(weights):
    p = [Fraction(w) for w in weights.tolist()]
    assert effective_number(weights.unsqueeze(0)).item() == pytest.approx(
        float(sum(p) ** 2 / sum(w * w for w in p))
    )


def test_a_zoo_of_72_ranks():
    bank = random_bank(72, 40, 5)
    candidates = monte_carlo(72, 50)
    found = fast_estimate(bank, candidates)
    for i in range(0, 50, 10):
        assert found[i].item() == pytest.approx(float(exact_accuracy(bank, candidates[i])))
    assert sorted(rank(bank, candidates).order.tolist()) == list(range(50))


@pytest.mark.parametrize(
    ("candidates", "said"),
    [
        (torch.eye(4), r"shape \(M, 3\)"),
        (torch.eye(3)[0], r"shape \(M, 3\)"),
        (torch.zeros(0, 3), r"shape \(M, 3\)"),
        (torch.tensor([[2.0, -1.0, 0.0]]), "negative"),
        (torch.ones(1, 3), "sum to 3"),
        (torch.full((1, 3), math.nan), "NaN"),
    ],
)
def test_candidates_that_do_not_fit_the_bank(candidates, said):
    for use in (fast_estimate, rank):
        with pytest.raises(ParameterError, match=said):
            use(random_bank(3), candidates)


def test_unknown_metric():
    with pytest.raises(
        ParameterError, match="metric must be one of accuracy, nll, macro_f1.*, not 'f1'"
    ):
        fast_estimate(random_bank(), exhaustive(3), "f1")


@pytest.mark.parametrize("prior", [math.nan, math.inf, "x", "1", -0.1, None, True, [1]])
def test_impossible_priors(prior):
    with pytest.raises(ParameterError, match="prior must be a finite number of at least 0"):
        rank(random_bank(), exhaustive(3), prior)


def test_numpy_priors_are_priors():
    bank, candidates = random_bank(), exhaustive(3)
    assert torch.equal(
        rank(bank, candidates, np.float32(1)).scores, rank(bank, candidates, 1).scores
    )


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_candidates_on_the_gpu():
    bank, candidates = random_bank(5, 300, 10), exhaustive(5)
    assert torch.equal(rank(bank, candidates.cuda()).order, rank(bank, candidates).order)

"""radin/ranking/{cpu,gpu}_kernels.py: they collect and count what a plain loop finds."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from itertools import pairwise
from types import ModuleType

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit
from torch import Tensor

from helpers import exact_ensemble, mixing_weights, random_bank, tied_banks
from radin import LogitBank
from radin.ranking import cpu_kernels, gpu_kernels

BOTH = pytest.mark.parametrize("kernels", [cpu_kernels, gpu_kernels], ids=["numba", "torch"])
MarginFields = tuple[int, Tensor, Tensor, Tensor]


@njit
def decode(bits: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order, value = np.empty(len(bits), np.int64), np.empty(len(bits), np.float64)
    for i in range(len(bits)):
        order[i], value[i] = cpu_kernels._sort_key(bits[i]), cpu_kernels._to_double(bits[i])
    return order, value


def test_every_half_is_the_number_that_numpy_reads():
    bits = np.arange(2**16).astype(np.uint16).view(np.int16)
    numbers = bits.view(np.float16).astype(np.float64)
    order, value = decode(bits)
    finite = np.isfinite(numbers)
    assert finite.sum() == 2**16 - 2**11
    assert np.array_equal(value[finite], numbers[finite])
    ascending = np.argsort(order[finite], kind="stable")
    steps, rises = np.diff(order[finite][ascending]), np.diff(numbers[finite][ascending])
    assert np.array_equal(steps > 0, rises > 0), "equal where equal (-0 and 0), larger where larger"
    assert (rises >= 0).all()


def test_without_a_folder_to_keep_them_in_loops_are_compiled_all_the_same():
    names: dict[str, object] = {}
    exec("def add_one(x): return x + 1", names)  # of no file, so numba finds no folder beside it
    with pytest.raises(RuntimeError, match="no locator"):
        njit(names["add_one"], cache=True)
    assert cpu_kernels.compiled_loop(names["add_one"])(1) == 2


@st.composite
def odd_banks(draw: st.DrawFn) -> LogitBank:
    """Banks that no data set makes: ties, equal models, all dtypes, any scales and strides."""
    bank = draw(tied_banks())
    logits, (N, n, C) = bank.logits, bank.logits.shape
    kind = draw(st.sampled_from(["tied", "any half", "bfloat16", "scales apart", "extreme"]))
    if kind == "any half":
        half = st.floats(width=16, allow_nan=False, allow_infinity=False)
        edges = st.sampled_from([0.0, -0.0, 65504.0, -65504.0, 2.0**-24, -(2.0**-24), 2.0**-14])
        numbers = draw(st.lists(half | edges, min_size=logits.numel(), max_size=logits.numel()))
        logits = torch.tensor(numbers, dtype=torch.float16).view(N, n, C)
    elif kind == "bfloat16":
        logits = logits.bfloat16()
    elif kind == "scales apart":
        scale = draw(st.lists(st.integers(-10, 10), min_size=N, max_size=N))
        logits = logits.float() * 2.0 ** torch.tensor(scale).view(N, 1, 1)
    elif kind == "extreme":  # from the smallest subnormal to nearly the largest single
        scale = draw(
            st.lists(st.sampled_from([-149, -148, -130, -126, 0, 120, 126]), min_size=n, max_size=n)
        )
        logits = (
            logits.sign().double() * 2.0 ** torch.tensor(scale).double().view(1, n, 1)
        ).float()
    memory = draw(st.sampled_from(["plain", "images first", "classes first", "every other class"]))
    if memory == "images first":
        logits = logits.transpose(0, 1).contiguous().transpose(0, 1)
    elif memory == "classes first":
        logits = logits.permute(2, 1, 0).contiguous().permute(2, 1, 0)
    elif memory == "every other class":
        logits = logits.repeat_interleave(2, 2)[..., ::2]
    return LogitBank(logits, bank.labels)


def decisions(found: MarginFields, weights: Sequence[Fraction]) -> list[bool]:
    """Whether the ensemble is right on each contested image, from its margins, in fractions."""
    _, margins, wins_ties, starts = found
    averages = [
        sum(w * Fraction(m) for w, m in zip(weights, row, strict=True)) for row in margins.tolist()
    ]
    ahead = [
        average > 0 or (average == 0 and not tie)
        for average, tie in zip(averages, wins_ties.tolist(), strict=True)
    ]
    return [all(ahead[start:stop]) for start, stop in pairwise(starts.tolist())]


def fractions(weights: Tensor) -> list[Fraction]:
    return [Fraction(w) for w in weights.tolist()]


def check_form(found: MarginFields, num_models: int) -> None:
    always_right, margins, wins_ties, starts = found
    assert isinstance(always_right, int)
    assert (margins.dtype, wins_ties.dtype, starts.dtype) == (
        torch.float64,
        torch.bool,
        torch.int64,
    )
    assert margins.shape == (len(wins_ties), num_models)
    assert starts[0] == 0
    assert starts[-1] == len(margins)
    assert (starts.diff() > 0).all(), "each contested image has a rival"


@BOTH
@given(data=st.data(), bank=odd_banks())
@settings(max_examples=150)
def test_every_ensemble_is_decided_by_what_is_collected(kernels, data, bank):
    first = data.draw(st.integers(0, bank.num_images - 1))
    last = data.draw(st.integers(first + 1, bank.num_images))
    found = kernels.collect(bank.logits, bank.labels, first, last)
    check_form(found, bank.num_models)

    logits, labels = bank.logits.tolist(), bank.labels.tolist()
    always_right, contested = [], []
    for i in range(first, last):
        y = labels[i]
        # For each other class, whether the label is ahead of it in each ingredient. The
        # lower class wins ties.
        ahead = [
            [(model[i][y], c) > (model[i][c], y) for model in logits]
            for c in range(bank.num_classes)
            if c != y
        ]
        if all(map(all, ahead)):
            always_right.append(i)
        elif all(map(any, ahead)):
            contested.append(i)
    assert found[0] == len(always_right)
    assert len(found[3]) - 1 == len(contested)

    for p in [
        *torch.eye(bank.num_models),
        *data.draw(st.lists(mixing_weights(bank.num_models), max_size=4)),
    ]:
        right = [
            row.index(max(row)) == y for row, y in zip(exact_ensemble(bank, p), labels, strict=True)
        ]
        assert decisions(found, fractions(p)) == [right[i] for i in contested]
        assert sum(right[first:last]) == len(always_right) + sum(right[i] for i in contested)


@BOTH
def test_labels_that_no_model_predicts(kernels):
    """The lowest class everywhere leaves nothing to decide; one that wins all ties is right."""
    logits = random_bank(3, 40, 5).logits.half()
    logits[:, :, 4] = -65504.0
    found = kernels.collect(logits, torch.full((40,), 4), 0, 40)
    check_form(found, 3)
    assert (found[0], found[1].shape, found[3].tolist()) == (0, (0, 3), [0])
    assert (
        kernels.collect(torch.zeros(3, 40, 5), torch.zeros(40, dtype=torch.int64), 0, 40)[0] == 40
    )


def contested_bank(num_models: int, num_images: int, num_classes: int, seed: int = 0) -> LogitBank:
    """Models that agree on much and are far from certain: many rivals, some of them dominated."""
    rng = torch.Generator().manual_seed(seed)
    labels = torch.randint(num_classes, (num_images,), generator=rng)
    shared = torch.randn(num_images, num_classes, generator=rng)
    shared[torch.arange(num_images), labels] += 2
    noise = torch.randn(num_models, num_images, num_classes, generator=rng)
    return LogitBank(shared + 0.7 * noise, labels)


def averaged_hits(kernels: ModuleType, found: MarginFields, weights: Tensor) -> Tensor:
    """On how many images each of the weights (M, N) is right, by what was collected."""
    always_right, margins, wins_ties, starts = found
    return always_right + kernels.count_candidates(
        margins, wins_ties, starts, weights.T.contiguous()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_dominated_rivals_never_decide(dtype):
    """More rivals in an image than are compared, and more rows than the first capacity."""
    bank = contested_bank(4, 300, 120)
    logits = bank.logits.to(dtype)
    some, every = (each.collect(logits, bank.labels, 0, 300) for each in (cpu_kernels, gpu_kernels))
    assert some[0] == every[0]
    assert len(some[3]) == len(every[3])
    assert len(every[1]) > len(some[1]) > 256
    assert every[3].diff().max() > 20
    weights = torch.cat(
        [torch.eye(4), torch.rand(200, 4, generator=torch.Generator().manual_seed(1))]
    ).double()
    expected = [
        (torch.einsum("k,knc->nc", p, logits.double()).argmax(1) == bank.labels).sum().item()
        for p in weights
    ]
    assert averaged_hits(cpu_kernels, some, weights).tolist() == expected
    assert averaged_hits(gpu_kernels, every, weights).tolist() == expected


@st.composite
def margins(draw: st.DrawFn, max_models: int = 6) -> MarginFields:
    """Possible margins of up to five images: integers at some scale, with many sums of zero."""
    N, rivals = draw(st.integers(1, max_models)), draw(st.lists(st.integers(1, 4), max_size=5))
    R = sum(rivals)
    numbers = draw(st.lists(st.integers(-3, 3), min_size=R * N, max_size=R * N))
    values = torch.tensor(numbers, dtype=torch.float64).view(R, N) * 2.0 ** draw(
        st.integers(-140, 120)
    )
    wins_ties = torch.tensor(
        draw(st.lists(st.booleans(), min_size=R, max_size=R)), dtype=torch.bool
    )
    return 0, values, wins_ties, torch.tensor([0, *rivals]).cumsum(0)


@BOTH
@given(found=margins(), at_once=st.sampled_from([1, 64, 2**26]))
@settings(max_examples=100)
def test_counts_of_all_subsets(kernels, found, at_once):
    N = found[1].shape[1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gpu_kernels, "_MAX_BLOCK_ANSWERS", at_once)
        counted = kernels.count_subsets(*found[1:]).tolist()
    assert len(counted) == 2**N
    for mask in range(1, 2**N):
        assert counted[mask] == sum(
            decisions(found, [Fraction(mask >> k & 1) for k in range(N)])
        ), f"{mask:b}"


@BOTH
@given(found=margins(), data=st.data())
@settings(max_examples=100)
def test_counts_of_candidates_and_of_additions(kernels, found, data):
    _, values, wins_ties, starts = found
    N = values.shape[1]
    rows = data.draw(
        st.lists(st.lists(st.integers(0, 3), min_size=N, max_size=N), min_size=1, max_size=4)
    )
    counts = torch.tensor(rows, dtype=torch.float64)
    counted = kernels.count_candidates(values, wins_ties, starts, counts.T.contiguous())
    assert counted.tolist() == [sum(decisions(found, fractions(row))) for row in counts]
    more = kernels.count_additions(values, wins_ties, starts, values @ counts[0])
    assert more.tolist() == [
        sum(decisions(found, fractions(counts[0] + one))) for one in torch.eye(N)
    ]


def test_a_table_of_4096_subsets():
    bank = contested_bank(12, 150, 30)
    members = (torch.arange(2**12).unsqueeze(1) >> torch.arange(12) & 1).double()
    for each in (cpu_kernels, gpu_kernels):
        found = each.collect(bank.logits, bank.labels, 0, 150)
        assert torch.equal(
            (found[0] + each.count_subsets(*found[1:]))[1:], averaged_hits(each, found, members)[1:]
        )


def undecided(kernels: ModuleType, found: MarginFields, caps: Tensor) -> MarginFields:
    always_right, *rest = kernels.drop_decided(*found[1:], caps)
    return found[0] + always_right, *rest


def heaviest_first(caps: list[Fraction], order: Sequence[int]) -> list[Fraction]:
    """Weights of sum 1, as large as the caps allow in the given order: the extreme points."""
    weights, left = [Fraction(0)] * len(caps), Fraction(1)
    for k in order:
        weights[k] = min(caps[k], left)
        left -= weights[k]
    return weights


@BOTH
@given(found=margins(max_models=5), data=st.data())
@settings(max_examples=200)
def test_what_is_dropped_is_decided_under_the_caps(kernels, found, data):
    N = found[1].shape[1]
    eighths = data.draw(
        st.lists(st.integers(0, 8), min_size=N, max_size=N).filter(lambda parts: sum(parts) >= 8)
    )
    caps = torch.tensor(eighths, dtype=torch.float64) / 8
    kept = undecided(kernels, found, caps)
    check_form(kept, N)
    for order in data.draw(st.lists(st.permutations(range(N)), min_size=1, max_size=6)):
        weights = heaviest_first(fractions(caps), order)
        assert kept[0] + sum(decisions(kept, weights)) == sum(decisions(found, weights))


@pytest.mark.parametrize("sizes", [(1, 30), (12, 18), (29, 30)])
def test_subsets_of_like_sizes_leave_little_to_decide(sizes):
    """With 12 to 18 of 30, an ingredient weighs a twelfth at most; alone it weighs 1."""
    bank = contested_bank(30, 400, 20)
    found = cpu_kernels.collect(bank.logits, bank.labels, 0, 400)
    rng = torch.Generator().manual_seed(0)
    size = torch.randint(sizes[0], sizes[1] + 1, (300, 1), generator=rng)
    size[0] = sizes[0]
    weights = (torch.rand(300, 30, generator=rng).argsort(1) < size).double() / size
    kept = undecided(cpu_kernels, found, weights.amax(0))
    check_form(kept, 30)
    assert torch.equal(
        averaged_hits(cpu_kernels, kept, weights), averaged_hits(cpu_kernels, found, weights)
    )
    if sizes != (1, 30):
        assert len(kept[1]) < 0.5 * len(found[1])
        assert kept[0] > found[0]


def test_one_candidate_under_its_own_caps_is_all_but_decided():
    bank = contested_bank(6, 300, 10)
    found = cpu_kernels.collect(bank.logits, bank.labels, 0, 300)
    p = torch.tensor([[0.5, 0.25, 0.0, 0.125, 0.125, 0.0]], dtype=torch.float64)
    kept = undecided(cpu_kernels, found, p[0] * (1 + 1e-9))
    assert averaged_hits(cpu_kernels, kept, p).item() == averaged_hits(cpu_kernels, found, p).item()
    assert len(kept[1]) < 0.05 * len(found[1])

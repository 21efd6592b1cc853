"""radin/ranking/margins.py: the counts are those of whole ensembles, on any bank and device."""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from helpers import exact_accuracy, finish, mixing_weights, random_bank, run_python, tied_banks
from radin import LogitBank, craft, exhaustive, fast_estimate, rank
from radin.errors import BankError, ParameterError
from radin.ranking import cpu_kernels, gpu_kernels
from radin.ranking.margins import Moves, collect

BOTH = pytest.mark.parametrize("kernels", [cpu_kernels, gpu_kernels], ids=["numba", "torch"])


@contextmanager
def counted_by(kernels: ModuleType) -> Iterator[None]:
    """Stage 1 on the loops of one module, whatever the device."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("radin.ranking.margins.kernels_for", lambda bank: kernels)
        yield


def agreeing(
    num_models: int, num_images: int, num_classes: int, scale: float | Tensor = 1.0
) -> LogitBank:
    """Models that are mostly right and mostly agree, as those of a real zoo do."""
    rng = torch.Generator().manual_seed(num_images)
    labels = torch.randint(num_classes, (num_images,), generator=rng)
    shared = torch.randn(num_images, num_classes, generator=rng)
    shared[torch.arange(num_images), labels] += 2.5
    noise = torch.randn(num_models, num_images, num_classes, generator=rng)
    return LogitBank((shared + 0.8 * noise) * scale, labels)


def some_candidates(num_models: int, seed: int = 0) -> Tensor:
    """Single models, random weights with and without zeros, subsets; some rows twice."""
    rng = torch.Generator().manual_seed(seed)
    p = torch.rand(40, num_models, generator=rng)
    rows = torch.cat([torch.eye(num_models), p, p * (p > 0.6), (p > 0.4).float(), p[:5]])
    rows = rows[rows.sum(1) > 0]
    return rows / rows.sum(1, keepdim=True)


def by_loop(bank: LogitBank, candidates: Tensor) -> list[float]:
    """The reference: every ensemble's logits, in double precision."""
    found = []
    for p in candidates.double():
        weights = (
            (p > 0).double() if len(p[p > 0].unique()) == 1 else p
        )  # a subset's ties are not for 1/3 to break
        ensemble = torch.einsum("k,knc->nc", weights, bank.logits.double())
        found.append((ensemble.argmax(1) == bank.labels).sum().item() * 100 / bank.num_images)
    return found


def unpredicted() -> LogitBank:
    bank = agreeing(4, 200, 8)
    bank.logits[:, :, 3] = -1e30  # below every other class in every model
    return bank


def unordered() -> LogitBank:
    bank = agreeing(5, 300, 12)
    return LogitBank(bank.logits.permute(1, 2, 0).contiguous().permute(2, 0, 1), bank.labels)


def rounded(bank: LogitBank, dtype: torch.dtype) -> LogitBank:
    largest = torch.finfo(dtype).max
    return LogitBank(bank.logits.clamp(-largest, largest).to(dtype), bank.labels)


BANKS = {
    "single": lambda: agreeing(6, 500, 40),
    "half": lambda: rounded(agreeing(6, 500, 40), torch.half),
    "half, largest": lambda: rounded(agreeing(5, 300, 9, 3e4), torch.half),
    "half, subnormal": lambda: rounded(agreeing(5, 300, 9, 2e-6), torch.half),
    "bfloat16": lambda: rounded(agreeing(5, 300, 9), torch.bfloat16),
    "whole numbers": lambda: LogitBank(
        agreeing(6, 300, 9).logits.round(), agreeing(6, 300, 9).labels
    ),
    "order of memory": unordered,
    "one model five times": lambda: LogitBank(
        agreeing(1, 300, 9).logits.expand(5, -1, -1), agreeing(1, 300, 9).labels
    ),
    "tiny": lambda: agreeing(4, 300, 9, 1e-38),
    "subnormal": lambda: agreeing(4, 300, 9, 1e-43),
    "huge": lambda: agreeing(4, 300, 9, 3e37),
    "scales apart": lambda: agreeing(
        5, 300, 9, torch.tensor([1e-30, 1e-3, 1.0, 1e3, 1e30]).view(5, 1, 1)
    ),
    "one model": lambda: agreeing(1, 300, 9),
    "two classes": lambda: agreeing(6, 300, 2),
    "one class": lambda: agreeing(3, 20, 1),
    "one image": lambda: agreeing(6, 1, 5),
    "labels that no model predicts": unpredicted,
    "noise": lambda: random_bank(7, 300, 5),
}


@BOTH
@pytest.mark.parametrize("name", BANKS)
def test_estimates_are_those_of_the_loop(kernels, name):
    bank = BANKS[name]()
    with counted_by(kernels):
        for candidates in (exhaustive(bank.num_models), some_candidates(bank.num_models)):
            assert fast_estimate(bank, candidates).tolist() == by_loop(bank, candidates)


@given(bank=tied_banks(), data=st.data())
@settings(max_examples=100)
def test_torch_alone_is_exact_with_ties_everywhere(bank, data):
    """The loops that a GPU runs, here on the CPU; those of numba are checked in test_rank.py."""
    rows = data.draw(st.lists(mixing_weights(bank.num_models), min_size=1, max_size=6))
    for candidates in (exhaustive(bank.num_models), torch.stack(rows)):
        with counted_by(gpu_kernels):
            estimates = fast_estimate(bank, candidates).tolist()
        assert estimates == [float(exact_accuracy(bank, p)) for p in candidates]


@BOTH
def test_what_is_collected_block_by_block_is_what_is_collected_at_once(kernels):
    bank = agreeing(5, 400, 30)
    with counted_by(kernels), pytest.MonkeyPatch.context() as patch:
        whole = collect(bank)
        patch.setattr("radin.ranking.margins._MAX_BLOCK_LOGITS", 5 * 30 * 7)  # seven images
        parts = collect(bank)
    assert (whole.always_right, len(whole.starts)) == (parts.always_right, len(parts.starts))
    for name in ("values", "wins_ties", "starts"):
        assert torch.equal(getattr(whole, name), getattr(parts, name)), name


# Moves


def accuracies(bank: LogitBank, ensembles: list[Tensor]) -> list[float]:
    """Exact accuracy of ensembles given by counts; minus infinity for counts that are none."""
    return [
        float(exact_accuracy(bank, counts))
        if counts.sum() > 0 and (counts >= 0).all()
        else -math.inf
        for counts in ensembles
    ]


@BOTH
@given(bank=tied_banks(), data=st.data())
@settings(max_examples=100)
def test_moves_are_exact_with_ties_everywhere(kernels, bank, data):
    N = bank.num_models
    counts = torch.tensor(data.draw(st.lists(st.integers(0, 3), min_size=N, max_size=N)))
    one = torch.eye(N, dtype=torch.int64)
    with counted_by(kernels):
        moves = Moves(bank)
        found = [moves.add(counts), moves.drop(counts), moves.swap(counts)]
    assert [answer.shape for answer in found] == [(N,), (N,), (N, N)]
    assert {answer.dtype for answer in found} == {torch.float64}
    added, dropped = [counts + one[k] for k in range(N)], [counts - one[k] for k in range(N)]
    assert found[0].tolist() == accuracies(bank, added)
    assert found[1].tolist() == accuracies(bank, dropped)
    for i in range(N):
        swapped = [
            counts - one[i] + one[j] if counts[i] > 0 and i != j else 0 * counts for j in range(N)
        ]
        assert found[2][i].tolist() == accuracies(bank, swapped)


@BOTH
@pytest.mark.parametrize(
    "name", ["single", "half", "bfloat16", "order of memory", "whole numbers", "huge", "one image"]
)
def test_moves_are_fast_estimates(kernels, name):
    bank = BANKS[name]()
    N = bank.num_models
    member = torch.arange(N) % 2 == 0
    flipped = member ^ torch.eye(N, dtype=torch.bool)
    estimates = fast_estimate(bank, flipped / flipped.sum(1, keepdim=True))
    with counted_by(kernels):
        moves = Moves(bank)
    assert torch.equal(moves.add(member)[~member], estimates[~member])
    assert torch.equal(moves.drop(member)[member], estimates[member])
    assert torch.equal(moves.add(torch.zeros(N)), bank.accuracies())
    swaps = moves.swap(member)
    for i in range(N):
        for j in range(N):
            counts = member.float() - torch.eye(N)[i] + torch.eye(N)[j]
            move = member[i] and i != j
            alone = (
                fast_estimate(bank, counts.unsqueeze(0) / counts.sum()).item()
                if move
                else -math.inf
            )
            assert swaps[i, j].item() == pytest.approx(alone)


def test_there_is_no_move_from_nothing_or_to_nothing():
    moves, one = Moves(random_bank(3)), torch.eye(3, dtype=torch.bool)
    assert moves.drop([0, 0, 0]).isneginf().all()
    assert moves.drop([0, 1, 0]).isneginf().all(), "nothing would be left"
    assert moves.drop([0, 2, 0]).isneginf().tolist() == [True, False, True]
    assert moves.swap([0, 0, 0]).isneginf().all()
    assert torch.equal(moves.swap([0, 1, 0]).isneginf(), ~one[1].unsqueeze(1) | one)


def test_counts_of_any_type_are_counts():
    moves = Moves(random_bank(3))
    expected = moves.swap([1, 0, 1])
    for dtype in (
        torch.bool,
        torch.uint8,
        torch.int32,
        torch.float16,
        torch.float32,
        torch.float64,
    ):
        counts = torch.tensor([1, 0, 1], dtype=dtype)
        assert torch.equal(moves.swap(counts).nan_to_num(-1), expected.nan_to_num(-1))
        assert counts.tolist() == [1, 0, 1], "an argument is not written to"


@pytest.mark.parametrize("move", ["add", "drop", "swap"])
@pytest.mark.parametrize(
    "counts",
    [
        [1, -1, 0],
        [1, 0.5, 0],
        [1, 0],
        [1, 0, 0, 0],
        [[1, 0, 0]],
        [],
        1,
        [1, math.nan, 0],
        [math.inf, 0, 0],
        torch.full((3,), math.nan),
        torch.tensor([1.0, -math.inf, 0.0]),
    ],
)
def test_counts_that_are_none(move, counts):
    with pytest.raises(ParameterError, match="counts must be 3 whole numbers of at least 0"):
        getattr(Moves(random_bank(3)), move)(counts)


# threads


@pytest.fixture
def threads() -> Iterator[None]:
    """Whatever number of threads a test sets is set back."""
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.usefixtures("threads")
@pytest.mark.parametrize(
    "chunk", [2**22, 8 * 20 * 9]
)  # one block for each thread; blocks of nine images
def test_the_number_of_threads_changes_nothing(monkeypatch, chunk):
    bank, candidates = agreeing(8, 500, 20), some_candidates(8)
    expected = None
    monkeypatch.setattr("radin.ranking.margins._MAX_BLOCK_LOGITS", chunk)
    for number in (1, 2, 4):
        torch.set_num_threads(number)
        found = [
            fast_estimate(bank, exhaustive(8)),
            fast_estimate(bank, candidates),
            Moves(bank).add(torch.arange(8) % 3),
            *vars(collect(bank)).values(),
        ]
        expected = expected or found
        assert all(
            torch.equal(torch.as_tensor(a), torch.as_tensor(b))
            for a, b in zip(found, expected, strict=True)
        )


@pytest.mark.usefixtures("threads")
def test_two_threads_at_once():
    banks = [agreeing(8, 700, 20), agreeing(6, 500, 40)]
    work = [(bank, some_candidates(bank.num_models, seed)) for seed in range(6) for bank in banks]
    expected = [by_loop(*job) for job in work]
    torch.set_num_threads(2)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(lambda job: fast_estimate(*job).tolist(), work))
    assert found == expected


# memory

MEASURE = """
import sys
from pathlib import Path
import torch
from helpers import random_bank
from radin import LogitBank, exhaustive, fast_estimate
from radin.ranking.margins import Moves

def kib(key):
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])

def peak(bank):
    "What stage 1 takes beside the bank at its peak, in KiB."
    before = kib("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak is measured from here on
    fast_estimate(bank, exhaustive(len(bank)))
    fast_estimate(bank, torch.rand(50, len(bank)).softmax(1))
    return kib("VmHWM") - before

def calibrated(N, n, C):
    "Made in place, so that no peak of its own hides the one that is measured."
    labels, logits = torch.arange(n) % C, torch.empty(N, n, C)
    shared = torch.randn(n, C)
    for k in range(N):
        logits[k].normal_().mul_(0.3).add_(shared)[torch.arange(n), labels] += 5
    return LogitBank(logits, labels)

torch.manual_seed(0)
for warm_up in (random_bank(8), random_bank(12)):
    fast_estimate(warm_up, torch.rand(50, len(warm_up)).softmax(1))
    fast_estimate(warm_up, exhaustive(len(warm_up)))
"""
linux = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc"
)


def measured(code: str, *arguments: object) -> list[float]:
    return [
        float(word)
        for word in finish(run_python(MEASURE + code, *arguments, OMP_NUM_THREADS=1)).split()
    ]


@linux
def test_memory_beside_a_calibrated_bank_is_a_small_part_of_it(tmp_path):
    """Also beside a bank on disk: its mapped logits take no anonymous memory."""
    code = """
bank = calibrated(8, 4000, 1000)
print(bank.accuracies().mean().item(), bank.logits.nbytes / 1024, peak(bank))
bank.save(sys.argv[1])
del bank
before = kib("RssAnon")
bank = LogitBank.load(sys.argv[1])
print(kib("RssAnon") - before, peak(bank), kib("RssAnon") - before)
Moves(bank)
print(kib("RssAnon") - before)
"""
    accuracy, size, extra, *anonymous = measured(code, tmp_path / "bank.safetensors")
    assert 90 < accuracy < 96
    assert size == 125_000
    assert extra < 0.1 * size
    assert max(anonymous) < 0.1 * size, anonymous


@linux
def test_memory_beside_a_bank_of_noise_is_some_blocks():
    """For noise, every class is a rival, and the margins take twice the memory of the bank.

    A thread holds up to three blocks of _MAX_BLOCK_LOGITS doubles: the margins, the copy that is
    returned, and what is left undecided of them. The allocator can keep as much of an earlier
    thread.
    """
    code = """
import radin.ranking.margins
radin.ranking.margins._MAX_BLOCK_LOGITS = 2**20
print(peak(LogitBank(torch.randn(12, 1500, 1000), torch.arange(1500) % 1000)))

logits, labels = torch.randn(8, 2000, 1000), torch.arange(2000) % 1000
logits[0, torch.arange(2000), labels] += 20  # sure and right,
logits[1, torch.arange(2000), labels] -= 20  # sure and wrong: every class of every image is a rival
print(peak(LogitBank(logits, labels)))
"""
    margins, block = 2000 * 999 * 8 * 8 / 1024, 8 * 2**20 / 1024
    assert 6 * block < 0.4 * margins
    for extra in measured(code):
        assert extra < 6 * block, extra


# what never reaches the loops


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize(
    "index", [(0, 0, 0), (1, 3, 1), (2, 6, 2)]
)  # the first, one inside, and the last of all
def test_a_logit_that_is_not_finite_is_found_wherever_it_is(dtype, value, index):
    logits = random_bank(3, 7, 3).logits.to(dtype)
    logits[index] = value
    advice = "leave this ingredient out" + (
        " or keep single precision" if dtype == torch.float16 else ""
    )
    message = (
        f"Ingredient {'abc'[index[0]]} gives NaN or infinite logits on 1 image, "
        f"the first is image {index[1]}; {advice}"
    )
    for memory in (logits, logits.transpose(0, 1).contiguous().transpose(0, 1)):
        with pytest.raises(BankError, match=message + r"\."):
            LogitBank(memory, torch.zeros(7, dtype=torch.int64), "abc")


# the GPU

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


@gpu
@pytest.mark.parametrize("name", BANKS)
def test_the_gpu_estimates_as_the_cpu_does(name):
    bank = BANKS[name]()
    there = bank.to("cuda")
    assert there.logits.is_cuda
    for candidates in (exhaustive(bank.num_models), some_candidates(bank.num_models)):
        assert torch.equal(fast_estimate(there, candidates), fast_estimate(bank, candidates))
        losses = fast_estimate(there, candidates, "nll")
        torch.testing.assert_close(
            losses, fast_estimate(bank, candidates, "nll"), rtol=1e-12, atol=1e-12
        )


@gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_the_gpu_ranks_moves_and_crafts_as_the_cpu_does(dtype):
    bank = rounded(agreeing(9, 3000, 100), dtype)
    there, candidates = bank.to("cuda"), exhaustive(9)
    for options in ({}, {"prior": 1.0}, {"prior": 1.0, "top": 20}):
        here = rank(bank, candidates, **options)
        for name, found in vars(rank(there, candidates, **options)).items():
            assert torch.equal(found, getattr(here, name)), name
    for counts in (torch.zeros(9), torch.arange(9) % 2, torch.arange(9) % 4):
        for move in ("add", "drop", "swap"):
            found, expected = (
                getattr(Moves(each), move)(counts).nan_to_num(-1) for each in (there, bank)
            )
            assert torch.equal(found, expected), move
    for recipe in ("radin", "greedy", "best_single"):
        soups = [
            craft(each, lambda p: fast_estimate(bank, p.unsqueeze(0)).item(), 5, recipe)
            for each in (there, bank)
        ]
        assert torch.equal(soups[0].weights, soups[1].weights)
        assert [trial.accuracy for trial in soups[0].trials] == [
            trial.accuracy for trial in soups[1].trials
        ]


@gpu
def test_the_gpu_counts_larger_banks():
    """Several blocks of images, and a table of 2^16 subsets."""
    bank = agreeing(16, 2000, 500)
    rows = exhaustive(16)
    assert torch.equal(fast_estimate(bank.to("cuda"), rows), fast_estimate(bank, rows))
    p = torch.rand(3000, 16, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert torch.equal(fast_estimate(bank.to("cuda"), p), fast_estimate(bank, p))


def test_one_ingredient_of_huge_logits_leaves_no_rounding_behind():
    bank = LogitBank(torch.tensor([[[0, 1e-3]], [[1e30, 0]], [[0, 1e-4]]]), torch.tensor([0]))
    assert Moves(bank).drop([1, 1, 0])[1].item() == 0
    assert Moves(bank).swap([1, 1, 0])[1].tolist() == [0, -math.inf, 0]

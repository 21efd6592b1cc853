"""Stage 1's shortcut: the few margins that decide the accuracy of every ensemble, and how they are counted.

Where all ingredients are right, every average of them with weights >= 0 is right; where some class is ahead
of the label in all of them, every average is wrong. On the images left, the contested ones, a class behind the
label in all ingredients stays behind in every average and is dropped. An ensemble is right exactly when its
margin over each class that remains, a rival, is positive (zero will do where the rival has the higher index);
margins average as logits do. On the CPU a rival is dropped, too, when one of the strongest is at least as far
ahead in all ingredients (and takes ties where it does).
Nothing here is an approximation: the answers are those of averages formed in double precision.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from types import ModuleType
from typing import TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from radin.errors import ParameterError
from radin.ranking.bank import LogitBank

_CHUNK = 2**22  # numbers in one block of work: 32 MiB in double precision
Result = TypeVar("Result")


@dataclass(frozen=True)
class Margins:
    """What is left of some images of a bank: all that any ensemble's accuracy on them depends on.

    Attributes:
        sure: how many images are right in every ensemble.
        values: (R, N) margins of the label over each rival in each ingredient, double precision.
        wins_ties: (R,) whether the rival wins a tie: its class is the lower one.
        starts: (I + 1,) where the rows of each contested image begin.
    """

    sure: int
    values: Tensor
    wins_ties: Tensor
    starts: Tensor


def kernels_for(bank: LogitBank) -> ModuleType:
    """The loops for the device on which the bank lies."""
    if bank.logits.device.type == "cpu":
        from radin.ranking import cpu_kernels  # numba, only once it is needed

        return cpu_kernels
    from radin.ranking import gpu_kernels

    return gpu_kernels


def _over_blocks(bank: LogitBank, work: Callable[[Margins], Result]) -> Iterator[Result]:
    """work(margins) for consecutive blocks of images, in order, on as many threads as torch may use.

    A block holds a limited number of logits, so that on any bank, random logits too, memory stays bounded.
    """
    kernels = kernels_for(bank)
    bank.refuse_projection("A margin")
    on_cpu = bank.logits.device.type == "cpu"
    threads, chunk = (
        (torch.get_num_threads(), _CHUNK) if on_cpu else (1, 32 * _CHUNK)
    )  # a GPU wants long work
    at_once = max(
        1, min(chunk // (bank.num_models * bank.num_classes), math.ceil(bank.num_images / threads))
    )
    blocks = [
        range(i, min(bank.num_images, i + at_once)) for i in range(0, bank.num_images, at_once)
    ]

    def run(images: range) -> Result:
        return work(
            Margins(*kernels.collect(bank.logits, bank.labels, images.start, images.stop))
        )

    waiting: deque[Future[Result]] = deque()
    with (
        tqdm(total=len(blocks), desc="ranking", delay=3, leave=False) as bar,
        ThreadPoolExecutor(threads) as pool,
    ):
        for images in blocks:
            waiting.append(pool.submit(run, images))
            if len(waiting) > 2 * threads:  # no further ahead: what is found waits in memory
                yield waiting.popleft().result()
                bar.update()
        while waiting:
            yield waiting.popleft().result()
            bar.update()


def collect(bank: LogitBank) -> Margins:
    """The margins of a whole bank.

    Where models agree they are a few hundredths of the bank. Of random logits, where every class is a rival, they
    take several times the memory of the bank.
    """
    parts = list(_over_blocks(bank, lambda margins: margins))
    starts, rows = [parts[0].starts[:1]], 0
    for part in parts:
        starts.append(part.starts[1:] + rows)
        rows += len(part.values)
    return Margins(
        sum(part.sure for part in parts),
        torch.cat([part.values for part in parts]),
        torch.cat([part.wins_ties for part in parts]),
        torch.cat(starts),
    )


def count_every_subset(bank: LogitBank) -> Tensor:
    """On how many images each subset of the ingredients is right as an ensemble: (2^N,) by bitmask.

    Entry 0, the empty set, means nothing.
    """
    kernels = kernels_for(bank)

    def count(part: Margins) -> tuple[int, Tensor]:
        return part.sure, kernels.count_subsets(part.values, part.wins_ties, part.starts)

    return _total(_over_blocks(bank, count), 2**bank.num_models)


def count_candidates(bank: LogitBank, weights: Tensor) -> Tensor:
    """On how many images each candidate is right as an ensemble: (M,).

    Args:
        weights: (M, N) double, each row of any positive scale.
    """
    kernels = kernels_for(bank)
    # Slightly more than the largest weight of each ingredient, lest a bound fail by a rounding.
    caps = (weights / weights.sum(1, keepdim=True)).amax(0) * (1 + 1e-9)
    columns = weights.T.contiguous().to(bank.logits.device)

    def count(part: Margins) -> tuple[int, Tensor]:
        decided, *rest = kernels.drop_decided(part.values, part.wins_ties, part.starts, caps)
        return part.sure + decided, kernels.count_candidates(*rest, columns)

    return _total(_over_blocks(bank, count), len(weights))


def _total(counts: Iterator[tuple[int, Tensor]], length: int) -> Tensor:
    """The sum of what each block counted; the first number of a block counts for every entry."""
    hits = torch.zeros(length, dtype=torch.int64)
    for everywhere, counted in counts:
        hits += counted.cpu()
        hits += everywhere
    return hits


class Moves:
    """Fast estimates of all ensembles one move away, for searches.

    The bank is read once, to collect its margins (see `collect` for what they take); a move then costs one addition
    for each of them and touches no logit. An ensemble is given by counts (N,): how often each ingredient is in, 0 or
    1 for a subset. `radin.ranking.candidates.from_subsets(counts.unsqueeze(0))` makes a candidate of them.

    Every answer is the exact accuracy in percent of the ensemble with those counts, on the CPU, or minus infinity
    where there is no such move. (`radin.fast_estimate` of the same mixing weights may break a tie by the
    rounding of 3/7; for subsets it gives the same.) Raises ParameterError for counts that are no whole numbers of
    at least 0.
    """

    def __init__(self, bank: LogitBank) -> None:
        self._kernels, self._margins = kernels_for(bank), collect(bank)
        self._images = bank.num_images

    def add(self, counts: Tensor) -> Tensor:
        """With one more of each ingredient: (N,). From nothing (all counts 0) they are the single models."""
        return self._after_addition(self._check(counts))

    def drop(self, counts: Tensor) -> Tensor:
        """With one less of each ingredient: (N,); minus infinity where there is none, or nothing else."""
        counts, m = self._check(counts), self._margins
        less = counts - torch.eye(
            len(counts), dtype=counts.dtype, device=counts.device
        )  # row i: without one i
        accuracy = self._percent(
            self._kernels.count_candidates(m.values, m.wins_ties, m.starts, less.T.contiguous())
        )
        accuracy[((counts == 0) | (counts.sum() <= 1)).cpu()] = -math.inf
        return accuracy

    def swap(self, counts: Tensor) -> Tensor:
        """With ingredient i taken out and another, j, put in: (N, N); minus infinity where i is not in, or is j."""
        counts = self._check(counts)
        accuracy = torch.full((len(counts), len(counts)), -math.inf, dtype=torch.float64)
        for i in counts.nonzero().flatten().tolist():
            # Summed up afresh: a difference would keep the rounding of an ingredient with very large logits.
            less = counts.clone()
            less[i] -= 1
            accuracy[i] = self._after_addition(less)
        return accuracy.fill_diagonal_(-math.inf)

    def _check(self, counts: Tensor) -> Tensor:
        margins = self._margins.values
        numbers = torch.as_tensor(counts).detach().to(margins.device, torch.float64)
        whole = (numbers >= 0) & (numbers == numbers.floor()) & numbers.isfinite()
        if numbers.shape != margins.shape[1:] or not whole.all():
            raise ParameterError(
                f"counts must be {margins.shape[1]} whole numbers of at least 0, one for each ingredient, "
                f"not {counts!r}."
            )
        return numbers

    def _after_addition(self, counts: Tensor) -> Tensor:
        m = self._margins
        return self._percent(
            self._kernels.count_additions(m.values, m.wins_ties, m.starts, m.values @ counts)
        )

    def _percent(self, hits: Tensor) -> Tensor:
        return (self._margins.sure + hits.cpu()).double() * 100 / self._images

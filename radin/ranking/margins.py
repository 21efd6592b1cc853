"""The few margins that decide the accuracy of every ensemble, and counts of right ensembles.

If all ingredients are right on an image, every average of them with weights >= 0 is right; if one
class is ahead of the label in all of them, every average is wrong. The other images are the
contested ones. There, a class that is behind the label in all ingredients is behind in every
average, and is dropped. The classes that remain are the rivals. An ensemble is right exactly if its
margin over each rival is positive (zero is enough if the rival has the higher index), and margins
average as logits do. On the CPU a rival is dropped, too, if one of the strongest rivals is at least
as far ahead in all ingredients, and wins ties if it does.
No step is an approximation: the answers are those of averages formed in double precision.
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

_MAX_BLOCK_LOGITS = 2**22  # in one block of images: 32 MiB in double precision
_GPU_BLOCK_FACTOR = 32  # a GPU needs larger blocks to be busy
Result = TypeVar("Result")


@dataclass(frozen=True)
class Margins:
    """All that the accuracy of any ensemble on some images depends on.

    Attributes:
        always_right: how many images are right in every ensemble.
        values: (R, N) double, margins of the label over each rival in each ingredient.
        wins_ties: (R,) whether the rival wins a tie: its class index is lower than the label's.
        starts: (I + 1,) the first row of each contested image, and R.
    """

    always_right: int
    values: Tensor
    wins_ties: Tensor
    starts: Tensor


def kernels_for(bank: LogitBank) -> ModuleType:
    """The module with the loops for the bank's device."""
    if bank.logits.device.type == "cpu":
        from radin.ranking import cpu_kernels  # importing numba takes half a second

        return cpu_kernels
    from radin.ranking import gpu_kernels

    return gpu_kernels


def _over_blocks(bank: LogitBank, work: Callable[[Margins], Result]) -> Iterator[Result]:
    """work(margins) for consecutive blocks of images, in order, on as many threads as torch uses.

    The number of logits in a block is limited, so memory is bounded on any bank.
    """
    kernels = kernels_for(bank)
    bank.refuse_projection("A margin")
    bank.refuse_targets("A margin")

    def run(images: range) -> Result:
        found = kernels.collect(bank.logits, bank.labels, images.start, images.stop)
        return work(Margins(*found))

    num_threads = torch.get_num_threads() if bank.logits.device.type == "cpu" else 1
    blocks = _blocks(bank, num_threads)
    waiting: deque[Future[Result]] = deque()
    with (
        tqdm(total=len(blocks), desc="ranking", delay=3, leave=False) as bar,
        ThreadPoolExecutor(num_threads) as pool,
    ):
        for images in blocks:
            waiting.append(pool.submit(run, images))
            if len(waiting) > 2 * num_threads:  # results that wait take memory
                yield waiting.popleft().result()
                bar.update()
        while waiting:
            yield waiting.popleft().result()
            bar.update()


def _blocks(bank: LogitBank, num_threads: int) -> list[range]:
    """Consecutive ranges of images, one for each thread if they are small enough."""
    max_logits = _MAX_BLOCK_LOGITS
    if bank.logits.device.type != "cpu":
        max_logits *= _GPU_BLOCK_FACTOR
    images_in_memory = max_logits // (bank.num_models * bank.num_classes)
    size = max(1, min(images_in_memory, math.ceil(bank.num_images / num_threads)))
    return [range(i, min(bank.num_images, i + size)) for i in range(0, bank.num_images, size)]


def collect(bank: LogitBank) -> Margins:
    """The margins of a whole bank.

    They are a few hundredths of the bank if its models agree on most images. For random logits,
    where every class is a rival, they take several times the memory of the bank.
    """
    parts = list(_over_blocks(bank, lambda margins: margins))
    starts = [parts[0].starts[:1]]
    num_rows = 0
    for part in parts:
        starts.append(part.starts[1:] + num_rows)
        num_rows += len(part.values)
    return Margins(
        always_right=sum(part.always_right for part in parts),
        values=torch.cat([part.values for part in parts]),
        wins_ties=torch.cat([part.wins_ties for part in parts]),
        starts=torch.cat(starts),
    )


def count_every_subset(bank: LogitBank) -> Tensor:
    """On how many images each subset of the ingredients is right as an ensemble.

    Returns:
        (2^N,) by bitmask. Entry 0, the empty set, has no meaning.
    """
    kernels = kernels_for(bank)

    def count(part: Margins) -> tuple[int, Tensor]:
        counts = kernels.count_subsets(part.values, part.wins_ties, part.starts)
        return part.always_right, counts

    return _total(_over_blocks(bank, count), 2**bank.num_models)


def count_candidates(bank: LogitBank, weights: Tensor) -> Tensor:
    """On how many images each candidate is right as an ensemble: (M,).

    Args:
        bank: logits (N, n, C).
        weights: (M, N) double, each row of any positive scale.
    """
    kernels = kernels_for(bank)
    # Slightly more than the largest weight of each ingredient: rounding cannot break the bound.
    caps = (weights / weights.sum(1, keepdim=True)).amax(0) * (1 + 1e-9)
    columns = weights.T.contiguous().to(bank.logits.device)

    def count(part: Margins) -> tuple[int, Tensor]:
        decided, *rest = kernels.drop_decided(part.values, part.wins_ties, part.starts, caps)
        return part.always_right + decided, kernels.count_candidates(*rest, columns)

    return _total(_over_blocks(bank, count), len(weights))


def _total(block_counts: Iterator[tuple[int, Tensor]], length: int) -> Tensor:
    """The sum of the counts of all blocks: (length,).

    Args:
        block_counts: for each block, images that are right in every ensemble, and a count for
            each ensemble on the other images.
    """
    hits = torch.zeros(length, dtype=torch.int64)
    for always_right, counts in block_counts:
        hits += counts.cpu()
        hits += always_right
    return hits


class Moves:
    """Fast estimates of all ensembles that are one move away, for searches.

    The bank is read once, to collect its margins (`collect` says what memory they take). A move
    then costs one addition for each margin.

    An ensemble is given by counts (N,): how often each ingredient is in it, 0 or 1 for a subset.
    `radin.ranking.candidates.from_subsets(counts.unsqueeze(0))` turns them into a candidate.
    Every answer is the exact accuracy in percent of the ensemble with those counts, on the CPU, or
    minus infinity if there is no such move.

    Raises:
        ParameterError: counts that are not integers of at least 0. All methods raise it.
    """

    # `radin.fast_estimate` of the same mixing weights is the same for subsets. For other counts it
    # can break a tie by the rounding of 3/7.

    def __init__(self, bank: LogitBank) -> None:
        self._kernels = kernels_for(bank)
        self._margins = collect(bank)
        self._num_images = bank.num_images

    def add(self, counts: Tensor) -> Tensor:
        """With one more of each ingredient: (N,). From counts of 0 these are the single models."""
        return self._after_addition(self._check(counts))

    def drop(self, counts: Tensor) -> Tensor:
        """With one less of each ingredient: (N,).

        Minus infinity for an ingredient that is not in, or if nothing would be left.
        """
        counts = self._check(counts)
        one = torch.eye(len(counts), dtype=counts.dtype, device=counts.device)
        accuracy = self.accuracies((counts - one).T.contiguous())
        accuracy[((counts == 0) | (counts.sum() <= 1)).cpu()] = -math.inf
        return accuracy

    def swap(self, counts: Tensor) -> Tensor:
        """With ingredient i taken out and another one, j, put in: (N, N).

        Minus infinity if i is not in, or if i is j.
        """
        counts = self._check(counts)
        accuracy = torch.full((len(counts), len(counts)), -math.inf, dtype=torch.float64)
        for i in counts.nonzero().flatten().tolist():
            # Summed again: a difference keeps the rounding of an ingredient with very large logits.
            less = counts.clone()
            less[i] -= 1
            accuracy[i] = self._after_addition(less)
        return accuracy.fill_diagonal_(-math.inf)

    def accuracies(self, columns: Tensor) -> Tensor:
        """Exact accuracies (M,) in percent of ensembles.

        Args:
            columns: (N, M) double counts, contiguous, on the bank's device.
        """
        m = self._margins
        return self._percent(
            self._kernels.count_candidates(m.values, m.wins_ties, m.starts, columns)
        )

    def _check(self, counts: Tensor) -> Tensor:
        margins = self._margins.values
        numbers = torch.as_tensor(counts).detach().to(margins.device, torch.float64)
        is_count = (numbers >= 0) & (numbers == numbers.floor()) & numbers.isfinite()
        if numbers.shape != margins.shape[1:] or not is_count.all():
            raise ParameterError(
                f"counts must be {margins.shape[1]} whole numbers of at least 0, one for each "
                f"ingredient, not {counts!r}."
            )
        return numbers

    def _after_addition(self, counts: Tensor) -> Tensor:
        m = self._margins
        return self._percent(
            self._kernels.count_additions(m.values, m.wins_ties, m.starts, m.values @ counts)
        )

    def _percent(self, hits: Tensor) -> Tensor:
        return (self._margins.always_right + hits.cpu()).double() * 100 / self._num_images

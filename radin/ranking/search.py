"""Searches for good candidates: subsets found by a genetic algorithm or by local moves, read off the bank alone.

Monte Carlo looks at subsets blindly; these look next where the last look was good. Neither spends any budget: what
they return are candidates, which `radin.rank` ranks and `radin.craft` evaluates like any others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from radin.errors import check_integer, check_seed
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import distinct, from_subsets, monte_carlo
from radin.ranking.margins import Moves, collect, kernels_for
from radin.ranking.rank import check_prior

_KICK = 3  # ingredients changed to leave a hill's top; one would lead straight back, many forget the hill


class _Seen:
    """Subsets looked at so far, their scores, and how many looks are left.

    Attributes:
        rows: the different subsets, boolean (N,), in the order of the first look.
    """

    def __init__(self, bank: LogitBank, num_estimates: int, prior: float, seed: int) -> None:
        bank.refuse_projection("A search")
        self.num_models, self.prior, self.seed = (
            bank.num_models,
            check_prior(prior),
            check_seed(seed),
        )
        every = 2**bank.num_models - 1
        self.limit = min(check_integer("num_estimates", num_estimates, minimum=1), every)
        self.rows: list[np.ndarray] = []
        self._place: dict[bytes, int] = {}
        self._merit: list[tuple[float, int]] = []
        self._kernels, self._margins, self._images = (
            kernels_for(bank),
            collect(bank),
            bank.num_images,
        )
        self._device = bank.logits.device

    @property
    def left(self) -> int:
        return self.limit - len(self.rows)

    def look(self, members: np.ndarray) -> list[int]:
        """Places in `rows` of some subsets (M, N), none of them empty; unseen ones are scored while looks are left."""
        fresh: dict[bytes, np.ndarray] = {}
        for row in members:
            if row.tobytes() not in self._place and len(fresh) < self.left:
                fresh.setdefault(row.tobytes(), row)
        if fresh:
            rows = list(fresh.values())
            for row, estimate in zip(rows, self._estimates(np.stack(rows)), strict=True):
                self._place[row.tobytes()] = len(self.rows)
                self.rows.append(row)
                size = int(row.sum())
                # As `radin.rank` has it: scores that differ by rounding alone are equal, and equals go by size.
                self._merit.append((round(estimate + self.prior * size / self.num_models, 9), size))
        return [self._place[row.tobytes()] for row in members if row.tobytes() in self._place]

    def best(self, places: list[int], count: int) -> list[int]:
        """The `count` best of some places, without repeats; of equals the one seen first."""
        return sorted(dict.fromkeys(places), key=lambda i: (*(-m for m in self._merit[i]), i))[
            :count
        ]

    def strangers(self, count: int) -> np.ndarray:
        """Up to `count` random subsets that were never looked at: fewer only where fewer are left."""
        drawn = monte_carlo(self.num_models, len(self.rows) + count, self.seed).numpy() > 0
        return np.stack([row for row in drawn if row.tobytes() not in self._place][:count])

    def candidates(self) -> Tensor:
        return from_subsets(np.stack(self.rows))

    def _estimates(self, members: np.ndarray) -> list[float]:
        """Exact fast estimates in percent; the bank itself was read once, for its margins."""
        m, columns = (
            self._margins,
            torch.from_numpy(members.T.astype(np.float64)).contiguous().to(self._device),
        )
        hits = (
            self._kernels.count_candidates(m.values, m.wins_ties, m.starts, columns).cpu() + m.sure
        )
        return (hits.double() * 100 / self._images).tolist()


def genetic(
    bank: LogitBank, num_estimates: int, prior: float = 0.0, seed: int = 0, population: int = 32
) -> Tensor:
    """Candidates that a genetic algorithm looks at: (M, N), different subsets in the order in which it met them.

    It starts from random subsets. Each generation has as many children as parents: both parents are the better of two
    drawn at random, each ingredient comes from one of them, and one in N is flipped. The best of parents and children
    live on. Where a generation brings nothing new, random subsets take its place.

    Args:
        num_estimates: fast estimates to compute, each for another subset; no more than there are. M is this number.
        prior: lambda of the score that it climbs, in percentage points; as in `radin.rank`.
        population: how many subsets live at a time, at least 2.

    Raises ParameterError for counts, a prior or a seed that are none, and for a bank with a projection.
    """
    population = check_integer("population", population, minimum=2)
    seen = _Seen(bank, num_estimates, prior, seed)
    rng = np.random.default_rng([seen.seed, 1])
    alive = seen.look(seen.strangers(population))
    while seen.left:
        known, parents = len(seen.rows), seen.best(alive, population)
        # The parents are in order, so the better of two draws is the lower place.
        pairs = rng.integers(len(parents), size=(population, 2, 2)).min(2)
        rows = np.stack([seen.rows[i] for i in parents])
        children = np.where(
            rng.random((population, bank.num_models)) < 0.5, rows[pairs[:, 0]], rows[pairs[:, 1]]
        )
        children ^= rng.random(children.shape) < 1 / bank.num_models
        alive = parents + seen.look(children[children.any(1)])
        if len(seen.rows) == known:
            alive = seen.look(seen.strangers(population))
    return seen.candidates()


def local_search(bank: LogitBank, num_estimates: int, prior: float = 0.0, seed: int = 0) -> Tensor:
    """Candidates that a climb by single additions and removals looks at: (M, N), in the order in which it met them.

    It starts from the best single ingredient, looks at all subsets that have one ingredient more or less, and moves to
    the best while that is better. From the top it flips three ingredients at random and climbs again; from
    where all neighbours are known it goes on from a random subset.

    Args:
        num_estimates, prior: as in `genetic`.

    Raises ParameterError for counts, a prior or a seed that are none, and for a bank with a projection.
    """
    seen = _Seen(bank, num_estimates, prior, seed)
    rng = np.random.default_rng([seen.seed, 2])
    flips = np.eye(bank.num_models, dtype=bool)
    here = seen.best(seen.look(flips), 1)[0]
    top = here
    while seen.left:
        known, around = len(seen.rows), seen.rows[here] ^ flips
        (ahead,) = seen.best([here, *seen.look(around[around.any(1)])], 1)
        if ahead != here:
            here = ahead
            continue
        (top,) = seen.best([top, here], 1)
        kicked = seen.rows[top].copy()
        kicked[rng.permutation(bank.num_models)[:_KICK]] ^= True
        start = seen.look(kicked[None]) if kicked.any() else []
        if not start or len(seen.rows) == known:
            start = seen.look(seen.strangers(1)) if seen.left else [top]
        here = start[0]
    return seen.candidates()


def greedy_path(bank: LogitBank, steps: int | None = None, replacement: bool = True) -> Tensor:
    """The ensembles that greedy selection passes through on its way, as candidates: (at most steps, N).

    It starts from the best single ingredient; each step adds the one that makes the ensemble's accuracy on the bank
    highest (of equals, the first), even where all of them lower it. All of it is read off the bank and costs no budget.

    Args:
        steps: how many additions; N when not given. Without replacement no more than N.
        replacement: whether an ingredient may be added again; its mixing weight grows with each time.

    Source: Caruana et al. 2004, ensemble selection, here on averaged logits.
    """
    steps = bank.num_models if steps is None else check_integer("steps", steps, minimum=1)
    moves, counts, rows = Moves(bank), torch.zeros(bank.num_models), []
    for _ in range(steps if replacement else min(steps, bank.num_models)):
        accuracy = moves.add(counts)
        if not replacement:
            accuracy[counts > 0] = -1.0
        counts[int(accuracy.argmax())] += 1
        rows.append(from_subsets(counts.unsqueeze(0)))
    return distinct(torch.cat(rows))

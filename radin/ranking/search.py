"""Searches for good candidates: a genetic algorithm, a local search, and the greedy path.

They compute fast estimates from the bank and spend no budget. What they return are candidates,
which `radin.rank` ranks and `radin.craft` evaluates like any others.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from radin.errors import check_integer, check_seed
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import distinct, from_subsets, monte_carlo
from radin.ranking.margins import Moves
from radin.ranking.rank import check_prior, with_prior

# How many random ingredients local search flips to leave a local maximum. One flip would lead
# straight back, and many flips would forget the maximum.
_NUM_FLIPS = 3


class _LookedAt:
    """The subsets that a search has looked at, with their scores, and how many looks are left.

    Attributes:
        subsets: the different subsets, (N,) boolean, in the order of the first look. A subset is
            named by its index in this list.
    """

    def __init__(
        self, bank: LogitBank, num_estimates: int, *, prior: float = 0.0, seed: int = 0
    ) -> None:
        bank.refuse_projection("A search")
        self.num_models = bank.num_models
        self.prior = check_prior(prior)
        self.seed = check_seed(seed)
        num_subsets = 2**bank.num_models - 1
        self.limit = min(check_integer("num_estimates", num_estimates, minimum=1), num_subsets)
        self.subsets: list[np.ndarray] = []
        self._index: dict[bytes, int] = {}
        self._scores: list[tuple[float, int]] = []  # score and size
        self._moves = Moves(bank)
        self._device = bank.logits.device

    @property
    def num_left(self) -> int:
        """How many looks are left."""
        return self.limit - len(self.subsets)

    def look(self, members: np.ndarray) -> list[int]:
        """Score subsets that are new, as long as looks are left.

        Args:
            members: (M, N) boolean, no row all False.

        Returns:
            The indices of the subsets, without those that could not be scored any more.
        """
        new: dict[bytes, np.ndarray] = {}
        for row in members:
            if row.tobytes() not in self._index and len(new) < self.num_left:
                new.setdefault(row.tobytes(), row)
        if new:
            rows = list(new.values())
            for row, estimate in zip(rows, self._estimates(np.stack(rows)), strict=True):
                self._index[row.tobytes()] = len(self.subsets)
                self.subsets.append(row)
                size = int(row.sum())
                score = with_prior(estimate, size, num_models=self.num_models, prior=self.prior)
                # Rounded as in `radin.rank`: scores that differ by rounding only are equal.
                self._scores.append((round(score, 9), size))
        return [self._index[row.tobytes()] for row in members if row.tobytes() in self._index]

    def best(self, indices: list[int], count: int) -> list[int]:
        """The `count` best of some indices, without repeats.

        Of equal scores the larger subset comes first, then the earlier one.
        """

        def key(i: int) -> tuple[float, int, int]:
            score, size = self._scores[i]
            return -score, -size, i

        return sorted(dict.fromkeys(indices), key=key)[:count]

    def unseen_subsets(self, count: int) -> np.ndarray:
        """Random subsets that were not looked at: `count` of them, or all that are left."""
        drawn = monte_carlo(self.num_models, len(self.subsets) + count, self.seed).numpy() > 0
        return np.stack([row for row in drawn if row.tobytes() not in self._index][:count])

    def candidates(self) -> Tensor:
        """All subsets looked at, as mixing weights: (M, N)."""
        return from_subsets(np.stack(self.subsets))

    def _estimates(self, members: np.ndarray) -> list[float]:
        """Exact fast estimates in percent."""
        columns = torch.from_numpy(members.T.astype(np.float64)).contiguous()
        return self._moves.accuracies(columns.to(self._device)).tolist()


def genetic(
    bank: LogitBank,
    num_estimates: int,
    *,
    prior: float = 0.0,
    seed: int = 0,
    population: int = 32,
) -> Tensor:
    """The subsets that a genetic algorithm looks at, as candidates.

    The first generation is random. Each generation has as many children as parents. Both parents of
    a child are the better of two drawn at random; each ingredient comes from one of them, and one
    in N is flipped. The best of parents and children are the next generation. If a generation
    brings nothing new, random subsets replace it.

    Args:
        bank: logits (N, n, C).
        num_estimates: M, how many subsets to look at; at most 2^N - 1.
        prior: lambda of the score, in percentage points, as in `radin.rank`.
        seed: of the random choices.
        population: how many subsets a generation has, at least 2.

    Returns:
        (M, N) different subsets, in the order of the first look.

    Raises:
        ParameterError: an impossible number, prior or seed, or a bank with a projection.
    """
    population = check_integer("population", population, minimum=2)
    looked_at = _LookedAt(bank, num_estimates, prior=prior, seed=seed)
    rng = np.random.default_rng([looked_at.seed, 1])
    alive = looked_at.look(looked_at.unseen_subsets(population))
    while looked_at.num_left:
        num_before = len(looked_at.subsets)
        parents = looked_at.best(alive, population)
        # The parents are sorted, best first, so the better of two draws is the smaller one.
        pairs = rng.integers(len(parents), size=(population, 2, 2)).min(2)
        rows = np.stack([looked_at.subsets[i] for i in parents])
        from_first = rng.random((population, bank.num_models)) < 0.5
        children = np.where(from_first, rows[pairs[:, 0]], rows[pairs[:, 1]])
        children ^= rng.random(children.shape) < 1 / bank.num_models
        alive = parents + looked_at.look(children[children.any(1)])
        if len(looked_at.subsets) == num_before:
            alive = looked_at.look(looked_at.unseen_subsets(population))
    return looked_at.candidates()


def local_search(
    bank: LogitBank, num_estimates: int, *, prior: float = 0.0, seed: int = 0
) -> Tensor:
    """The subsets that a local search looks at, as candidates.

    It starts from the best single ingredient. It looks at all subsets with one ingredient more or
    less and moves to the best of them as long as it is better. From a local maximum it flips three
    random ingredients and goes on from there, or from a random subset if it has already seen the
    flipped one.

    Args:
        bank: logits (N, n, C).
        num_estimates: M, how many subsets to look at; at most 2^N - 1.
        prior: lambda of the score, in percentage points, as in `radin.rank`.
        seed: of the random choices.

    Returns:
        (M, N) different subsets, in the order of the first look.

    Raises:
        ParameterError: an impossible number, prior or seed, or a bank with a projection.
    """
    looked_at = _LookedAt(bank, num_estimates, prior=prior, seed=seed)
    rng = np.random.default_rng([looked_at.seed, 2])
    single_flips = np.eye(bank.num_models, dtype=bool)
    current = looked_at.best(looked_at.look(single_flips), 1)[0]
    best = current
    while looked_at.num_left:
        num_before = len(looked_at.subsets)
        neighbours = looked_at.subsets[current] ^ single_flips
        (ahead,) = looked_at.best([current, *looked_at.look(neighbours[neighbours.any(1)])], 1)
        if ahead != current:
            current = ahead
            continue
        (best,) = looked_at.best([best, current], 1)
        flipped = looked_at.subsets[best].copy()
        flipped[rng.permutation(bank.num_models)[:_NUM_FLIPS]] ^= True
        start = looked_at.look(flipped[None]) if flipped.any() else []
        if not start or len(looked_at.subsets) == num_before:
            start = looked_at.look(looked_at.unseen_subsets(1)) if looked_at.num_left else [best]
        current = start[0]
    return looked_at.candidates()


def greedy_path(bank: LogitBank, steps: int | None = None, *, replacement: bool = True) -> Tensor:
    """The ensembles that greedy selection passes through, as candidates.

    It starts from the best single ingredient. Each step adds the ingredient that gives the ensemble
    the highest accuracy on the bank (of equals, the first), even if all of them lower it. It
    computes everything from the bank and spends no budget.

    Args:
        bank: logits (N, n, C).
        steps: how many additions, at most N without replacement. Default: N.
        replacement: whether an ingredient can be added again. Its mixing weight grows each time.

    Returns:
        (at most steps, N) different mixing weights.

    Raises:
        ParameterError: an impossible number of steps.

    Source: Caruana et al. 2004, ensemble selection, here on averaged logits.

    >>> import radin
    >>> bank = radin.synthetic_bank(num_models=4, num_images=100, num_classes=5, seed=0)
    >>> path = radin.greedy_path(bank, replacement=False)
    >>> (path > 0).sum(1).tolist()  # ingredients after each step
    [1, 2, 3, 4]
    """
    steps = bank.num_models if steps is None else check_integer("steps", steps, minimum=1)
    if not replacement:
        steps = min(steps, bank.num_models)
    moves = Moves(bank)
    counts = torch.zeros(bank.num_models)
    rows = []
    for _ in range(steps):
        accuracy = moves.add(counts)
        if not replacement:
            accuracy[counts > 0] = -1.0
        counts[int(accuracy.argmax())] += 1
        rows.append(from_subsets(counts.unsqueeze(0)))
    return distinct(torch.cat(rows))

"""What a recipe meets of `radin`, in NumPy alone: the page where readers write recipes runs it.

In the page it has the name `radin`. Names, rules and error messages are those of the module; arrays
stand where the module has tensors. tests/book/test_radin_lite.py compares the two.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]

SUM_TOLERANCE = 1e-4
WEIGHT_TOLERANCE = 1e-6
MAX_MODELS_EXHAUSTIVE = 20
MAX_SUMS = 2**20  # numbers held in memory at once: 8 MiB
SMALLEST = math.ulp(0.0)  # the smallest number above zero


class RadinError(Exception):
    """Base of every error that is raised on purpose."""


class ParameterError(RadinError, ValueError):
    """An argument has an impossible value."""


class OffGridError(ParameterError):
    """A soup bench was asked for a soup that it does not hold."""


class BudgetError(RadinError):
    """A recipe asked for an evaluation after its budget was spent."""


# ---------------------------------------------------------------- the bank


class LogitBank:
    """The ingredients' logits (N, n, C) on one split, with labels (n,)."""

    def __init__(self, logits: Array, labels: Array) -> None:
        self.logits = np.asarray(logits)
        self.labels = np.asarray(labels, np.int64)
        self.num_models, self.num_images, self.num_classes = self.logits.shape
        self.names = [str(k) for k in range(self.num_models)]
        self._contested: tuple[int, Array, Array] | None = None

    def __len__(self) -> int:
        return self.num_models

    def __repr__(self) -> str:
        return (
            f"LogitBank({self.num_models} ingredients, {self.num_images} images, "
            f"{self.num_classes} classes)"
        )

    def accuracies(self) -> Array:
        """Accuracy of each ingredient alone, in percent: (N,)."""
        return (self.logits.argmax(-1) == self.labels).sum(-1) * 100 / self.num_images

    def count_right(self, p: Array) -> Array:
        """On how many images the ensembles with weights (M, N) are right: (M,)."""
        if self._contested is None:
            self._contested = self._find_contested()
        always, margins, least = self._contested
        shape = margins.shape[1:]
        hits = np.full(len(p), always, np.int64)
        step = max(1, MAX_SUMS // max(1, math.prod(shape)))
        flat = margins.reshape(len(margins), math.prod(shape))
        for first in range(0, len(p), step):
            rows = p[first : first + step]
            sums = (rows @ flat).reshape(len(rows), *shape)
            hits[first : first + step] += (sums >= least).all(1).sum(-1)
        return hits

    def _find_contested(self) -> tuple[int, Array, Array]:
        """The images on which the weights decide.

        Returns: on how many others every ensemble is right; the margins of the label's logit over
            each class (N, C, n); and the margin that is needed, because the lowest class wins a tie
            (C, n).
        """
        logits = self.logits.astype(np.float64).transpose(0, 2, 1)
        margins = logits[:, self.labels, np.arange(self.num_images)][:, None] - logits
        is_lower = np.arange(self.num_classes)[:, None] < self.labels
        least = np.where(is_lower, SMALLEST, 0.0)
        holds = margins >= least
        always_right = holds.all((0, 1))
        always_wrong = (~holds).all(0).any(0)
        contested = ~(always_right | always_wrong)
        kept = np.ascontiguousarray(margins[:, :, contested])
        return int(always_right.sum()), kept, least[:, contested]


# ---------------------------------------------------------------- candidates and ranking


def from_subsets(members: Array) -> Array:
    """Equal mixing weights for rows of 0 and 1: (M, N)."""
    weights = np.asarray(members).astype(np.float32)
    return weights / weights.sum(1, keepdims=True)


def exhaustive(num_models: int) -> Array:
    """Every subset as mixing weights (2^N - 1, N); row i is the subset of bitmask i + 1."""
    if not 1 <= num_models <= MAX_MODELS_EXHAUSTIVE:
        raise ParameterError(
            f"num_models must be from 1 to {MAX_MODELS_EXHAUSTIVE}, not {num_models!r}."
        )
    masks = np.arange(1, 1 << num_models, dtype=np.int64)
    return from_subsets((masks[:, None] >> np.arange(num_models)) & 1)


def monte_carlo(num_models: int, num_candidates: int, seed: int = 0) -> Array:
    """Different random subsets as mixing weights: (M, N)."""
    every = exhaustive(num_models)
    return every[np.random.default_rng(seed).permutation(len(every))[:num_candidates]]


def check_weights(weights: Any, num_models: int, *, rows: bool = False) -> Array:
    """Mixing weights in double precision, after checking that they are in the simplex."""
    p = np.asarray(weights, dtype=np.float64)
    shape = f"(M, {num_models})" if rows else f"({num_models},)"
    if p.ndim != (2 if rows else 1) or p.shape[-1] != num_models or p.shape[0] == 0:
        raise ParameterError(
            f"Mixing weights must have shape {shape}, one weight for each ingredient; these have "
            f"{p.shape}."
        )
    if not np.isfinite(p).all():
        raise ParameterError("Mixing weights must be finite numbers; these hold NaN or infinity.")
    if (p < 0).any():
        raise ParameterError(
            f"Mixing weights must not be negative; the smallest here is {p.min():.4g}."
        )
    sums = np.atleast_1d(p.sum(-1))
    if (abs(sums - 1) > SUM_TOLERANCE).any():
        worst = sums[abs(sums - 1).argmax()]
        raise ParameterError(
            f"Mixing weights must sum to 1; these sum to {worst:.6g}. Divide them by their sum."
        )
    return p


def without_scale(p: Array) -> Array:
    """Weights (M, N) with those of subsets replaced by 1, so that rounding breaks no tie."""
    is_subset = ((p == 0) | (p == p.max(1, keepdims=True))).all(1, keepdims=True)
    return np.where(is_subset, (p > 0).astype(np.float64), p)


def fast_estimate(bank: LogitBank, candidates: Any, metric: str = "accuracy") -> Array:
    """The accuracy in percent ("nll": the loss in nats) of each candidate's ensemble: (M,)."""
    p = check_weights(candidates, bank.num_models, rows=True)
    if metric == "accuracy":
        return bank.count_right(without_scale(p)) * 100 / bank.num_images
    if metric == "nll":
        logits = bank.logits.astype(np.float64)
        images = np.arange(bank.num_images)
        return np.array([_nll(np.tensordot(q / q.sum(), logits, 1), bank, images) for q in p])
    raise ParameterError(f"metric must be one of accuracy, nll in this page, not {metric!r}.")


def _nll(ensemble: Array, bank: LogitBank, images: Array) -> float:
    shifted = ensemble - ensemble.max(1, keepdims=True)
    losses = np.log(np.exp(shifted).sum(1)) - shifted[images, bank.labels]
    return float(losses.mean())


@dataclass(frozen=True)
class Ranking:
    """Indices of the candidates, best first, with estimates and scores in the candidates' order."""

    order: Array
    estimates: Array
    scores: Array


def rank(
    bank: LogitBank,
    candidates: Any,
    prior: float = 0.0,
    *,
    top: int | None = None,
    metric: str = "accuracy",
) -> Ranking:
    """Rank by accuracy of the ensemble + prior * |S| / N; ties to more ingredients, then bitmask.

    With `top`, so many different candidates are put in order.
    """
    if not (math.isfinite(prior) and prior >= 0) or (prior > 0 and metric != "accuracy"):
        raise ParameterError(
            f"prior must be a finite number of at least 0 (percentage points), not {prior!r}."
        )
    estimates = fast_estimate(bank, candidates, metric)
    p = np.asarray(candidates, dtype=np.float64)
    sizes = np.round(p.sum(1) ** 2 / np.square(p).sum(1), 6)
    scores = estimates + prior * sizes / bank.num_models
    masks = (p > 0) @ (1 << np.arange(bank.num_models, dtype=np.int64))
    keys = -np.round(scores, 9) if metric == "accuracy" else scores
    order = np.lexsort([masks, -sizes, keys])
    if top is not None:
        _, first = np.unique(p[order], axis=0, return_index=True)
        order = order[np.sort(first)[:top]]
    return Ranking(order, estimates, scores)


# ---------------------------------------------------------------- the ledger


@dataclass(frozen=True)
class Trial:
    """One soup that a recipe looked at."""

    weights: Array
    estimate: float
    value: float
    evaluated: bool = True

    @property
    def accuracy(self) -> float:
        """The value, in percent."""
        return self.value


@dataclass
class Ledger:
    """The only way for a recipe to an evaluation; it cannot be overspent."""

    bank: LogitBank
    evaluate: Callable[[Array], float]
    budget: int
    notes: list[str] = field(default_factory=list)
    _looks: list[tuple[Array, float | None, float | None]] = field(default_factory=list, repr=False)

    def __setattr__(self, name: str, value: object) -> None:
        if name == "budget" and "budget" in vars(self):
            raise BudgetError(
                f"A recipe cannot change its budget of {self.budget} evaluations; "
                "give craft another one."
            )
        super().__setattr__(name, value)

    @property
    def trials(self) -> list[Trial]:
        """All looks so far, in order."""
        missing = [k for k, (_, estimate, _) in enumerate(self._looks) if estimate is None]
        if missing:
            rows = np.stack([self._looks[k][0] for k in missing])
            for k, found in zip(missing, fast_estimate(self.bank, rows), strict=True):
                self._looks[k] = (self._looks[k][0], float(found), self._looks[k][2])
        return [_trial(*look) for look in self._looks]

    @property
    def spent(self) -> int:
        """Evaluations so far."""
        return sum(value is not None for _, _, value in self._looks)

    @property
    def left(self) -> int:
        """Evaluations that can still be paid."""
        return self.budget - self.spent

    def spend(self, weights: Any, *, estimate: float | None = None) -> float:
        """Evaluate one soup: its validation accuracy in percent."""
        if self.left < 1:
            raise BudgetError(
                f"The budget of {self.budget} evaluations is spent; "
                "raise the budget or stop earlier."
            )
        p = check_weights(weights, self.bank.num_models)
        value = float(self.evaluate(p.copy()))
        self._looks.append((p.copy(), estimate, value))
        return value

    def spend_many(self, rows: Any, *, estimates: Sequence[float] | None = None) -> list[float]:
        """Evaluate several soups (M, N): their validation accuracies in percent."""
        given = [None] * len(rows) if estimates is None else list(estimates)
        return [self.spend(p, estimate=each) for p, each in zip(rows, given, strict=True)]

    def look(self, weights: Any, *, estimate: float | None = None) -> float:
        """The accuracy of an ensemble off the bank, free; of one ingredient the soup's own."""
        p = check_weights(weights, self.bank.num_models)
        found = float(fast_estimate(self.bank, p[None])[0]) if estimate is None else estimate
        self._looks.append((p.copy(), found, None))
        return found


def _trial(weights: Array, estimate: float | None, value: float | None) -> Trial:
    assert estimate is not None
    return Trial(weights, estimate, estimate if value is None else value, value is not None)


# ---------------------------------------------------------------- recipes

RecipeFunction = Callable[[LogitBank, Ledger], Any]


@dataclass(frozen=True)
class Soup:
    """What a recipe returns: mixing weights (N,), validation accuracy, and what it looked at."""

    weights: Array
    accuracy: float
    trials: list[Trial]
    evaluations: int

    @property
    def members(self) -> list[int]:
        """Indices of the ingredients with a positive weight."""
        found: list[int] = np.flatnonzero(self.weights > 0).tolist()
        return found


def craft(
    bank: LogitBank,
    evaluate: Callable[[Array], float],
    budget: int,
    recipe: str | RecipeFunction = "radin",
    *,
    prior: float = 0.0,
) -> Soup:
    """Spend a budget of evaluations on "radin", "greedy", "top_k" or a function of your own."""
    if isinstance(budget, bool) or budget != int(budget) or budget < 1:
        raise ParameterError(f"budget must be a whole number of at least 1, not {budget!r}.")
    ledger = Ledger(bank, evaluate, int(budget))
    if callable(recipe):
        choice = _run_function(recipe, bank, ledger)
    elif recipe == "radin":
        choice = _radin(bank, ledger, prior)
    elif recipe in ("greedy", "top_k"):
        choice = {"greedy": _greedy, "top_k": _top_k}[recipe](bank, ledger)
    else:
        raise ParameterError(
            f"Unknown recipe {recipe!r}; choose one of radin, greedy, top_k, or give a function "
            "from a bank and a ledger to mixing weights."
        )
    trials = ledger.trials
    return Soup(trials[choice].weights, trials[choice].value, trials, ledger.spent)


def _radin(bank: LogitBank, ledger: Ledger, prior: float) -> int:
    rows = exhaustive(bank.num_models)
    ranking = rank(bank, rows, prior, top=ledger.left)
    estimates = ranking.estimates[ranking.order].tolist()
    values = ledger.spend_many(rows[ranking.order], estimates=estimates)
    return int(np.argmax(np.round(values, 9)))  # of equals the first


def _greedy(bank: LogitBank, ledger: Ledger) -> int:
    singles = np.round(fast_estimate(bank, np.eye(bank.num_models)), 9)
    order = np.argsort(-singles, kind="stable").tolist()
    kept = order[:1]
    reached = round(ledger.look(equal_weights(kept, bank.num_models)), 9)
    choice = 0
    for index, k in enumerate(order[1:], start=1):
        if not ledger.left:
            break
        value = round(ledger.spend(equal_weights([*kept, k], bank.num_models)), 9)
        if value >= reached:
            kept, reached, choice = [*kept, k], value, index
    return choice


def _top_k(bank: LogitBank, ledger: Ledger) -> int:
    singles = np.round(fast_estimate(bank, np.eye(bank.num_models)), 9)
    order = np.argsort(-singles, kind="stable").tolist()
    ledger.look(equal_weights(order[:1], bank.num_models))
    sizes = range(2, len(order) + 1)[: ledger.left]
    values = ledger.spend_many([equal_weights(order[:k], bank.num_models) for k in sizes])
    best = 1 + int(np.argmax(np.round(values, 9))) if values else 0
    return best if best and round(values[best - 1], 9) >= singles[order[0]] else 0


def equal_weights(members: Sequence[int], num_models: int) -> Array:
    """The mixing weights of a subset: (N,)."""
    subset = np.zeros((1, num_models))
    subset[0, list(members)] = 1
    weights: Array = from_subsets(subset)[0]
    return weights


def _run_function(function: RecipeFunction, bank: LogitBank, ledger: Ledger) -> int:
    """The trial of the soup that a function returns, which is evaluated now where it was not."""
    name = getattr(function, "__name__", type(function).__name__)
    answer = function(bank, ledger)
    try:
        if answer is None:  # NumPy takes it for a number
            raise TypeError
        weights = check_weights(answer, bank.num_models)
    except (TypeError, ValueError) as error:  # ParameterError is a ValueError
        reason = error if isinstance(error, ParameterError) else f"not {answer!r}."
        raise ParameterError(
            f"{name} must return mixing weights, one for each of the {bank.num_models} "
            f"ingredients: {reason}"
        ) from error
    for number, (looked, _, value) in enumerate(ledger._looks):
        is_soup = value is not None or (looked > 0).sum() == 1
        if is_soup and np.allclose(looked, weights, rtol=0, atol=WEIGHT_TOLERANCE):
            return number
    if (weights > 0).sum() == 1:
        ledger.look(weights)
    elif ledger.left:
        ledger.spend(weights)
    else:
        raise ParameterError(
            f"{name} returned a soup that it did not evaluate, and the budget is spent; return a "
            "soup that it evaluated, or leave one evaluation (ledger.left)."
        )
    return len(ledger._looks) - 1

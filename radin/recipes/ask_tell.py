"""Ask and tell: a recipe for soups that another program averages and evaluates."""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.errors import ParameterError
from radin.files import update_hash
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.ranking.rank import fast_estimate
from radin.recipes.craft import Soup, craft
from radin.recipes.functions import RecipeFunction
from radin.recipes.selection import RECIPES
from radin.recipes.trial_file import TrialFile


class AskTell:
    """`radin.craft`, one soup at a time: it says which to evaluate, and takes the value.

    The trials and the soup are those of `radin.craft` with the same options, because its recipe
    runs again on the values told so far, up to the first soup without one. They are kept in a file,
    so that another process goes on where this one ended. One process at a time uses the file.

    Args:
        bank: the validation logit bank, N ingredients.
        path: the file of the ledger. It is begun where it does not exist.
        budget: B, at least 1.
        recipe: one of `radin.RECIPES`, or a function as in `radin.craft` that does the same each
            time: it runs again after each value.
        source: what else the file should remember, as JSON takes it.
        options: the others of `radin.craft`: candidates, prior, seed, metric, higher_is_better.

    Raises:
        ParameterError: an impossible option, or others than those that the ledger was begun with.
        BankError: the file is not a ledger.
        RadinError: another process uses the file.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> evaluate = bench.evaluator()  # in the place of your own program
    >>> with radin.AskTell(bench.val, "ledger.json", budget=4) as session:
    ...     while (weights := session.ask()) is not None:
    ...         session.tell(weights, evaluate(weights))
    >>> print(session.soup)
    radin: validation accuracy 82.88%, 5 of 10 ingredients, 4 of 4 evaluations spent
    """

    def __init__(
        self,
        bank: LogitBank,
        path: str | Path,
        budget: int,
        recipe: str | RecipeFunction = "radin",
        *,
        source: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> None:
        if isinstance(recipe, str) and recipe not in RECIPES:
            raise ParameterError(
                f"Ask and tell works with the recipes {', '.join(RECIPES)}, which need accuracies "
                f"alone, not with {recipe!r}."
            )
        self._bank = bank
        self._arguments = {"budget": budget, "recipe": recipe, **options}
        self._replays: dict[int, tuple[Tensor | None, Soup | None]] = {}  # by the values told
        self._replay([])  # an impossible option is refused before the file is begun
        self._file = TrialFile(path)
        try:
            self._open(source or {})
        except BaseException:
            self.close()
            raise

    def _open(self, source: Mapping[str, Any]) -> None:
        options = describe_options(self._arguments)
        digest = hash_bank(self._bank)
        if not self._file.exists:
            self._file.begin(digest, options, source)
            return
        content = self._file.read()
        changes = [
            f"{name} was {old!r} and is {options.get(name)!r}"
            for name, old in content["options"].items()
            if options.get(name) != old
        ]
        if changes:
            raise ParameterError(
                f"{self._file.path}: begun with other options: {'; '.join(changes)}. Give the same "
                "ones to go on, or another path for a new ledger."
            )
        if content["bank"] != digest:
            raise ParameterError(
                f"{self._file.path}: begun with another bank; its logits or labels have changed. "
                "Give the same bank to go on, or another path for a new ledger."
            )
        if source and source != content["source"]:
            self._file.move_source(source)

    def __enter__(self) -> AskTell:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let other processes use the ledger. It happens by itself when the process ends."""
        self._file.close()

    @property
    def trials(self) -> list[dict[str, Any]]:
        """The trials so far: "weights", "estimate", and "value", which is None until it is told."""
        trials: list[dict[str, Any]] = self._file.read()["trials"]
        return trials

    @property
    def soup(self) -> Soup | None:
        """What `radin.craft` returns; None while soups are still to be evaluated."""
        return self._replay(self.trials)[1]

    def ask(self) -> Tensor | None:
        """The mixing weights (N,) of the soup to evaluate next, or None when the recipe has ended.

        It is the same soup until its value is told, in this process or another.

        Raises:
            ParameterError: the ledger holds soups that this version of radin would not ask for.
        """
        trials = self.trials
        weights, _ = self._replay(trials)
        if weights is None:
            return None
        waiting = [trial for trial in trials if trial["value"] is None]
        if waiting:
            self._check_same(weights, waiting[0], len(trials))
        else:
            self._file.add(weights.tolist(), self._estimate(weights))
        return weights.clone()

    def tell(
        self, soup: Tensor | Sequence[float] | int, value: float, *, force: bool = False
    ) -> None:
        """Take the value of a soup that was asked for; it is on disk when this returns.

        Telling the same value again changes nothing.

        Args:
            soup: its mixing weights, as `ask` gave them, or the number of its trial, from 1.
            value: the validation accuracy in percent, or the metric of the session.
            force: take at most 1 percent where the fast estimate is much higher.

        Raises:
            ParameterError: the soup was not asked for or has another value already, or the value is
                impossible.
        """
        self._file.tell(self._number_of(soup), value, force=force)

    def _estimate(self, weights: Tensor) -> float:
        names = ("metric", "higher_is_better")
        metric = {k: v for k, v in self._arguments.items() if k in names and v is not None}
        return fast_estimate(self._bank, weights.unsqueeze(0), **metric).item()

    def _number_of(self, soup: Tensor | Sequence[float] | int) -> int:
        if isinstance(soup, int):
            return soup
        weights = check_weights(soup, self._bank.num_models).tolist()
        trials = self.trials
        # The last one first: a recipe may ask for one soup twice, where a user's candidates do.
        for number in range(len(trials), 0, -1):
            if np.allclose(trials[number - 1]["weights"], weights, rtol=1e-5, atol=0):
                return number
        raise ParameterError(
            f"{self._file.path}: no soup with the weights {[round(w, 4) for w in weights]} was "
            "asked for; tell the value of the one that ask() gave."
        )

    def _replay(self, trials: Sequence[Mapping[str, Any]]) -> tuple[Tensor | None, Soup | None]:
        """Run the recipe on the values told: the first soup without one, or the soup it returns."""
        told = [trial for trial in trials if trial["value"] is not None]
        if len(told) not in self._replays:
            self._replays = {len(told): self._run(told)}
        return self._replays[len(told)]

    def _run(self, told: Sequence[Mapping[str, Any]]) -> tuple[Tensor | None, Soup | None]:
        numbers = iter(range(len(told)))

        def look_up(weights: Tensor) -> float:
            k = next(numbers, None)
            if k is None:
                raise _NotTold(weights)
            self._check_same(weights, told[k], k + 1)
            return float(told[k]["value"])

        try:
            return None, craft(self._bank, look_up, **self._arguments)
        except _NotTold as stop:
            return stop.weights, None

    def _check_same(self, weights: Tensor, trial: Mapping[str, Any], number: int) -> None:
        if weights.tolist() != trial["weights"]:
            raise ParameterError(
                f"{self._file.path}: trial {number} is a soup that this recipe would not ask for; "
                "the ledger was edited or begun by another version of radin. Begin a new one."
            )


class _NotTold(Exception):  # noqa: N818  (no error: it ends a replay)
    """A recipe has come to a soup whose value was not told."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = weights


def describe_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """All options of `radin.craft` with their defaults, as JSON takes them."""
    bound = inspect.signature(craft).bind(None, None, **arguments)
    bound.apply_defaults()
    described = {
        name: _describe(value)
        for name, value in bound.arguments.items()
        if name not in ("bank", "evaluate")
    }
    result: dict[str, Any] = json.loads(json.dumps(described))  # as they will be read again
    return result


def _describe(value: Any) -> Any:
    if hasattr(value, "__qualname__"):  # a function
        return f"{value.__module__}.{value.__qualname__}"
    if isinstance(value, np.generic):
        return value.item()
    if value is None or isinstance(value, bool | int | float | str):
        return float(value) if isinstance(value, float) else value
    if not isinstance(value, Tensor | np.ndarray | list | tuple):
        return str(value)
    digest = hashlib.sha256()
    update_hash(digest, "option", torch.as_tensor(value))
    return f"sha256:{digest.hexdigest()}"


def hash_bank(bank: LogitBank) -> str:
    """Hex SHA-256 of a bank's logits, labels and projection; names may change."""
    digest = hashlib.sha256()
    update_hash(digest, "logits", bank.logits)
    update_hash(digest, "labels", bank.labels)
    if bank.projection is not None:
        digest.update(json.dumps(bank.projection.groups).encode())
    return digest.hexdigest()

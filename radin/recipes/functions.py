"""Recipes of the user's own: a function from a bank and a ledger to mixing weights.

`radin.craft(bank, evaluate, budget, recipe=function)` calls `function(bank, ledger)`. The bank
gives everything that is free, such as `bank.accuracies()` or `radin.fast_estimate(bank, rows)`. The
ledger (`radin.recipes.ledger.Ledger`) gives what costs: `ledger.spend(weights)` evaluates one soup
and returns its value, `ledger.left` says how many evaluations can still be paid, and one too many
raises BudgetError. The function returns mixing weights (N,), a tensor, array or list with sum 1.

- A soup that it has evaluated, or one ingredient alone, is returned as it is.
- Another soup is evaluated now: the function leaves one evaluation for it.

>>> import radin
>>> def better_half(bank, ledger):
...     better = bank.accuracies() > bank.accuracies().median()
...     return better / better.sum()
>>> bench = radin.SoupBench.load("cifar10")
>>> print(radin.craft(bench.val, bench.evaluator(), budget=1, recipe=better_half))
better_half: validation accuracy 82.64%, 5 of 10 ingredients, 1 of 1 evaluations spent
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from radin.errors import ParameterError
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.recipes.ledger import Ledger
from radin.recipes.selection import Recipe, RecipeOptions

RecipeFunction = Callable[[LogitBank, Ledger], Tensor | Sequence[float]]

WEIGHT_TOLERANCE = 1e-6  # within which two mixing weights are one; single precision holds 1e-7


def name_of(function: Callable[..., Any]) -> str:
    """What a recipe is called: the function's name, or that of its class."""
    return str(getattr(function, "__name__", type(function).__name__))


def as_recipe(function: RecipeFunction) -> Recipe:
    """A recipe that calls a function, and evaluates the soup that it returns where that is missing.

    Raises:
        ParameterError: what the function returns is no mixing weights, or a soup that it did not
            evaluate although it has spent the whole budget.
    """

    def recipe(bank: LogitBank, ledger: Ledger, options: RecipeOptions) -> int:
        weights = _returned(function, bank, ledger)
        for number, trial in enumerate(ledger.trials):
            # A look at several ingredients is the value of their ensemble, not of the soup.
            is_soup = trial.evaluated or int((trial.weights > 0).sum()) == 1
            found = trial.weights.double()
            if is_soup and torch.allclose(found, weights, rtol=0, atol=WEIGHT_TOLERANCE):
                return number
        if int((weights > 0).sum()) == 1:
            ledger.look(weights)
        elif ledger.left:
            ledger.spend(weights)
        else:
            raise ParameterError(
                f"{name_of(function)} returned a soup that it did not evaluate, and the budget is "
                "spent; return a soup that it evaluated, or leave one evaluation (ledger.left)."
            )
        return len(ledger.trials) - 1

    return recipe


def _returned(function: RecipeFunction, bank: LogitBank, ledger: Ledger) -> Tensor:
    answer = function(bank, ledger)
    try:
        return check_weights(answer, bank.num_models)
    except (TypeError, ValueError, RuntimeError) as error:  # ParameterError is a ValueError
        reason = error if isinstance(error, ParameterError) else f"not {answer!r}."
        raise ParameterError(
            f"{name_of(function)} must return mixing weights, one for each of the "
            f"{bank.num_models} ingredients: {reason}"
        ) from error

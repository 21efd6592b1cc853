"""The plan of the collection, fixed before the first zoo was made: `book/plans.md` explains it."""

from __future__ import annotations

from dataclasses import dataclass

from radin.experiments.collection.designs import DESIGNS, zoo_name
from radin.recipes.rules import GreedyRules

NUM_ROUNDS = 16  # a round is one zoo of each design
BUDGETS = (1, 2, 3, 4, 8, 16, 32)
NUM_RANDOM_SEEDS = 20  # the recipe "random" is the mean over so many orders

GREEDY_CONVENTIONS = {
    "greedy": GreedyRules(),
    "greedy_better": GreedyRules(keep="better"),
    "greedy_start_paid": GreedyRules(paid="start"),
    "greedy_all_paid": GreedyRules(paid="all"),
    "greedy_as_listed": GreedyRules(order="as_listed"),
    "greedy_worst_first": GreedyRules(order="worst_first"),
}

RECIPES = {
    "radin": "lambda 0, ranked by the ensembles' accuracy, chosen by the soups' accuracy",
    "radin_prior1": "the same with lambda 1",
    "radin_nll": "ranked by the ensembles' NLL, chosen by the soups' accuracy",
    "radin_all_nll": "ranked by the ensembles' NLL, chosen by the soups' NLL",
    "radin_members": "ranked by the mean accuracy of the members",
    "radin_size": "ranked by size, the largest soup first",
    "radin_fallback": "radin, or the best single ingredient where that is better on validation",
    "radin_fallback_prior1": "radin_prior1 with this fallback",
    "radin_fallback_nll": "radin_nll with this fallback",
    "greedy": "greedy; the ingredients' accuracies are free, an equal addition is kept",
    "greedy_better": "greedy that keeps only additions that help",
    "greedy_start_paid": "greedy that pays for the pass of the best single ingredient",
    "greedy_all_paid": "greedy that pays for the passes of all single ingredients first",
    "greedy_as_listed": "greedy in the order of training",
    "greedy_worst_first": "greedy that starts from the worst ingredient and goes up",
    "top_k": "the k best ingredients averaged, one evaluation for each k from 2 on",
    "uniform": "all ingredients averaged; the same at each budget",
    "best_single": "the best ingredient on validation; the same at each budget",
    "random": f"the mean over {NUM_RANDOM_SEEDS} random orders of all soups",
    "oracle": "the best soup on test, a bound and not a recipe; the same at each budget",
    "ensemble": "the logits of all ingredients averaged, not a soup; the same at each budget",
}

VALIDATION_SIZES = (50, 100, 200, 500, 1000, 2000, 5000)
CURSE_BUDGETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)  # a zoo of six has 63 soups; then all are tried


@dataclass(frozen=True)
class Contrast:
    """A difference between two recipes at one budget, in points of test accuracy.

    Attributes:
        title: of the row in a table.
        first, second: names of recipes; the effect is the first minus the second.
        budget: of both.
    """

    title: str
    first: str
    second: str
    budget: int


PRIMARY = (
    Contrast("RADIN − greedy, B = 1", "radin", "greedy", 1),
    Contrast("RADIN − greedy, B = 4", "radin", "greedy", 4),
    Contrast("RADIN − best single, B = 1", "radin", "best_single", 1),
    Contrast("RADIN − best single, B = 4", "radin", "best_single", 4),
    Contrast("prior 1 − prior 0, B = 1", "radin_prior1", "radin", 1),
    Contrast("NLL − accuracy as the estimate, B = 1", "radin_nll", "radin", 1),
    Contrast("RADIN with fallback − greedy, B = 1", "radin_fallback", "greedy", 1),
    Contrast("RADIN with fallback − greedy, B = 4", "radin_fallback", "greedy", 4),
)
# This one is a difference of two rank correlations of the table of zoos.
SPEARMAN_TITLE = "Spearman of ensembles − of members' means"

MARGIN_POINTS = 0.25  # effects within it are called equal
MARGIN_SPEARMAN = 0.05
NUM_RESAMPLES = 10_000
BOOTSTRAP_SEED = 0


def planned_zoos(num_rounds: int = NUM_ROUNDS) -> list[str]:
    """The names of the zoos in the order in which they are made: round by round.

    >>> from radin.experiments.collection.plan import planned_zoos
    >>> planned_zoos()[:2], len(planned_zoos()) >= 120
    (['digits-conv-000', 'digits-conv-wild-000'], True)
    """
    return [zoo_name(design, number) for number in range(num_rounds) for design in DESIGNS]

"""What a budget can buy: the plan of a comparison at equal passes, fixed before its first result.

`book/plans.md` explains it, and `radin.experiments.collection.measure_passes` follows it.
"""

from __future__ import annotations

from radin.experiments.collection.designs import DESIGNS, zoo_name
from radin.experiments.collection.plan import Contrast

FIRST_ROUND = 16  # the rounds before have answered other questions; no recipe has seen these zoos
NUM_PASS_ROUNDS = 16
PASSES = (1, 2, 4, 8, 16, 32)  # forward-equivalents: forward passes over the validation images
SHARE = 0.3  # of the images, in the recipes that end on "_share"
NUM_SAMPLE_SEEDS = 10  # recipes that draw images are means over so many draws
NUM_RANDOM_SEEDS = 20  # the recipe "random" is the mean over so many orders

PASS_RECIPES = {
    "radin": "lambda 0, as the paper has it",
    "radin_prior1": "the same with lambda 1",
    "radin_share": "radin, each soup but the first run on three images in ten, so on more soups",
    "safe": "ordered by the ensembles' NLL, with the best single ingredient as a free fallback",
    "safe_threshold1": "safe; a soup must lead by one standard error of the paired difference",
    "safe_share": "safe, each soup but the first run on three images in ten, so on more soups",
    "race": "three soups for each pass, clearly worse ones dropped on a few images",
    "race_whole": "the same soups, all run on all images: it spends more than the budget",
    "convex": "the one soup whose mixing weights have the ensemble of lowest NLL",
    "safe_convex": "safe with this soup before all others",
    "learned": "mixing weights learned from the convex point, one for each ingredient",
    "learned_tensor": "the same with mixing weights of its own for each tensor",
    "greedy": "greedy; the ingredients' accuracies are free, an equal addition is kept",
    "top_k": "the k best ingredients averaged, one evaluation for each k from 2 on",
    "uniform": "all ingredients averaged; the same at each budget",
    "best_single": "the best ingredient on validation, free; the same at each budget",
    "random": f"the mean over {NUM_RANDOM_SEEDS} random orders of all soups",
    "oracle": "the best subset on test, a bound and not a recipe; the same at each budget",
}

# Does the safe recipe fall behind RADIN at any budget? One after the other, by budget.
SAFE_CONTRASTS = tuple(
    Contrast(
        f"safe − RADIN{title}, {budget} {'pass' if budget == 1 else 'passes'}",
        "safe",
        second,
        budget,
    )
    for second, title in (("radin", ""), ("radin_prior1", " with prior 1"))
    for budget in PASSES
)
PASS_CONTRASTS = (
    Contrast("RADIN on a share − RADIN, 4 passes", "radin_share", "radin", 4),
    Contrast("RADIN on a share − RADIN, 16 passes", "radin_share", "radin", 16),
    Contrast("safe on a share − safe, 4 passes", "safe_share", "safe", 4),
    Contrast("safe on a share − safe, 16 passes", "safe_share", "safe", 16),
    Contrast("race − safe, 4 passes", "race", "safe", 4),
    Contrast("race − safe, 16 passes", "race", "safe", 16),
    Contrast("race − its soups run whole, 4 passes", "race", "race_whole", 4),
    Contrast("race − its soups run whole, 16 passes", "race", "race_whole", 16),
    Contrast("safe with convex − safe, 1 pass", "safe_convex", "safe", 1),
    Contrast("safe with convex − safe, 4 passes", "safe_convex", "safe", 4),
    Contrast("safe with threshold 1 − safe, 8 passes", "safe_threshold1", "safe", 8),
    Contrast("safe with threshold 1 − safe, 32 passes", "safe_threshold1", "safe", 32),
)
# Added after the first round had been looked at, and before learned soups were run on any zoo.
LEARNED_CONTRASTS = (
    Contrast("learned by tensor − safe, 8 passes", "learned_tensor", "safe", 8),
    Contrast("learned by tensor − safe, 32 passes", "learned_tensor", "safe", 32),
    Contrast("learned by ingredient − safe, 32 passes", "learned", "safe", 32),
    Contrast("learned by tensor − the best subset, 32 passes", "learned_tensor", "oracle", 32),
)

# Soups on a share of the images beside the same soups on all images: what is asked of them.
NUM_SOUPS = tuple(range(2, 17))
MIN_SAME_PERCENT = 95.0  # of the choices
MAX_LOST_POINTS = 0.02  # of test accuracy, on average
COVERAGE_PERCENT = (93.0, 97.0)  # of the 95% intervals


def planned_pass_zoos(num_rounds: int = NUM_PASS_ROUNDS) -> list[str]:
    """The names of the zoos in the order in which they are made: round by round.

    >>> from radin.experiments.collection.passes import planned_pass_zoos
    >>> planned_pass_zoos()[:2]
    ['digits-conv-016', 'digits-conv-wild-016']
    """
    rounds = range(FIRST_ROUND, FIRST_ROUND + num_rounds)
    return [zoo_name(design, number) for number in rounds for design in DESIGNS]

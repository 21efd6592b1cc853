"""Which soups of a large zoo are evaluated: random ones, and those on the paths of the recipes."""

from __future__ import annotations

import torch
from torch import Tensor

from radin.errors import check_integer
from radin.experiments.bench.lookup import bitmask_of, members_of_weights
from radin.inference.evaluate import LiveEvaluator
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import monte_carlo
from radin.recipes.craft import craft

PRIORS = (0.0, 1.0)  # of the paths of RADIN
NUM_CANDIDATES = 20_000


def random_subsets(num_models: int, num_random: int, seed: int) -> Tensor:
    """The random part of a sample: (num_random, N), with a seed of its own."""
    return monte_carlo(num_models, num_random, seed=seed + 1)


def sample_subsets(
    bank: LogitBank,
    evaluate: LiveEvaluator,
    *,
    num_random: int = 2000,
    budget: int = 64,
    num_candidates: int = NUM_CANDIDATES,
    seed: int = 0,
) -> Tensor:
    """Subsets of a zoo too large to evaluate them all, so that recipes find what they ask for.

    They are all single ingredients, the uniform soup, random subsets, the soups that RADIN
    evaluates with each of `PRIORS`, and those that "safe", greedy and "top_k" evaluate.

    Args:
        bank: the ingredients' logits on validation.
        evaluate: from mixing weights (N,) to validation accuracy in percent. It is called for the
            paths of the recipes; each soup once.
        num_random: random subsets.
        budget: evaluations of RADIN and "safe"; the others go through all ingredients.
        num_candidates: Monte Carlo candidates that RADIN and "safe" rank.
        seed: of the random subsets and of the candidates.

    Returns:
        Their bitmasks (R,), ascending int64.
    """
    num_models = bank.num_models
    check_integer("num_random", num_random, minimum=1)
    accuracies: dict[int, float] = {}

    def remember(weights: Tensor) -> float:
        bitmask = bitmask_of(members_of_weights(weights, num_models))
        if bitmask not in accuracies:
            accuracies[bitmask] = evaluate(weights)
        return accuracies[bitmask]

    candidates = monte_carlo(num_models, num_candidates, seed=seed)
    for prior in PRIORS:
        craft(bank, remember, budget, "radin", candidates=candidates, prior=prior, seed=seed)
    craft(bank, remember, budget, "safe", candidates=candidates, seed=seed)
    for recipe in ("greedy", "top_k"):
        craft(bank, remember, num_models, recipe)
    drawn = random_subsets(num_models, num_random, seed)
    found = {bitmask_of(members_of_weights(weights, num_models)) for weights in drawn}
    found |= {1 << k for k in range(num_models)} | {2**num_models - 1} | set(accuracies)
    return torch.tensor(sorted(found), dtype=torch.int64)

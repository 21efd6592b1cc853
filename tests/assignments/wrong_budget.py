"""Typical wrong answers to the assignment `budget`, and the points that each of them loses.

`WRONG` maps a short name to (answer cells, losses): the new code of each answer cell by its
grade_id, and the lost points by the grade_id of the test cell. Every other coded part keeps all its
points.
"""

from __future__ import annotations

ALL_SCORES = {"test_recipe_random": 1, "test_recipe_radin": 2, "test_recipe_greedy": 2}
WHOLE_RECIPE = {"test_recipe_fair": 2, **ALL_SCORES}

WRONG: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "probabilities_averaged": (
        {
            "estimate": """
def estimate(bank, candidates):
    each = bank.logits.double().softmax(-1)
    right = []
    for p in candidates.double():
        answers = torch.tensordot(p, each, 1).argmax(-1)
        right.append((answers == bank.labels).double().mean())
    return 100 * torch.stack(right)
"""
        },
        {"test_estimate": 2, "test_estimate_weights": 2},
    ),
    "mixing_weights_ignored": (
        {
            "estimate": """
def estimate(bank, candidates):
    logits = bank.logits.double()
    right = []
    for p in candidates:
        answers = logits[p > 0].mean(0).argmax(-1)
        right.append((answers == bank.labels).double().mean())
    return 100 * torch.stack(right)
"""
        },
        {"test_estimate_weights": 2},
    ),
    "mean_of_the_members_accuracies": (
        {
            "estimate": """
def estimate(bank, candidates):
    right = (bank.logits.argmax(-1) == bank.labels).double()
    return 100 * candidates.double() @ right.mean(1)
"""
        },
        {"test_estimate": 2, "test_estimate_weights": 2},
    ),
    "prior_not_divided_by_N": (
        {
            "ranking": """
def ranking(estimates, candidates, prior):
    p = candidates.double()
    sizes = (1 / p.square().sum(1)).round(decimals=6)
    masks = ((p > 0) * 2 ** torch.arange(p.shape[1])).sum(1)
    scores = (estimates + prior * sizes).round(decimals=9)
    keys = torch.stack([-scores, -sizes, masks], 1).tolist()
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
"""
        },
        {"test_ranking": 2},
    ),
    "ties_left_to_the_order_of_the_candidates": (
        {
            "ranking": """
def ranking(estimates, candidates, prior):
    p = candidates.double()
    scores = estimates + prior / p.square().sum(1) / p.shape[1]
    return scores.argsort(descending=True, stable=True)
"""
        },
        {"test_ranking_ties": 2},
    ),
    "ties_go_to_fewer_ingredients": (
        {
            "ranking": """
def ranking(estimates, candidates, prior):
    p = candidates.double()
    sizes = (1 / p.square().sum(1)).round(decimals=6)
    masks = ((p > 0) * 2 ** torch.arange(p.shape[1])).sum(1)
    scores = (estimates + prior * sizes / p.shape[1]).round(decimals=9)
    keys = torch.stack([-scores, sizes, masks], 1).tolist()
    return torch.tensor(sorted(range(len(keys)), key=keys.__getitem__))
"""
        },
        {"test_ranking_ties": 2},
    ),
    "one_evaluation_too_many": (
        {
            "spend": """
def spend(order, candidates, evaluate, budget):
    found = {}
    for i in order.tolist():
        if len(found) > budget:
            break
        key = tuple(candidates[i].tolist())
        if key not in found:
            found[key] = evaluate(candidates[i])
    best = max(found, key=found.get)
    return torch.tensor(best), found[best]
"""
        },
        {"test_spend": 2},
    ),
    "an_index_instead_of_mixing_weights": (
        {
            "spend": """
def spend(order, candidates, evaluate, budget):
    found = {}
    for i in order.tolist():
        key = tuple(candidates[i].tolist())
        if len(found) < budget and key not in found:
            found[key] = (evaluate(candidates[i]), i)
    accuracy, i = max(found.values(), key=lambda pair: pair[0])
    return i, accuracy
"""
        },
        {"test_spend": 2, "test_spend_repeats": 1},
    ),
    "repeats_paid_again": (
        {
            "spend": """
def spend(order, candidates, evaluate, budget):
    tried = order[:budget].tolist()
    found = [evaluate(candidates[i]) for i in tried]
    best = found.index(max(found))
    return candidates[tried[best]], found[best]
"""
        },
        {"test_spend_repeats": 1},
    ),
    "recipe_budget_overspent": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    rows = radin.exhaustive(bank.num_models)
    order = ranking(estimate(bank, rows), rows, 0.0)
    return spend(order, rows, evaluate, budget + 1)[0]
"""
        },
        WHOLE_RECIPE,
    ),
    "recipe_chosen_on_the_test_split": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    bench = radin.SoupBench.load("cifar10")
    return bench.subset(range(bank.num_models)).oracle[0]
"""
        },
        WHOLE_RECIPE,
    ),
    "recipe_reads_the_test_split_of_the_practice_zoos": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    for zoo in practice.values():
        if torch.equal(zoo.val.logits, bank.logits):
            return zoo.oracle[0]
    return torch.full((bank.num_models,), 1 / bank.num_models)
"""
        },
        WHOLE_RECIPE,
    ),
    "recipe_opens_a_bench_above_it": (
        {
            "recipe": """
opened = [radin.SoupBench.load("cifar10")]


def recipe(bank, evaluate, budget):
    return opened[0].subset(range(bank.num_models)).oracle[0]
"""
        },
        WHOLE_RECIPE,
    ),
    "recipe_imports_the_fast_estimate": (
        {
            "recipe": """
from radin import fast_estimate as quick


def recipe(bank, evaluate, budget):
    rows = radin.exhaustive(bank.num_models)
    return spend(ranking(quick(bank, rows), rows, 0.0), rows, evaluate, budget)[0]
"""
        },
        WHOLE_RECIPE,
    ),
    "recipe_radins_own": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    return radin.craft(bank, evaluate, budget).weights
"""
        },
        WHOLE_RECIPE,
    ),
    "recipe_the_bank_ignored": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    rows = radin.exhaustive(bank.num_models)
    order = list(range(len(rows)))
    random.Random(0).shuffle(order)
    return spend(torch.tensor(order), rows, evaluate, budget)[0]
"""
        },
        ALL_SCORES,
    ),
    "recipe_a_bitmask_instead_of_mixing_weights": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    rows = radin.exhaustive(bank.num_models)
    order = ranking(estimate(bank, rows), rows, 0.0)
    best = spend(order, rows, evaluate, budget)[0]
    return sum(2**k for k, p in enumerate(best.tolist()) if p > 0)
"""
        },
        WHOLE_RECIPE,
    ),
    "recipe_the_winner_paid_twice": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    singles = estimate(bank, torch.eye(bank.num_models))
    single = torch.eye(bank.num_models)[int(singles.argmax())]
    rows = radin.exhaustive(bank.num_models)
    order = ranking(estimate(bank, rows), rows, 0.0)
    again = budget > 3
    best, accuracy = spend(order, rows, evaluate, budget - again)
    if again:
        accuracy = evaluate(best)
    return best if accuracy >= singles.max().item() else single
"""
        },
        {"test_recipe_fair": 2},
    ),
    "recipe_the_best_single_forgotten": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    rows = radin.exhaustive(bank.num_models)
    order = ranking(estimate(bank, rows), rows, 0.0)
    return spend(order, rows, evaluate, budget)[0]
"""
        },
        {"test_recipe_greedy": 2},
    ),
    "recipe_nothing_evaluated": (
        {
            "recipe": """
def recipe(bank, evaluate, budget):
    return torch.full((bank.num_models,), 1 / bank.num_models)
"""
        },
        ALL_SCORES,
    ),
}

"""Typical wrong answers to the assignment `soups`, and the points that each of them loses.

`WRONG` maps a short name to (answer cells, losses): the new code of each answer cell by its
grade_id, and the lost points by the grade_id of the test cell. `RIGHT` holds answers that are right
and differ from the reference's.
"""

from __future__ import annotations

WRONG: dict[str, tuple[dict[str, str], dict[str, float]]] = {
    "half_precision": (
        {
            "soup": """
def soup(states, weights):
    result = {}
    for name, first in states[0].items():
        result[name] = first.clone()
        if first.is_floating_point():
            result[name] *= 0
            for state, weight in zip(states, weights):
                result[name] += float(weight) * state[name]
    return result
"""
        },
        {"test_soup_half": 2},
    ),
    "integers_averaged": (
        {
            "soup": """
def soup(states, weights):
    return {
        name: sum(
            float(w) * state[name].double() for state, w in zip(states, weights)
        ).to(first.dtype)
        for name, first in states[0].items()
    }
"""
        },
        {"test_soup_integers": 1},
    ),
    "ingredient_overwritten": (
        {
            "soup": """
def soup(states, weights):
    result = dict(states[0])
    for name, first in result.items():
        if first.is_floating_point():
            total = sum(float(w) * state[name].double() for state, w in zip(states, weights))
            first.copy_(total)
    return result
"""
        },
        {"test_soup_untouched": 1},
    ),
    "probabilities": (
        {
            "ensemble": """
def ensemble(logits, weights):
    return torch.einsum("k,knc->nc", weights.double(), logits.double().softmax(-1))
"""
        },
        {"test_ensemble": 2},
    ),
    "a_tie_counts": (
        {
            "accuracy": """
def accuracy(logits, labels):
    own = logits.gather(1, labels[:, None])[:, 0]
    return 100 * (own >= logits.max(1).values).double().mean().item()
"""
        },
        {"test_accuracy": 2},
    ),
    "greedy_from_the_first": (
        {
            "greedy": """
def greedy(accuracies, evaluate, budget):
    weights, reached = torch.zeros(len(accuracies)), accuracies[0]
    weights[0] = 1
    for k in range(1, min(budget + 1, len(accuracies))):
        tried = (weights > 0).float()
        tried[k] = 1
        tried /= tried.sum()
        found = evaluate(tried)
        if found >= reached:
            weights, reached = tried, found
    return weights
"""
        },
        {"test_greedy": 1, "test_greedy_start": 1, "test_greedy_ties": 1},
    ),
    "greedy_from_nothing": (
        {
            "greedy": """
def greedy(accuracies, evaluate, budget):
    order = sorted(range(len(accuracies)), key=lambda k: -accuracies[k])
    members, reached = [], -1.0
    for k in order[:budget]:
        tried = torch.zeros(len(accuracies))
        tried[[*members, k]] = 1 / (len(members) + 1)
        found = evaluate(tried)
        if found >= reached:
            members, reached = [*members, k], found
    weights = torch.zeros(len(accuracies))
    weights[members] = 1 / len(members)
    return weights
"""
        },
        {"test_greedy_start": 1},
    ),
    "greedy_keeps_only_improvements": (
        {
            "greedy": """
def greedy(accuracies, evaluate, budget):
    order = sorted(range(len(accuracies)), key=lambda k: -accuracies[k])
    weights, reached = torch.zeros(len(accuracies)), accuracies[order[0]]
    weights[order[0]] = 1
    for k in order[1 : budget + 1]:
        tried = (weights > 0).float()
        tried[k] = 1
        tried /= tried.sum()
        found = evaluate(tried)
        if found > reached:
            weights, reached = tried, found
    return weights
"""
        },
        {"test_greedy_ties": 1},
    ),
    "greedy_worst_first": (
        {
            "greedy": """
def greedy(accuracies, evaluate, budget):
    best, *others = sorted(range(len(accuracies)), key=lambda k: -accuracies[k])
    weights, reached = torch.zeros(len(accuracies)), accuracies[best]
    weights[best] = 1
    for k in others[::-1][:budget]:
        tried = (weights > 0).float()
        tried[k] = 1
        tried /= tried.sum()
        found = evaluate(tried)
        if found >= reached:
            weights, reached = tried, found
    return weights
"""
        },
        {"test_greedy": 1, "test_greedy_start": 1, "test_greedy_ties": 1},
    ),
    "greedy_overspends": (
        {
            "greedy": """
def greedy(accuracies, evaluate, budget):
    order = sorted(range(len(accuracies)), key=lambda k: -accuracies[k])
    weights, reached = torch.zeros(len(accuracies)), accuracies[order[0]]
    weights[order[0]] = 1
    for k in order[1:]:
        tried = (weights > 0).float()
        tried[k] = 1
        tried /= tried.sum()
        found = evaluate(tried)
        if found >= reached:
            weights, reached = tried, found
    return weights
"""
        },
        {"test_greedy_budget": 1},
    ),
    "chosen_on_test": (
        {
            "choose": """
def choose(candidates, on_validation, on_test):
    found = [on_test(weights) for weights in candidates]
    return found.index(max(found)), max(found)
"""
        },
        {"test_choose": 2},
    ),
    "unpaired_interval": (
        {
            "difference": """
def difference(right_first, right_second):
    a, b = 100 * right_first.double(), 100 * right_second.double()
    middle = (a.mean() - b.mean()).item()
    half = 1.96 * ((a.var() + b.var()) / len(a)).sqrt().item()
    return middle, middle - half, middle + half
"""
        },
        {"test_difference": 1, "test_difference_few": 1},
    ),
    "no_image_added_to_each_side": (
        {
            "difference": """
def difference(right_first, right_second):
    d = 100 * (right_first.double() - right_second.double())
    half = 1.96 * d.std().item() / len(d) ** 0.5
    middle = d.mean().item()
    return middle, middle - half, middle + half
"""
        },
        {"test_difference_few": 1},
    ),
    "ends_beyond_a_hundred_points": (
        {
            "difference": """
def difference(right_first, right_second):
    n = len(right_first)
    a, b = (right_first & ~right_second).sum().item(), (right_second & ~right_first).sum().item()
    p, q = (a + 1) / (n + 2), (b + 1) / (n + 2)
    half = 1.96 * ((p + q - (p - q) ** 2) / (n + 2)) ** 0.5
    return 100 * (a - b) / n, 100 * (p - q - half), 100 * (p - q + half)
"""
        },
        {"test_difference_few": 1},
    ),
}

RIGHT: dict[str, dict[str, str]] = {
    "accuracy_in_single_precision": {
        "accuracy": """
def accuracy(logits, labels):
    return 100 * (logits.argmax(-1) == labels).float().mean().item()
"""
    },
    "percent_in_single_precision": {
        "accuracy": """
def accuracy(logits, labels):
    return float((100.0 * (logits.argmax(1) == labels)).mean())
"""
    },
    "accuracy_by_sum_and_len": {
        "accuracy": """
def accuracy(logits, labels):
    right = [int(row.argmax()) == int(label) for row, label in zip(logits, labels)]
    return 100 * sum(right) / len(right)
"""
    },
    # Names that tests once used for their own ends.
    "helpers_of_ones_own": {
        "soup": """
def estimate(rows, shares):
    return sum(float(p) * row.double() for p, row in zip(shares, rows))


def soup(states, weights):
    return {
        name: estimate([s[name] for s in states], weights).to(t.dtype)
        if t.is_floating_point()
        else t.clone()
        for name, t in states[0].items()
    }
""",
        "accuracy": """
def subset(logits):
    return logits.argmax(-1)


def accuracy(logits, labels):
    return 100 * (subset(logits) == labels).double().mean().item()
""",
        "choose": """
def counting(values):
    return values.index(max(values))


def choose(candidates, on_validation, on_test):
    best = counting([on_validation(weights) for weights in candidates])
    return best, on_test(candidates[best])
""",
    },
}

import numpy as np


def recipe(bank, ledger):
    """Greedy: best ingredient first, keep what does no harm."""
    accuracies = np.asarray(bank.accuracies())
    order = np.argsort(-accuracies, kind="stable")
    kept = [order[0]]
    reached = accuracies[order[0]]
    for k in order[1:]:
        if ledger.left == 0:
            break
        value = ledger.spend(average_of([*kept, k], bank))
        if value >= reached:
            kept.append(k)
            reached = value
    return average_of(kept, bank)


def average_of(members, bank):
    """Equal mixing weights for some ingredients."""
    weights = np.zeros(bank.num_models)
    weights[members] = 1 / len(members)
    return weights

import numpy as np


def recipe(bank, ledger):
    """Top k: the best soup of the 2, 3, ... best ingredients."""
    accuracies = np.asarray(bank.accuracies())
    order = np.argsort(-accuracies, kind="stable")
    best, reached = None, -1.0
    for k in range(2, bank.num_models + 1):
        if ledger.left == 0:
            break
        weights = np.zeros(bank.num_models)
        weights[order[:k]] = 1 / k
        value = ledger.spend(weights)
        if value > reached:
            best, reached = weights, value
    if best is None or accuracies[order[0]] > reached:
        best = np.eye(bank.num_models)[order[0]]
    return best

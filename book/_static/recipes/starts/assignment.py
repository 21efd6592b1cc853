import numpy as np


def recipe(bank, evaluate, budget):
    """Assignment 3, part 4: spend the budget, return the weights of one soup.

    A beginning: the average of all ingredients, unless one alone is better.
    """
    N = bank.num_models
    accuracies = np.asarray(bank.accuracies())
    best = np.eye(N)[accuracies.argmax()]
    if N == 1:
        return best
    everything = np.full(N, 1 / N)
    value = evaluate(everything)
    print(f"all {N}: {value:.2f}%, the best one: {accuracies.max():.2f}%")
    return everything if value >= accuracies.max() else best

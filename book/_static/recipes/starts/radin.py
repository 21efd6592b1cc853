import radin


def recipe(bank, ledger):
    """RADIN: rank all soups by ensemble, evaluate the first."""
    rows = radin.exhaustive(bank.num_models)
    order = radin.rank(bank, rows, prior=0.0).order
    best, reached = None, -1.0
    for i in order[: ledger.left]:
        value = ledger.spend(rows[i])
        if value > reached:
            best, reached = rows[i], value
    return best

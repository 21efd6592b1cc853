"""What is kept of one zoo: each recipe's result at each budget, and facts about the zoo."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from torch import Tensor

from radin.experiments.bench import replay
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.summary import zoo_facts
from radin.experiments.collection.make import MadeZoo
from radin.experiments.collection.plan import (
    BUDGETS,
    CURSE_BUDGETS,
    GREEDY_CONVENTIONS,
    NUM_RANDOM_SEEDS,
    VALIDATION_SIZES,
)
from radin.recipes.craft import craft
from radin.recipes.rules import best_so_far, comparable
from radin.recipes.trust import trust

Row = dict[str, Any]
Shifted = Callable[[list[int]], Tensor]  # rows of a bench to accuracies in percent


def recipe_choices(bench: SoupBench, budget: int) -> dict[str, np.ndarray]:
    """The rows that each recipe returns after 1 .. B evaluations: (B,) for each name.

    `radin.experiments.collection.plan.RECIPES` says what each recipe is.
    """
    nll = -bench.ensembles("val", "nll").numpy()
    choices = {
        "radin": replay.radin(bench, budget),
        "radin_prior1": replay.radin(bench, budget, prior=1.0),
        "radin_nll": replay.radin(bench, budget, scores=nll),
        "radin_members": replay.radin(bench, budget, scores=replay.member_means(bench)),
        "radin_size": replay.radin(bench, budget, scores=bench.sizes.double().numpy()),
        "radin_all_nll": _chosen_by_nll(bench, replay.order(bench, scores=nll), budget),
    }
    for name in ("radin", "radin_prior1", "radin_nll"):
        choices[name.replace("radin", "radin_fallback", 1)] = with_fallback(bench, choices[name])
    choices["top_k"] = replay.top_k(bench, budget)
    for name, rules in GREEDY_CONVENTIONS.items():
        choices[name] = replay.greedy(bench, budget, rules=rules)
    fixed = {
        "uniform": replay.uniform(bench),
        "best_single": replay.best_single(bench),
        "oracle": replay.oracle(bench),
    }
    return choices | {name: np.full(budget, row) for name, row in fixed.items()}


def with_fallback(bench: SoupBench, rows: np.ndarray) -> np.ndarray:
    """The same rows, but the best single ingredient where it is better on validation.

    Its accuracy is in the bank, so it costs nothing. Of equals the soup stays, as with greedy.
    """
    single = replay.best_single(bench)
    val = comparable(bench.soups("val").numpy())
    return np.where(val[rows] >= val[single], rows, single)


def _chosen_by_nll(bench: SoupBench, order: np.ndarray, budget: int) -> np.ndarray:
    rows = order[:budget]
    best = rows[best_so_far(-bench.soups("val", "nll").numpy()[rows])]
    return np.concatenate([best, np.full(budget - len(best), best[-1])])


def recipe_rows(zoo: str, design: str, bench: SoupBench, shifted: Shifted | None) -> list[Row]:
    """One row for each recipe and budget.

    Args:
        zoo: its name.
        design: its design.
        bench: all of its soups.
        shifted: gives accuracies on a shifted test set; None where there is none.
    """
    choices = recipe_choices(bench, max(BUDGETS))
    val = bench.soups("val").numpy()
    test = bench.soups("test").numpy()
    known: dict[int, float] = {}
    if shifted is not None:
        needed = sorted({int(rows[budget - 1]) for rows in choices.values() for budget in BUDGETS})
        known = dict(zip(needed, shifted(needed).tolist(), strict=True))
    table = []
    for name, chosen in choices.items():
        for budget in BUDGETS:
            row = int(chosen[budget - 1])
            entry = {"val": val[row], "test": test[row], "size": float(bench.sizes[row])}
            entry["shifted"] = known.get(row, float("nan"))
            table.append(_row(zoo, design, name, budget, entry))
    for budget in BUDGETS:
        table.append(_row(zoo, design, "random", budget, _random_means(bench, budget)))
        table.append(_row(zoo, design, "ensemble", budget, _ensemble(bench)))
    return table


def _row(zoo: str, design: str, recipe: str, budget: int, entry: Mapping[str, float]) -> Row:
    values = {key: round(float(value), 4) for key, value in entry.items()}
    return {"zoo": zoo, "design": design, "recipe": recipe, "budget": budget, **values}


def _random_means(bench: SoupBench, budget: int) -> dict[str, float]:
    rows = [int(replay.random(bench, budget, seed)[-1]) for seed in range(NUM_RANDOM_SEEDS)]
    return {
        "val": bench.soups("val")[rows].mean().item(),
        "test": bench.soups("test")[rows].mean().item(),
        "size": bench.sizes[rows].double().mean().item(),
        "shifted": float("nan"),
    }


def _ensemble(bench: SoupBench) -> dict[str, float]:
    row = replay.uniform(bench)
    return {
        "val": bench.ensembles("val")[row].item(),
        "test": bench.ensembles("test")[row].item(),
        "size": float(bench.num_models),
        "shifted": float("nan"),
    }


def fact_row(zoo: str, design: str, bench: SoupBench, *, seconds: float = float("nan")) -> Row:
    """What one zoo is like.

    Returns:
        What `zoo_facts` gives, and: `spearman_nll`, `spearman_members` and `spearman_size`, the
        rank correlations of other free estimates with the soups' test accuracy; `spread`, the
        standard deviation of the ingredients' test accuracies in points; `noise`, the standard
        error of one validation accuracy in points; `trusted`, whether the bank and the trials of
        RADIN with four evaluations pass the checks of `radin.trust`; `failed`, the names of those
        not passed; `cpu_seconds`, what the zoo cost.
    """
    from scipy.stats import spearmanr

    several = (bench.sizes > 1).numpy()
    test = bench.soups("test").numpy()[several]
    estimates = {
        "nll": -bench.ensembles("val", "nll").numpy(),
        "members": replay.member_means(bench),
        "size": bench.sizes.double().numpy(),
    }
    facts: Row = {"zoo": zoo, "design": design, **zoo_facts(bench)}
    facts.pop("seconds", None)
    for name, values in estimates.items():
        facts[f"spearman_{name}"] = float(spearmanr(values[several], test).statistic)
    singles = bench.test.accuracies().double()
    share = bench.val.accuracies().max().item() / 100
    facts["spread"] = singles.std().item()
    facts["noise"] = 100 * (share * (1 - share) / bench.val.num_images) ** 0.5
    report = trust(bench.val, trials=craft(bench.val, bench.evaluator(), 4).trials)
    facts["trusted"] = report.verdict == "yes"
    facts["failed"] = "; ".join(check.name for check in report.failed)
    facts["cpu_seconds"] = round(seconds, 1)
    return {key: round(v, 4) if isinstance(v, float) else v for key, v in facts.items()}


def validation_rows(zoo: MadeZoo) -> list[Row]:
    """RADIN and random at several sizes of the validation part, for the winner's curse.

    The smaller validation parts are the first images of the largest.
    """
    table = []
    available = len(zoo.val.labels)
    for num_val in [size for size in VALIDATION_SIZES if size <= available]:
        bench = zoo.bench(num_val)
        nll = -bench.ensembles("val", "nll").numpy()
        budget = max(CURSE_BUDGETS)
        chosen = {
            "radin": replay.radin(bench, budget),
            "radin_nll": replay.radin(bench, budget, scores=nll),
        }
        soups = {part: bench.soups(part).numpy() for part in ("val", "test")}
        draws = [replay.random(bench, budget, seed) for seed in range(NUM_RANDOM_SEEDS)]
        for at in CURSE_BUDGETS:
            rows = {name: [int(each[at - 1])] for name, each in chosen.items()}
            rows["random"] = [int(each[at - 1]) for each in draws]
            for name, some in rows.items():
                entry = {part: values[some].mean() for part, values in soups.items()}
                entry["regret"] = soups["test"].max() - entry["test"]
                table.append(
                    {"num_val": num_val, **_row(zoo.name, zoo.design.name, name, at, entry)}
                )
    return table


def measure(zoo: MadeZoo, *, seconds: float = float("nan")) -> dict[str, list[Row]]:
    """All rows of one zoo, by table: "recipes", "facts" and "validation_sizes".

    Args:
        zoo: of the collection.
        seconds: of processor time that making it took.
    """
    bench = zoo.bench()
    shifted = None if zoo.shifted is None else zoo.shifted_accuracies
    design = zoo.design.name
    return {
        "recipes": recipe_rows(zoo.name, design, bench, shifted),
        "facts": [fact_row(zoo.name, design, bench, seconds=seconds)],
        "validation_sizes": validation_rows(zoo),
    }


def measure_shipped(name: str) -> dict[str, list[Row]]:
    """The rows of a bench that comes with the module, whose design is "shipped"."""
    bench = SoupBench.load(name)
    return {
        "recipes": recipe_rows(name, SHIPPED_DESIGN, bench, None),
        "facts": [fact_row(name, SHIPPED_DESIGN, bench)],
        "validation_sizes": [],
    }


SHIPPED_DESIGN = "shipped"

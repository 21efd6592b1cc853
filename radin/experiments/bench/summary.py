"""What one bench says: what each recipe returns, planned contrasts, and facts about the zoo."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from radin.errors import BankError, OffGridError, ParameterError
from radin.experiments.bench import replay
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.shifts import Shift
from radin.experiments.intervals import Interval, paired_interval

if TYPE_CHECKING:
    import pandas as pd

BUDGETS = (1, 4)  # of the planned contrasts


def recipe_table(
    bench: SoupBench,
    budgets: tuple[int, ...] = BUDGETS,
    *,
    others: Mapping[str, int] | None = None,
) -> pd.DataFrame:
    """What each recipe returns: its size, accuracies, and test accuracy less the best single's.

    RADIN has lambda 0. The ensemble is not a soup; it is there to compare.

    Args:
        bench: the zoo.
        budgets: evaluations of RADIN and of greedy.
        others: name to the row of the bench, for what else is to be compared.

    Returns:
        One row for each recipe, indexed by its name. The columns are "ingredients", "val (%)",
        "test (%)", "minus best single", "low" and "high", a paired 95% interval over the images
        in percentage points, and "regret". What no interval or regret can be given for is NaN.
    """
    import pandas as pd

    rows = {"best single": replay.best_single(bench), "uniform": replay.uniform(bench)}
    for budget in budgets:
        rows[f"greedy, B = {budget}"] = int(replay.greedy(bench, budget)[-1])
        rows[f"radin, B = {budget}"] = int(replay.radin(bench, budget)[-1])
    rows |= others or {}
    rows["oracle"] = replay.oracle(bench)
    single = bench.right("test", [rows["best single"]])[0]
    table = {}
    for name, row in rows.items():
        entry: dict[str, Any] = {
            "ingredients": int(bench.sizes[row]),
            "val (%)": bench.soups("val")[row].item(),
            "test (%)": bench.soups("test")[row].item(),
        }
        if name != "best single":
            interval = paired_interval(bench.right("test", [row])[0], single)
            entry |= dict(zip(("minus best single", "low", "high"), interval, strict=True))
        entry["regret"] = bench.regret(bench.candidates[row])
        table[name] = entry
    uniform = rows["uniform"]
    table["ensemble of all"] = {
        "ingredients": bench.num_models,
        "val (%)": bench.ensembles("val")[uniform].item(),
        "test (%)": bench.ensembles("test")[uniform].item(),
    }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(index="recipe")


def planned_contrasts(bench: SoupBench) -> dict[str, Interval]:
    """The contrasts that were fixed before the first result, on the test part.

    RADIN with lambda 0 less the best single ingredient, and less greedy, at each of `BUDGETS`.

    Args:
        bench: the zoo.

    Returns:
        Title to (difference, low, high): points of accuracy with a paired 95% interval.
    """
    contrasts = {}
    for budget in BUDGETS:
        chosen = bench.right("test", [int(replay.radin(bench, budget)[-1])])[0]
        rivals = {
            "best single": replay.best_single(bench),
            "greedy": int(replay.greedy(bench, budget)[-1]),
        }
        for rival, row in rivals.items():
            contrasts[f"RADIN − {rival}, B = {budget}"] = paired_interval(
                chosen, bench.right("test", [row])[0]
            )
    return contrasts


def averaging_gain(bench: SoupBench, part: str, *, size: int | None = None) -> Tensor:
    """What averaging alone brings on each image: soups less their own ingredients.

    No recipe chooses anything, so validation and test images can be compared.

    Args:
        bench: the zoo.
        part: "val" or "test".
        size: only soups of so many ingredients; all of two or more when not given.

    Returns:
        (n,) in percentage points: the mean over the soups of whether the soup is right, less the
        share of its ingredients that are right.

    Raises:
        ParameterError: the bench has no such soup.
    """
    chosen = bench.sizes > 1 if size is None else bench.sizes == size
    rows = chosen.nonzero().flatten().tolist()
    if not rows:
        raise ParameterError(f"The bench has no soup of {size or 'two or more'} ingredients.")
    soups = bench.right(part, rows).double().mean(0)
    singles = (bench.bank(part).logits.argmax(-1) == bench.bank(part).labels).double()
    return 100 * (soups - bench.candidates[rows].double().mean(0) @ singles)


def task_cosines(bench: SoupBench) -> Tensor:
    """The cosine of each two task vectors, from the manifest: (N, N).

    Raises:
        BankError: the bench does not know them.
    """
    gram = bench.manifest.get("task_vectors")
    if gram is None:
        raise BankError("The manifest of this bench does not know its task vectors.")
    products = torch.tensor(gram, dtype=torch.float64)
    lengths = products.diagonal().sqrt()
    return products / lengths / lengths[:, None]


def zoo_facts(bench: SoupBench) -> dict[str, float]:
    """Numbers that say what a zoo is like.

    Returns:
        By name: `num_models`; `num_soups`; `num_val` and `num_test`, images; `worst_single` and
        `best_single` of the ingredients' test accuracies in percent; `gap`, the mean test accuracy
        of soups of two or more less that of their ensembles, in points; `spearman`, the rank
        correlation of the fast estimate with the soups' test accuracy; `better_soups`, the share in
        percent of soups of two or more that are better on test than the best single by validation.
        Where the manifest knows them: `cosine`, the mean cosine of two task vectors; `distance`,
        the mean relative distance to the start in percent; `seconds` for ingredients and soups.
    """
    from scipy.stats import spearmanr

    several = bench.sizes > 1
    soups = bench.soups("test")
    singles = bench.test.accuracies()
    single = singles[int(bench.val.accuracies().argmax())]
    facts = {
        "num_models": bench.num_models,
        "num_soups": bench.num_soups,
        "num_val": bench.val.num_images,
        "num_test": bench.test.num_images,
        "worst_single": singles.min().item(),
        "best_single": singles.max().item(),
        "gap": (soups - bench.ensembles("test"))[several].mean().item(),
        "spearman": float(spearmanr(bench.ensembles("val")[several], soups[several]).statistic),
        "better_soups": (soups[several] > single).double().mean().item() * 100,
    }
    return facts | _facts_of_weights(bench)


def _facts_of_weights(bench: SoupBench) -> dict[str, float]:
    """What the manifest knows of the ingredients' weights and of the time."""
    facts = {}
    if bench.manifest.get("task_vectors") is not None:
        cosines = task_cosines(bench)
        pairs = ~torch.eye(len(cosines), dtype=torch.bool)
        facts["cosine"] = cosines[pairs].mean().item()
    if (distances := bench.manifest.get("distances")) is not None:
        facts["distance"] = 100 * sum(distances) / len(distances)
    if (seconds := bench.manifest.get("seconds")) is not None:
        facts["seconds"] = sum(seconds["ingredients"]) + seconds["soups"]
    return facts


Choice = tuple[int, bool]  # a row of the bench, and whether the ensemble of that row is meant


def shift_title(name: str) -> str:
    """The name of a shifted test set in words, such as "noise 3" for "val/report+noise3"."""
    kind = name.rpartition("+")[2].replace("-", " ")
    return re.sub(r"(?<=[a-z])(?=\d)", " ", kind)


def shift_answers(shift: Shift, choice: Choice) -> Tensor | None:
    """Whether a soup or an ensemble is right on a shifted test set: (n,) boolean.

    None where it was not evaluated there.
    """
    row, is_ensemble = choice
    try:
        return shift.right([row], ensembles=is_ensemble)[0]
    except OffGridError:
        return None


def shift_table(shifts: Mapping[str, Shift], choices: Mapping[str, Choice]) -> pd.DataFrame:
    """Accuracies on shifted test sets.

    Args:
        shifts: as `SoupBench.shifts` has them.
        choices: name to a soup or an ensemble.

    Returns:
        A row for each test set, by its title: "images", and a column of accuracies in percent for
        each choice, NaN where it was not evaluated.
    """
    import pandas as pd

    table = {}
    for name, shift in shifts.items():
        found = {title: shift_answers(shift, choice) for title, choice in choices.items()}
        table[shift_title(name)] = {
            "images": len(shift.labels),
            **{
                title: float("nan") if right is None else 100 * right.double().mean().item()
                for title, right in found.items()
            },
        }
    return pd.DataFrame.from_dict(table, orient="index").rename_axis(index="test set")


def shift_contrast(shifts: Sequence[Shift], first: Choice, second: Choice) -> Interval | None:
    """The first less the second on shifted test sets, in points, with a paired 95% interval.

    Args:
        shifts: one, or several that show the same images. The images are the sample: several
            answers to one image do not count as new images.
        first: a soup or an ensemble.
        second: another.

    Returns:
        (difference, low, high); None where one of the two was not evaluated.
    """
    found = [[shift_answers(shift, choice) for shift in shifts] for choice in (first, second)]
    known = [[right for right in each if right is not None] for each in found]
    if not shifts or any(len(each) < len(shifts) for each in known):
        return None
    if len(shifts) == 1:
        return paired_interval(known[0][0], known[1][0])
    return paired_interval(torch.stack(known[0], 1), torch.stack(known[1], 1))

"""What one bench says: what each recipe returns, planned contrasts, and facts about the zoo."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from radin.errors import BankError, OffGridError, ParameterError
from radin.experiments.bench import replay
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.shifts import Shift
from radin.experiments.intervals import Interval, jackknife_interval, paired_interval
from radin.ranking.rank import ensemble_answers

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

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


def row_contrast(
    bench: SoupBench, first: Sequence[int], second: Sequence[int], part: str = "test"
) -> Interval:
    """The accuracy of some soups less that of others, with the images as the sample.

    Args:
        bench: the zoo.
        first: S rows of the bench.
        second: as many others; the two are compared in pairs.
        part: "val" or "test".

    Returns:
        (mean difference, low, high) in percentage points, with a 95% interval.
    """
    return paired_interval(bench.right(part, first).T, bench.right(part, second).T)


def held_out_regret(
    bench: SoupBench,
    zoos: Sequence[tuple[SoupBench, NDArray[np.intp]]],
    returned: Sequence[int],
    *,
    halvings: int,
    seed: int,
) -> float:
    """The mean regret where other test images have chosen the oracle than those that measure it.

    One half of the test images chooses the best soup of each zoo, and the other half measures it
    and the returned soup. The luck of the oracle on its own images is not in the result.

    Args:
        bench: the whole zoo.
        zoos: Z sub-zoos, as `replay.sub_zoos` gives them.
        returned: for each the row of the whole bench that a recipe returned.
        halvings: how often the images are divided at random; both halves take both parts.
        seed: of the halvings.

    Returns:
        Percentage points.
    """
    right = bench.right("test", list(range(bench.num_soups))).numpy()
    rng = np.random.default_rng(seed)
    regrets = []
    for _ in range(halvings):
        order = rng.permutation(right.shape[1])
        first = np.isin(np.arange(len(order)), order[: len(order) // 2])
        for half in (first, ~first):
            chooses = right[:, half].mean(1)
            measures = 100 * right[:, ~half].mean(1)
            best = [rows[chooses[rows].argmax()] for _, rows in zoos]
            regrets.append((measures[best] - measures[list(returned)]).mean())
    return float(np.mean(regrets))


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


def ensemble_gap(bench: SoupBench, part: str = "test", *, soups: Tensor | None = None) -> Tensor:
    """How far soups are from their ensembles on each image: soup less ensemble.

    Args:
        bench: the zoo.
        part: "val" or "test".
        soups: (S, n) whether the soups of two or more ingredients are right, where this was found
            in another way; as the bench knows it when not given.

    Returns:
        (n,) in percentage points: the mean over the soups of two or more ingredients of whether the
        soup is right, less the same of their ensembles.
    """
    rows = (bench.sizes > 1).nonzero().flatten().tolist()
    if soups is None:
        soups = bench.right(part, rows)
    ensembles, _ = ensemble_answers(bench.bank(part), bench.candidates[rows])
    return 100 * (soups.double() - ensembles.double()).mean(0)


def rank_correlation(bench: SoupBench, answers: Tensor | None = None) -> Interval:
    """How well a free number ranks the soups of two or more ingredients by their test accuracy.

    Args:
        bench: the zoo.
        answers: (R, n), a number for each soup and each validation image. Their mean over the
            images ranks the soups. When not given they are the ensembles' answers, right or wrong,
            so that the fast estimate ranks.

    Returns:
        (rank correlation, low, high) with a 95% interval over the images of both parts, inside -1
        to 1.

    Source: Spearman 1904; the delete-a-group jackknife.
    """
    from scipy.stats import spearmanr

    if answers is None:
        answers, _ = ensemble_answers(bench.val, bench.candidates)
    several = bench.sizes > 1
    guess = answers[several].numpy().astype("f4")
    truth = bench.right("test", several.nonzero().flatten().tolist()).numpy().astype("f4")

    def correlation(val: NDArray[np.bool_], test: NDArray[np.bool_]) -> float:
        estimates, accuracies = guess @ val.astype("f4"), truth @ test.astype("f4")
        return float(spearmanr(estimates, accuracies).statistic)

    num_images = (bench.val.num_images, bench.test.num_images)
    value, low, high = jackknife_interval(correlation, num_images)
    return value, max(low, -1.0), min(high, 1.0)


def how_made(bench: SoupBench) -> dict[str, str | int]:
    """What the manifest of a zoo with pretrained weights says about how it was made.

    Returns:
        Title to the package of the weights, its version and licence, the pretraining, the device
        and the processor beside it, and the minutes for all ingredients and for all soups.
    """
    manifest = bench.manifest
    pretraining, made, seconds = (manifest[key] for key in ("pretraining", "made_with", "seconds"))
    return {
        "package": pretraining["package"],
        "its version": pretraining["version"],
        "its licence": pretraining["licence"],
        "pretraining": pretraining["pretraining"],
        "fine-tuned on": made["device"],
        "processor": made["processor"],
        "minutes for all ingredients": round(sum(seconds["ingredients"]) / 60),
        "minutes for all soups": round(seconds["soups"] / 60),
    }


def sweep_table(bench: SoupBench, formats: Mapping[str, str]) -> pd.DataFrame:
    """The ingredients of a zoo: how each was trained, by the manifest, and its accuracies.

    Args:
        bench: the zoo.
        formats: key of a hyper-parameter to the format of its column, such as ".4f".

    Returns:
        A row of words for each ingredient: its hyper-parameters, "val (%)" and "test (%)".
    """
    import pandas as pd

    runs = bench.manifest["ingredients"]
    columns = {key: [format(run[key], form) for run in runs] for key, form in formats.items()}
    for title, bank in (("val (%)", bench.val), ("test (%)", bench.test)):
        columns[title] = [f"{accuracy:.2f}" for accuracy in bank.accuracies().tolist()]
    return pd.DataFrame(columns)


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

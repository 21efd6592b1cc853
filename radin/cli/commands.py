"""What the commands of `radin` do; `radin.cli.parser` reads their options."""

from __future__ import annotations

import argparse
import math
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from radin.checkpoints.adapter_config import CONFIG_NAME
from radin.checkpoints.adapter_zoo import describe_bases, describe_unknown_base
from radin.checkpoints.adapters import find_adapters, names_of, open_adapter
from radin.checkpoints.checkpoint import Checkpoint, open_checkpoint
from radin.checkpoints.formats import RUNNING_STATISTICS
from radin.checkpoints.inspection import describe_duplicates
from radin.checkpoints.paths import find_checkpoints
from radin.checkpoints.zoo import Zoo
from radin.cli.banks import check_exports, describe_source, export_ranking, open_bank
from radin.cli.family_options import open_family
from radin.cli.inputs import (
    check_numbers,
    check_output,
    check_recipe_options,
    checkpoint_paths,
    colours_name,
    find_own_recipe,
    open_adapters_with_notes,
    open_other_part,
    open_part,
    open_parts,
    open_with_notes,
    open_zoo,
    refuse_soups,
    writes_adapter,
)
from radin.cli.notes import print_notes, show_progress
from radin.cli.tables import (
    describe_ingredients,
    describe_split,
    named_weights,
    print_json,
    print_table,
    print_trials,
    soup_content,
    wrap,
)
from radin.cli.wording import in_options
from radin.data.download.catalog import fetch
from radin.data.splits import Split
from radin.errors import CheckpointError, OffGridError, ParameterError, check_integer, counted
from radin.experiments.bench.bench import SoupBench
from radin.experiments.intervals import paired_metric_interval, standard_error, write_interval
from radin.experiments.model_soups.ingredients import fetch_ingredients, ingredient_ids
from radin.experiments.model_soups.results import MODEL_SOUPS
from radin.experiments.notebook import load_benchmark
from radin.files import data_root
from radin.inference.batch_norm import refresh_batch_norm
from radin.inference.evaluate import evaluator, soup_logits
from radin.inference.predict import predict
from radin.ranking.bank import LogitBank
from radin.ranking.export import RECIPE_SUFFIXES, TABLE_SUFFIXES
from radin.ranking.metrics import Metric
from radin.ranking.named_metrics import ACCURACY, find_metric
from radin.ranking.rank import Ranking, check_prior, rank, single_values
from radin.ranking.resampling import NUM_RESAMPLES
from radin.recipes.craft import Soup, craft
from radin.recipes.functions import RecipeFunction, name_of
from radin.recipes.race import IMAGE_RECIPES
from radin.recipes.rules import RaceRules
from radin.recipes.selection import JUDGED, RECIPES, default_candidates
from radin.recipes.trust import trust
from radin.soup.adapters import save_adapter
from radin.soup.average import SoupLike, average_by_tensor
from radin.soup.bare_factors import holds_bare_factors, save_nearest_adapter
from radin.soup.save import save_soup

State = Mapping[str, Tensor] | None  # of a soup whose batch norm was measured again

MAX_QUICK_LOGITS = 2**24  # of one soup; for more, fewer samples of the images are drawn
FEW_RESAMPLES = 200
NAME_COLUMNS = 24  # of an ingredient's name, its end, in a table


def craft_command(options: argparse.Namespace) -> None:
    """Entry fee, stages 1 and 2, the soup's file, and the report."""
    check_numbers(options)
    check_recipe_options(options.recipe, vars(options))
    check_output(options)
    _check_adapter_has_one_weight(options)
    recipe = find_own_recipe(options.recipe)  # before anything is predicted
    metric = _find_metric(options)
    split = open_part(options, options.part)
    _check_classes(metric, split)
    test = open_other_part(options, options.test_part, split)
    train = open_other_part(options, options.refresh_part, split)
    zoo = open_family(options, lambda paths: open_zoo(options, paths, split))
    _note_one_ingredient(zoo)
    if train is None:
        _warn_of_batch_norm(zoo)
    make_evaluator = partial(
        evaluator,
        zoo,
        split,
        refresh=train,
        progress=show_progress(),
        metric=metric,
        **_network_options(options),
    )
    evaluate = make_evaluator()  # what it refuses is refused before the entry fee
    bank = predict(zoo, split, progress=show_progress(), **_network_options(options))
    race_rules = None
    if options.recipe in IMAGE_RECIPES:  # it chooses its images itself
        race_rules = RaceRules() if options.share == 1 else RaceRules(share=options.share)
    elif options.share != 1:
        evaluate = make_evaluator(bank=bank, share=options.share, seed=options.seed)
    soup = craft(
        bank,
        evaluate,
        options.budget,
        recipe,
        prior=options.prior,
        seed=options.seed,
        race_rules=race_rules,
        threshold=options.threshold,
        free_singles=options.free_singles,
        granularity=options.granularity,
        start=options.start,
        holdout=options.holdout,
    )
    report = soup_content(bank, soup) | {"part": split.part, "images": len(split)}
    if not options.json:
        note = f"; {soup.note}" if soup.note else ""
        spent = f"{soup.recipe}: {soup.spent} on {describe_split(options, split)}{note}"
        print(wrap(spent) + "\n")
        print_trials(bank, soup)
        if evaluate.partial is not None:
            print("\n" + wrap(evaluate.partial.report()))
        if soup.evaluations:
            print(f"\naveraging, reading and running these soups took {soup.seconds:.1f} s")
    state = _state(options, zoo, soup, train)
    if options.out is not None:
        path = _save(options, zoo, soup.weights, _provenance(options, soup), state=state)
        report["wrote"] = str(path)
        if not options.json:
            print(f"\nwrote {path}")
    report["compared"] = []
    try:
        winner = soup.weights if state is None else state
        rivals = _rivals(options, zoo, bank, soup, train)
        for images in [split] if test is None else [split, test]:
            compared = _compare(
                options, zoo, winner, rivals, images, metric=metric, chose=images is split
            )
            report["compared"].append(compared)
    finally:  # an unreadable test image must not cost the rest of the report
        if soup.recipe in JUDGED:
            report["trust"] = _trust(options, bank, zoo, soup, refreshed=train is not None)
        if options.json:
            print_json(report)
    if options.out is None:
        print_notes("note: the soup was not written; give --out soup.safetensors.")


def rank_command(options: argparse.Namespace) -> None:
    """Entry fee and stage 1."""
    check_numbers(options)
    check_exports(options, (*TABLE_SUFFIXES, *RECIPE_SUFFIXES))
    metric = _find_metric(options)
    bank, models, images = _bank_to_rank(options, metric)
    candidates = default_candidates(bank.num_models, seed=options.seed)
    ranking = rank(bank, candidates, options.prior, top=options.top, metric=metric)
    best, value = _best_single(bank, metric)
    if options.json:
        _print_ranking(bank, candidates, ranking, metric, (bank.names[best], value))
        with redirect_stdout(sys.stderr):  # what it wrote is no part of the JSON
            export_ranking(options, bank, candidates, ranking, models=models)
        return
    print(
        f"the first {len(ranking.order)} of {counted(len(candidates), 'candidate')} on {images}\n"
    )
    rows = [
        [
            str(number),
            metric.text(ranking.estimates[k].item()),
            metric.text(ranking.scores[k].item()),
            describe_ingredients(bank, candidates[k]),
        ]
        for number, k in enumerate(ranking.order.tolist(), start=1)
    ]
    print_table(["rank", "estimate", "score", "ingredients"], rows)
    named = "" if metric == ACCURACY else f"{metric} "
    print(
        f"\nbest single: {bank.names[best]}, {named}{metric.text_with_unit(value)}. "
        "Estimates are ensembles, not soups."
    )
    export_ranking(options, bank, candidates, ranking, models=models)


def _print_ranking(
    bank: LogitBank,
    candidates: Tensor,
    ranking: Ranking,
    metric: Metric,
    single: tuple[str, float],
) -> None:
    """The ranking as --json shows it; `single` is the best ingredient and its value."""
    ranked = [
        {
            "weights": named_weights(bank, candidates[k]),
            "estimate": ranking.estimates[k].item(),
            "score": ranking.scores[k].item(),
        }
        for k in ranking.order.tolist()
    ]
    print_json(
        {
            "metric": metric.name,
            "images": bank.num_images,
            "candidates": len(candidates),
            "ranked": ranked,
            "best_single": {"name": single[0], "value": single[1]},
        }
    )


def _bank_to_rank(options: argparse.Namespace, metric: Metric) -> tuple[LogitBank, list[str], str]:
    """The bank, what its models are called in a recipe of mergekit, and its images in words."""
    if options.bank is not None:
        if options.checkpoints:
            raise ParameterError("Give either checkpoints or --bank, the logits of all models.")
        bank = open_bank(describe_source(options))
        return bank, bank.names, counted(bank.num_images, "image")
    if not (options.checkpoints and options.model and options.data):
        options.usage_error(
            "the following arguments are required: CHECKPOINT, --model, --data; or --bank"
        )
    split = open_part(options, options.part)
    _check_classes(metric, split)
    zoo = open_family(options, lambda paths: open_zoo(options, paths, split))
    _note_one_ingredient(zoo)
    bank = predict(zoo, split, progress=show_progress(), **_network_options(options))
    models = [str(path) for path in zoo.paths]
    if options.base is not None:  # as mergekit names a model with an adapter
        models = [f"{options.base}+{path.parent}" for path in zoo.paths]
    return bank, models, describe_split(options, split)


def average_command(options: argparse.Namespace) -> None:
    """A soup of given weights, without a network or images."""
    if options.base is None and writes_adapter(options):
        _average_adapters(options)
        return
    if options.base is None and (files := _bare_factors(options)):
        _average_bare_factors(options, files)
        return
    check_output(options, may_exist=True)
    zoo = open_family(options, lambda paths: _open_to_average(options, paths))
    check_output(options)  # after the notes on the files, and before anything is computed
    weights = options.weights or [1 / len(zoo)] * len(zoo)
    _warn_of_batch_norm(zoo)
    path = _save(options, zoo, weights, {"recipe": "average"})
    _print_written(path, zoo.names, "checkpoint" if options.base is None else "adapter")


def _open_to_average(options: argparse.Namespace, paths: str | list[str]) -> Zoo:
    if options.base is not None:
        return open_adapters_with_notes(options, paths)
    return open_with_notes(paths, ema=options.ema)


def _bare_factors(options: argparse.Namespace) -> list[Checkpoint]:
    """The files, if all hold LoRA factors and none lies beside its settings; else none of them."""
    try:
        found = find_checkpoints(checkpoint_paths(options)).paths
        files = [open_checkpoint(path) for path in found]
    except CheckpointError:
        return []  # the zoo's own messages say more
    alone = all(not (file.path.parent / CONFIG_NAME).exists() for file in files)
    return files if alone and all(map(holds_bare_factors, files)) else []


def _average_bare_factors(options: argparse.Namespace, files: list[Checkpoint]) -> None:
    """An adapter of the same rank from files of factors, whose scales are not known."""
    check_output(options)
    weights = options.weights or [1 / len(files)] * len(files)
    missed = save_nearest_adapter(files, weights, options.out, provenance={"recipe": "average"})
    print_notes(
        f"note: these are factors of LoRA adapters without {CONFIG_NAME}. Their products B A were "
        "averaged, not the factors, and all scales taken to be the same. The file holds the "
        f"nearest adapter of the same rank, which misses {100 * missed:.1f}% of the average; "
        f"for the exact soup give folders with {CONFIG_NAME}, and --base or --out FOLDER."
    )
    _print_written(options.out, [file.path.name for file in files], "adapter")


def _average_adapters(options: argparse.Namespace) -> None:
    """One adapter of several, without their base."""
    for name in ("ema", "family"):
        if getattr(options, name):
            raise ParameterError(f"--{name} is for checkpoints; adapters of peft have none.")
    found = find_adapters(checkpoint_paths(options))
    adapters = [open_adapter(folder) for folder in found.paths]
    paths = [each.path for each in adapters]
    fingerprints = [each.fingerprint for each in adapters]
    refuse_soups(paths, fingerprints)
    problems = (
        describe_duplicates(paths, fingerprints),
        describe_bases(adapters),
        describe_unknown_base(adapters, None),
    )
    print_notes(*found.notes, *filter(None, problems))
    check_output(options)
    weights = options.weights or [1 / len(adapters)] * len(adapters)
    path = save_adapter(adapters, weights, options.out, provenance={"recipe": "average"})
    _print_written(path, names_of(adapter.folder for adapter in adapters), "adapter")


def _print_written(path: Path, names: Sequence[str], kind: str) -> None:
    """What was written: an average, or one checkpoint or adapter alone."""
    if len(names) > 1:
        print(f"wrote {path}, the average of {counted(len(names), kind)}")
    else:
        print(f"wrote {path}, which holds {names[0]} alone; an average takes two {kind}s or more")


def evaluate_command(options: argparse.Namespace) -> None:
    """The accuracy, or another metric, of one file on one part, or a table of several."""
    check_numbers(options)
    metric = find_metric(options.metric)
    splits = open_parts(options, options.part.split(","))
    for split in splits:
        _check_classes(metric, split)
    zoo = open_zoo(options, options.soup, splits[0], unused="error")
    if len(zoo) > 1:
        raise CheckpointError(
            f"{options.soup} holds {counted(len(zoo), 'checkpoint')}; give the file of one soup."
        )
    values = [
        evaluator(zoo, split, progress=show_progress(), metric=metric, **_network_options(options))(
            [1.0]
        )
        for split in splits
    ]
    if options.json:
        parts = [
            {"part": split.part, "images": len(split), "value": value}
            for split, value in zip(splits, values, strict=True)
        ]
        print_json({"name": zoo.names[0], "metric": metric.name, "parts": parts})
        return
    if len(splits) == 1:
        print(
            f"{zoo.names[0]}: {metric} {metric.text_with_unit(values[0])} on "
            f"{describe_split(options, splits[0])}"
        )
        return
    print(f"{zoo.names[0]} on {options.data}\n")
    if metric == ACCURACY:
        errors = [
            [f"{standard_error(value, len(split)):.2f}"]
            for split, value in zip(splits, values, strict=True)
        ]
        header = ["standard error"]
    else:  # it would need the metric of many samples of the images
        errors = [[] for _ in splits]
        header = []
    rows = [
        [split.part, metric.text(value), *error, str(len(split))]
        for split, value, error in zip(splits, values, errors, strict=True)
    ]
    print_table(["part", str(metric), *header, "images"], rows)


def bench_command(options: argparse.Namespace) -> None:
    """Every recipe on a shipped soup bench."""
    if options.recipe in RECIPES:
        print_notes(f"note: {options.recipe} has a row anyway; --recipe is for a function.")
    bench = SoupBench.load(options.name)
    budget = check_integer("budget", options.budget, minimum=1)
    metric = find_metric(options.metric)
    values = bench.soups("test", metric)
    oracle = int(metric.comparable(values).argmax())
    best = values[oracle].item()
    size = int(bench.sizes[oracle])
    title = "oracle" if bench.is_complete else "best of the sample"
    rows = [[title, "", str(size), "", metric.text(best), metric.text(0.0)]]
    recipes: list[tuple[str | RecipeFunction, float]] = [
        ("radin", 0.0),
        *([("radin", 1.0)] if metric.is_percentage else []),
        *((name, 0.0) for name in RECIPES if name not in ("radin", "ensemble")),
        *([] if options.recipe in (None, *RECIPES) else [(find_own_recipe(options.recipe), 0.0)]),
    ]
    found, outside = [], []
    for name, prior in recipes:
        evaluate = bench.evaluator("val", metric=metric)
        try:
            soup = craft(
                bench.val,
                evaluate,
                budget,
                name,
                candidates=bench.candidates_for(name),
                prior=prior,
                seed=options.seed,
            )
        except OffGridError:
            if bench.is_complete:
                raise
            outside.append(name if isinstance(name, str) else name_of(name))
            continue
        value = values[bench.row(soup.weights)].item()
        regret = metric.gain(best, value)
        label = f"radin, prior {prior:g}" if name == "radin" else soup.recipe
        numbers = [metric.text(number) for number in (soup.value, value, regret)]
        rows.append([label, str(soup.evaluations), str(len(soup.members)), *numbers])
        weights = named_weights(bench.val, soup.weights)
        entry = {"recipe": soup.recipe, "evaluations": soup.evaluations, "weights": weights}
        if name == "radin":
            entry["prior"] = prior
        found.append(entry | {"val": soup.value, "test": value, "regret": regret})
    measured = _measured_on_images(options.name) if metric == ACCURACY else {}
    if options.json:
        print_json(
            {
                "bench": options.name,
                "budget": budget,
                "metric": metric.name,
                "images": bench.test.num_images,
                "oracle": {"ingredients": size, "test": best},
                "recipes": found,
            }
            | ({"outside_sample": outside} if outside else {})
            | ({"measured": measured} if measured else {})
        )
        return
    named = "" if metric == ACCURACY else f", {metric}"
    print(
        f"{options.name}: {bench.num_models} ingredients, "
        f"{'' if bench.is_complete else f'a sample of {bench.num_soups:,} soups, '}"
        f"budget {budget}, "
        f"{bench.test.num_images} test images{named}\n"
    )
    print_table(["recipe", "evaluations", "ingredients", "val", "test", "regret"], rows)
    if outside:
        print(
            "\n"
            + wrap(
                f"without {', '.join(dict.fromkeys(outside))}: at this budget they ask for a soup "
                "that the sample does not hold."
            )
        )
    for title, known in measured.items():
        print(
            "\n"
            + wrap(
                f"learned {title}, on the images: test {known['test']:.2f}, "
                f"{write_interval(known['minus_best_subset'])} points from the oracle, for "
                f"{known['cost']:g} forward-equivalents; radin craft --recipe learned "
                "--granularity tensor learns such a soup."
            )
        )


def _measured_on_images(bench: str) -> dict[str, dict[str, Any]]:
    """Soups learned part by part, which no table of subsets holds, as they were once measured.

    Returns: for each "test", their accuracy, the mean over seeds; "minus_best_subset", its
    difference from the oracle with a 95% interval over images, in points; and "cost".
    """
    entries = load_benchmark("live_recipes")["entries"]
    return {
        name.removeprefix(f"{bench}: ").partition(",")[0]: {
            "test": sum(entry["test"]) / len(entry["test"]),
            "minus_best_subset": entry["minus_best_subset"],
            "cost": entry["cost"],
        }
        for name, entry in entries.items()
        if name.startswith(f"{bench}: ") and "minus_best_subset" in entry
    }


def fetch_command(options: argparse.Namespace) -> None:
    """A download by name, and the number and size of its files."""
    name = options.dataset
    root = data_root(options.to or None)
    if name == MODEL_SOUPS:
        ids = ingredient_ids(options.ids or "all")
        folder = root / MODEL_SOUPS
        sizes_before = _sizes(folder)
        paths = fetch_ingredients(ids, folder, progress=show_progress())
        sizes = {path: path.stat().st_size for path in paths}
    elif options.ids is not None:
        raise ParameterError(
            f"--ids chooses among the ingredients of {MODEL_SOUPS}; {name} is fetched whole."
        )
    else:
        folders_before = set(root.iterdir()) if root.is_dir() else set()
        folder = fetch(name, root, progress=show_progress())
        sizes = _sizes(folder)
        sizes_before = sizes if folder in folders_before else {}
    total = sum(sizes.values())
    num_new = len(sizes.keys() - sizes_before.keys())
    size = f"{total / 1e9:.2f} GB" if total >= 1e9 else f"{total / 1e6:.2f} MB"
    print(f"{name}: {counted(len(sizes), 'file')}, {num_new} of them new, {size}, in {folder}")


def _sizes(folder: Path) -> dict[Path, int]:
    """The bytes of each file below a folder."""
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


# What the commands share ------------------------------------------------------------------------


def _find_metric(options: argparse.Namespace) -> Metric:
    """The metric of --metric, which fits --prior."""
    metric = find_metric(options.metric)
    check_prior(options.prior, metric)
    return metric


def _check_classes(metric: Metric, split: Split) -> None:
    """Refuse a metric that cannot use the split's labels now, not after the entry fee."""
    num_outputs = split.num_logits if split.projection is None else split.projection.num_classes
    metric.check_labels(split.labels, num_outputs=num_outputs)


def _best_single(bank: LogitBank, metric: Metric) -> tuple[int, float]:
    """The index of the best ingredient, and its value."""
    values = single_values(bank, metric)
    best = int(metric.comparable(values).argmax())
    return best, values[best].item()


def _network_options(options: argparse.Namespace) -> dict[str, Any]:
    """How networks run, for `predict`, `evaluator` and `soup_logits`."""
    return {
        "device": options.device,
        "batch_size": options.batch_size,
        "half": options.precision == "half",
        "workers": options.workers,
    }


def _provenance(options: argparse.Namespace, soup: Soup) -> dict[str, object]:
    """What a soup's file tells about how the soup was made."""
    names = ["base", "model", "data", "part", "images", "size", "mean", "std"]
    names += ["precision", "recipe", "budget", "prior", "seed", "refresh_part"]
    results = {
        "normalise": colours_name(options),
        "evaluations": soup.evaluations,
        "metric": soup.metric.name,
        soup.metric.name: soup.value,
    }
    if soup.recipe == "learned":
        names += ["granularity", "start", "holdout"]
    if soup.tensor_weights is not None:
        results["tensor_weights"] = {key: p.tolist() for key, p in soup.tensor_weights.items()}
    return {name: getattr(options, name) for name in names} | results


def _check_adapter_has_one_weight(options: argparse.Namespace) -> None:
    """Refuse to learn tensor by tensor what is to be written as one adapter."""
    is_learned = options.recipe == "learned" and options.granularity != "ingredient"
    if is_learned and writes_adapter(options):
        raise ParameterError(
            f"{options.out}: an adapter of a soup has one weight for each ingredient; leave "
            "--granularity out, or give --out soup.safetensors, the merged network."
        )


def _note_one_ingredient(zoo: Zoo) -> None:
    if len(zoo) == 1:
        print_notes(f"note: {zoo.names[0]} is the only ingredient, so there is nothing to choose.")


def _warn_of_batch_norm(zoo: Zoo) -> None:
    if any(key.endswith(RUNNING_STATISTICS) for key in zoo.keys()):
        print_notes(
            "note: averaged statistics of batch norm fit no soup; radin craft --refresh-part "
            "train measures them again."
        )


def _state(options: argparse.Namespace, zoo: Zoo, soup: Soup, train: Split | None) -> State:
    """The winner's tensors where they are not just the average for its mixing weights."""
    state = None if soup.tensor_weights is None else average_by_tensor(zoo, soup.tensor_weights)
    if train is None:
        return state
    return _refresh(options, zoo, soup.weights if state is None else state, train)


def _refresh(
    options: argparse.Namespace, zoo: Zoo, soup: SoupLike, train: Split
) -> Mapping[str, Tensor]:
    """A soup with its batch norm measured on training images."""
    return refresh_batch_norm(zoo, soup, train, options.device, batch_size=options.batch_size)


def _save(
    options: argparse.Namespace,
    zoo: Zoo,
    weights: Tensor | list[float],
    provenance: dict[str, object],
    *,
    state: State = None,
) -> Path:
    """Write the soup, and return the path to open: the index, where the soup is in shards."""
    if writes_adapter(options):
        return save_adapter(zoo, weights, options.out, provenance=provenance)
    with warnings.catch_warnings():
        # About batch norm, in terms of Python: `_warn_of_batch_norm` has told the same.
        warnings.simplefilter("ignore")
        return save_soup(
            zoo,
            weights,
            options.out,
            provenance=provenance,
            state=state,
            max_shard_size=options.shard_size,
        )


def _trust(
    options: argparse.Namespace, bank: LogitBank, zoo: Zoo, soup: Soup, *, refreshed: bool
) -> dict[str, Any]:
    """Print the report of trust, and return it for --json."""
    report = trust(bank, zoo, trials=soup.trials, refreshed=refreshed, progress=show_progress())
    if not options.json:
        print("\n" + wrap(in_options(str(report))))
    return {
        "verdict": report.verdict,
        "advice": [in_options(advice) for advice in report.advice],
        "checks": {check.name: check.value for check in report.checks},
    }


def _rivals(
    options: argparse.Namespace, zoo: Zoo, bank: LogitBank, soup: Soup, train: Split | None
) -> dict[str, SoupLike | None]:
    """The best single ingredient and the uniform soup by name; None where one is the winner.

    Args:
        train: images on which the uniform soup's batch norm is measured, or None.
    """
    best, _ = _best_single(bank, soup.metric)
    single = torch.eye(len(zoo))[best]
    uniform = torch.full((len(zoo),), 1 / len(zoo))
    weights_of = {
        f"best single ({bank.names[best][-NAME_COLUMNS:]})": single,
        "uniform soup": uniform,
    }
    rivals: dict[str, SoupLike | None] = {}
    for name, weights in weights_of.items():
        if soup.tensor_weights is None and torch.allclose(soup.weights.float(), weights):
            rivals[name] = None
        elif weights is uniform and train is not None:
            rivals[name] = _refresh(options, zoo, uniform, train)
        else:
            rivals[name] = weights
    return rivals


def _compare(
    options: argparse.Namespace,
    zoo: Zoo,
    winner: SoupLike,
    rivals: Mapping[str, SoupLike | None],
    split: Split,
    *,
    metric: Metric,
    chose: bool,
) -> dict[str, Any]:
    """Print the winner against each rival, image by image; this is outside the budget.

    Returns the same for --json.

    Args:
        rivals: by name; None for one that is the winner itself.
        metric: that the winner was chosen by.
        chose: whether these are the images that chose the winner.
    """
    winner_name = "winner"
    for name, rival in rivals.items():
        winner_name = f"winner, the {name}" if rival is None else winner_name
    outputs, labels = soup_logits(zoo, winner, split, **_network_options(options))
    value = metric(outputs, labels)
    rows = [[winner_name, metric.text(value), "", ""]]
    found = []
    resamples = NUM_RESAMPLES if outputs.numel() <= MAX_QUICK_LOGITS else FEW_RESAMPLES
    for name, rival in rivals.items():
        if rival is None:
            continue
        others, _ = soup_logits(zoo, rival, split, **_network_options(options))
        interval = paired_metric_interval(metric, outputs, others, labels, resamples=resamples)
        difference, low, high = (_signed(metric, number) for number in interval)
        rival_value = metric(others, labels)
        rows.append([name, metric.text(rival_value), difference, f"{low} to {high}"])
        numbers = dict(zip(("winner_less_it", "low", "high"), interval, strict=True))
        found.append({"name": name, "value": rival_value} | numbers)
    if not options.json:
        flattered = ", which chose the winner and flatter it" if chose else ""
        print(f"\non {describe_split(options, split)}{flattered}:")
        print_table(["", str(metric), "winner less it", "95%, paired"], rows)
    return {
        "part": split.part,
        "images": len(split),
        "chose_the_winner": chose,
        "winner": winner_name,
        "value": value,
        "rivals": found,
    }


def _signed(metric: Metric, difference: float) -> str:
    sign = "+" if math.copysign(1, difference) > 0 else ""
    return f"{sign}{metric.text(difference)}"

"""Train the zoos of the photo and text chapters: `python -m radin.experiments.zoos.finetuned`."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.zoo import Zoo
from radin.data.splits import ArraySplit
from radin.errors import ParameterError, RadinError, check_integer, check_seed
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.sample import NUM_CANDIDATES, sample_subsets
from radin.experiments.bench.shifts import (
    Shift,
    chosen_rows,
    evaluate_shift,
    read_shifts,
    save_shifts,
)
from radin.experiments.bench.shipped import (
    BENCH_FILE,
    INIT_FILE,
    MANIFEST_FILE,
    PRETRAINED_FILE,
    SHIFTS_FILE,
    made_with,
    shipped_root,
    write_manifest,
)
from radin.experiments.splits import load_experiment_split
from radin.experiments.zoos.paradigms import few_examples, teacher_targets, warm_start
from radin.experiments.zoos.plans import PLANS, ZooPlan
from radin.experiments.zoos.starts import STARTS, WIDTHS, pretrained_checkpoint
from radin.experiments.zoos.stopwatch import read_seconds, stopwatch
from radin.experiments.zoos.train import (
    Hyperparameters,
    read_hyperparameters,
    save_checkpoint,
    train_checkpoint,
)
from radin.files import atomic_path, cache_root, expand_path, hash_text
from radin.inference.devices import pick_device, single_thread
from radin.inference.evaluate import Evaluator
from radin.inference.predict import predict
from radin.ranking.rank import fast_estimate
from radin.theory.weight_geometry import gram_matrix

# Processes on a CPU, one for each core (-1). Each has one thread, which together get more done than
# one process with many threads.
CPU_PROCESSES = -1
HEAD_WEIGHT_DECAY = 1e-4
INIT_SEED_OFFSET = 7  # the plan's seed plus this orders the images in an initialisation's training
IMAGES_AT_ONCE = 500  # when features are computed


def fit_head(model: Any, split: ArraySplit, *, steps: int = 100) -> None:
    """Linear probe: fit a new head to the frozen features by full-batch L-BFGS, in place.

    All ingredients then start from one head. Separately drawn heads could not be averaged.

    Args:
        model: whose `head` is fitted, a linear layer, to what its method `features` gives.
        split: the images.
        steps: iterations at most.

    Source: Wortsman et al. 2022, section 3.1 ("LP-FT", after Kumar et al. 2022).
    """
    device = next(model.parameters()).device
    with torch.no_grad():
        features = torch.cat(
            [model.features(images.to(device)) for images in split.images.split(IMAGES_AT_ONCE)]
        )
    labels = split.labels.to(device)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    optimizer = torch.optim.LBFGS(
        model.head.parameters(), max_iter=steps, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        # A little weight decay: without it the head of separable features grows without end.
        penalty = HEAD_WEIGHT_DECAY * model.head.weight.square().sum()
        value = F.cross_entropy(model.head(features), labels) + penalty
        value.backward()
        return value

    optimizer.step(loss)


def finetuned_zoo(
    name: str,
    num_models: int | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
) -> Zoo:
    """Train one of the zoos in `PLANS`, or find it under `RADIN_CACHE`.

    The network pretrained on Tiny ImageNet, the initialisation and every ingredient are written as
    soon as they are trained. Each run keeps its state after every epoch, so an interrupted run
    continues where it stopped.

    Args:
        name: a key of `PLANS`.
        num_models: N, that of the plan when not given. A longer sweep uses the ingredients of a
            shorter one.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress bars.

    Returns:
        A Zoo of half-precision checkpoints with `build` and `init`.

    Raises:
        DataError: a data set is missing.
        ParameterError: an unknown name.
    """
    plan = _find_plan(name)
    if num_models is None:
        num_models = plan.num_models
    num_models = check_integer("num_models", num_models, minimum=1)
    check_seed(plan.seed)
    chosen = pick_device(device)
    folder = _zoo_folder(plan, chosen, progress=progress)
    return _trained_zoo(name, plan, folder, range(num_models), device=chosen, progress=progress)


def _trained_zoo(
    name: str,
    plan: ZooPlan,
    folder: Path,
    members: Sequence[int],
    *,
    device: torch.device,
    progress: bool,
) -> Zoo:
    """Some ingredients of a plan, trained into a folder or found there."""
    init = folder / INIT_FILE
    if not init.exists():
        _make_init(plan, init, device=device, progress=progress)
    paths = {k: folder / f"ingredient_{k:02d}.safetensors" for k in members}
    _train_ingredients(name, plan, init, paths, device=device, progress=progress)
    num_classes = _load_in_memory(plan.data, plan.start_part, plan.size).num_classes
    build = partial(STARTS[plan.network].build, num_classes)
    return Zoo.open(list(paths.values()), build=build, init=init, progress=False)


def _zoo_folder(plan: ZooPlan, device: torch.device, *, progress: bool) -> Path:
    """The folder of a zoo in the cache, named by everything that its initialisation depends on."""
    start = _load_in_memory(plan.data, plan.start_part, plan.size)
    tune = _load_in_memory(plan.data, plan.tune_part, plan.size)
    network = STARTS[plan.network]
    key = hash_text(
        "finetuned-1",
        json.dumps(plan.start),
        f"{plan.network} {network.build(1)!r}",
        f"batch {plan.batch_size} probe {plan.probe_steps} {HEAD_WEIGHT_DECAY}",
        f"seeds {plan.seed} {INIT_SEED_OFFSET}",
        device.type,
        network.key(device, progress),
        start.fingerprint,
        tune.fingerprint,
    )
    # Not by the zoo's name: a longer sweep finds the ingredients of a shorter one.
    return cache_root() / "zoos" / f"{plan.data}-{key[:16]}"


def _make_init(plan: ZooPlan, path: Path, *, device: torch.device, progress: bool) -> None:
    """Fit a head to the pretrained body, train both if the plan says so, and save them."""
    split = _load_in_memory(plan.data, plan.start_part, plan.size)
    network = STARTS[plan.network]
    model = network.build(split.num_classes)
    body = network.body(device, progress)
    missing, unknown = model.load_state_dict(body, strict=False)
    counters = {key for key in missing if key.endswith("num_batches_tracked")}
    assert set(missing) - counters == {"head.weight", "head.bias"}
    assert not unknown
    fit_head(model.eval().to(device), split, steps=plan.probe_steps)
    if plan.start is None:
        save_checkpoint(model, path, {}, dtype=network.dtype)
        return
    train_checkpoint(
        model,
        split,
        plan.start,
        INIT_SEED_OFFSET + plan.seed,
        path,
        batch_size=plan.batch_size,
        dtype=network.dtype,
        progress="initialisation" if progress else "",
    )


def _train_ingredients(
    name: str,
    plan: ZooPlan,
    init: Path,
    paths: Mapping[int, Path],
    *,
    device: torch.device,
    progress: bool,
) -> None:
    """Train the ingredients that do not exist yet, several at once on a CPU.

    Args:
        paths: of the ingredients, by their numbers in the sweep.
    """
    from joblib import Parallel, delayed

    runs = plan.sweep(max(paths) + 1, plan.seed)
    missing = [
        k
        for k, path in paths.items()
        # The sweep may have changed.
        if not (path.exists() and read_hyperparameters(path) == runs[k])
    ]
    num_processes = 1 if device.type == "cuda" else CPU_PROCESSES
    hidden = not progress or not missing
    with tqdm(total=len(missing), desc=f"fine-tuning {name}", disable=hidden) as bar:
        # Teachers come first.
        for is_taught in (False, True):
            tasks = [
                delayed(_train_ingredient)(
                    plan, runs[k], init, paths, k, seed=1000 * plan.seed + k, device=device
                )
                for k in missing
                if ("teachers" in runs[k]) == is_taught
            ]
            for _ in Parallel(n_jobs=num_processes, return_as="generator_unordered")(tasks):
                bar.update()


def _train_ingredient(
    plan: ZooPlan,
    run: Hyperparameters,
    init: Path,
    paths: Mapping[int, Path],
    index: int,
    *,
    seed: int,
    device: torch.device,
) -> None:
    """Train ingredient `index` as its run says, and write it to its path."""
    split = _load_in_memory(plan.data, plan.tune_part, plan.size)
    network = STARTS[plan.network]

    def load(path: Path) -> Any:
        model = network.build(split.num_classes)
        model.load_state_dict(dict(open_checkpoint(path)))
        return model.eval().to(device)

    with single_thread(), stopwatch(_seconds_file(paths[index], json.dumps(run))):
        if "shots" in run:
            split = few_examples(split, int(run["shots"]), seed=seed)
        targets = None
        if "teachers" in run:
            teachers = [load(paths[k]) for k in range(int(run["teachers"]))]
            targets = teacher_targets(teachers, split, run["temperature"])
        model = load(init)
        if "warm_epochs" in run:
            warm_start(
                model,
                split,
                epochs=int(run["warm_epochs"]),
                drop_words=run["warm_drop_words"],
                seed=seed,
            )
        train_checkpoint(
            model,
            split,
            run,
            seed,
            paths[index],
            batch_size=plan.batch_size,
            targets=targets,
            dtype=network.dtype,
        )


@cache
def _load_in_memory(name: str, part: str, size: int | None) -> ArraySplit:
    return load_experiment_split(name, part, size=size)


def _find_plan(name: str) -> ZooPlan:
    if name not in PLANS:
        raise ParameterError(f"Unknown zoo {name!r}; it must be one of {', '.join(PLANS)}.")
    return PLANS[name]


def ship(
    name: str,
    folder: str | Path,
    num_models: int | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
) -> SoupBench:
    """Train a zoo, evaluate all its soups, and write both with a manifest for `SoupBench.load`.

    An interrupted run continues where it stopped. The manifest is written last, so a folder with a
    manifest is complete.

    Args:
        name: a key of `PLANS`.
        folder: to write.
        num_models: N, that of the plan when not given.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress bars.
    """
    plan = _find_plan(name)
    folder = expand_path(folder)
    zoo = finetuned_zoo(name, num_models, device=device, progress=progress)
    val = _load_in_memory(plan.data, plan.val_part, plan.size)
    test = _load_in_memory(plan.data, plan.test_part, plan.size)
    frozen = STARTS[plan.network].prepare
    val_passed_on = _prepared(val, frozen)
    test_passed_on = _prepared(test, frozen)
    soups_seconds = _seconds_file(zoo.paths[0].parent, *zoo.fingerprints, val.fingerprint)
    with stopwatch(soups_seconds):
        bench = SoupBench.build(
            zoo,
            val_passed_on,
            test_passed_on,
            device=device,
            subsets=_subsets(plan, zoo, val_passed_on, device=device, progress=progress),
            dtype=torch.float16,
            progress=progress,
        )
    folder.mkdir(parents=True, exist_ok=True)
    chosen = pick_device(device)
    if plan.network == "small-resnet":
        _ship_pretrained(folder.parent / PRETRAINED_FILE, chosen, progress=progress)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    written = [bench.save(folder / BENCH_FILE)]
    if plan.shifts:
        shifts = _evaluate_shifts(
            plan, bench, zoo.paths[0].parent, device=device, progress=progress
        )
        written.append(save_shifts(folder / SHIFTS_FILE, shifts))
    if plan.ships_ingredients:
        for path in (zoo.paths[0].parent / INIT_FILE, *zoo.paths):
            written.append(_copy(path, folder / path.name))
    entries = {
        "name": name,
        "data": _describe_data(plan, val, test),
        "class_names": val.class_names,
        "network": plan.network,
        "widths": list(WIDTHS),
        "batch_size": plan.batch_size,
        "seed": plan.seed,
        "pretraining": STARTS[plan.network].describe(),
        "start": plan.start,
        "sampled": _describe_sample(plan),
        "ingredients": [read_hyperparameters(path) for path in zoo.paths],
        "made_with": made_with(chosen),
        "seconds": {
            "ingredients": [
                read_seconds(_seconds_file(path, json.dumps(read_hyperparameters(path))))
                for path in zoo.paths
            ],
            "soups": read_seconds(soups_seconds),
        },
        "task_vectors": gram_matrix(zoo).tolist(),
        "distances": zoo.distances.tolist() if zoo.distances is not None else None,
    }
    write_manifest(folder, entries, written)
    return bench


def _subsets(
    plan: ZooPlan, zoo: Zoo, val: ArraySplit, *, device: str, progress: bool
) -> Tensor | None:
    """The soups of a plan that does not evaluate all of them."""
    if plan.num_random is None:
        return None
    bank = predict(zoo, val, device=device, dtype=torch.float16, progress=progress)
    evaluate = Evaluator(zoo, val, device=device)
    return sample_subsets(bank, evaluate, num_random=plan.num_random, seed=plan.seed)


def _describe_sample(plan: ZooPlan) -> dict[str, int] | None:
    """What `SoupBench.candidates_for` must know of a sample of soups."""
    if plan.num_random is None:
        return None
    return {"num_random": plan.num_random, "num_candidates": NUM_CANDIDATES, "seed": plan.seed}


def _evaluate_shifts(
    plan: ZooPlan, bench: SoupBench, folder: Path, *, device: str, progress: bool
) -> list[Shift]:
    """The shifted test sets of a plan, several at once on a CPU; those in `folder` are read."""
    from joblib import Parallel, delayed

    rows = chosen_rows(bench, seed=plan.seed)
    num_processes = 1 if pick_device(device).type == "cuda" else CPU_PROCESSES
    tasks = [
        delayed(_evaluate_part)(plan, bench, part, rows, folder, device) for part in plan.shifts
    ]
    shifts = Parallel(n_jobs=num_processes, return_as="generator")(tasks)
    total = len(plan.shifts)
    return list(tqdm(shifts, total=total, desc="shifted test sets", disable=not progress))


def _evaluate_part(
    plan: ZooPlan, bench: SoupBench, part: str, rows: Sequence[int], folder: Path, device: str
) -> Shift:
    """One shifted test set, kept in a file so that an interrupted run need not repeat it."""
    split = _load_in_memory(plan.data, part, plan.size)
    key = hash_text(*bench.zoo().fingerprints, split.fingerprint, repr(list(rows)))
    path = folder / f"shift-{key[:16]}.safetensors"
    if path.exists():
        return read_shifts(path)[part]
    with single_thread():
        shift = evaluate_shift(bench, _prepared(split, STARTS[plan.network].prepare), rows, device)
    save_shifts(path, [shift])
    return shift


def _prepared(split: ArraySplit, prepare: Callable[[Tensor], Tensor] | None) -> ArraySplit:
    """The split as the frozen part of the network passes it on."""
    if prepare is None:
        return split
    passed_on = torch.cat([prepare(images) for images in split.images.split(IMAGES_AT_ONCE)])
    return ArraySplit(
        split.name,
        split.part,
        passed_on,
        split.labels,
        split.class_names,
        fingerprint=hash_text(split.fingerprint, "passed on by the frozen part"),
    )


def look_on_validation(
    name: str, num_models: int, *, device: str = "auto", progress: bool = True
) -> dict[str, float]:
    """Train the first ingredients of a plan, and evaluate them on validation alone.

    A sweep is worth its hours only if fine-tuning improves on the start and a soup is not worse
    than all of its ingredients. The test part plays no role. `ship` goes on from what was trained.

    Args:
        name: a key of `PLANS`.
        num_models: how many ingredients, two or more.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress bars.

    Returns:
        Validation accuracy in percent of "start", "ingredient 0" and so on, "soup" and "ensemble".

    Raises:
        DataError: the data set or the package with the pretrained weights is missing.
        ParameterError: an unknown name, or fewer than two ingredients.
    """
    plan = _find_plan(name)
    num_models = check_integer("num_models", num_models, minimum=2)
    zoo = finetuned_zoo(name, num_models, device=device, progress=progress)
    val = _load_in_memory(plan.data, plan.val_part, plan.size)
    init = zoo.paths[0].parent / INIT_FILE
    start = Zoo.open([init], build=zoo.build, progress=False)
    bank = predict(zoo, val, device=device, progress=progress)
    found = {"start": Evaluator(start, val, device=device)([1.0])}
    found |= {f"ingredient {k}": value for k, value in enumerate(bank.accuracies().tolist())}
    uniform = torch.full((num_models,), 1 / num_models)
    found["soup"] = Evaluator(zoo, val, device=device)(uniform)
    found["ensemble"] = fast_estimate(bank, uniform[None]).item()
    return found


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """Ingredients that were trained again, beside those that a bench was made from.

    Attributes:
        same_answers: for each ingredient the share of test images with the same answer, in percent.
        accuracies: for each ingredient (accuracy again, accuracy in the bench) on test, in percent.
        soup: the same two accuracies of the soup of these ingredients.
    """

    same_answers: list[float]
    accuracies: list[tuple[float, float]]
    soup: tuple[float, float]


def reproduce(
    name: str,
    members: Sequence[int],
    folder: str | Path,
    *,
    bench: SoupBench | None = None,
    device: str = "auto",
    progress: bool = True,
) -> Reproduction:
    """Train some ingredients of a shipped bench again, and evaluate them and their soup live.

    Another processor rounds otherwise, and training makes small differences large. So the answers
    are close to those in the bench, not the same; on the same hardware they are the same.

    Args:
        name: a key of `PLANS`.
        members: numbers of the ingredients. One that was taught needs its teachers among them.
        folder: where the checkpoints are written; an interrupted call continues from there.
        bench: the shipped one of that name when not given.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress bars.

    Raises:
        DataError: the data set or the package with the pretrained weights is missing.
        ParameterError: an unknown name, or no ingredient with such a number.
    """
    plan = _find_plan(name)
    bench = SoupBench.load(name) if bench is None else bench
    members = sorted({check_integer("a member", k, minimum=0) for k in members})
    row = bench.row_of(members) if members and members[-1] < bench.num_models else None
    if row is None:
        raise ParameterError(
            f"{name} has the ingredients 0 to {bench.num_models - 1}; name some of them, not "
            f"{members}."
        )
    chosen = pick_device(device)
    zoo = _trained_zoo(name, plan, Path(folder), members, device=chosen, progress=progress)
    test = _load_in_memory(plan.data, plan.test_part, plan.size)
    again = predict(zoo, test, device=device, progress=progress)
    shipped = bench.test.logits[members].float().argmax(-1)
    same = (again.logits.argmax(-1) == shipped).double().mean(1) * 100
    before = bench.test.accuracies()[members]
    live = Evaluator(zoo, test, device=device)([1 / len(zoo)] * len(zoo))
    return Reproduction(
        same_answers=same.tolist(),
        accuracies=list(zip(again.accuracies().tolist(), before.tolist(), strict=True)),
        soup=(live, bench.soups("test")[row].item()),
    )


def _describe_data(plan: ZooPlan, val: ArraySplit, test: ArraySplit) -> dict[str, Any]:
    """The manifest's entry on the data."""
    return {
        "name": plan.data,
        "size": plan.size,
        "parts": {
            "start": plan.start_part,
            "tune": plan.tune_part,
            "val": plan.val_part,
            "test": plan.test_part,
        },
        "images": {"val": len(val), "test": len(test)},
        "fingerprints": {"val": val.fingerprint, "test": test.fingerprint},
    }


def _seconds_file(path: Path, *made_from: str) -> Path:
    """Where the seconds are kept that a checkpoint, or the soups of a folder, took to make."""
    return path.with_name(f"{path.stem}-{hash_text(*made_from)[:8]}.seconds")


def _ship_pretrained(target: Path, device: torch.device, *, progress: bool) -> None:
    """Put the small pretrained network beside the benches, where `pretrained_checkpoint` looks."""
    pretrained = pretrained_checkpoint(device, progress=progress)
    if pretrained != target:
        _copy(pretrained, target)


def _copy(source: Path, target: Path) -> Path:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def _print_reproduction(name: str, options: argparse.Namespace) -> None:
    """Train some ingredients again, and print how close they are to the shipped ones."""
    try:
        members = sorted({int(number) for number in options.again.split(",")})
    except ValueError:
        raise ParameterError(
            f"--again takes numbers of ingredients, such as 0,3, not {options.again!r}."
        ) from None
    if options.out == shipped_root():
        raise ParameterError("--again needs --out FOLDER for the checkpoints that it trains.")
    found = reproduce(name, members, options.out / name, device=options.device)
    for k, same, (again, before) in zip(members, found.same_answers, found.accuracies, strict=True):
        print(
            f"ingredient {k}: {again:.2f}% on test, {before:.2f}% in the bench; "
            f"the same answer on {same:.1f}% of the images"
        )
    again, before = found.soup
    print(f"their soup: {again:.2f}% on test, {before:.2f}% in the bench")


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m radin.experiments.zoos.finetuned NAME ...`."""
    parser = argparse.ArgumentParser(
        prog="python -m radin.experiments.zoos.finetuned",
        description="Train zoos of fine-tuned networks, evaluate all their soups and write both "
        "where radin.SoupBench.load finds them. An interrupted run continues where it stopped.",
    )
    parser.add_argument(
        "names",
        nargs="+",
        choices=[*PLANS, "all"],
        metavar="NAME",
        help=f"{', '.join(PLANS)}, or all",
    )
    parser.add_argument(
        "--out", type=Path, default=shipped_root(), help="parent of the folder NAME (%(default)s)"
    )
    parser.add_argument("--num-models", type=int, help="ingredients, if not as many as planned")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument(
        "--again",
        metavar="NUMBERS",
        help="do not ship anything; train these ingredients again, such as 0,3, into --out, and "
        "compare them and their soup with the shipped bench",
    )
    parser.add_argument(
        "--look",
        type=int,
        metavar="N",
        help="do not ship anything; train the first N ingredients, 2 or more, and print how "
        "they, their soup and their ensemble do on validation",
    )
    options = parser.parse_args(arguments)
    try:
        for name in PLANS if "all" in options.names else options.names:
            if options.look is not None:
                number = check_integer("--look", options.look, minimum=2)
                found = look_on_validation(name, number, device=options.device)
                print(*(f"{what}: {value:.2f}%" for what, value in found.items()), sep="\n")
                continue
            if options.again is not None:
                _print_reproduction(name, options)
                continue
            bench = ship(
                name, options.out / name, num_models=options.num_models, device=options.device
            )
            print(f"{options.out / name}: {bench}")
    except RadinError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    # Through the module's own name: worker processes cannot find functions of `__main__`.
    from radin.experiments.zoos import finetuned

    finetuned.main()

"""Train the shipped zoos of photo networks: `python -m radin.experiments.zoos.photos cifar10`."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.zoo import Zoo
from radin.data.load import load_split
from radin.data.splits import ArraySplit, in_memory
from radin.errors import ParameterError, RadinError, check_integer, check_seed
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.shipped import (
    BENCH_FILE,
    BENCH_FORMAT,
    INIT_FILE,
    MANIFEST_FILE,
    PRETRAINED_FILE,
    shipped_root,
)
from radin.experiments.networks import SmallResNet
from radin.experiments.zoos.photo_plans import PHOTO_PLANS, PRETRAINING, PhotoPlan
from radin.experiments.zoos.train import (
    Hyperparameters,
    build_seeded,
    read_hyperparameters,
    save_checkpoint,
    train_checkpoint,
)
from radin.files import atomic_path, cache_root, expand_path, hash_file, hash_text
from radin.inference.devices import pick_device, single_thread

BATCH_SIZE = 128
WIDTHS = (32, 64, 128)  # of the network; thirteen of it in half precision are 8 MB
# Processes on a CPU, one for each core (-1). Each has one thread, which together get more done than
# one process with many threads.
CPU_PROCESSES = -1
HEAD_WEIGHT_DECAY = 1e-4
PRETRAINING_PIXELS = 32  # edge of the images, for every copy of Tiny ImageNet
PRETRAINING_SEED = 0
INIT_SEED_OFFSET = 7  # the plan's seed plus this orders the images in an initialisation's training
IMAGES_AT_ONCE = 500  # when features are computed


def fit_head(model: SmallResNet, split: ArraySplit, *, steps: int = 100) -> None:
    """Linear probe: fit a new head to the frozen features by full-batch L-BFGS, in place.

    All ingredients then start from one head. Separately drawn heads could not be averaged.

    Args:
        model: whose head is fitted.
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


def photo_zoo(
    name: str,
    num_models: int | None = None,
    *,
    device: str = "auto",
    progress: bool = True,
) -> Zoo:
    """Train one of the zoos in `PHOTO_PLANS`, or find it under `RADIN_CACHE`.

    The network pretrained on Tiny ImageNet, the initialisation and every ingredient are written as
    soon as they are trained. Each run keeps its state after every epoch, so an interrupted run
    continues where it stopped.

    Args:
        name: a key of `PHOTO_PLANS`.
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
    pretrained = pretrained_checkpoint(chosen, progress=progress)
    folder = _zoo_folder(name, plan, pretrained, chosen)
    init = folder / INIT_FILE
    if not init.exists():
        _make_init(plan, pretrained, init, chosen)
    paths = [folder / f"ingredient_{k:02d}.safetensors" for k in range(num_models)]
    _train_ingredients(name, plan, init, paths, device=chosen, progress=progress)
    num_classes = _load_in_memory(plan.data, plan.start_part, plan.size).num_classes
    return Zoo.open(
        paths, build=lambda: SmallResNet(num_classes, widths=WIDTHS), init=init, progress=False
    )


def _zoo_folder(name: str, plan: PhotoPlan, pretrained: Path, device: torch.device) -> Path:
    """The folder of a zoo in the cache, named by everything that its initialisation depends on."""
    start = _load_in_memory(plan.data, plan.start_part, plan.size)
    tune = _load_in_memory(plan.data, plan.tune_part, plan.size)
    key = hash_text(
        "photos-2",
        json.dumps(plan.start),
        _describe_networks(),
        str(plan.seed),
        device.type,
        hash_file(pretrained),
        start.fingerprint,
        tune.fingerprint,
    )
    return cache_root() / "zoos" / f"{name}-{key[:16]}"


def _make_init(plan: PhotoPlan, pretrained: Path, path: Path, device: torch.device) -> None:
    """Fit a head to the pretrained body, train both if the plan says so, and save them."""
    split = _load_in_memory(plan.data, plan.start_part, plan.size)
    model = SmallResNet(split.num_classes, widths=WIDTHS)
    body = {
        key: tensor
        for key, tensor in open_checkpoint(pretrained).items()
        if not key.startswith("head.")
    }
    missing, unknown = model.load_state_dict(body, strict=False)
    assert set(missing) == {"head.weight", "head.bias"}
    assert not unknown
    fit_head(model.to(device), split)
    if plan.start is None:
        save_checkpoint(model, path, {}, dtype=torch.float16)
        return
    train_checkpoint(
        model,
        split,
        plan.start,
        INIT_SEED_OFFSET + plan.seed,
        path,
        batch_size=BATCH_SIZE,
        dtype=torch.float16,
        progress="initialisation",
    )


def _train_ingredients(
    name: str,
    plan: PhotoPlan,
    init: Path,
    paths: Sequence[Path],
    *,
    device: torch.device,
    progress: bool,
) -> None:
    """Train the ingredients that do not exist yet, several at once on a CPU."""
    from joblib import Parallel, delayed

    runs = plan.sweep(len(paths), plan.seed)
    missing = [
        delayed(_train_ingredient)(plan, run, init, path, seed=1000 * plan.seed + k, device=device)
        for k, (path, run) in enumerate(zip(paths, runs, strict=True))
        if not (path.exists() and read_hyperparameters(path) == run)  # the sweep may have changed
    ]
    num_processes = 1 if device.type == "cuda" else CPU_PROCESSES
    finished = Parallel(n_jobs=num_processes, return_as="generator_unordered")(missing)
    hidden = not progress or not missing
    for _ in tqdm(finished, total=len(missing), desc=f"fine-tuning {name}", disable=hidden):
        pass


def _train_ingredient(
    plan: PhotoPlan,
    run: Hyperparameters,
    init: Path,
    path: Path,
    *,
    seed: int,
    device: torch.device,
) -> None:
    split = _load_in_memory(plan.data, plan.tune_part, plan.size)
    model = SmallResNet(split.num_classes, widths=WIDTHS)
    model.load_state_dict(dict(open_checkpoint(init)))
    with single_thread():
        train_checkpoint(
            model.to(device),
            split,
            run,
            seed,
            path,
            batch_size=BATCH_SIZE,
            dtype=torch.float16,
        )


def pretrained_checkpoint(device: torch.device, *, progress: bool) -> Path:
    """The network trained on Tiny ImageNet that every plan begins with.

    The shipped one is used as long as it was trained with `PRETRAINING`.
    """
    shipped = shipped_root() / PRETRAINED_FILE
    if shipped.exists() and read_hyperparameters(shipped) == PRETRAINING:
        return shipped
    split = _load_in_memory("tiny-imagenet", "train", PRETRAINING_PIXELS)
    key = hash_text(
        "tiny-imagenet-2",
        json.dumps(PRETRAINING),
        _describe_networks(),
        device.type,
        split.fingerprint,
    )
    path = cache_root() / "zoos" / f"tiny-imagenet-{key[:16]}" / PRETRAINED_FILE
    if not path.exists():
        model = build_seeded(
            lambda: SmallResNet(split.num_classes, widths=WIDTHS), PRETRAINING_SEED
        )
        train_checkpoint(
            model.to(device),
            split,
            PRETRAINING,
            PRETRAINING_SEED,
            path,
            batch_size=BATCH_SIZE,
            progress="pretraining on Tiny ImageNet" if progress else "",
        )
    return path


def _describe_networks() -> str:
    """What determines every network here beside its plan. It names folders in the cache."""
    network = SmallResNet(1, widths=WIDTHS)
    return f"{network!r} batch {BATCH_SIZE} head {HEAD_WEIGHT_DECAY} start {INIT_SEED_OFFSET}"


@cache
def _load_in_memory(name: str, part: str, size: int | None) -> ArraySplit:
    return in_memory(load_split(name, part, size=size))


def _find_plan(name: str) -> PhotoPlan:
    if name not in PHOTO_PLANS:
        raise ParameterError(f"Unknown zoo {name!r}; it must be one of {', '.join(PHOTO_PLANS)}.")
    return PHOTO_PLANS[name]


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
        name: a key of `PHOTO_PLANS`.
        folder: to write.
        num_models: N, that of the plan when not given.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress bars.
    """
    plan = _find_plan(name)
    folder = expand_path(folder)
    zoo = photo_zoo(name, num_models, device=device, progress=progress)
    val = _load_in_memory(plan.data, plan.val_part, plan.size)
    test = _load_in_memory(plan.data, plan.test_part, plan.size)
    bench = SoupBench.build(zoo, val, test, device=device, dtype=torch.float16, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    chosen = pick_device(device)
    pretrained = pretrained_checkpoint(chosen, progress=progress)
    if pretrained != folder.parent / PRETRAINED_FILE:
        _copy(pretrained, folder.parent / PRETRAINED_FILE)
    (folder / MANIFEST_FILE).unlink(missing_ok=True)
    written = [bench.save(folder / BENCH_FILE)]
    if plan.ships_ingredients:
        for path in (zoo.paths[0].parent / INIT_FILE, *zoo.paths):
            written.append(_copy(path, folder / path.name))
    manifest = {
        "format": BENCH_FORMAT,
        "name": name,
        "data": _describe_data(plan, val, test),
        "class_names": val.class_names,
        "widths": list(WIDTHS),
        "seed": plan.seed,
        "pretraining": {"data": "tiny-imagenet", "size": PRETRAINING_PIXELS, **PRETRAINING},
        "start": plan.start,
        "ingredients": [read_hyperparameters(path) for path in zoo.paths],
        "made_with": {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": str(chosen),
        },
        "files": {path.name: hash_file(path) for path in written},
    }
    for path in folder.iterdir():  # files of an earlier, larger zoo
        if path not in written and path.is_file():
            path.unlink()
    with atomic_path(folder / MANIFEST_FILE) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return bench


def _describe_data(plan: PhotoPlan, val: ArraySplit, test: ArraySplit) -> dict[str, Any]:
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


def _copy(source: Path, target: Path) -> Path:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m radin.experiments.zoos.photos NAME ...`."""
    parser = argparse.ArgumentParser(
        prog="python -m radin.experiments.zoos.photos",
        description="Train zoos of small photo networks, evaluate all their soups and write both "
        "where radin.SoupBench.load finds them. An interrupted run continues where it stopped.",
    )
    parser.add_argument(
        "names",
        nargs="+",
        choices=[*PHOTO_PLANS, "all"],
        metavar="NAME",
        help=f"{', '.join(PHOTO_PLANS)}, or all",
    )
    parser.add_argument(
        "--out", type=Path, default=shipped_root(), help="parent of the folder NAME (%(default)s)"
    )
    parser.add_argument("--num-models", type=int, help="ingredients, if not as many as planned")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    options = parser.parse_args(arguments)
    try:
        for name in PHOTO_PLANS if "all" in options.names else options.names:
            bench = ship(
                name, options.out / name, num_models=options.num_models, device=options.device
            )
            print(f"{options.out / name}: {bench}")
    except RadinError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    # Through the module's own name: worker processes cannot find functions of `__main__`.
    from radin.experiments.zoos import photos

    photos.main()

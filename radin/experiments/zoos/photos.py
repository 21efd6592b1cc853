"""The zoos of small photo networks that are shipped, and their making: `python -m radin.experiments.zoos.photos cifar10`."""

from __future__ import annotations

import argparse
import json
import platform
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.zoo import Zoo
from radin.data.load import load_split
from radin.data.splits import ArraySplit, in_memory
from radin.errors import ParameterError, RadinError, check_seed, check_integer
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.shipped import (
    BENCH,
    BENCH_FORMAT,
    INIT,
    MANIFEST,
    PRETRAINED,
    shipped_root,
)
from radin.experiments.networks import SmallResNet
from radin.experiments.zoos.photo_plans import PLANS, PRETRAINING, Plan
from radin.experiments.zoos.train import (
    Hyperparameters,
    save_checkpoint,
    train_checkpoint,
    trained_with,
)
from radin.files import atomic_path, cache_root, hash_file, hash_text
from radin.inference.devices import pick_device, single_thread

BATCH = 128
WIDTHS = (32, 64, 128)  # of the network; thirteen of it in half precision are 8 MB
JOBS = (
    -1
)  # processes on a CPU, one thread each: they get more done than one process with many threads
HEAD_DECAY = 1e-4
PRETRAINING_SIZE = 32  # pixels, whatever size the copy of Tiny ImageNet has
PRETRAINING_SEED = 0
START_SEED = (
    7  # of the order of the images in an initialisation's training, beside the plan's own seed
)


def fit_head(model: SmallResNet, split: ArraySplit, steps: int = 100) -> None:
    """Linear probe: fit a fresh head to the frozen features of a split by full-batch L-BFGS, in place.

    All ingredients then start from one head; separately drawn heads could not be averaged.
    Source: Wortsman et al. 2022, section 3.1 ("LP-FT", after Kumar et al. 2022).
    """
    device = next(model.parameters()).device
    with torch.no_grad():
        features = torch.cat(
            [model.features(images.to(device)) for images in split.images.split(500)]
        )
    labels = split.labels.to(device)
    nn.init.zeros_(model.head.weight)
    nn.init.zeros_(model.head.bias)
    optimizer = torch.optim.LBFGS(
        model.head.parameters(), max_iter=steps, line_search_fn="strong_wolfe"
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        # A trace of weight decay: without it the head of separable features grows without end.
        value = (
            F.cross_entropy(model.head(features), labels)
            + HEAD_DECAY * model.head.weight.square().sum()
        )
        value.backward()
        return value

    optimizer.step(loss)


def photo_zoo(
    name: str, num_models: int | None = None, device: str = "auto", progress: bool = True
) -> Zoo:
    """Train one of the zoos in `PLANS`, or find it under `RADIN_CACHE`.

    Pretraining on Tiny ImageNet, the initialisation and every ingredient are written as soon as they are
    there, and each run keeps its state after every epoch: a killed run goes on where it stopped.

    Args:
        name: a key of `PLANS`.
        num_models: N, the plan's own when not given; a longer sweep takes over the ingredients of a shorter one.
        device: "auto", "cpu" or "cuda".

    Returns: a Zoo of half-precision checkpoints with `build` and `init`.

    Raises DataError when a data set is missing, ParameterError for an unknown name.
    """
    plan = _plan(name)
    from joblib import Parallel, delayed

    num_models = check_integer(
        "num_models", plan.num_models if num_models is None else num_models, minimum=1
    )
    seed, chosen = check_seed(plan.seed), pick_device(device)
    before = pretrained(chosen, progress)
    start, tune = (
        _memory(plan.data, part, plan.size) for part in (plan.start_part, plan.tune_part)
    )
    parts = (hash_file(before), start.fingerprint, tune.fingerprint)
    key = hash_text("photos-2", json.dumps(plan.start), _made_of(), str(seed), chosen.type, *parts)
    folder = cache_root() / "zoos" / f"{name}-{key[:16]}"
    init = folder / INIT
    if not init.exists():
        model = SmallResNet(start.num_classes, WIDTHS)
        body = {
            key: tensor
            for key, tensor in open_checkpoint(before).items()
            if not key.startswith("head.")
        }
        missing, unknown = model.load_state_dict(body, strict=False)
        assert set(missing) == {"head.weight", "head.bias"}
        assert not unknown
        fit_head(model.to(chosen), start)
        if plan.start is None:
            save_checkpoint(model, init, {}, torch.float16)
        else:
            order = START_SEED + seed
            train_checkpoint(
                model, start, plan.start, order, init, BATCH, torch.float16, "initialisation"
            )
    paths = [folder / f"ingredient_{k:02d}.safetensors" for k in range(num_models)]
    todo = [
        delayed(_ingredient)(plan, run, init, path, 1000 * seed + k, chosen)
        for k, (path, run) in enumerate(zip(paths, plan.sweep(num_models, seed), strict=True))
        if not (path.exists() and trained_with(path) == run)  # the sweep may have been edited
    ]
    finished = Parallel(
        n_jobs=1 if chosen.type == "cuda" else JOBS, return_as="generator_unordered"
    )(todo)
    for _ in tqdm(
        finished, total=len(todo), desc=f"fine-tuning {name}", disable=not progress or not todo
    ):
        pass
    return Zoo.open(
        paths, build=lambda: SmallResNet(start.num_classes, WIDTHS), init=init, progress=False
    )


def _ingredient(
    plan: Plan, run: Hyperparameters, init: Path, path: Path, seed: int, device: torch.device
) -> None:
    tune = _memory(plan.data, plan.tune_part, plan.size)
    model = SmallResNet(tune.num_classes, WIDTHS)
    model.load_state_dict(dict(open_checkpoint(init)))
    with single_thread():
        train_checkpoint(model.to(device), tune, run, seed, path, BATCH, torch.float16)


def pretrained(device: torch.device, progress: bool) -> Path:
    """The network trained on Tiny ImageNet that every plan begins with; the shipped one while its recipe stands."""
    if (path := shipped_root() / PRETRAINED).exists() and trained_with(path) == PRETRAINING:
        return path
    split = _memory("tiny-imagenet", "train", PRETRAINING_SIZE)
    key = hash_text(
        "tiny-imagenet-2", json.dumps(PRETRAINING), _made_of(), device.type, split.fingerprint
    )
    path = cache_root() / "zoos" / f"tiny-imagenet-{key[:16]}" / PRETRAINED
    if not path.exists():
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(PRETRAINING_SEED)
            model = SmallResNet(split.num_classes, WIDTHS).to(device)
        bar = "pretraining on Tiny ImageNet" if progress else ""
        train_checkpoint(model, split, PRETRAINING, PRETRAINING_SEED, path, BATCH, progress=bar)
    return path


def _made_of() -> str:
    """What every network here is made of, beside the plan."""
    return f"{SmallResNet(1, WIDTHS)!r} batch {BATCH} head {HEAD_DECAY} start {START_SEED}"


@cache
def _memory(name: str, part: str, size: int | None) -> ArraySplit:
    return in_memory(load_split(name, part, size=size))


def _plan(name: str) -> Plan:
    if name not in PLANS:
        raise ParameterError(f"Unknown zoo {name!r}; it must be one of {', '.join(PLANS)}.")
    return PLANS[name]


def ship(
    name: str,
    folder: str | Path,
    num_models: int | None = None,
    device: str = "auto",
    progress: bool = True,
) -> SoupBench:
    """Train a zoo, evaluate all its soups, and write both with a manifest as `SoupBench.load` reads them.

    A killed run goes on where it stopped. The manifest is written last, so a folder with one is whole.
    """
    plan, folder = _plan(name), Path(folder)
    zoo = photo_zoo(name, num_models, device, progress)
    val, test = (_memory(plan.data, part, plan.size) for part in (plan.val_part, plan.test_part))
    bench = SoupBench.build(zoo, val, test, device=device, dtype=torch.float16, progress=progress)
    folder.mkdir(parents=True, exist_ok=True)
    if (before := pretrained(pick_device(device), progress)) != folder.parent / PRETRAINED:
        _copy(before, folder.parent / PRETRAINED)
    (folder / MANIFEST).unlink(missing_ok=True)
    written = [bench.save(folder / BENCH)]
    if plan.ships_ingredients:
        for path in (zoo.paths[0].parent / INIT, *zoo.paths):
            written.append(_copy(path, folder / path.name))
    manifest = {
        "format": BENCH_FORMAT,
        "name": name,
        "data": {
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
        },
        "class_names": val.class_names,
        "widths": list(WIDTHS),
        "seed": plan.seed,
        "pretraining": {"data": "tiny-imagenet", "size": PRETRAINING_SIZE, **PRETRAINING},
        "start": plan.start,
        "ingredients": [trained_with(path) for path in zoo.paths],
        "made_with": {
            "torch": torch.__version__,
            "machine": platform.machine(),
            "device": str(pick_device(device)),
        },
        "files": {path.name: hash_file(path) for path in written},
    }
    for path in folder.iterdir():  # what an earlier, larger zoo left
        if path not in written and path.is_file():
            path.unlink()
    with atomic_path(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
    return bench


def _copy(source: Path, target: Path) -> Path:
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)
    return target


def main(arguments: Sequence[str] | None = None) -> None:
    """The command `python -m radin.experiments.zoos.photos NAME ...`."""
    parser = argparse.ArgumentParser(
        prog="python -m radin.experiments.zoos.photos",
        description="Train zoos of small photo networks, evaluate all their soups and write both where "
        "radin.SoupBench.load finds them. A killed run goes on where it stopped.",
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
    options = parser.parse_args(arguments)
    try:
        for name in PLANS if "all" in options.names else options.names:
            bench = ship(name, options.out / name, options.num_models, options.device)
            print(f"{options.out / name}: {bench}")
    except RadinError as error:
        parser.exit(1, f"error: {error}\n")


if __name__ == "__main__":
    from radin.experiments.zoos import photos

    photos.main()  # by the module's own name: the processes that train could not find what belongs to `__main__`

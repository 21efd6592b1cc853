"""The digits zoo: a small network trained once and fine-tuned many times."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
from torch import nn
from tqdm import tqdm

from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.zoo import Zoo
from radin.data.load import load_split
from radin.data.splits import ArraySplit
from radin.errors import check_seed, check_integer
from radin.experiments.networks import DigitsNet
from radin.experiments.zoos.train import (
    Hyperparameters,
    fresh,
    save_checkpoint,
    train,
    trained_with,
)
from radin.files import cache_root, hash_text
from radin.inference.devices import pick_device, single_thread

# The initialisation: no label smoothing or mixup, some augmentation, long enough to converge.
PRETRAINING: Hyperparameters = {
    "lr": 2e-3,
    "weight_decay": 1e-2,
    "epochs": 100,
    "augment": 0.5,
    "noise": 0.0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
}


def sweep(num_models: int, seed: int = 0) -> list[Hyperparameters]:
    """Random hyper-parameters for `num_models` ingredients, after Wortsman et al. 2022, section 3.1.

    Learning rate and weight decay are drawn on a log scale, so a sweep holds timid and reckless runs
    alike. A longer sweep begins with a shorter one of the same seed.
    """
    rng = np.random.default_rng(seed)
    return [
        {
            "lr": float(10 ** rng.uniform(-4, math.log10(3e-3))),
            "weight_decay": float(10 ** rng.uniform(-4, -0.5)),
            "epochs": int(rng.integers(20, 81)),
            "augment": float(
                rng.choice([0.0, 0.5, 1.0])
            ),  # 1: turned by 30 degrees, scaled by 25%, moved by 1 pixel
            "noise": float(
                rng.choice([0.0, 0.3, 0.6])
            ),  # standard deviation of fresh noise at every step
            "label_smoothing": float(rng.choice([0.0, 0.1])),
            "mixup": float(rng.choice([0.0, 0.2, 0.4])),  # alpha of the Beta distribution; 0 is off
        }
        for _ in range(num_models)
    ]


def digits_zoo(
    num_models: int = 10,
    seed: int = 0,
    quick: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Zoo:
    """The embedded zoo: one small network pretrained on digits, then fine-tuned `num_models` times.

    Made once and then found again under `RADIN_CACHE`. Every checkpoint is written as soon as it is
    trained, so a killed run goes on where it stopped; its header holds the hyper-parameters.

    Args:
        num_models: N, at least 1.
        seed: of the initialisation, the sweep and the order of the images.
        quick: a tenth of the epochs, for tests; the ingredients are poor.
        device: "auto", "cpu" or "cuda".

    Returns: a Zoo with `build` and `init`, ingredients named ingredient_00, ingredient_01, ...
    """
    num_models, seed = check_integer("num_models", num_models, minimum=1), check_seed(seed)
    chosen = pick_device(device)
    runs = shorten([PRETRAINING, *sweep(num_models, seed)], quick)
    pretrain, tune = load_split("digits", "pretrain"), load_split("digits", "train")
    assert isinstance(pretrain, ArraySplit)
    assert isinstance(tune, ArraySplit)
    # Whatever the weights depend on names the folder. The number of ingredients is not part of it, so that a
    # longer sweep takes over the ingredients of a shorter one.
    recipe = json.dumps([PRETRAINING, *sweep(1, seed)])
    data = (pretrain.fingerprint, tune.fingerprint)
    key = hash_text(
        "digits-1", repr(DigitsNet()), recipe, str(seed), str(quick), chosen.type, *data
    )
    paths = zoo_paths(f"digits-{key[:16]}", num_models)

    def start(number: int) -> nn.Module:
        model = fresh(DigitsNet, seed)
        if number > 0:
            model.load_state_dict(dict(open_checkpoint(paths[0])))
        return model.to(chosen)

    for number, (path, run) in enumerate(
        zip(follow(paths, "training the digits zoo", progress), runs, strict=True)
    ):
        train_missing(
            path,
            run,
            partial(start, number),
            tune if number > 0 else pretrain,
            1000 * seed + number,
        )
    return Zoo.open(paths[1:], build=DigitsNet, init=paths[0], progress=False)


def shorten(runs: list[Hyperparameters], quick: bool) -> list[Hyperparameters]:
    """The same runs, or with a tenth of their epochs, at least one, when `quick`."""
    return [{**run, "epochs": max(1, int(run["epochs"]) // 10)} for run in runs] if quick else runs


def zoo_paths(folder: str, num_models: int) -> list[Path]:
    """Where a zoo of this name keeps its checkpoints: the initialisation first, then the ingredients."""
    place = cache_root() / "zoos" / folder
    return [
        place / "init.safetensors",
        *(place / f"ingredient_{k:02d}.safetensors" for k in range(num_models)),
    ]


def follow(paths: list[Path], description: str, progress: bool) -> Iterable[Path]:
    """The paths behind a progress bar, which is not shown when all of them are there already."""
    return tqdm(
        paths, desc=description, disable=not progress or all(path.exists() for path in paths)
    )


def train_missing(
    path: Path, run: Hyperparameters, start: Callable[[], nn.Module], split: ArraySplit, seed: int
) -> None:
    """Train what `start` returns and save it, unless `path` holds a checkpoint of just this run already."""
    if path.exists() and trained_with(path) == run:  # the sweep may have been edited
        return
    model = start()
    with (
        single_thread()
    ):  # also: the order of sums, and so the weights, does not depend on the number of cores
        train(model, split, run, seed)
    save_checkpoint(model, path, run)

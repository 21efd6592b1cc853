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
from radin.errors import check_integer, check_seed
from radin.experiments.networks import DigitsNet
from radin.experiments.zoos.train import (
    Hyperparameters,
    build_seeded,
    read_hyperparameters,
    save_checkpoint,
    train,
)
from radin.files import cache_root, hash_text
from radin.inference.devices import pick_device, single_thread

# The initialisation: no label smoothing or mixup, some augmentation, enough epochs to converge.
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
    """Random hyper-parameters for `num_models` ingredients.

    Learning rate and weight decay are drawn on a log scale, so that a sweep holds careful and
    reckless runs. A longer sweep begins with a shorter one of the same seed.

    Source: Wortsman et al. 2022, section 3.1.
    """
    rng = np.random.default_rng(seed)
    # `augment` 1 turns by up to 30 degrees, scales by 25% and moves by 1 pixel. `noise` is the
    # standard deviation of fresh noise at every step. `mixup` is alpha of the Beta distribution.
    return [
        {
            "lr": float(10 ** rng.uniform(-4, math.log10(3e-3))),
            "weight_decay": float(10 ** rng.uniform(-4, -0.5)),
            "epochs": int(rng.integers(20, 81)),
            "augment": float(rng.choice([0.0, 0.5, 1.0])),
            "noise": float(rng.choice([0.0, 0.3, 0.6])),
            "label_smoothing": float(rng.choice([0.0, 0.1])),
            "mixup": float(rng.choice([0.0, 0.2, 0.4])),
        }
        for _ in range(num_models)
    ]


def digits_zoo(
    num_models: int = 10,
    *,
    seed: int = 0,
    quick: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Zoo:
    """The embedded zoo: one small network pretrained on digits, then fine-tuned `num_models` times.

    It is trained once and then found again under `RADIN_CACHE`. Every checkpoint is written as soon
    as it is trained, so an interrupted run continues where it stopped. The header of a checkpoint
    holds its hyper-parameters.

    Args:
        num_models: N, at least 1.
        seed: of the initialisation, the sweep and the order of the images.
        quick: whether to train for a tenth of the epochs, for tests. The ingredients are poor.
        device: "auto", "cpu" or "cuda".
        progress: whether to show a progress bar.

    Returns:
        A Zoo with `build` and `init`, and ingredients named ingredient_00, ingredient_01, ...

    Raises:
        ParameterError: an impossible number, seed or device.

    >>> zoo = digits_zoo(2, quick=True, progress=False)
    >>> len(zoo), zoo.names
    (2, ['ingredient_00', 'ingredient_01'])
    """
    num_models = check_integer("num_models", num_models, minimum=1)
    seed = check_seed(seed)
    chosen = pick_device(device)
    runs = shorten_runs([PRETRAINING, *sweep(num_models, seed)], quick=quick)
    pretrain = load_split("digits", "pretrain")
    tune = load_split("digits", "train")
    assert isinstance(pretrain, ArraySplit)
    assert isinstance(tune, ArraySplit)
    # Everything that the weights depend on names the folder. The number of ingredients is not part
    # of it, so that a longer sweep uses the ingredients of a shorter one.
    recipe = json.dumps([PRETRAINING, *sweep(1, seed)])
    data = (pretrain.fingerprint, tune.fingerprint)
    key = hash_text(
        "digits-1", repr(DigitsNet()), recipe, str(seed), str(quick), chosen.type, *data
    )
    paths = zoo_paths(f"digits-{key[:16]}", num_models)

    def start(number: int) -> nn.Module:
        model = build_seeded(DigitsNet, seed)
        if number > 0:
            model.load_state_dict(dict(open_checkpoint(paths[0])))
        return model.to(chosen)

    bar = progress_bar(paths, "training the digits zoo", show=progress)
    for number, (path, run) in enumerate(zip(bar, runs, strict=True)):
        images = tune if number > 0 else pretrain
        train_missing(path, run, partial(start, number), images, seed=1000 * seed + number)
    return Zoo.open(paths[1:], build=DigitsNet, init=paths[0], progress=False)


def shorten_runs(runs: list[Hyperparameters], *, quick: bool) -> list[Hyperparameters]:
    """The same runs, or when `quick` the runs with a tenth of their epochs, at least one."""
    return [{**run, "epochs": max(1, int(run["epochs"]) // 10)} for run in runs] if quick else runs


def zoo_paths(name: str, num_models: int) -> list[Path]:
    """The paths of a zoo's checkpoints in the cache: the initialisation, then the ingredients."""
    folder = cache_root() / "zoos" / name
    ingredients = (folder / f"ingredient_{k:02d}.safetensors" for k in range(num_models))
    return [folder / "init.safetensors", *ingredients]


def progress_bar(paths: list[Path], description: str, *, show: bool) -> Iterable[Path]:
    """Iterate over paths to train. The bar is not shown when all of the files exist."""
    all_exist = all(path.exists() for path in paths)
    return tqdm(paths, desc=description, disable=not show or all_exist)


def train_missing(
    path: Path,
    run: Hyperparameters,
    start: Callable[[], nn.Module],
    split: ArraySplit,
    *,
    seed: int,
) -> None:
    """Train a network and save it, unless `path` already holds a checkpoint of just this run.

    Args:
        run: its hyper-parameters.
        start: returns the network to train.
        split: the training images.
        seed: of the order of the images and of their augmentation.
    """
    if path.exists() and read_hyperparameters(path) == run:  # the sweep may have been edited
        return
    model = start()
    # One thread fixes the order of sums, so the weights do not depend on the number of cores.
    with single_thread():
        train(model, split, run, seed)
    save_checkpoint(model, path, run)

"""How each shipped zoo of photo networks is made: its parts of the data, its start and its sweep."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from radin.data.download.catalog import KNOWN
from radin.experiments.zoos.train import Hyperparameters

# The first 200 classes a network ever sees. Light augmentation: sixteen epochs cannot use more.
PRETRAINING: Hyperparameters = {
    "lr": 3e-3,
    "weight_decay": 5e-2,
    "epochs": 16,
    "warmup": 0.1,
    "augment": 0.4,
    "flip": 0.5,
    "colour": 0.0,
    "erase": 0.0,
    "noise": 0.0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
}


@dataclass(frozen=True)
class Plan:
    """How one zoo is made.

    Attributes:
        data: the data set's name, as in `load_split`.
        start_part: where the head is fitted and, with `start`, the whole initialisation is trained.
        tune_part, val_part, test_part: where the ingredients are trained, chosen and reported.
        start: the initialisation's training after its head is fitted; None leaves it at that.
        sweep: hyper-parameters of the ingredients, by (num_models, seed).
        num_models: N.
        seed: of everything.
        size: edge of the images in pixels, None as they are.
        ships_ingredients: whether the checkpoints come with the module, or its tables only.
    """

    data: str
    start_part: str
    tune_part: str
    val_part: str
    test_part: str
    start: Hyperparameters | None
    sweep: Callable[[int, int], list[Hyperparameters]]
    num_models: int
    seed: int = 0
    size: int | None = None
    ships_ingredients: bool = True


def photo_sweep(
    num_models: int,
    seed: int,
    rates: tuple[float, float],
    epochs: tuple[int, int],
    floors: tuple[float, ...],
) -> list[Hyperparameters]:
    """Random hyper-parameters after Wortsman et al. 2022, section 3.1; a longer sweep begins with a shorter one.

    Args:
        rates: bounds of the learning rate, drawn on a log scale.
        epochs: least and most.
        floors: the shares of the rate that a run may end at. Runs that end above zero keep a noise of their own,
            which averaging removes (Izmailov et al. 2018).
    """
    rng = np.random.default_rng(seed)
    low, high = map(math.log10, rates)
    return [
        {
            "lr": float(10 ** rng.uniform(low, high)),
            "weight_decay": float(10 ** rng.uniform(-4, -1)),
            "epochs": int(rng.integers(epochs[0], epochs[1] + 1)),
            "warmup": 0.1,
            "floor": float(rng.choice(floors)),
            "augment": float(rng.choice([0.2, 0.3, 0.4])),
            "flip": 0.5,
            "colour": float(rng.choice([0.0, 0.2])),
            "erase": float(rng.choice([0.0, 0.2])),
            "noise": 0.0,
            "label_smoothing": float(rng.choice([0.0, 0.1])),
            "mixup": float(rng.choice([0.0, 0.2, 0.4])),
        }
        for _ in range(num_models)
    ]


# As many epochs on one half of the training images as it takes to come near the network's ceiling there.
START: Hyperparameters = {**PRETRAINING, "lr": 2e-3, "epochs": 24}

PLANS = {
    # Fine-tunes of a strong start at moderate rates, the paper's regime. None ends at zero: where all did, even the
    # best soup of this network was hardly better than its best ingredient.
    "cifar10": Plan(
        "cifar10",
        "pretrain",
        "finetune",
        "val",
        "test",
        START,
        partial(photo_sweep, rates=(1e-3, 1e-2), epochs=(5, 8), floors=(0.3, 0.6, 1.0)),
        num_models=10,
    ),
    # The same images from a weaker start at rates that carry ingredients far apart: soups fall behind.
    "cifar10-wild": Plan(
        "cifar10",
        "finetune",
        "finetune",
        "val",
        "test",
        None,
        partial(photo_sweep, rates=(4e-3, 1e-1), epochs=(4, 6), floors=(0.0,)),
        num_models=7,
        seed=1,
    ),
    # Fine-tune on three domains, validate in them, test on the fourth.
    **{
        f"pacs-{domain}": Plan(
            "pacs",
            f"without-{domain}/train",
            f"without-{domain}/train",
            f"without-{domain}/val",
            domain,
            None,
            partial(photo_sweep, rates=(1.5e-3, 6e-3), epochs=(8, 12), floors=(0.0, 0.3)),
            num_models=6,
            seed=2,
            size=32,
            ships_ingredients=False,
        )
        for domain in KNOWN["pacs"].domains
    },
}

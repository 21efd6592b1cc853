"""The plan of each zoo of fine-tuned networks: its data, its initialisation and its sweep."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np

from radin.data.download.catalog import DATA_SETS
from radin.experiments.corruptions import SEVERITIES
from radin.experiments.splits import SHAPE_PARTS
from radin.experiments.zoos.starts import PRETRAINING
from radin.experiments.zoos.train import Hyperparameters


@dataclass(frozen=True, kw_only=True)
class ZooPlan:
    """How one zoo is made.

    Attributes:
        data: the data set's name, as in `load_split`.
        start_part: where the head is fitted and, with `start`, the whole initialisation is trained.
        tune_part: where the ingredients are trained.
        val_part: where the recipes choose.
        test_part: where the accuracy is reported.
        start: hyper-parameters of the initialisation's training, after its head is fitted. With
            None only the head is fitted.
        sweep: hyper-parameters of the ingredients, by (num_models, seed).
        num_models: N.
        seed: of everything.
        size: edge of the images in pixels, or None for the images as they are.
        ships_ingredients: whether the checkpoints come with the module, or only its tables.
        network: what the zoo starts from, a key of `radin.experiments.zoos.starts.STARTS`.
        batch_size: images in a step of training.
        probe_steps: iterations at most when the head is fitted.
        num_random: random soups that are evaluated, beside those on the paths of the recipes (see
            `radin.experiments.bench.sample`); None for all soups.
        shifts: parts on which some soups are evaluated, too (see `radin.experiments.bench.shifts`).
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
    network: str = "small-resnet"
    batch_size: int = 128
    probe_steps: int = 100
    num_random: int | None = None
    shifts: tuple[str, ...] = ()


def photo_sweep(
    num_models: int,
    seed: int,
    *,
    rates: tuple[float, float],
    epochs: tuple[int, int],
    floors: tuple[float, ...],
) -> list[Hyperparameters]:
    """Random hyper-parameters. A longer sweep begins with a shorter one of the same seed.

    Args:
        num_models: how many to draw.
        seed: of the sweep.
        rates: bounds of the learning rate, drawn on a log scale.
        epochs: minimum and maximum.
        floors: the shares of the rate that a run may end at. Runs that end above zero keep noise of
            their own, which averaging removes (Izmailov et al. 2018).

    Source: Wortsman et al. 2022, section 3.1.
    """
    rng = np.random.default_rng(seed)
    low = math.log10(rates[0])
    high = math.log10(rates[1])
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


def pretrained_sweep(
    num_models: int, seed: int, *, rates: tuple[float, float], epochs: tuple[int, int]
) -> list[Hyperparameters]:
    """Random hyper-parameters for photographs and a network with real pretrained weights.

    Weight decay, label smoothing and mixup have the ranges of Model soups. Its augmentation by
    RandAugment is one of `augment` here, and its 4 to 16 epochs are fewer. A longer sweep begins
    with a shorter one of the same seed.

    Args:
        num_models: how many to draw.
        seed: of the sweep.
        rates: bounds of the learning rate, drawn on a log scale.
        epochs: minimum and maximum.

    Source: Wortsman et al. 2022, appendix J.2.1 (random search).
    """
    rng = np.random.default_rng(seed)
    low = math.log10(rates[0])
    high = math.log10(rates[1])
    return [
        {
            "lr": float(10 ** rng.uniform(low, high)),
            "weight_decay": float(10 ** -rng.uniform(0.2, 4)),
            "epochs": int(rng.integers(epochs[0], epochs[1] + 1)),
            "warmup": 0.1,
            "augment": float(rng.choice([0.2, 0.4, 0.6])),
            "flip": 0.5,
            "colour": float(rng.choice([0.0, 0.2, 0.4])),
            "erase": float(rng.choice([0.0, 0.25])),
            "noise": 0.0,
            "label_smoothing": float(rng.choice([0.0, rng.uniform(0, 0.25)])),
            "mixup": float(rng.choice([0.0, rng.uniform(0, 0.9)])),
        }
        for _ in range(num_models)
    ]


def plain_label_sweep(
    num_models: int, seed: int, *, rates: tuple[float, float], epochs: tuple[int, int]
) -> list[Hyperparameters]:
    """`pretrained_sweep` without mixup and label smoothing, for a data set of few steps an epoch.

    On PACS, runs with mixup were worse on validation than the probe that they started from, and
    runs with label smoothing hardly better.
    """
    runs = pretrained_sweep(num_models, seed, rates=rates, epochs=epochs)
    return [{**run, "mixup": 0.0, "label_smoothing": 0.0} for run in runs]


def text_sweep(
    num_models: int, seed: int, *, rates: tuple[float, float], epochs: tuple[int, int]
) -> list[Hyperparameters]:
    """Random hyper-parameters for sentences. The head learns ten times as fast as the body.

    A longer sweep begins with a shorter one of the same seed.

    Args:
        num_models: how many to draw.
        seed: of the sweep.
        rates: bounds of the learning rate of the body, drawn on a log scale.
        epochs: minimum and maximum.
    """
    rng = np.random.default_rng(seed)
    low = math.log10(rates[0])
    high = math.log10(rates[1])
    return [
        {
            "lr": float(10 ** rng.uniform(low, high)),
            "head_factor": 10.0,
            "weight_decay": float(10 ** -rng.uniform(1, 4)),
            "epochs": int(rng.integers(epochs[0], epochs[1] + 1)),
            "warmup": 0.1,
            "drop_words": float(rng.choice([0.0, 0.1, 0.2])),
            "label_smoothing": float(rng.choice([0.0, rng.uniform(0, 0.2)])),
        }
        for _ in range(num_models)
    ]


PARADIGMS = ("plain", "adversarial", "distilled", "few-shot", "warm start")


def mixed_sweep(
    num_models: int, seed: int, *, rates: tuple[float, float], epochs: tuple[int, int]
) -> list[Hyperparameters]:
    """Random hyper-parameters for sentences, of which each run is trained in one of `PARADIGMS`.

    The paradigms take turns in pairs: two plain runs, which then teach, two adversarial ones, and
    so on. A longer sweep begins with a shorter one of the same seed.

    Args:
        num_models: how many to draw.
        seed: of the sweep.
        rates: bounds of the learning rate of the body, drawn on a log scale.
        epochs: minimum and maximum.
    """
    changes: dict[str, Hyperparameters] = {
        "plain": {},
        "adversarial": {"adversarial": 0.1},
        "distilled": {"teachers": 2, "temperature": 2.0, "label_smoothing": 0.0},
        # About a quarter of the examples, so each is seen more often.
        "few-shot": {"shots": 30, "epochs": 8},
        "warm start": {"warm_epochs": 1, "warm_drop_words": 0.2},
    }
    runs = text_sweep(num_models, seed, rates=rates, epochs=epochs)
    return [{**run, **changes[PARADIGMS[k // 2 % len(PARADIGMS)]]} for k, run in enumerate(runs)]


def paradigm_of(run: Hyperparameters) -> str:
    """Which of `PARADIGMS` a run of `mixed_sweep` belongs to."""
    signs = {
        "adversarial": "adversarial",
        "teachers": "distilled",
        "warm_epochs": "warm start",
        "shots": "few-shot",
    }
    return next((name for key, name in signs.items() if key in run), "plain")


# With fewer epochs on one half of the training images the network is still far below its best.
INIT_TRAINING: Hyperparameters = {**PRETRAINING, "lr": 2e-3, "epochs": 24}


def _without(domain: str) -> ZooPlan:
    """PACS: fine-tune and validate on three domains, test on the fourth."""
    return ZooPlan(
        data="pacs",
        start_part=f"without-{domain}/train",
        tune_part=f"without-{domain}/train",
        val_part=f"without-{domain}/val",
        test_part=domain,
        start=None,
        sweep=partial(photo_sweep, rates=(1.5e-3, 6e-3), epochs=(8, 12), floors=(0.0, 0.3)),
        num_models=6,
        seed=2,
        size=32,
        ships_ingredients=False,
    )


# Corruptions at two strengths, and drawings that show classes of ImageNet by their shape.
PHOTO_SHIFTS = (
    *(f"val/report+{kind}{severity}" for kind in SEVERITIES for severity in (1, 3)),
    *SHAPE_PARTS,
)

# Real photographs of 100 classes of ImageNet, and the network that was pretrained on them all.
IMAGENET_100 = ZooPlan(
    data="mini-imagenet-84",
    start_part="train",
    tune_part="train",
    val_part="val/choose",
    test_part="val/report",
    start=None,
    sweep=partial(pretrained_sweep, rates=(4e-4, 2e-3), epochs=(1, 3)),
    num_models=8,
    seed=3,
    ships_ingredients=False,
    network="efficientnet-lite0",
    batch_size=64,
    shifts=PHOTO_SHIFTS,
)


# Ten classes, and a network whose lower part is frozen. `book/plans.md` tells what was tried.
IMAGENETTE = ZooPlan(
    data="imagenette-96",
    start_part="train",
    tune_part="train",
    val_part="val/choose",
    test_part="val/report",
    start=None,
    sweep=partial(plain_label_sweep, rates=(2e-4, 6e-4), epochs=(3, 4)),
    num_models=10,
    seed=6,
    size=64,
    ships_ingredients=False,
    network="efficientnet-lite0-upper",
    batch_size=64,
    probe_steps=20,
)


def _pretrained_without(domain: str) -> ZooPlan:
    """PACS again, from a network with real pretrained weights and with larger images.

    The whole network is trained, from a short probe. `book/plans.md` tells what was tried before.
    """
    return dataclasses.replace(
        _without(domain),
        data="pacs-128",
        sweep=partial(plain_label_sweep, rates=(2e-4, 4e-4), epochs=(3, 4)),
        num_models=5,
        seed=4,
        size=96,
        network="efficientnet-lite0",
        batch_size=64,
        probe_steps=20,
    )


# The head starts from a short probe. From a probe at its minimum, fine-tuning only lost.
BANKING77 = ZooPlan(
    data="banking77",
    start_part="train",
    tune_part="train",
    val_part="val",
    test_part="test",
    start=None,
    sweep=partial(text_sweep, rates=(1.5e-4, 3.5e-4), epochs=(2, 3)),
    num_models=8,
    seed=5,
    ships_ingredients=False,
    network="minilm",
    batch_size=32,
    probe_steps=60,
)

PLANS = {
    # Fine-tunes of a strong start at moderate rates, as in the paper. None ends at a rate of zero:
    # where all did, even the best soup of this network was hardly better than its best ingredient.
    "cifar10": ZooPlan(
        data="cifar10",
        start_part="pretrain",
        tune_part="finetune",
        val_part="val",
        test_part="test",
        start=INIT_TRAINING,
        sweep=partial(photo_sweep, rates=(1e-3, 1e-2), epochs=(5, 8), floors=(0.3, 0.6, 1.0)),
        num_models=10,
    ),
    # The same images, from a weaker start at rates that move ingredients far apart: soups fail.
    "cifar10-wild": ZooPlan(
        data="cifar10",
        start_part="finetune",
        tune_part="finetune",
        val_part="val",
        test_part="test",
        start=None,
        sweep=partial(photo_sweep, rates=(4e-3, 1e-1), epochs=(4, 6), floors=(0.0,)),
        num_models=7,
        seed=1,
    ),
    **{f"pacs-{domain}": _without(domain) for domain in DATA_SETS["pacs"].domains},
    "imagenet-100": IMAGENET_100,
    # What refreshing the statistics of batch norm is worth on a real network.
    "imagenet-100-moving": dataclasses.replace(
        IMAGENET_100, network="efficientnet-lite0-moving", num_models=4, shifts=()
    ),
    **{
        f"pacs-pretrained-{domain}": _pretrained_without(domain)
        for domain in DATA_SETS["pacs"].domains
    },
    "banking77": BANKING77,
    # Ingredients that were not all trained in one way, but in the first four of
    # `PARADIGMS`. The paper
    # does not do so; a public summary of it names this as a next check.
    "banking77-mixed": dataclasses.replace(
        BANKING77,
        sweep=partial(mixed_sweep, rates=(1.5e-4, 3.5e-4), epochs=(2, 3)),
        seed=7,
    ),
    # Many ingredients of a small part of a network, so that many soups can be evaluated: all of
    # the first ten, and a sample of all 24.
    "imagenette-10": IMAGENETTE,
    "imagenette-24": dataclasses.replace(IMAGENETTE, num_models=24, num_random=1000),
}

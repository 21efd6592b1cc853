"""What it is worth to measure batch norm again for each soup, on a pretrained network.

    RADIN_DATA=... python tests/benchmarks/refreshed_statistics.py      # some minutes on two cores

The ingredients of `imagenet-100-moving` let the running statistics of batch norm follow the batches
while they were trained. The script measures the statistics of each of their soups again and runs
the soup over the test photographs, and does the same for single ingredients, as a control, and for
the ensembles of these. For the soup of all it varies the number of photographs that the statistics
are measured on. For single ingredients it measures them on augmented photographs too, as in
training: that tells where the gain comes from.

Every finished entry is written at once to `radin/experiments/results/refreshed_statistics.json`,
which chapter 6 shows. A run after a killed one goes on with the next entry.
"""

from __future__ import annotations

import argparse
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch

import radin
from entries import Entries
from radin.data.splits import ArraySplit
from radin.experiments.splits import load_experiment_split
from radin.experiments.zoos.augment import augment
from radin.experiments.zoos.finetuned import finetuned_zoo
from radin.experiments.zoos.plans import PLANS
from radin.experiments.zoos.train import Hyperparameters, read_hyperparameters
from radin.inference.batch_norm import refresh_batch_norm

NAME = "imagenet-100-moving"
OUT = Path(radin.__file__).parent / "experiments" / "results" / "refreshed_statistics.json"
MANY = 4000  # photographs that the statistics of every soup are measured on
COUNTS = (64, 256, 1000, MANY, 16000)  # those for the soup of all


def some_of(split: ArraySplit, count: int) -> ArraySplit:
    """The first `count` images of a random order, the same for every count."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return split.subset(order[:count].tolist())


def augmented(split: ArraySplit, run: Hyperparameters) -> ArraySplit:
    """The images as an ingredient sees them in training, mixup left out."""
    images = augment(split.images, run, torch.Generator().manual_seed(0))
    return ArraySplit(split.name, split.part, images, split.labels, split.class_names)


class Refreshed:
    """The zoo with statistics measured again, and what it answers on the test part."""

    def __init__(self, zoo: radin.Zoo, train: ArraySplit, test: ArraySplit) -> None:
        self.zoo = zoo
        self.train = train
        self.test = test
        self.candidates = radin.exhaustive(len(zoo))

    def logits(self, row: int, images: ArraySplit) -> torch.Tensor:
        state = refresh_batch_norm(self.zoo, self.candidates[row], images)
        return radin.soup_logits(self.zoo, state, self.test)[0]

    def right(self, logits: torch.Tensor) -> str:
        """Whether each test image is classified rightly, as bits in hexadecimal digits."""
        return np.packbits((logits.argmax(1) == self.test.labels).numpy()).tobytes().hex()

    def soup(self, row: int, count: int) -> str:
        return self.right(self.logits(row, some_of(self.train, count)))

    @cached_property
    def singles(self) -> torch.Tensor:
        """Logits of the ingredients with statistics measured again: (N, n, C)."""
        images = some_of(self.train, MANY)
        rows = [2**k - 1 for k in range(len(self.zoo))]
        return torch.stack([self.logits(row, images) for row in rows])

    def ensemble(self, row: int) -> str:
        return self.right(torch.tensordot(self.candidates[row], self.singles, 1))

    def ingredient_on_augmented(self, k: int) -> str:
        images = augmented(some_of(self.train, MANY), read_hyperparameters(self.zoo.paths[k]))
        return self.right(self.logits(2**k - 1, images))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="(%(default)s)")
    options = parser.parse_args()
    plan = PLANS[NAME]
    zoo = finetuned_zoo(NAME)
    train = load_experiment_split(plan.data, plan.tune_part, size=plan.size)
    test = load_experiment_split(plan.data, plan.test_part, size=plan.size)
    entries = Entries(options.out, "-".join(zoo.fingerprints))
    refreshed = Refreshed(zoo, train, test)
    rows = range(len(refreshed.candidates))
    tasks = [(row, MANY) for row in rows]
    tasks += [(rows[-1], count) for count in COUNTS if count != MANY]
    for row, count in tasks:
        entries.measure(f"soup {row}, {count} images", partial(refreshed.soup, row, count))
    for row in rows:
        if (refreshed.candidates[row] > 0).sum() < 2:
            continue  # an ingredient alone is its own ensemble
        entries.measure(f"ensemble {row}, {MANY} images", partial(refreshed.ensemble, row))
    for k in range(len(zoo)):
        work = partial(refreshed.ingredient_on_augmented, k)
        entries.measure(f"augmented {2**k - 1}, {MANY} images", work)


if __name__ == "__main__":
    main()

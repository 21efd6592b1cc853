"""What it is worth to measure batch norm again for each soup, on a pretrained network.

    RADIN_DATA=... python tests/benchmarks/refreshed_statistics.py      # some minutes on two cores

The ingredients of `imagenet-100-moving` let the running statistics of batch norm follow the batches
while they were trained. The script measures the statistics of each of their soups again and runs
the soup over the test photographs, and does the same for single ingredients, as a control. For the
soup of all it varies the number of photographs that the statistics are measured on.

Every finished entry is written at once to `radin/experiments/results/refreshed_statistics.json`,
which chapter 6 shows. A run after a killed one goes on with the next entry.
"""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch

import radin
from entries import Entries
from radin.data.splits import ArraySplit
from radin.experiments.splits import load_experiment_split
from radin.experiments.zoos.finetuned import finetuned_zoo
from radin.experiments.zoos.plans import PLANS
from radin.inference.batch_norm import refresh_batch_norm

NAME = "imagenet-100-moving"
OUT = Path(radin.__file__).parent / "experiments" / "results" / "refreshed_statistics.json"
MANY = 4000  # photographs that the statistics of every soup are measured on
COUNTS = (64, 256, 1000, MANY, 16000)  # those for the soup of all


def some_of(split: ArraySplit, count: int) -> torch.utils.data.Dataset:
    """The first `count` images of a random order, the same for every count."""
    order = torch.randperm(len(split), generator=torch.Generator().manual_seed(0))
    return split.subset(order[:count].tolist())


def right_after_refresh(
    zoo: radin.Zoo, weights: torch.Tensor, train: ArraySplit, count: int, test: ArraySplit
) -> str:
    """Whether the refreshed soup is right on each test image, as bits in hexadecimal digits."""
    state = refresh_batch_norm(zoo, weights, some_of(train, count))
    logits, labels = radin.soup_logits(zoo, state, test)
    return np.packbits((logits.argmax(1) == labels).numpy()).tobytes().hex()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="(%(default)s)")
    options = parser.parse_args()
    plan = PLANS[NAME]
    zoo = finetuned_zoo(NAME)
    train = load_experiment_split(plan.data, plan.tune_part, size=plan.size)
    test = load_experiment_split(plan.data, plan.test_part, size=plan.size)
    entries = Entries(options.out, "-".join(zoo.fingerprints))
    candidates = radin.exhaustive(len(zoo))
    of_all = len(candidates) - 1
    tasks = [(row, MANY) for row in range(len(candidates))]
    tasks += [(of_all, count) for count in COUNTS if count != MANY]
    for row, count in tasks:
        work = partial(right_after_refresh, zoo, candidates[row], train, count, test)
        entries.measure(f"soup {row}, {count} images", work)


if __name__ == "__main__":
    main()

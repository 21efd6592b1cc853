"""What measuring batch norm again is worth to soups of a real network, which chapter 6 shows.

    RADIN_DATA=... RADIN_CACHE=... python tests/benchmarks/refreshed_statistics.py

Some three minutes on two cores, and as long as the zoo takes where it is not under `RADIN_CACHE`.
For each soup of two or more ingredients of imagenet-100-moving the script measures the answers on
test with averaged running statistics, and again with statistics that were measured on a fixed
random part of the training images. Each soup is written at once to
`radin/experiments/results/refreshed_statistics.json`; a run after a killed one goes on with the
next. Soups of other ingredients are measured again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

import radin
from entries import Entries
from radin.checkpoints.zoo import Zoo
from radin.data.splits import ArraySplit
from radin.experiments.bench.refreshed import RESULT
from radin.experiments.bench.shipped import BENCH_FILE
from radin.experiments.bench.tabulate import pack_bits
from radin.experiments.intervals import paired_interval
from radin.experiments.splits import load_experiment_split
from radin.experiments.zoos.finetuned import finetuned_zoo
from radin.experiments.zoos.plans import PLANS
from radin.inference.batch_norm import refresh_batch_norm
from radin.inference.evaluate import soup_logits

NAME = "imagenet-100-moving"
OUT = Path(radin.__file__).parent / "experiments" / "results" / f"{RESULT}.json"
NUM_IMAGES = 2_000  # of the training part
SEED = 0  # of their choice


def random_part(split: ArraySplit, count: int) -> ArraySplit:
    """A fixed random choice of a split's images, in their order."""
    generator = torch.Generator().manual_seed(SEED)
    chosen = torch.randperm(len(split), generator=generator)[:count]
    return split.subset(chosen.sort().values.tolist())


def compare(zoo: Zoo, weights: Tensor, test: ArraySplit, train: ArraySplit) -> dict[str, Any]:
    """One soup with averaged statistics, and with statistics measured again on `train`.

    Returns:
        `accuracies`, in percent: averaged, refreshed. `difference`: refreshed less averaged in
        points, with its paired 95% interval over test images. `right`: whether the refreshed soup
        is right on each test image, packed, as hexadecimal digits.
    """
    refreshed = refresh_batch_norm(zoo, weights, train)
    right = []
    for soup in (weights, refreshed):
        logits, labels = soup_logits(zoo, soup, test)
        right.append(logits.argmax(1) == labels)
    return {
        "accuracies": [100 * each.double().mean().item() for each in right],
        "difference": list(paired_interval(right[1], right[0])),
        "right": bytes(pack_bits(right[1][None])[0].tolist()).hex(),
    }


def main() -> None:
    plan = PLANS[NAME]
    bench = radin.SoupBench.load(NAME)
    zoo = finetuned_zoo(NAME)
    test = load_experiment_split(plan.data, plan.test_part, size=plan.size)
    train = load_experiment_split(plan.data, plan.tune_part, size=plan.size)
    part = random_part(train, NUM_IMAGES)
    assert bench.has_images_of("test", test), f"{NAME}: other test images"
    entries = Entries(OUT, bench.manifest["files"][BENCH_FILE])
    rows = (bench.sizes > 1).nonzero().flatten().tolist()
    for row in tqdm(rows, desc="measuring soups again", unit=" soups"):
        entries.measure(str(row), partial(compare, zoo, bench.candidates[row], test, part))


if __name__ == "__main__":
    main()

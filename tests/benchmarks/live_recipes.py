"""The recipes that need images, on the shipped CIFAR-10 zoos: learned soups and SWA.

    RADIN_DATA=... python tests/benchmarks/live_recipes.py      # some 15 minutes on two cores

Every finished entry is written at once to `radin/experiments/results/live_recipes.json`, which
chapter 4 shows. A run after a killed one goes on with the next entry. Entries of other ingredients
are measured again.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch

import radin
from entries import Entries
from radin.data.batches import batches
from radin.data.load import load_split
from radin.data.splits import in_memory
from radin.experiments.bench import replay
from radin.experiments.intervals import paired_interval
from radin.experiments.zoos.plans import PLANS
from radin.experiments.zoos.swa import swa
from radin.files import hash_text
from radin.recipes.learned import learn, steps_within

OUT = Path(radin.__file__).parent / "experiments" / "results" / "live_recipes.json"
BUDGETS = (4, 10)
SEEDS = (0, 1)


class Live:
    """A shipped zoo with its images."""

    def __init__(self, name: str) -> None:
        self.bench = radin.SoupBench.load(name)
        self.zoo = self.bench.zoo()
        self.val = self.bench.split("val")
        self.test = self.bench.split("test")
        self.bank = radin.predict(self.zoo, self.val)
        self.evaluate = radin.evaluator(self.zoo, self.val)
        self.single = self._answers(replay.best_single(self.bench))
        self.best_subset = self._answers(replay.oracle(self.bench))

    def _answers(self, row: int) -> torch.Tensor:
        return self.bench.right("test", [row])[0]

    def right(self, soup: torch.Tensor | dict[str, torch.Tensor]) -> torch.Tensor:
        logits, labels = radin.soup_logits(self.zoo, soup, self.test)
        return logits.argmax(1) == labels

    def learned(self, budget: int) -> dict[str, Any]:
        """One weight for each ingredient, once for each seed."""
        soups = [
            radin.craft(self.bank, self.evaluate, budget, "learned", seed=seed) for seed in SEEDS
        ]
        return self._report(
            [self.right(soup.weights) for soup in soups],
            val=[soup.accuracy for soup in soups],
            cost=soups[0].forward_equivalents,
            weights=[soup.weights.tolist() for soup in soups],
        )

    def by_tensor(self, budget: int) -> dict[str, Any]:
        """One weight for each ingredient and tensor, once for each seed."""
        steps = steps_within(budget - 1, self.bank.num_images)
        found = [
            learn(self.zoo, self.val, steps, granularity="tensor", seed=seed) for seed in SEEDS
        ]
        states = [each.state_dict() for each in found]
        right = [self.right(state) for state in states]
        return self._report(
            right,
            minus_best_subset=list(against(right, self.best_subset)),
            val=[self.evaluate(state) for state in states],
            cost=found[0].forward_equivalents + 1,
        )

    def _report(self, right: list[torch.Tensor], **more: Any) -> dict[str, Any]:
        return {
            "test": [percent(each) for each in right],
            "minus_single": list(against(right, self.single)),
            **more,
        }

    def averaged(self) -> dict[str, Any]:
        """SWA from the zoo's own start, with the hyper-parameters of its best ingredient."""
        best = replay.best_single(self.bench) + 1
        run = self.bench.manifest["ingredients"][best.bit_length() - 1]
        tune = in_memory(load_split("cifar10", PLANS["cifar10"].tune_part))
        assert self.zoo.init is not None
        found = swa(
            self.zoo.model(self.zoo.init),
            tune,
            {**run, "floor": 0.5},
            seed=0,
            batch_size=PLANS["cifar10"].batch_size,
        )
        right = {
            key: torch.cat(
                [model(images).argmax(1) == labels for images, labels in batches(self.test, 250)]
            )
            for key, model in (("averaged", found.model), ("last", found.last))
        }
        return {
            "test": percent(right["averaged"]),
            "last": percent(right["last"]),
            "minus_last": list(paired_interval(right["averaged"], right["last"])),
            "minus_single": list(paired_interval(right["averaged"], self.single)),
            "snapshots": found.snapshots,
            "epochs": found.epochs,
        }


def against(right: list[torch.Tensor], other: torch.Tensor) -> tuple[float, float, float]:
    """Soups of several seeds minus one soup, in points, with the images as the sample."""
    together = torch.stack(right, 1)  # (images, seeds)
    return paired_interval(together, other[:, None].expand_as(together))


def percent(right: torch.Tensor) -> float:
    return right.double().mean().item() * 100


def main() -> None:
    live = {name: Live(name) for name in ("cifar10", "cifar10-wild")}
    entries = Entries(
        OUT,
        hash_text(*(each.bench.manifest["files"]["bench.safetensors"] for each in live.values())),
    )
    entries.measure("cifar10: swa", live["cifar10"].averaged)
    for name, each in live.items():
        for budget in BUDGETS:
            entries.measure(f"{name}: learned, B = {budget}", partial(each.learned, budget))
        entries.measure(
            f"{name}: by tensor, B = {BUDGETS[-1]}", partial(each.by_tensor, BUDGETS[-1])
        )


if __name__ == "__main__":
    main()

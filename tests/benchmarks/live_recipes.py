"""The recipes that need images, on the shipped CIFAR-10 zoos: learned soups and SWA.

    RADIN_DATA=... python tests/benchmarks/live_recipes.py      # some 15 minutes on two cores

Every finished entry is written at once to `radin/results/live_recipes.json`, which chapter 4 shows; a killed
run goes on with the next one. Entries of other ingredients are measured again.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import radin
from radin import replay
from radin.compare import paired_interval
from radin.data import batches, in_memory, load_split
from radin.files import atomic_path, hash_text
from radin.learned import learn, steps_within
from radin.photos import BATCH
from radin.plans import PLANS
from radin.swa import swa

OUT = Path(radin.__file__).parent / "results" / "live_recipes.json"
BUDGETS = (4, 8, 16)
SEEDS = (0, 1, 2)


class Entries:
    """Finished measurements, kept in one file."""

    def __init__(self, path: Path, zoos: str) -> None:
        self.path = path
        known = json.loads(path.read_text("utf-8")) if path.exists() else {}
        self.content = known if known.get("zoos") == zoos else {"zoos": zoos, "entries": {}}

    def measure(self, name: str, work: Callable[[], dict[str, Any]]) -> None:
        if name in self.content["entries"]:
            return
        self.content["entries"][name] = work()
        with atomic_path(self.path) as temporary:
            temporary.write_text(json.dumps(self.content, indent=1) + "\n", "utf-8")
        print(name, json.dumps(self.content["entries"][name]), flush=True)


class Live:
    """A shipped zoo with its images."""

    def __init__(self, name: str) -> None:
        self.bench = radin.SoupBench.load(name)
        self.zoo = self.bench.zoo()
        self.val, self.test = self.bench.split("val"), self.bench.split("test")
        self.bank, self.evaluate = radin.predict(self.zoo, self.val), radin.evaluator(self.zoo, self.val)
        self.single = self.bench.right("test", [replay.best_single(self.bench)])[0]

    def report(self, soup: torch.Tensor | dict[str, torch.Tensor], **more: Any) -> dict[str, Any]:
        logits, labels = radin.soup_logits(self.zoo, soup, self.test)
        right = logits.argmax(1) == labels
        return {"test": percent(right), "minus_single": list(paired_interval(right, self.single)), **more}

    def learned(self, budget: int, seed: int) -> dict[str, Any]:
        soup = radin.craft(self.bank, self.evaluate, budget, "learned", seed=seed)
        return self.report(
            soup.weights, val=soup.accuracy, cost=soup.forward_equivalents, weights=soup.weights.tolist()
        )

    def by_tensor(self, budget: int, seed: int) -> dict[str, Any]:
        steps = steps_within(budget - 1, self.bank.num_images)
        found = learn(self.zoo, self.val, steps, per_tensor=True, seed=seed)
        state = found.state_dict()
        return self.report(state, val=self.evaluate(state), cost=found.forward_equivalents + 1)

    def averaged(self) -> dict[str, Any]:
        """SWA from the zoo's own start, with the hyper-parameters of its best ingredient."""
        best = replay.best_single(self.bench) + 1
        run = self.bench.manifest["ingredients"][best.bit_length() - 1]
        tune = in_memory(load_split("cifar10", PLANS["cifar10"].tune_part))
        assert self.zoo.init is not None
        found = swa(self.zoo.model(self.zoo.init), tune, {**run, "floor": 0.5}, seed=0, batch_size=BATCH)
        right = {
            key: torch.cat([model(images).argmax(1) == labels for images, labels in batches(self.test, 250)])
            for key, model in (("averaged", found.model), ("last", found.last))
        }
        return {
            "test": percent(right["averaged"]),
            "last": percent(right["last"]),
            "minus_last": list(paired_interval(right["averaged"], right["last"])),
            "snapshots": found.snapshots,
            "epochs": found.epochs,
        }


def percent(right: torch.Tensor) -> float:
    return right.double().mean().item() * 100


def main() -> None:
    live = {name: Live(name) for name in ("cifar10", "cifar10-wild")}
    entries = Entries(OUT, hash_text(*(each.bench.manifest["files"]["bench.safetensors"] for each in live.values())))
    for name, each in live.items():
        for seed in SEEDS:
            for budget in BUDGETS:
                entries.measure(f"{name}: learned, B = {budget}, seed {seed}", partial(each.learned, budget, seed))
            most = BUDGETS[-1]
            entries.measure(f"{name}: by tensor, B = {most}, seed {seed}", partial(each.by_tensor, most, seed))
    entries.measure("cifar10: swa", live["cifar10"].averaged)


if __name__ == "__main__":
    main()

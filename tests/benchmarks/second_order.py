"""Second order on the shipped zoos, which the chapters on theory show.

    RADIN_DATA=... python tests/benchmarks/second_order.py      # some 70 minutes on two cores

Ingredients that a bench is shipped without (PACS) are trained first, or found under
`RADIN_CACHE`. Each entry is written to `radin/experiments/results/second_order.json` when it is
finished; a killed run continues with the next one. Entries of other ingredients are measured again.
"""

from __future__ import annotations

import time
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import torch

import radin
from entries import Entries
from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.data.splits import ArraySplit
from radin.errors import BankError
from radin.experiments.bench.shipped import BENCH_FILE, SMALL_NETWORK, shipped_benches
from radin.experiments.zoos.finetuned import finetuned_zoo
from radin.files import hash_text
from radin.theory.second_order import (
    GAP_METHODS,
    corrected_estimate,
    first_order_losses,
    pair_gaps,
    single_precision,
)
from radin.theory.taylor import derivatives, differences_by_image, differences_by_scale, directions
from radin.theory.weight_geometry import gram_matrix

OUT = Path(radin.__file__).parent / "experiments" / "results" / "second_order.json"
NUM_IMAGES = 100  # of `orders`, in double precision
SCALES = [10 ** (-k / 4) for k in range(17)]
WEIGHTS = [0.5, 0.3, 0.2]  # of the first three ingredients


class Live:
    """A bench with its ingredients and validation images."""

    def __init__(self, name: str) -> None:
        self.bench = radin.SoupBench.load(name)
        self.val = self.bench.split("val")
        try:
            self.zoo: Zoo = self.bench.zoo()
        except BankError:
            self.zoo = finetuned_zoo(name, self.bench.num_models)
        again = radin.predict(self.zoo, self.val)
        assert torch.allclose(again.logits, self.bench.val.logits.float(), atol=0.05), (
            f"{name}: other ingredients"
        )

    def gram(self) -> list[list[float]]:
        return gram_matrix(self.zoo).tolist()

    def corrected(self, method: str) -> dict[str, Any]:
        """Corrected estimates of all soups."""
        gaps = pair_gaps(self.zoo, self.val, method=method)
        answers = [
            corrected_estimate(self.bench.val, gaps, self.bench.candidates, m)
            for m in ("accuracy", "nll")
        ]
        return {
            "pairs": len(gaps),
            "accuracy": [round(value, 6) for value in answers[0].tolist()],
            "nll": [round(value, 6) for value in answers[1].tolist()],
        }

    def first_order(self) -> dict[str, Any]:
        loss, slopes = first_order_losses(self.zoo, self.val)
        return {"loss": loss, "slopes": slopes.tolist()}

    def cost(self) -> float:
        """Time of a pass with two tangents over that of a plain pass, the median of rounds."""
        model, device = self.zoo.model(0), torch.device("cpu")
        start, other = (single_precision(self.zoo[k], device) for k in (0, 1))
        (difference,) = directions(start, [other])
        ratios = []
        for images, _ in islice(batches(self.val, 64), 12):
            started = time.perf_counter()
            with torch.inference_mode():
                model(images)
            between = time.perf_counter()
            derivatives(model, start, difference, images)
            ratios.append((time.perf_counter() - between) / (between - started))
        return median(ratios[2:])  # the first rounds warm up

    def orders(self) -> dict[str, Any]:
        """Differences along three real directions, by scale and by image, in double precision."""
        assert self.zoo.init is not None
        assert isinstance(self.val, ArraySplit)
        images, labels = self.val.images[:NUM_IMAGES].double(), self.val.labels[:NUM_IMAGES]
        model = self.zoo.model(0).double()
        start = {key: t.double() for key, t in self.zoo.init.items()}
        ends = [{key: t.double() for key, t in self.zoo[k].items()} for k in range(3)]
        deltas = directions(start, ends)
        found = differences_by_scale(
            model, start, deltas, WEIGHTS, images, labels=labels, scales=SCALES
        )
        by_image = differences_by_image(model, start, deltas, WEIGHTS, images)
        return {
            "scales": SCALES,
            "images": {name: each.tolist() for name, each in by_image.items()},
            "orders": found,
        }


def main() -> None:
    live = {name: Live(name) for name in shipped_benches(SMALL_NETWORK)}
    entries = Entries(
        OUT, hash_text(*(each.bench.manifest["files"][BENCH_FILE] for each in live.values()))
    )
    for name, each in live.items():
        entries.measure(f"{name}: gram", each.gram)
        entries.measure(f"{name}: cost", each.cost)
        entries.measure(f"{name}: first order", each.first_order)
        for method in GAP_METHODS:
            entries.measure(f"{name}: {method}", partial(each.corrected, method))
        if name.startswith("cifar10"):
            entries.measure(f"{name}: orders", each.orders)


if __name__ == "__main__":
    main()

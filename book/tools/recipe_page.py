"""The page where readers write recipes: its benches as static arrays, and a table for paper.

`write_recipe_page(stage)` writes both; it is kept as other live parts of pages are (see `make`).
The controls are in `recipe_editor`, the scripts in `book/_static/recipes`.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

import radin
from radin.experiments.intervals import write_interval

BENCHES = {
    "cifar10": "photos, tame ingredients",
    "cifar10-wild": "photos, learning rates far apart",
    "banking77": "sentences",
    "pacs-sketch": "photos to choose by, sketches to test",
}
START_BUDGET = 4
MAX_BUDGET = 50
COMPARED = {"radin": "RADIN", "greedy": "greedy", "top_k": "top k"}


def write_recipe_page(stage: Path) -> None:
    """Write the benches and the table below the stage."""
    static = stage / "book" / "_static" / "recipes"
    static.mkdir(parents=True, exist_ok=True)
    for name in BENCHES:
        write_bench(radin.SoupBench.load(name), static / f"{name}.npz")
    (stage / "book" / "recipe_table.md").write_text(still_table(), "utf-8")


def write_bench(bench: radin.SoupBench, path: Path) -> None:
    """A bench as `book/_static/recipes/page_bench.py` reads it.

    The bank of the validation images stays as it is; tables are numbers of right answers, and test
    images are there only as right or wrong.
    """

    def hits(part: str) -> np.ndarray:
        right = bench.soups(part).numpy() * bench.bank(part).num_images / 100
        return right.round().astype(np.int32)

    right = bench.right("test", range(bench.num_soups)).numpy()
    np.savez_compressed(
        path,
        logits=bench.val.logits.numpy(),
        labels=bench.val.labels.numpy().astype(np.int16),
        soup_val=hits("val"),
        soup_test=hits("test"),
        right=np.packbits(right, axis=1),
        num_test=np.array(bench.test.num_images),
    )


def still_table() -> str:
    """What the recipes to begin with return on the first bench, in Markdown."""
    table = radin.compare(next(iter(BENCHES)), list(COMPARED), budgets=START_BUDGET)
    lines = [
        "| recipe | evaluations | validation (%) | test (%) | regret | test minus RADIN |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for row in table.to_dict("records"):
        interval = row["minus radin"], row["low"], row["high"]
        lead = "" if math.isnan(interval[0]) else write_interval(interval)
        lines.append(
            f"| {COMPARED[row['recipe']]} | {row['evaluations']:.0f} | {row['val (%)']:.2f} "
            f"| {row['test (%)']:.2f} | {row['regret']:.2f} | {lead} |"
        )
    return "\n".join(lines) + "\n"

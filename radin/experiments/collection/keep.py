"""Some zoos of the collection as whole benches, for replaying them soup by soup."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from radin.experiments.bench.shipped import (
    BENCH_FILE,
    COLLECTION_FOLDER,
    MANIFEST_FILE,
    made_with,
    shipped_root,
    write_manifest,
)
from radin.experiments.collection.make import MadeZoo, make_zoo

# The first zoo of six designs: three networks, high rates, six ingredients, and other data. One of
# each design would be twice as large.
KEPT_ZOOS = (
    "digits-conv-000",
    "digits-conv-wild-000",
    "digits-mlp-000",
    "digits-transformer-000",
    "digits-conv-6-000",
    "gratings-conv-000",
)


def keep_zoos(
    folder: Path | None = None, names: Sequence[str] = KEPT_ZOOS, *, progress: bool = True
) -> None:
    """Make zoos and write each as a bench that `SoupBench.load` reads.

    Those that are there are left alone, so a run that was stopped goes on.

    Args:
        folder: with one folder for each zoo; that of the module when not given.
        names: of the zoos.
        progress: show a bar.
    """
    root = shipped_root() / COLLECTION_FOLDER if folder is None else folder
    missing = [name for name in names if not (root / name / MANIFEST_FILE).exists()]
    bar = tqdm(missing, disable=not (progress and missing))
    for name in bar:
        bar.set_postfix_str(name)
        keep_zoo(make_zoo(name), root / name)


def keep_zoo(zoo: MadeZoo, folder: Path) -> None:
    """Write one zoo as a bench: its validation images are those that the recipes see."""
    bench = zoo.bench()
    folder.mkdir(parents=True, exist_ok=True)
    file = bench.save(folder / BENCH_FILE)
    entries = {
        "name": zoo.name,
        "design": zoo.design.name,
        "examples": zoo.design.data,
        "network": zoo.design.network,
        "start": zoo.design.start,
        "ingredients": zoo.runs,
        "made_with": made_with(torch.device("cpu")),
        **bench.manifest,
    }
    write_manifest(folder, entries, [file])

"""The best candidates for other programs: as a table, and as a recipe of mergekit."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from radin.errors import ParameterError
from radin.files import atomic_path
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import check_weights
from radin.ranking.rank import Ranking

TABLE_SUFFIXES = (".csv", ".json")
RECIPE_SUFFIXES = (".yml", ".yaml")


def save_ranking(path: str | Path, bank: LogitBank, candidates: Tensor, ranking: Ranking) -> Path:
    """Write ranked candidates as a table: .csv for a spreadsheet, .json for a program.

    A row has the rank, the estimate, the score and the mixing weight of each ingredient.

    Args:
        path: ends in .csv or .json.
        bank: what was ranked by; its names are the columns.
        candidates: (M, N) mixing weights.
        ranking: of these candidates; its order says which rows are written.

    Raises:
        ParameterError: another ending.
        RadinError: the system refuses to write.
    """
    path = Path(path)
    p = check_weights(candidates, bank.num_models, rows=True)
    rows = [
        {
            "rank": number,
            "estimate": ranking.estimates[k].item(),
            "score": ranking.scores[k].item(),
            "weights": dict(zip(bank.names, _shares(p[k]), strict=True)),
        }
        for number, k in enumerate(ranking.order.tolist(), start=1)
    ]
    if path.suffix not in TABLE_SUFFIXES:
        raise ParameterError(
            f"{path}: a table is saved as {' or '.join(TABLE_SUFFIXES)}; change the ending."
        )
    with atomic_path(path) as temporary:
        if path.suffix == ".csv":
            _write_csv(temporary, bank.names, rows)
        else:
            content = {"images": bank.num_images, "candidates": rows}
            temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    return path


def _shares(p: Tensor) -> list[float]:
    """Mixing weights (N,) with sum 1 in double precision: a fifth is 0.2."""
    shares: list[float] = (p / p.sum()).tolist()
    return shares


def _write_csv(path: Path, names: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    with path.open("w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["rank", "estimate", "score", *names])
        for row in rows:
            weights = [row["weights"][name] for name in names]
            writer.writerow([row["rank"], row["estimate"], row["score"], *weights])


def save_mergekit(path: str | Path, models: Sequence[str], weights: Tensor) -> Path:
    """Write one soup as a configuration of mergekit's method `linear`.

    `mergekit-yaml soup.yml folder` then averages the models. Its sums are in single precision.
    Models of weight 0 are left out.

    Args:
        path: ends in .yml or .yaml.
        models: N folders or names on the Hugging Face hub, as mergekit takes them.
        weights: (N,) mixing weights.

    Raises:
        ParameterError: another ending, or weights that do not fit.
        RadinError: the system refuses to write.

    Source: mergekit, docs/merge_methods.md.
    """
    path = Path(path)
    if path.suffix not in RECIPE_SUFFIXES:
        raise ParameterError(
            f"{path}: a recipe of mergekit is saved as {' or '.join(RECIPE_SUFFIXES)}; change the "
            "ending."
        )
    text = mergekit_recipe(models, weights)
    with atomic_path(path) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return path


def mergekit_recipe(models: Sequence[str], weights: Tensor) -> str:
    """The text that `save_mergekit` writes.

    >>> import torch
    >>> from radin.ranking.export import mergekit_recipe
    >>> print(mergekit_recipe(["runs/a", "runs/b", "runs/c"], torch.tensor([0.5, 0, 0.5])), end="")
    merge_method: linear
    models:
    - model: runs/a
      parameters:
        weight: 0.5
    - model: runs/c
      parameters:
        weight: 0.5
    parameters:
      normalize: true
    dtype: float32
    """
    import yaml

    p = check_weights(weights, len(models))
    used = [
        {"model": str(model), "parameters": {"weight": weight}}
        for model, weight in zip(models, _shares(p), strict=True)
        if weight > 0
    ]
    content = {
        "merge_method": "linear",
        "models": used,
        "parameters": {"normalize": True},
        "dtype": "float32",
    }
    # Plain ASCII: every name is read back as it was, also one that is no UTF-8.
    return yaml.safe_dump(content, sort_keys=False, width=1000)

"""Shifted test sets of a bench: the answers of some soups and of the ensembles of the same rows."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import save_file
from torch import Tensor

from radin.data.splits import ArraySplit
from radin.errors import BankError, OffGridError
from radin.experiments.bench.tabulate import pack_bits, unpack_bits
from radin.files import atomic_path, load_tensors
from radin.inference.evaluate import soup_logits
from radin.inference.predict import predict
from radin.ranking.candidates import monte_carlo
from radin.ranking.rank import ensemble_answers
from radin.recipes.craft import craft

if TYPE_CHECKING:
    from radin.experiments.bench.bench import SoupBench

NUM_RANDOM = 4  # random soups, beside those that recipes return or evaluate
MAX_BUDGET = 4  # of the recipes whose soups are evaluated
_FORMAT = "radin-shifts-1"


@dataclass(frozen=True, kw_only=True, eq=False)
class Shift:
    """The answers on one shifted test set.

    Attributes:
        name: of the test set.
        rows: (R,) rows of the bench, ascending.
        soups: (R, n) boolean, whether each soup is right on each image.
        ensembles: (R, n) boolean, the same of the ensembles.
        labels: (n,) classes of the images.
    """

    name: str
    rows: Tensor
    soups: Tensor
    ensembles: Tensor
    labels: Tensor

    def right(self, rows: Sequence[int], *, ensembles: bool = False) -> Tensor:
        """Whether some soups, or the ensembles of their rows, are right: (len(rows), n) boolean.

        Raises OffGridError for a row that was not evaluated on this test set.
        """
        known = self.rows.tolist()
        if missing := [row for row in rows if row not in known]:
            raise OffGridError(
                f"The soups of rows {missing[:5]} were not evaluated on {self.name}; "
                f"{len(known)} rows were (see `Shift.rows`)."
            )
        found = self.ensembles if ensembles else self.soups
        return found[[known.index(row) for row in rows]]

    def accuracies(self, rows: Sequence[int], *, ensembles: bool = False) -> Tensor:
        """Accuracy in percent of some soups, or of the ensembles of their rows: (len(rows),)."""
        return self.right(rows, ensembles=ensembles).double().mean(1) * 100


def chosen_rows(bench: SoupBench, *, seed: int = 0) -> list[int]:
    """The rows that are evaluated on shifted test sets, ascending.

    They are the single ingredients, the soup of all, every soup that RADIN (lambda 0 or 1) or
    greedy evaluates with a budget up to `MAX_BUDGET`, the best soup on validation and the one on
    test, and random ones.
    """
    evaluate = bench.evaluator("val")
    soups = [
        craft(bench.val, evaluate, MAX_BUDGET, "radin", candidates=bench.candidates, prior=prior)
        for prior in (0.0, 1.0)
    ]
    soups.append(craft(bench.val, evaluate, MAX_BUDGET, "greedy"))
    rows = {bench.row(trial.weights) for soup in soups for trial in soup.trials}
    rows |= {bench.row_of([k]) for k in range(bench.num_models)}
    rows |= {bench.row_of(range(bench.num_models))}
    rows |= {int(bench.soups(part).argmax()) for part in ("val", "test")}
    if bench.is_complete:
        rows |= {bench.row(p) for p in monte_carlo(bench.num_models, NUM_RANDOM, seed=seed)}
    else:
        generator = torch.Generator().manual_seed(seed)
        rows |= set(torch.randperm(bench.num_soups, generator=generator)[:NUM_RANDOM].tolist())
    return sorted(rows)


def evaluate_shift(
    bench: SoupBench, split: ArraySplit, rows: Sequence[int], device: str = "auto"
) -> Shift:
    """Evaluate some soups and ensembles on a shifted test set.

    Args:
        bench: with its ingredients (`bench.zoo()`).
        split: the test set; where it has a projection, that comes after averaging.
        rows: of the soups.
        device: where networks run.
    """
    zoo = bench.zoo()
    bank = predict(zoo, split, device=device, dtype=torch.float16, progress=False)
    weights = bench.candidates[list(rows)]
    if bank.projection is None:
        ensembles, _ = ensemble_answers(bank, weights)
    else:
        ensembles = torch.stack(
            [
                bank.projected(torch.tensordot(p, bank.logits.float(), dims=1)).argmax(1)
                == bank.labels
                for p in weights
            ]
        )
    soups = []
    for row, ensemble, p in zip(rows, ensembles, weights, strict=True):
        if bench.sizes[row] == 1:  # the bank has these logits
            soups.append(ensemble.cpu())
        else:
            logits, labels = soup_logits(zoo, p, split, device)
            soups.append(logits.argmax(1) == labels)
    return Shift(
        name=split.part,
        rows=torch.tensor(list(rows)),
        soups=torch.stack(soups),
        ensembles=ensembles.cpu(),
        labels=split.labels,
    )


def save_shifts(path: Path, shifts: Sequence[Shift]) -> Path:
    """Write shifted test sets of one bench as a safetensors file, atomically."""
    names = json.dumps([shift.name for shift in shifts]).encode()
    tensors = {"names": torch.frombuffer(bytearray(names), dtype=torch.uint8)}
    for k, shift in enumerate(shifts):
        tensors[f"{k}.rows"] = shift.rows
        tensors[f"{k}.soups"] = pack_bits(shift.soups)
        tensors[f"{k}.ensembles"] = pack_bits(shift.ensembles)
        tensors[f"{k}.labels"] = shift.labels
    with atomic_path(path) as temporary:
        save_file(tensors, temporary, metadata={"format": _FORMAT})
    return path


def read_shifts(path: Path) -> Mapping[str, Shift]:
    """What `save_shifts` wrote, by the name of the test set.

    Raises BankError when the file is missing, damaged or not one of these.
    """
    tensors, _ = load_tensors(path, _FORMAT)
    try:
        found = {}
        for k, name in enumerate(json.loads(bytes(tensors["names"].tolist()))):
            labels = tensors[f"{k}.labels"]
            found[name] = Shift(
                name=name,
                rows=tensors[f"{k}.rows"],
                soups=unpack_bits(tensors[f"{k}.soups"], len(labels)),
                ensembles=unpack_bits(tensors[f"{k}.ensembles"], len(labels)),
                labels=labels,
            )
    except (KeyError, json.JSONDecodeError) as error:
        raise BankError(f"{path}: not a whole file of shifted test sets ({error}).") from error
    return found

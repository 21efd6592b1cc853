"""The soup bench: a zoo whose every soup has been evaluated once, so that an evaluation is a look-up."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.bank import LogitBank, load_tensors
from radin.candidates import exhaustive
from radin.errors import BankError, ParameterError
from radin.files import atomic_path, store_folder, update_hash
from radin.predict import evaluator, predict, single_thread
from radin.soup import check_weights
from radin.zoo import Zoo

_FORMAT = "radin-bench-1"
PARTS = ("val", "test")


class SoupBench:
    """All 2^N - 1 soups of a zoo with their accuracies, in the row order of `exhaustive(N)`.

    Args:
        val, test: logit banks of the same N ingredients.
        val_accuracy, test_accuracy: (2^N - 1,) accuracy of every soup, in percent.
        zoo: the ingredients, when they are at hand.
    """

    def __init__(
        self, val: LogitBank, test: LogitBank, val_accuracy: Tensor, test_accuracy: Tensor, zoo: Zoo | None = None
    ) -> None:
        rows = 2**val.num_models - 1
        if test.num_models != val.num_models or len(val_accuracy) != rows or len(test_accuracy) != rows:
            raise BankError(
                f"A bench of {val.num_models} ingredients needs {rows} accuracies per part; there are "
                f"{len(val_accuracy)} for val, {len(test_accuracy)} for test, and the test bank has "
                f"{test.num_models} ingredients."
            )
        self.val, self.test = val, test
        self._accuracy = {"val": val_accuracy.double(), "test": test_accuracy.double()}
        self._zoo = zoo

    def __repr__(self) -> str:
        return f"SoupBench({self.num_models} ingredients, {len(self._accuracy['val'])} soups)"

    @property
    def num_models(self) -> int:
        return self.val.num_models

    @property
    def candidates(self) -> Tensor:
        """Every subset as mixing weights: (2^N - 1, N)."""
        return exhaustive(self.num_models)

    def accuracies(self, part: str) -> Tensor:
        """True accuracy of every soup on "val" or "test", in percent: (2^N - 1,)."""
        if part not in PARTS:
            raise ParameterError(f"part must be one of {', '.join(PARTS)}, not {part!r}.")
        return self._accuracy[part]

    def row(self, weights: Tensor | Sequence[float]) -> int:
        """The row of a subset, given as mixing weights (N,).

        Raises ParameterError for weights that are not equal on a subset: those were never evaluated.
        """
        p = check_weights(weights, self.num_models)
        used = p > 0
        if not torch.allclose(p[used], p[used].mean(), rtol=1e-4, atol=0):
            raise ParameterError(
                "This soup is not in the bench: it holds subsets with equal weights only. "
                f"The weights were {[round(w, 4) for w in p.tolist()]}."
            )
        return sum(2**k for k in used.nonzero().flatten().tolist()) - 1

    def evaluator(self, part: str = "val") -> Callable[[Tensor | Sequence[float]], float]:
        """A function from mixing weights (N,) to the soup's accuracy in percent, by look-up."""
        table = self.accuracies(part)
        return lambda weights: table[self.row(weights)].item()

    @property
    def oracle(self) -> tuple[Tensor, float]:
        """The best soup of all by *test* accuracy: its mixing weights (N,) and that accuracy in percent.

        Nobody can choose it without looking at the test split; it is the yardstick of regret.
        """
        best = int(self._accuracy["test"].argmax())
        return self.candidates[best], self._accuracy["test"][best].item()

    def regret(self, weights: Tensor | Sequence[float]) -> float:
        """Oracle test accuracy minus this soup's, in percentage points."""
        return self.oracle[1] - self._accuracy["test"][self.row(weights)].item()

    def zoo(self) -> Zoo:
        """The ingredients. Raises BankError when the bench came without them."""
        if self._zoo is None:
            raise BankError("This bench was loaded without its ingredients; only its tables and banks are here.")
        return self._zoo

    @classmethod
    def build(
        cls,
        zoo: Zoo,
        val: Dataset[Any],
        test: Dataset[Any],
        device: str = "auto",
        cache: bool | Path = True,
        progress: bool = True,
    ) -> SoupBench:
        """Evaluate every subset of a small zoo on both parts: 2 (2^N - 1) evaluations, once.

        The tables are kept under the content of the ingredients and of what they predict; a second call
        reads them.

        Raises ParameterError for more ingredients than `exhaustive` lists.
        """
        rows = exhaustive(len(zoo))
        banks = [predict(zoo, split, device=device, cache=cache, progress=progress) for split in (val, test)]
        path = None
        if (folder := store_folder(cache, "benches")) is not None:
            path = folder / f"{_content(zoo, banks)}.safetensors"
        if path is not None and path.exists():
            with suppress(BankError):  # damaged: build it again
                return cls.load(path, zoo)
        evaluators = [evaluator(zoo, split, device=device) for split in (val, test)]
        table = torch.empty(len(rows), len(PARTS), dtype=torch.float64)
        with single_thread():  # small zoos have small networks
            for i, weights in enumerate(tqdm(rows, desc="evaluating every soup", disable=not progress)):
                table[i] = torch.tensor([evaluate(weights) for evaluate in evaluators], dtype=table.dtype)
        bench = cls(banks[0], banks[1], table[:, 0], table[:, 1], zoo)
        if path is not None:
            bench.save(path)
        return bench

    def save(self, path: str | Path) -> Path:
        """Write banks and tables as one safetensors file, atomically (without the ingredients)."""
        path = Path(path)
        tensors = {}
        for part, bank in (("val", self.val), ("test", self.test)):
            tensors[f"{part}.logits"] = bank.logits.contiguous()
            tensors[f"{part}.labels"] = bank.labels.contiguous()
            tensors[f"{part}.accuracy"] = self._accuracy[part].contiguous()
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata={"format": _FORMAT, "names": json.dumps(self.val.names)})
        return path

    @classmethod
    def load(cls, path: str | Path, zoo: Zoo | None = None) -> SoupBench:
        """Read a bench that `save` wrote.

        Raises BankError when the file is missing, damaged or of another version.
        """
        tensors, metadata = load_tensors(path, _FORMAT)
        try:
            names = json.loads(metadata["names"])
            banks = {part: LogitBank(tensors[f"{part}.logits"], tensors[f"{part}.labels"], names) for part in PARTS}
            return cls(banks["val"], banks["test"], tensors["val.accuracy"], tensors["test.accuracy"], zoo)
        except (KeyError, json.JSONDecodeError) as error:
            raise BankError(f"{path}: not a whole soup bench ({error} is missing); build it again.") from error


def _content(zoo: Zoo, banks: Sequence[LogitBank]) -> str:
    """Hex hash of the ingredients and their banks, which stand for the networks and the images together."""
    digest = hashlib.sha256("|".join([_FORMAT, *zoo.fingerprints]).encode())
    for part, bank in zip(PARTS, banks, strict=True):
        update_hash(digest, f"{part}.logits", bank.logits)
        update_hash(digest, f"{part}.labels", bank.labels)
    return digest.hexdigest()

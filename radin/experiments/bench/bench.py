"""The soup bench: a zoo whose soups are evaluated once, so that an evaluation is a look-up."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from radin.checkpoints.zoo import Zoo
from radin.data.batches import fingerprint
from radin.data.samples import as_split
from radin.errors import BankError, OffGridError, ParameterError, did_you_mean
from radin.experiments.bench.lookup import (
    TableEvaluator,
    bitmask_of,
    members_of_weights,
    weights_of,
)
from radin.experiments.bench.sample import random_subsets
from radin.experiments.bench.shifts import Shift, read_shifts
from radin.experiments.bench.shipped import (
    BENCH_FILE,
    INIT_FILE,
    SHIFTS_FILE,
    check_file,
    collection_benches,
    empty_network,
    find_bench,
    read_manifest,
    shipped_benches,
)
from radin.experiments.bench.storage import (
    BENCH_PARTS,
    TablesByPart,
    bench_key,
    read_bench,
    write_bench,
)
from radin.experiments.bench.tabulate import pack_bits, tabulate, unpack_bits
from radin.experiments.splits import load_experiment_split
from radin.files import expand_path, store_folder
from radin.inference.partial import MAX_NOISE_RATIO, PartialEvaluations
from radin.inference.predict import predict
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import exhaustive, monte_carlo
from radin.ranking.metrics import ClassCounts, Metric
from radin.ranking.named_metrics import ACCURACY, NLL, MetricLike, find_metric
from radin.ranking.rank import fast_estimate

TABLE_METRICS = (ACCURACY, NLL)  # the columns of a table


class SoupBench:
    """R evaluated soups of a zoo. Mostly all of them: R = 2^N - 1, in the order of `exhaustive(N)`.

    For a zoo too large for that, only some soups are evaluated. The others raise OffGridError.

    Args:
        val, test: logit banks of the same N ingredients.
        soups: for "val" and "test" the table (R, 2) of every soup: accuracy in percent and mean
            negative log-likelihood in nats.
        ensembles: the same of every ensemble; computed from the banks when not given.
        right: for "val" and "test" whether each soup is right on each image, packed:
            (R, ceil(n / 8)).
        subsets: the bitmask of each evaluated soup, ascending: (R,) int64. All subsets when not
            given.
        zoo: the ingredients, or a function that opens them.
        manifest: where the shipped files come from: recipe, data, hardware, checksums.

    Attributes:
        shifts: the answers of some soups on shifted test sets, by name; empty for most benches.

    >>> import radin
    >>> bench = radin.SoupBench.load("cifar10")
    >>> bench
    SoupBench(10 ingredients, 1,023 soups)
    >>> round(bench.regret(bench.oracle[0]), 2)
    0.0
    """

    def __init__(
        self,
        val: LogitBank,
        test: LogitBank,
        soups: TablesByPart,
        *,
        ensembles: TablesByPart | None = None,
        right: TablesByPart | None = None,
        subsets: Tensor | None = None,
        zoo: Zoo | Callable[[], Zoo] | None = None,
        manifest: Mapping[str, Any] | None = None,
    ) -> None:
        for bank in (val, test):
            bank.refuse_projection("A soup bench")
            bank.refuse_targets("A soup bench")
        self.bitmasks = _check_subsets(subsets, val.num_models)
        num_rows = 2**val.num_models - 1 if self.bitmasks is None else len(self.bitmasks)
        for kind, tables in (("soups", soups), ("ensembles", ensembles or {})):
            for part, table in tables.items():
                if table.shape != (num_rows, len(TABLE_METRICS)):
                    raise BankError(
                        f"A bench of {val.num_models} ingredients needs a table ({num_rows}, "
                        f"{len(TABLE_METRICS)}) of {kind} on {part}, not {tuple(table.shape)}."
                    )
        if test.num_models != val.num_models:
            raise BankError(
                f"The val bank has {val.num_models} ingredients, the test bank {test.num_models}."
            )
        self.val = val
        self.test = test
        self.manifest = dict(manifest or {})
        for part, packed in (right or {}).items():
            if packed.shape != (num_rows, math.ceil(self.bank(part).num_images / 8)):
                raise BankError(
                    f"The table of answers on {part} does not fit {num_rows} soups and the bank's "
                    "images."
                )
        self._right = dict(right or {})
        self._tables = {"soups": dict(soups), "ensembles": dict(ensembles or {})}
        self._zoo = zoo
        self._splits: dict[str, Dataset[Any]] = {}
        self.shifts: Mapping[str, Shift] = {}

    def __repr__(self) -> str:
        some = "" if self.is_complete else f" of {2**self.num_models - 1:,}"
        return f"SoupBench({self.num_models} ingredients, {self.num_soups:,}{some} soups)"

    @property
    def num_models(self) -> int:
        return self.val.num_models

    @property
    def is_complete(self) -> bool:
        """Whether all 2^N - 1 soups are evaluated."""
        return self.bitmasks is None

    @property
    def num_soups(self) -> int:
        """R, how many soups are evaluated."""
        return len(self._tables["soups"]["val"])

    @cached_property
    def candidates(self) -> Tensor:
        """Every evaluated subset as mixing weights: (R, N)."""
        if self.bitmasks is None:
            return exhaustive(self.num_models)
        return weights_of(self.bitmasks, self.num_models)

    @cached_property
    def sizes(self) -> Tensor:
        """How many ingredients each of these subsets has: (R,)."""
        return (self.candidates > 0).sum(1)

    def bank(self, part: str) -> LogitBank:
        """The ingredients' logits on "val" or "test"."""
        return {"val": self.val, "test": self.test}[_check_part(part)]

    def soups(self, part: str, metric: MetricLike = "accuracy") -> Tensor:
        """The metric of every evaluated soup on "val" or "test": (R,).

        It is the accuracy in percent or "nll" in nats. A bench holds on which images each soup is
        right, so it also gives "balanced_accuracy" and class-weighted accuracies. It does not hold
        what a soup answers where it is wrong, so it can give no other metric.

        Raises ParameterError for another metric.
        """
        found = find_metric(metric)
        table = self._tables["soups"][_check_part(part)]
        if found in TABLE_METRICS:
            return table[:, TABLE_METRICS.index(found)]
        if found.class_terms is None or found.needs_false_alarms:
            raise ParameterError(
                f"A bench does not hold the logits of its soups, so it cannot give their {found}; "
                "it can give accuracy, nll, balanced_accuracy and class-weighted accuracies."
            )
        return self._from_right(part, found)

    def _from_right(self, part: str, metric: Metric) -> Tensor:
        """A metric of counts for each class, from the soups' answers to single images."""
        bank = self.bank(part)
        right = self.right(part, range(self.num_soups))
        assert metric.class_terms is not None
        above, below = torch.zeros(2, len(right), dtype=torch.float64)
        for c in range(bank.num_classes):
            hits = right[:, bank.labels == c].sum(1).double()
            counts = ClassCounts(
                index=c,
                num_classes=bank.num_classes,
                support=int((bank.labels == c).sum()),
                hits=hits,
                false_alarms=torch.zeros_like(hits),
            )
            more_above, more_below = metric.class_terms(counts)
            above += more_above
            below += more_below
        return above * 100 / below

    def ensembles(self, part: str, metric: MetricLike = "accuracy") -> Tensor:
        """Any metric of every ensemble; on "val" these are the fast estimates."""
        found = find_metric(metric)
        if found not in TABLE_METRICS:
            return fast_estimate(self.bank(part), self.candidates, found)
        tables = self._tables["ensembles"]
        if _check_part(part) not in tables:
            bank = self.bank(part)
            columns = [fast_estimate(bank, self.candidates, metric=name) for name in TABLE_METRICS]
            tables[part] = torch.stack(columns, 1).double()
        return tables[part][:, TABLE_METRICS.index(found)]

    def right(self, part: str, rows: Sequence[int]) -> Tensor:
        """Whether some soups are right, image by image: (len(rows), n) boolean.

        Paired intervals need these answers.

        Raises BankError when the bench came without these answers.
        """
        if _check_part(part) not in self._right:
            raise BankError(
                "This bench came without the soups' answers to single images; build it again."
            )
        return unpack_bits(self._right[part][list(rows)], self.bank(part).num_images)

    def row(self, weights: Tensor | Sequence[float]) -> int:
        """The row of a subset, given as mixing weights (N,).

        Raises OffGridError for a soup that was never evaluated: weights that are not equal on a
        subset, or a subset that this bench does not hold.
        """
        return self.row_of(members_of_weights(weights, self.num_models))

    def candidates_for(self, recipe: object = "radin") -> Tensor | None:
        """The candidates of a recipe whose soups this bench holds.

        Args:
            recipe: as `craft` takes it.

        Returns:
            None where the bench is complete: the recipe then lists the subsets itself. For a
            shipped sample the (M, N) candidates that it was made for, which are random subsets for
            "random", and for the other recipes what "radin" and "safe" rank. For another sample
            all its soups.

        >>> import radin
        >>> bench = radin.SoupBench.load("imagenette-24")
        >>> candidates = bench.candidates_for("radin")
        >>> soup = radin.craft(bench.val, bench.evaluator(), 4, candidates=candidates)
        >>> soup.evaluations
        4
        """
        if self.is_complete:
            return None
        sample = self.manifest.get("sampled")
        if not sample:
            return self.candidates
        if recipe == "random":
            return random_subsets(self.num_models, sample["num_random"], sample["seed"])
        return monte_carlo(self.num_models, sample["num_candidates"], seed=sample["seed"])

    def row_of(self, members: Sequence[int]) -> int:
        """The row of the soup of some ingredients.

        Raises:
            ParameterError: no ingredient, or a number that none has.
            OffGridError: a soup that this bench does not hold.
        """
        if not members or not set(members) <= set(range(self.num_models)):
            raise ParameterError(
                f"Ingredients are numbers from 0 to {self.num_models - 1}, one or more of them, "
                f"not {list(members)}."
            )
        bitmask = bitmask_of(members)
        if self.bitmasks is None:
            return bitmask - 1
        row = int(torch.searchsorted(self.bitmasks, bitmask))
        if row == len(self.bitmasks) or int(self.bitmasks[row]) != bitmask:
            raise OffGridError(
                f"The soup of the ingredients {sorted(members)} is not in this bench, which holds "
                f"{self.num_soups:,} of the {2**self.num_models - 1:,} soups; evaluate it live."
            )
        return row

    def evaluator(
        self,
        part: str = "val",
        *,
        metric: MetricLike = "accuracy",
        share: float = 1.0,
        seed: int = 0,
        max_noise_ratio: float = MAX_NOISE_RATIO,
    ) -> TableEvaluator:
        """A function from mixing weights (N,) to the soup's accuracy in percent, by look-up.

        It counts its calls. With another metric, one that `soups` can give, it gives that one.
        With a share below 1 it looks only at some images, as `radin.evaluator` does with these
        options.

        Raises:
            ParameterError: a share of another metric than accuracy.
            BankError: a share, where the bench came without the soups' answers.
        """
        found = find_metric(metric)
        if share == 1:
            return TableEvaluator(self, _check_part(part), found)
        if found != ACCURACY:
            raise ParameterError(
                f"A bench gives {found} only whole: it holds for single images whether a soup is "
                "right, and no more. Leave share out, or take accuracy."
            )
        self.right(part, [0])  # a bench without answers is refused here
        partial = PartialEvaluations(
            self.bank(part), found, share=share, seed=seed, max_noise_ratio=max_noise_ratio
        )
        return TableEvaluator(self, part, found, partial=partial)

    @property
    def oracle(self) -> tuple[Tensor, float]:
        """The best evaluated soup by *test* accuracy: its mixing weights (N,) and that accuracy.

        It is the best of all subsets where all were evaluated. Nobody can choose it without
        looking at the test split; regret is measured from it.
        """
        best = int(self.soups("test").argmax())
        return self.candidates[best], self.soups("test")[best].item()

    def regret(
        self, weights: Tensor | Sequence[float], *, metric: MetricLike = "accuracy"
    ) -> float:
        """How much better the best soup on test is than this one, in percentage points.

        It is the oracle's test accuracy minus this soup's. With another metric it is measured
        between the best soup by that metric and this one, in its unit, and is never negative.
        """
        found = find_metric(metric)
        values = self.soups("test", found)
        best = values.max() if found.higher_is_better else values.min()
        return found.gain(best.item(), values[self.row(weights)].item())

    def subset(self, members: Sequence[int]) -> SoupBench:
        """The bench of fewer ingredients, as if the others had never been trained.

        It costs no evaluation.

        Raises ParameterError for a member that is not there or is named twice.
        """
        rows = self.rows_of_subset(members)
        chosen = list(members)

        def bank_of(bank: LogitBank) -> LogitBank:
            names = [bank.names[k] for k in chosen]
            return LogitBank(bank.logits[chosen], bank.labels, names)

        def tables_of(tables: TablesByPart) -> TablesByPart:
            return {part: table[rows] for part, table in tables.items()}

        manifest = dict(self.manifest)
        for key in ("ingredients", "distances"):
            if manifest.get(key) is not None:
                manifest[key] = [manifest[key][k] for k in chosen]
        manifest.pop("sampled", None)  # those candidates are of the whole zoo
        if manifest.get("task_vectors") is not None:
            gram = manifest["task_vectors"]
            manifest["task_vectors"] = [[gram[j][k] for k in chosen] for j in chosen]
        smaller = SoupBench(
            bank_of(self.val),
            bank_of(self.test),
            tables_of(self._tables["soups"]),
            ensembles=tables_of(self._tables["ensembles"]),
            right=tables_of(self._right),
            subsets=None if self.is_complete else self._bitmasks_of_subset(chosen)[1],
            manifest=manifest,
        )
        smaller._splits = self._splits
        return smaller

    def rows_of_subset(self, members: Sequence[int]) -> Tensor:
        """The rows of a smaller zoo's soups in this bench.

        Row i of `subset(members)` is row `rows_of_subset(members)[i]`.
        """
        chosen = list(members)
        if (
            not chosen
            or len(set(chosen)) < len(chosen)
            or not set(chosen) <= set(range(self.num_models))
        ):
            raise ParameterError(
                f"members must be different numbers from 0 to {self.num_models - 1}, not {chosen}."
            )
        if not self.is_complete:
            return self._bitmasks_of_subset(chosen)[0]
        bits = torch.tensor([2**k for k in chosen])
        return ((exhaustive(len(chosen)) > 0) * bits).sum(1) - 1

    def _bitmasks_of_subset(self, members: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The rows that hold only some ingredients, and their bitmasks among these ingredients.

        In ascending order of these bitmasks.
        """
        assert self.bitmasks is not None
        rows = ((self.bitmasks & ~bitmask_of(members)) == 0).nonzero().flatten()
        bits = (self.bitmasks[rows, None] >> torch.tensor(list(members))) & 1
        smaller, order = (bits << torch.arange(len(members))).sum(1).sort()
        return rows[order], smaller

    def zoo(self) -> Zoo:
        """The ingredients. Raises BankError when the bench came without them."""
        if self._zoo is None:
            raise BankError(
                "This bench came without its ingredients; only its tables and banks are here."
            )
        if not isinstance(self._zoo, Zoo):
            self._zoo = self._zoo()
        return self._zoo

    def split(self, part: str, root: str | Path | None = None) -> Dataset[Any]:
        """The images behind "val" or "test", for live evaluations: (image, label) pairs.

        A shipped bench holds no images; its data set is looked for as `load_split` does.

        Raises DataError when the data set is not there, BankError when the bench does not know it.
        """
        if _check_part(part) in self._splits:
            return self._splits[part]
        if "data" not in self.manifest:
            raise BankError(
                "This bench does not know what images it was made from; pass your own split."
            )
        data = self.manifest["data"]
        return load_experiment_split(data["name"], data["parts"][part], root, size=data["size"])

    def has_images_of(self, part: str, split: Dataset[Any]) -> bool | None:
        """Whether a split holds exactly the images that "val" or "test" was made from.

        None when the bench does not know.
        """
        if _check_part(part) in self._splits:
            return fingerprint(split) == fingerprint(self._splits[part])
        fingerprints = self.manifest.get("data", {}).get("fingerprints", {})
        return fingerprint(split) == fingerprints[part] if part in fingerprints else None

    @classmethod
    def build(
        cls,
        zoo: Zoo,
        val: Dataset[Any],
        test: Dataset[Any],
        device: str = "auto",
        *,
        subsets: Tensor | None = None,
        dtype: torch.dtype = torch.float32,
        cache: bool | Path = True,
        progress: bool = True,
    ) -> SoupBench:
        """Evaluate every subset of a small zoo on both parts: 2 (2^N - 1) evaluations, once.

        Of a large zoo, some subsets are evaluated (see `radin.experiments.bench.sample`).

        Results are kept on disk under a hash of the ingredients and of the images. A second call
        reads them, and a call after a killed one goes on.

        Args:
            zoo: opened with `build`.
            val, test: (image, label) pairs, or other labelled data (see `as_split`).
            device: where networks run.
            subsets: the bitmasks (R,) of the soups to evaluate, ascending; all when not given.
            dtype: of the banks, torch.float32 or torch.float16.
            cache: the store's folder; True for the default one, False for none.
            progress: show bars.

        Raises ParameterError for more ingredients than `exhaustive` lists.
        """
        # What is too large or wrong is refused before anything is predicted.
        subsets = _check_subsets(subsets, len(zoo))
        candidates = exhaustive(len(zoo)) if subsets is None else weights_of(subsets, len(zoo))
        splits = {"val": as_split(val), "test": as_split(test)}
        banks = [
            predict(zoo, split, device=device, dtype=dtype, cache=cache, progress=progress)
            for split in splits.values()
        ]
        path = None
        if (folder := store_folder(cache, "benches")) is not None:
            path = folder / f"{bench_key(zoo, banks, subsets)}.safetensors"
        if path is not None and path.exists():
            with suppress(BankError):  # damaged: build it again
                bench = cls.load(path, zoo)
                bench._splits = splits
                return bench
        soups: dict[str, Tensor] = {}
        right: dict[str, Tensor] = {}
        for part, split in splits.items():
            soups[part], answers = tabulate(
                zoo,
                split,
                device,
                candidates=None if subsets is None else candidates,
                cache=cache,
                progress=progress,
            )
            right[part] = pack_bits(answers)
        bench = cls(banks[0], banks[1], soups, right=right, subsets=subsets, zoo=zoo)
        bench._splits = splits
        if path is not None:
            bench.save(path)
        return bench

    def save(self, path: str | Path) -> Path:
        """Write banks and tables as one safetensors file, atomically (without the ingredients)."""
        for part in BENCH_PARTS:
            self.ensembles(part)  # computed where they are missing
        return write_bench(
            expand_path(path),
            banks={part: self.bank(part) for part in BENCH_PARTS},
            tables=self._tables,
            right=self._right,
            subsets=self.bitmasks,
        )

    @classmethod
    def load(cls, name: str | Path, zoo: Zoo | None = None) -> SoupBench:
        """Read a shipped bench by its name, or a file that `save` wrote.

        Args:
            name: one of `radin.experiments.bench.shipped.shipped_benches()` or of
                `collection_benches()` there, a folder laid out like theirs, or a file.
            zoo: the ingredients, for a file.

        Raises:
            BankError: nothing of that name is there, or a file is damaged or of another version.
        """
        if (shipped := find_bench(str(name))) is not None:
            return cls._load_folder(shipped)
        path = expand_path(name)
        if os.path.isdir(path):
            return cls._load_folder(path)
        if path.suffix != ".safetensors" and not os.path.exists(path):
            known = shipped_benches() + collection_benches()
            raise BankError(
                f"Unknown bench {str(name)!r}: {did_you_mean(str(name), known)}Shipped are "
                f"{', '.join(known) or 'none'}; or give a file."
            )
        return cls(**read_bench(path), zoo=zoo)

    @classmethod
    def _load_folder(cls, folder: Path) -> SoupBench:
        manifest = read_manifest(folder)
        check_file(folder, BENCH_FILE, manifest)

        def open_zoo() -> Zoo:
            others = (BENCH_FILE, INIT_FILE, SHIFTS_FILE)
            names = [name for name in manifest["files"] if name not in others]
            for name in (*names, INIT_FILE):
                check_file(folder, name, manifest)
            return Zoo.open(
                [folder / name for name in names],
                build=lambda: empty_network(manifest),
                init=folder / INIT_FILE,
                progress=False,
            )

        ships_ingredients = INIT_FILE in manifest["files"]
        bench = cls(
            **read_bench(folder / BENCH_FILE),
            zoo=open_zoo if ships_ingredients else None,
            manifest=manifest,
        )
        if SHIFTS_FILE in manifest["files"]:
            check_file(folder, SHIFTS_FILE, manifest)
            bench.shifts = read_shifts(folder / SHIFTS_FILE)
        return bench


def _check_subsets(subsets: Tensor | None, num_models: int) -> Tensor | None:
    """The bitmasks of the evaluated soups, or None where all soups are evaluated."""
    if subsets is None or len(subsets) == 2**num_models - 1:
        return None
    if (
        subsets.dtype != torch.int64
        or subsets.ndim != 1
        or not len(subsets)
        or int(subsets[0]) < 1
        or int(subsets[-1]) >= 2**num_models
        or not bool((subsets.diff() > 0).all())
    ):
        raise BankError(
            f"subsets must be ascending bitmasks of {num_models} ingredients, from 1 to "
            f"{2**num_models - 1}, in int64."
        )
    return subsets


def _check_part(part: str) -> str:
    if part not in BENCH_PARTS:
        raise ParameterError(f"part must be one of {', '.join(BENCH_PARTS)}, not {part!r}.")
    return part

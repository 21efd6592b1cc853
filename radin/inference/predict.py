"""The entry fee: every ingredient predicted, in one pass over the data, into a logit bank."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches, fingerprint
from radin.errors import BankError, ParameterError, check_integer
from radin.files import atomic_path, hash_text, load_tensors, store_folder
from radin.inference.devices import pick_device
from radin.inference.forward import (
    PROBE,
    batch_logits,
    check_workers,
    close_to_stored,
    half_of,
    stream,
)
from radin.inference.parallel import num_workers, run_tasks, task_device
from radin.inference.partial_logits import Rows
from radin.ranking.bank import LogitBank, check_labels
from radin.ranking.projection import Projection

_FORMAT = "radin-predictions-1"

Known = tuple[Tensor, Tensor]  # logits (n, C) of one ingredient, and labels (n,)


def predict(
    zoo: Zoo,
    split: Dataset[Any],
    device: str = "auto",
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    cache: bool | Path = True,
    progress: bool = True,
    half: bool = False,
    workers: int | None = None,
) -> LogitBank:
    """Predict every ingredient on a split in one pass over the data: the entry fee of every recipe.

    Each ingredient's logits are kept in a store on disk under the content of its checkpoint, its layers, the images,
    their preprocessing and the precision. They are written as they come. What is found there, and still holds on the
    first few images, is not predicted again: a larger zoo costs only its new ingredients, and a run that was killed
    goes on at the batch where it stopped. Inside `joblib.parallel_config` the workers divide the ingredients.

    Args:
        zoo: opened with `build`; as many ingredients as fit are on the device together.
        split: gives (image, label) pairs, such as `load_split` returns. To find its bank in the store, a
            data set without a `fingerprint` of its own is read once more.
        dtype: precision the logits are kept in (torch.float32 or torch.float16).
        cache: the store's folder; True for the default one, False for none.
        half: run the networks in half precision (float16 on a GPU, bfloat16 on a CPU) instead of their own.
        workers: threads that decode images; by default one for each core.

    Returns:
        The bank. Where the split has fewer classes than the networks it holds the logits of these classes; where one
        class has several logits, all of them and the split's projection.

    Raises:
        ParameterError: the zoo has no `build`, or an impossible device, dtype, batch size or number of workers.
        DataError: an empty split or an unreadable image.
        BankError: NaN logits, or labels outside the classes.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ParameterError(f"dtype must be torch.float32 or torch.float16, not {dtype}.")
    pick_device(device)
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    work = _Work(
        split,
        device,
        batch_size,
        dtype,
        half,
        check_workers(workers),
        store_folder(cache, "banks"),
        progress,
    )
    places = work.places(zoo)
    found = {
        k: known
        for k, place in enumerate(places)
        if (known := work.stored(zoo, k, place)) is not None
    }
    first = {
        print_: k for k, print_ in reversed(list(enumerate(zoo.fingerprints)))
    }  # a duplicate is predicted once
    missing = sorted(set(first.values()) - set(found))
    for k in missing:
        if (place := places[k]) is not None:
            with suppress(OSError):  # what is wrong with the folder is said where it is written to
                place.unlink()  # damaged, or of another network
    groups = _groups(missing, num_workers())

    def finished(position: int, answers: list[Known]) -> None:
        for k, known in zip(groups[position], answers, strict=True):
            found[k] = known
            _store(places[k], known)

    tasks = [
        (position, zoo.subset(group), [places[k] for k in group])
        for position, group in enumerate(groups)
    ]
    run_tasks(partial(_predict_group, work), tasks, finished, progress=False)
    whole = [found[k if k in found else first[print_]] for k, print_ in enumerate(zoo.fingerprints)]
    logits = torch.stack([logits for logits, _ in whole])
    return LogitBank(logits, whole[0][1], zoo.names, None if work.selects else work.projection)


@dataclass(frozen=True)
class _Work:
    """What every task of one prediction has to know."""

    split: Dataset[Any]
    device: str
    batch_size: int
    dtype: torch.dtype
    half: bool
    workers: int | None
    folder: Path | None
    progress: bool

    @property
    def projection(self) -> Projection | None:
        return getattr(self.split, "projection", None)

    @property
    def selects(self) -> bool:
        """Whether the bank can do without some logits: to leave them out commutes with averaging."""
        return self.projection is not None and self.projection.is_selection

    def places(self, zoo: Zoo) -> list[Path | None]:
        """Where the store has each ingredient."""
        if self.folder is None:
            return [None] * len(zoo)
        how = [_FORMAT, repr(zoo.model(0, copy=False)), fingerprint(self.split), str(self.dtype)]
        how += ["half"] if self.half else []
        how += [self.projection.fingerprint] if self.projection is not None else []
        return [
            self.folder / f"{hash_text(print_, *how)}.safetensors" for print_ in zoo.fingerprints
        ]

    def stored(self, zoo: Zoo, k: int, place: Path | None) -> Known | None:
        """What the store has of an ingredient, if the network still says the same."""
        if place is None or not place.exists():
            return None
        try:
            tensors, _ = load_tensors(place, _FORMAT)
            known = tensors["logits"], tensors["labels"]
        except (BankError, KeyError):  # damaged: predict again
            return None
        return known if self.still_says(zoo.model(k, copy=False), known[0]) else None

    def still_says(self, model: nn.Module, known: Tensor) -> bool:
        """Whether the model gives the stored logits on the first images.

        One checkpoint fits networks that differ in what no key can hold: an edited forward, a mean that
        the network subtracts, a setting of the user's own. Asking the network is surer than reading its code.
        """
        device = pick_device(self.device)
        probe, _ = next(batches(self.split, min(PROBE, len(known)), workers=1))
        with torch.inference_mode():
            now = batch_logits(
                model.to(device, half_of(device) if self.half else None), probe, device
            )
        return close_to_stored(self.select(now).float().cpu(), known[: len(probe)].float())

    def select(self, logits: Tensor) -> Tensor:
        """The logits that the bank holds."""
        return self.projection(logits) if self.selects and self.projection is not None else logits


def _groups(members: Sequence[int], workers: int) -> list[list[int]]:
    """The members in as many groups of almost one size as there are workers: each group is one pass over the data."""
    count = min(workers, len(members))
    return [list(members[position::count]) for position in range(count)]


def _predict_group(work: _Work, task: tuple[int, Zoo, list[Path | None]]) -> list[Known]:
    """Predict a zoo in one pass. Its rows, and what is whole, are in the store at once, where the store is shared."""
    position, zoo, places = task
    device = pick_device(task_device(work.device, position))
    rows = [
        Rows(place.with_suffix(".rows") if place is not None else None, work.dtype)
        for place in places
    ]
    total = len(work.split)  # type: ignore[arg-type]
    try:
        starts = [_resume(work, zoo, k, kept) for k, kept in enumerate(rows)]
        todo = [
            k for k in range(len(zoo)) if starts[k] < total or total == 0
        ]  # to read none is refused in `batches`
        resumed = f", the first {min(starts):,} images are known" if min(starts) else ""
        answers = stream(
            [partial(zoo.model, k, copy=False) for k in todo],
            work.split,
            device,
            work.batch_size,
            [starts[k] for k in todo],
            work.half,
            work.workers,
            f"predicting {len(todo)} ingredients{resumed}",
            work.progress,
        )
        for which, logits, labels in answers:
            k = todo[which]
            logits = work.select(logits).to("cpu", work.dtype)
            try:
                _check(logits, labels, zoo.names[k], len(rows[k]), work)
            except BankError:  # its own rows alone are of no use: the others go on without it
                rows[k].discard()
                raise
            rows[k].append(logits, labels)
        known = []
        for place, kept in zip(places, rows, strict=True):
            known.append(kept.first(total))
            _store(place, known[-1])
            kept.discard()
        return known
    finally:
        for kept in rows:
            kept.close()


def _resume(work: _Work, zoo: Zoo, k: int, kept: Rows) -> int:
    """How many images need not be predicted again: whole batches, so that a rerun computes what one run would have."""
    count = len(kept) // work.batch_size * work.batch_size
    if count and not work.still_says(zoo.model(k, copy=False), kept.first(min(PROBE, count))[0]):
        count = 0
    kept.cut(count)
    return count


def _check(logits: Tensor, labels: Tensor, name: str, first: int, work: _Work) -> None:
    """Refuse NaN at once, not after hours."""
    check_labels(
        labels, logits.shape[1] if work.projection is None else work.projection.num_classes, first
    )
    bad = (~logits.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        in_half = work.half or work.dtype == torch.float16
        raise BankError(
            f"Ingredient {name} gives NaN or infinite logits, first on image {first + int(bad[0])}; leave this "
            f"ingredient out{' or keep single precision' if in_half else ''}."
        )


def _store(place: Path | None, known: Known) -> None:
    if place is None or place.exists():
        return
    with atomic_path(place) as temporary:
        save_file({"logits": known[0], "labels": known[1]}, temporary, {"format": _FORMAT})

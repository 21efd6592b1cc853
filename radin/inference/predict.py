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
from radin.data.network_inputs import count_inputs
from radin.data.samples import as_split
from radin.data.splits import projection_of
from radin.errors import BankError, ParameterError, check_integer
from radin.files import atomic_path, hash_text, load_tensors, store_folder
from radin.inference.devices import pick_device
from radin.inference.forward import (
    NUM_PROBE_IMAGES,
    batch_logits,
    check_workers,
    forward_all,
    half_dtype,
    matches_stored,
    move_model,
)
from radin.inference.parallel import num_joblib_workers, run_tasks, task_device
from radin.inference.partial_logits import PartialLogits
from radin.ranking.bank import LogitBank, check_labels
from radin.ranking.projection import Projection

_FORMAT = "radin-predictions-1"

Prediction = tuple[Tensor, Tensor]  # logits (n, C) of one ingredient, and labels (n,)


def predict(
    zoo: Zoo,
    split: Dataset[Any],
    device: str = "auto",
    *,
    batch_size: int = 256,
    dtype: torch.dtype = torch.float32,
    cache: bool | Path = True,
    progress: bool = True,
    half: bool = False,
    workers: int | None = None,
) -> LogitBank:
    """Predict every ingredient on a split in one pass over the data: the entry fee of every recipe.

    The logits of each ingredient are stored on disk as they are computed. The key is a hash of its
    checkpoint, its layers, the images, their preprocessing and the precision. Stored logits are
    used again if the network still gives them on the first few images. So a larger zoo costs only
    its new ingredients, and a run that was killed continues at the batch where it stopped. Inside
    `joblib.parallel_config` the workers divide the ingredients.

    >>> import pathlib, tempfile, radin, torch
    >>> def build():
    ...     return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> for k in range(2):
    ...     torch.save(build().state_dict(), folder / f"model_{k}.pt")
    >>> zoo = radin.Zoo.open(folder, build, progress=False)
    >>> split = [(torch.rand(1, 2, 2), label) for label in (0, 1, 2, 0, 1)]
    >>> bank = radin.predict(zoo, split, cache=False, progress=False)
    >>> bank.logits.shape  # ingredients, images, classes
    torch.Size([2, 5, 3])

    Args:
        zoo: opened with `build`; as many ingredients as fit are on the device together.
        split: gives (image, label) pairs, such as `load_split` returns; or (image, targets) pairs
            in floating point, for regression. Lists of pairs, data sets of dicts and a DataLoader
            are taken too (see `as_split`). A data set without a `fingerprint` attribute is read
            once more, to find its logits in the store.
        device: "auto" is the GPU when there is one, else the CPU.
        batch_size: images in one forward pass.
        dtype: of the stored logits, torch.float32 or torch.float16.
        cache: the store's folder; True for the default one, False for none.
        progress: show a bar.
        half: run the networks in half precision (float16 on a GPU, bfloat16 on a CPU) instead of
            their own.
        workers: threads that decode images; by default one for each core.

    Returns:
        The bank, on the CPU. Where the split has fewer classes than the networks, the bank holds
        the logits of these classes; where one class has several logits, all logits and the split's
        projection.

    Raises:
        ParameterError: the zoo has no `build`, or an impossible device, dtype, batch size or
            number of workers.
        DataError: an empty split or an unreadable image.
        BankError: NaN logits, or labels outside the classes.
    """
    if dtype not in (torch.float32, torch.float16):
        raise ParameterError(f"dtype must be torch.float32 or torch.float16, not {dtype}.")
    pick_device(device)
    job = _Job(
        split=as_split(split),
        device=device,
        batch_size=check_integer("batch_size", batch_size, minimum=1),
        dtype=dtype,
        half=half,
        workers=check_workers(workers),
        progress=progress,
    )
    paths = _stored_paths(job, zoo, store_folder(cache, "banks"))
    predictions = {
        k: stored
        for k, path in enumerate(paths)
        if (stored := _load(job, path, zoo, k)) is not None
    }
    first_index: dict[str, int] = {}  # equal checkpoints are predicted once
    for k, checkpoint_hash in enumerate(zoo.fingerprints):
        first_index.setdefault(checkpoint_hash, k)
    missing = sorted(set(first_index.values()) - set(predictions))
    predictions |= _predict_missing(job, zoo, missing, paths)
    in_order = [
        predictions[k if k in predictions else first_index[checkpoint_hash]]
        for k, checkpoint_hash in enumerate(zoo.fingerprints)
    ]
    logits = torch.stack([logits for logits, _ in in_order])
    projection = None if job.selects_logits else job.projection
    return LogitBank(logits, in_order[0][1], zoo.names, projection=projection)


@dataclass(frozen=True, kw_only=True)
class _Job:
    """The arguments of one `predict` that its workers need."""

    split: Dataset[Any]
    device: str
    batch_size: int
    dtype: torch.dtype
    half: bool
    workers: int | None
    progress: bool

    @property
    def projection(self) -> Projection | None:
        return projection_of(self.split)

    @property
    def selects_logits(self) -> bool:
        """Whether the projection only selects logits, which gives the same before an average."""
        return self.projection is not None and self.projection.is_selection

    def bank_logits(self, logits: Tensor) -> Tensor:
        """The logits that the bank holds."""
        if self.projection is None or not self.selects_logits:
            return logits
        return self.projection(logits)

    def reproduces(self, model: nn.Module, stored: Tensor) -> bool:
        """Whether the model gives the stored logits on the first images.

        One checkpoint fits networks that differ in things that no key holds: an edited forward, a
        mean that the network subtracts, a setting of the user's own class. A forward pass shows
        the difference more surely than a look at the code.
        """
        device = pick_device(self.device)
        model = move_model(model, device, half_dtype(device) if self.half else None)
        num_images = min(NUM_PROBE_IMAGES, len(stored))
        images, _ = next(batches(self.split, num_images, workers=1))
        with torch.inference_mode():
            logits = self.bank_logits(batch_logits(model, images, device))
        return matches_stored(logits.float().cpu(), stored[: count_inputs(images)].float())


def _stored_paths(job: _Job, zoo: Zoo, folder: Path | None) -> list[Path | None]:
    """The file of each ingredient in the store."""
    if folder is None:
        return [None] * len(zoo)
    key = [_FORMAT, repr(zoo.model(0, copy=False)), fingerprint(job.split), str(job.dtype)]
    key += ["half"] if job.half else []
    key += [job.projection.fingerprint] if job.projection is not None else []
    return [
        folder / f"{hash_text(checkpoint_hash, *key)}.safetensors"
        for checkpoint_hash in zoo.fingerprints
    ]


def _load(job: _Job, path: Path | None, zoo: Zoo, k: int) -> Prediction | None:
    """The stored prediction of an ingredient, if its network still gives the same logits."""
    if path is None or not path.exists():
        return None
    try:
        tensors, _ = load_tensors(path, _FORMAT)
        logits = tensors["logits"]
        labels = tensors["labels"]
    except (BankError, KeyError):  # damaged: predict again
        return None
    if not job.reproduces(zoo.model(k, copy=False), logits):
        return None
    with suppress(OSError):  # a run that was killed between saving and removing them left them
        _rows_file(path).unlink(missing_ok=True)
    return logits, labels


def _rows_file(path: Path) -> Path:
    """Where the logits of a bank's file are while they are not complete."""
    return path.with_suffix(".rows")


def _save(path: Path | None, prediction: Prediction) -> None:
    if path is None or path.exists():
        return
    logits, labels = prediction
    with atomic_path(path) as temporary:
        save_file({"logits": logits, "labels": labels}, temporary, {"format": _FORMAT})


def _predict_missing(
    job: _Job, zoo: Zoo, missing: Sequence[int], paths: Sequence[Path | None]
) -> dict[int, Prediction]:
    """The predictions of some ingredients, by index; joblib's workers divide them."""
    for path in (paths[k] for k in missing):
        if path is not None:
            with suppress(OSError):  # a later write reports what is wrong with the folder
                path.unlink()  # damaged, or of another network
    groups = _divide(missing, num_joblib_workers())
    predictions: dict[int, Prediction] = {}

    def finished(position: int, results: list[Prediction]) -> None:
        for k, prediction in zip(groups[position], results, strict=True):
            predictions[k] = prediction
            _save(paths[k], prediction)

    tasks = [
        (position, zoo.subset(group), [paths[k] for k in group])
        for position, group in enumerate(groups)
    ]
    run_tasks(partial(_predict_group, job), tasks, finished, progress=False)
    return predictions


def _divide(indices: Sequence[int], num_groups: int) -> list[list[int]]:
    """The indices in groups of almost one size, none of them empty."""
    count = min(num_groups, len(indices))
    return [list(indices[position::count]) for position in range(count)]


def _predict_group(job: _Job, task: tuple[int, Zoo, list[Path | None]]) -> list[Prediction]:
    """Predict a zoo in one pass.

    What is computed is on disk at once, for the case that the disk is shared and this worker is
    lost.
    """
    position, zoo, paths = task
    device = pick_device(task_device(job.device, position))
    partials = [
        PartialLogits(None if path is None else _rows_file(path), job.dtype) for path in paths
    ]
    try:
        _complete(job, zoo, partials, device)
        predictions = []
        for path, logits_so_far in zip(paths, partials, strict=True):
            predictions.append(logits_so_far.read(len(job.split)))  # type: ignore[arg-type]
            _save(path, predictions[-1])
            logits_so_far.discard()
        return predictions
    finally:
        for logits_so_far in partials:
            logits_so_far.close()


def _complete(job: _Job, zoo: Zoo, partials: Sequence[PartialLogits], device: torch.device) -> None:
    """Append the logits that each ingredient still lacks."""
    total = len(job.split)  # type: ignore[arg-type]
    num_done = [_keep_valid(job, zoo, k, partials[k]) for k in range(len(zoo))]
    # An empty split is passed on too: `batches` refuses it.
    todo = [k for k in range(len(zoo)) if num_done[k] < total or total == 0]
    resumed = f", the first {min(num_done):,} images are done" if min(num_done) else ""
    for position, logits, labels in forward_all(
        [partial(zoo.model, k, copy=False) for k in todo],
        job.split,
        device,
        batch_size=job.batch_size,
        skip=[num_done[k] for k in todo],
        half=job.half,
        workers=job.workers,
        desc=f"predicting {len(todo)} ingredients{resumed}",
        progress=job.progress,
    ):
        k = todo[position]
        logits = job.bank_logits(logits).to("cpu", job.dtype)
        try:
            _check_batch(job, logits, labels, name=zoo.names[k], start=len(partials[k]))
        except BankError:  # only this ingredient's logits are useless; the others are kept
            partials[k].discard()
            raise
        partials[k].append(logits, labels)


def _keep_valid(job: _Job, zoo: Zoo, k: int, logits_so_far: PartialLogits) -> int:
    """Keep the images that need no second prediction, and return their number.

    It is a number of whole batches, so that the run computes exactly what one run would have.
    """
    count = len(logits_so_far) // job.batch_size * job.batch_size
    if count:
        stored, _ = logits_so_far.read(min(NUM_PROBE_IMAGES, count))
        count = count if job.reproduces(zoo.model(k, copy=False), stored) else 0
    logits_so_far.truncate(count)
    return count


def _check_batch(job: _Job, logits: Tensor, labels: Tensor, *, name: str, start: int) -> None:
    """Refuse NaN now, not at the end of hours."""
    num_classes = logits.shape[1] if job.projection is None else job.projection.num_classes
    if not labels.is_floating_point():  # the bank checks targets
        check_labels(labels, num_classes, first=start)
    bad = (~logits.isfinite()).any(1).nonzero().flatten()
    if len(bad):
        in_half = job.half or job.dtype == torch.float16
        raise BankError(
            f"Ingredient {name} gives NaN or infinite logits, first on image "
            f"{start + int(bad[0])}; leave this ingredient out"
            f"{' or keep single precision' if in_half else ''}."
        )

"""Evaluating every soup of a zoo: several at once on a GPU, and resumable after a kill."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.func import vmap
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches, fingerprint
from radin.data.network_inputs import Inputs
from radin.data.samples import as_split
from radin.data.splits import FolderSplit, in_memory
from radin.errors import BankError, check_integer
from radin.files import atomic_path, hash_text, load_tensors, store_folder
from radin.inference.devices import pick_device, single_thread
from radin.inference.forward import batch_logits, inputs_to
from radin.ranking.bank import check_labels
from radin.ranking.candidates import exhaustive
from radin.soup.average import average

Answers = tuple[Tensor, Tensor]  # of R soups: (R, 2) accuracies and losses, (R, n) right or wrong

_FORMAT = "radin-soups-1"
SAVE_INTERVAL_SECONDS = 30
# Below, a second CPU thread costs more than it brings.
MIN_PARAMETERS_FOR_THREADS = 100_000
# A GPU is idle with one small network at a time, and memory grows with their number.
SOUPS_PER_PASS_ON_GPU = 64


def tabulate(
    zoo: Zoo,
    split: Dataset[Any],
    device: str = "auto",
    *,
    candidates: Tensor | None = None,
    batch_size: int = 250,
    per_pass: int | None = None,
    cache: bool | Path = True,
    progress: bool = True,
) -> tuple[Tensor, Tensor]:
    """Evaluate soups on one split: those of all subsets, in the order of `exhaustive(N)`, or some.

    Results are written every half minute, and a call after a killed one goes on from there. When
    all soups are evaluated, a larger zoo that begins with the same ingredients takes over the rows
    of the smaller one.

    Args:
        zoo: opened with `build`.
        split: (image, label) pairs, or other labelled data (see `as_split`); images in folders are
            decoded once and held in memory.
        device: where networks run.
        candidates: (R, N) mixing weights of the soups; all subsets when not given.
        batch_size: images in one forward pass.
        per_pass: soups that run together, their parameters stacked; 1 on a CPU and 64 on a GPU when
            not given.
        cache: the store's folder; True for the default one, False for none.
        progress: show a bar.

    Returns: the table (R, 2) in double precision, accuracy in percent and mean negative
    log-likelihood in nats; and (R, n) boolean, whether each soup is right on each image. R is
    2^N - 1 without `candidates`.

    Raises ParameterError for more ingredients than `exhaustive` lists, or a zoo without `build`.
    """
    rows = exhaustive(len(zoo)) if candidates is None else candidates
    chosen = pick_device(device)
    split = as_split(split)
    if isinstance(split, FolderSplit):
        split = in_memory(split, progress=progress)  # so that each image is decoded once
    batch_size = check_integer("batch_size", batch_size, minimum=1)
    per_pass = per_pass or (SOUPS_PER_PASS_ON_GPU if chosen.type == "cuda" else 1)
    model = zoo.model(0).to(chosen)
    store = _store_path(zoo, model, split, cache=cache, device=chosen, candidates=candidates)

    def evaluate(weights: Tensor) -> Answers:
        return evaluate_soups(zoo, model, weights, split, device=chosen, batch_size=batch_size)

    stored = _stored(store, zoo.fingerprints, all_subsets=candidates is None)
    if stored and not _is_same_network(stored, evaluate(rows[:1])):
        stored = None
    done = min(len(rows), len(stored[0])) if stored else 0
    table = torch.empty(len(rows), 2, dtype=torch.float64)
    right = torch.empty(len(rows), len(split), dtype=torch.bool)  # type: ignore[arg-type]
    if stored:
        table[:done] = stored[0][:done]
        right[:done] = stored[1][:done]
    saved = time.monotonic()
    with (
        _threads(model),
        tqdm(total=len(rows), initial=done, desc="evaluating soups", disable=not progress) as bar,
    ):
        for first in range(done, len(rows), per_pass):
            last = min(first + per_pass, len(rows))
            table[first:last], right[first:last] = evaluate(rows[first:last])
            bar.update(last - first)
            is_due = last == len(rows) or time.monotonic() - saved > SAVE_INTERVAL_SECONDS
            if store is not None and is_due:
                _save(store, table[:last], right[:last], zoo.fingerprints)
                saved = time.monotonic()
    return table, right


def evaluate_soups(
    zoo: Zoo,
    model: nn.Module,
    weights: Tensor,
    split: Dataset[Any],
    *,
    device: torch.device,
    batch_size: int,
) -> Answers:
    """Evaluate some soups in one pass over the split.

    Args:
        zoo: the N ingredients.
        model: a network of theirs on the device; its weights are not used.
        weights: (M, N) mixing weights.
        split: (image, label) pairs.
        device: where the network runs.
        batch_size: images in one forward pass.

    Returns: (M, 2) accuracy in percent and mean negative log-likelihood in nats; and (M, n)
    boolean, whether each soup is right on each image.
    """
    soups = [average(zoo, row) for row in weights]
    like = model.state_dict()
    stacked = {
        key: torch.stack([soup[key] for soup in soups]).to(device, like[key].dtype) for key in like
    }

    def run(state: dict[str, Tensor], images: Inputs) -> Tensor:
        return batch_logits(model, images, device, state=state)

    losses = torch.zeros(len(soups), dtype=torch.float64, device=device)
    right = []
    with torch.inference_mode():
        for images, labels in _on_device(split, batch_size, device):
            if len(soups) == 1:
                # Plain layers are several times faster than stacked ones of one soup.
                logits = run({key: tensor[0] for key, tensor in stacked.items()}, images)[None]
            else:
                logits = vmap(run, in_dims=(0, None))(stacked, images)  # (M, batch, C)
            check_labels(labels, logits.shape[-1])
            right.append(logits.argmax(-1) == labels)
            truth = labels.expand(len(soups), -1).flatten()
            loss = F.cross_entropy(logits.flatten(0, 1).double(), truth, reduction="none")
            losses += loss.view(len(soups), -1).sum(1)
    all_right = torch.cat(right, 1)
    percent = all_right.sum(1).double() * 100 / all_right.shape[1]
    return torch.stack([percent, losses / all_right.shape[1]], 1).cpu(), all_right.cpu()


def _on_device(
    split: Dataset[Any], batch_size: int, device: torch.device
) -> Iterator[tuple[Inputs, Tensor]]:
    for images, labels in batches(split, batch_size):
        yield inputs_to(images, device), labels.to(device)


def _threads(model: nn.Module) -> AbstractContextManager[None]:
    small = sum(parameter.numel() for parameter in model.parameters()) < MIN_PARAMETERS_FOR_THREADS
    return single_thread() if small else nullcontext()


def _store_path(
    zoo: Zoo,
    model: nn.Module,
    split: Dataset[Any],
    *,
    cache: bool | Path,
    device: torch.device,
    candidates: Tensor | None,
) -> Path | None:
    folder = store_folder(cache, "soups")
    if folder is None:
        return None
    # With all subsets, two ingredients are in the key, so that a larger zoo that begins with them
    # finds their rows.
    begins_with = zoo.fingerprints[:2] if candidates is None else zoo.fingerprints
    which = [] if candidates is None else [repr(candidates.tolist())]
    key = hash_text(_FORMAT, *begins_with, *which, repr(model), fingerprint(split), device.type)
    return folder / f"{key}.safetensors"


def _stored(store: Path | None, fingerprints: list[str], *, all_subsets: bool) -> Answers | None:
    """The rows that were evaluated before.

    With all subsets, those of the ingredients that both zoos begin with.
    """
    if store is None or not store.exists():
        return None
    try:
        tensors, metadata = load_tensors(store, _FORMAT)
        before = json.loads(metadata["fingerprints"])
        table = tensors["table"]
        right = unpack_bits(tensors["right"], int(metadata["images"]))
    except (BankError, KeyError, ValueError):  # damaged: evaluate again
        return None
    if not all_subsets:
        return table, right
    shared = 0
    while shared < min(len(before), len(fingerprints)) and before[shared] == fingerprints[shared]:
        shared += 1
    return table[: 2**shared - 1], right[: 2**shared - 1]


def _is_same_network(stored: Answers, now: Answers) -> bool:
    """Whether the first stored row is what the first ingredient gives now.

    The store's key does not depend on the code of the network's `forward`, which may have changed.
    """
    stored_nll = stored[0][0, 1].item()
    nll = now[0][0, 1].item()
    flipped = (stored[1][0] != now[1][0]).double().mean().item()
    return abs(stored_nll - nll) <= 1e-3 * max(1.0, abs(nll)) and flipped <= 0.01


def _save(store: Path, table: Tensor, right: Tensor, fingerprints: list[str]) -> None:
    metadata = {
        "format": _FORMAT,
        "fingerprints": json.dumps(fingerprints),
        "images": str(right.shape[1]),
    }
    with atomic_path(store) as temporary:
        save_file({"table": table.clone(), "right": pack_bits(right)}, temporary, metadata)


def pack_bits(right: Tensor) -> Tensor:
    """Boolean (rows, n) as bytes (rows, ceil(n / 8)): an eighth of the memory."""
    return torch.from_numpy(np.packbits(right.numpy(), axis=1))


def unpack_bits(packed: Tensor, n: int) -> Tensor:
    """What `pack_bits` made, as boolean (rows, n) again."""
    return torch.from_numpy(np.unpackbits(packed.numpy(), axis=1, count=n)).bool()

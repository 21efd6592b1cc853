"""Making a zoo: one initialisation, then a random sweep of hyper-parameters."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn
from tqdm import tqdm

from radin.data.splits import ArraySplit
from radin.errors import DataError, ParameterError, check_integer
from radin.experiments.zoos.augment import augment, mixup
from radin.files import atomic_path, hash_text, update_hash

Hyperparameters = dict[str, float]
Net = TypeVar("Net", bound=nn.Module)


def train(
    model: nn.Module,
    split: ArraySplit,
    hyperparameters: Hyperparameters,
    seed: int,
    batch_size: int = 32,
    resume: Path | None = None,
    after_epoch: Callable[[int], None] | None = None,
    progress: str = "",
) -> nn.Module:
    """Train a model in place with AdamW and one cosine decay, wherever its parameters lie; returns it.

    Args:
        hyperparameters: lr, weight_decay, epochs, label_smoothing and mixup; what `augment` takes; and
            `warmup`, the share of all steps over which the rate rises to lr, and `floor`, the share of
            lr that it falls to (0 and 0 without them).
        seed: of the order of the images and of their augmentation.
        resume: a file that keeps the state after every epoch but the last, so that a killed run goes on from
            there and ends with the same weights (but for dropout, whose draws it does not keep). Whoever
            keeps the result removes it. The state of a run from other weights or images is not taken over.
        after_epoch: called with the number of epochs done.
        progress: the name of a progress bar; none without it.

    Raises DataError when the loss stops being finite, ParameterError for a warmup or floor that is no share.
    """
    h = hyperparameters
    epochs = check_integer("epochs", h["epochs"], minimum=1)
    device = next(model.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    images, labels = split.images, F.one_hot(split.labels, split.num_classes).float()
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    optimizer = torch.optim.AdamW(trained, lr=h["lr"], weight_decay=h["weight_decay"])
    per_epoch = math.ceil(len(split) / batch_size)
    schedule = _schedule(optimizer, epochs * per_epoch, h)
    run = (
        json.dumps(h, sort_keys=True),
        str(seed),
        str(batch_size),
        split.fingerprint,
        repr(model),
    )
    state = _State(
        resume,
        hash_text(*run, _hash_state(model)),
        rng,
        optimizer=optimizer,
        model=model,
        schedule=schedule,
    )
    done = state.restore()
    model.train()
    bar = tqdm(
        total=epochs * per_epoch, initial=done * per_epoch, desc=progress, disable=not progress
    )
    for epoch in range(done + 1, epochs + 1):
        for chosen in torch.randperm(len(split), generator=rng).split(batch_size):
            x = augment(images[chosen], h, rng)
            x, y = mixup(x, labels[chosen], h["mixup"], rng)
            loss = F.cross_entropy(
                model(x.to(device)), y.to(device), label_smoothing=h["label_smoothing"]
            )
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            bar.update()
        if not torch.isfinite(loss):
            raise DataError(f"Training diverged with {h}; lower the learning rate.")
        if after_epoch is not None:
            after_epoch(epoch)
        if epoch < epochs:
            state.keep(epoch)
    bar.close()
    return model.eval()


def train_checkpoint(
    model: nn.Module,
    split: ArraySplit,
    hyperparameters: Hyperparameters,
    seed: int,
    path: Path,
    batch_size: int = 32,
    dtype: torch.dtype | None = None,
    progress: str = "",
) -> None:
    """`train`, then `save_checkpoint`; a run that is killed at any point goes on from the state beside `path`."""
    state = path.with_suffix(".state")
    train(model, split, hyperparameters, seed, batch_size, state, progress=progress)
    save_checkpoint(model, path, hyperparameters, dtype)
    state.unlink(missing_ok=True)


def _schedule(
    optimizer: torch.optim.Optimizer, steps: int, h: Hyperparameters
) -> torch.optim.lr_scheduler.LRScheduler:
    for key, most in (("warmup", 0.99), ("floor", 1.0)):
        if not 0 <= h.get(key, 0.0) <= most:
            raise ParameterError(f"{key} must be a share from 0 to {most:g}, not {h[key]!r}.")
    rising, floor = round(h.get("warmup", 0.0) * steps), h.get("floor", 0.0)

    def share(step: int) -> float:
        if step < rising:
            return (step + 1) / rising
        return (
            floor + (1 - floor) * (1 + math.cos(math.pi * (step - rising) / (steps - rising))) / 2
        )

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share)


def _hash_state(model: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, tensor in model.state_dict().items():
        update_hash(digest, name, tensor)
    return digest.hexdigest()


class _State:
    """What a killed run needs to go on: kept after every epoch, found again under the same key only."""

    def __init__(self, path: Path | None, key: str, rng: torch.Generator, **parts: Any) -> None:
        self.path, self.key, self.rng, self.parts = path, key, rng, parts

    def keep(self, epoch: int) -> None:
        if self.path is None:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        with atomic_path(self.path) as temporary:
            torch.save(
                {"key": self.key, "epoch": epoch, "rng": self.rng.get_state(), **state}, temporary
            )

    def restore(self) -> int:
        """Epochs done, 0 without a state that fits."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (
            RuntimeError,
            KeyError,
            ValueError,
            EOFError,
            pickle.UnpicklingError,
        ):  # damaged: from the start
            return 0
        # Nothing is loaded unless all of it can be: a half-loaded model would be no start of anything.
        if (
            not isinstance(state, dict)
            or state.get("key") != self.key
            or not {*self.parts, "rng", "epoch"} <= set(state)
        ):
            return 0
        for name, part in self.parts.items():
            part.load_state_dict(state[name])
        self.rng.set_state(state["rng"])
        return int(state["epoch"])


def fresh(build: Callable[[], Net], seed: int) -> Net:
    """A new model with the random weights of `seed`; the caller's own randomness is left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def save_checkpoint(
    model: nn.Module, path: Path, hyperparameters: Hyperparameters, dtype: torch.dtype | None = None
) -> None:
    """Write a state dict as safetensors, atomically, its hyper-parameters as JSON in the header.

    Args:
        dtype: of the floating-point tensors; their own when not given.
    """
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    if dtype is not None:
        state = {
            key: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for key, tensor in state.items()
        }
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"hyperparameters": json.dumps(hyperparameters)})


def trained_with(path: Path) -> Hyperparameters:
    """The hyper-parameters in the header of a checkpoint that `save_checkpoint` wrote; none of a damaged one."""
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get("hyperparameters", "{}")))
    except SafetensorError:
        return {}

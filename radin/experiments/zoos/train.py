"""Train one network: a cosine schedule, checkpoints with hyper-parameters, runs that resume."""

from __future__ import annotations

import hashlib
import json
import math
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from radin.checkpoints.dtypes import to_precision
from radin.data.splits import ArraySplit
from radin.errors import DataError, ParameterError, check_integer
from radin.experiments.zoos.augment import augment, mixup
from radin.experiments.zoos.paradigms import adversarial_loss
from radin.files import atomic_path, hash_text, update_hash

Hyperparameters = dict[str, float]
Model = TypeVar("Model", bound=nn.Module)


def train(
    model: nn.Module,
    split: ArraySplit,
    hyperparameters: Hyperparameters,
    seed: int,
    *,
    batch_size: int = 32,
    targets: Tensor | None = None,
    resume: Path | None = None,
    after_epoch: Callable[[int], None] | None = None,
    progress: str = "",
) -> nn.Module:
    """Train a model in place with AdamW and one cosine decay, on the device of its parameters.

    Args:
        model: to train.
        split: the training images.
        hyperparameters: lr, weight_decay, epochs, label_smoothing and mixup, and what `augment`
            takes. Optional are `warmup`, the share of all steps over which the rate rises to lr,
            and `floor`, the share of lr that the rate falls to, both 0 by default;
            `head_factor`, which multiplies the rate of the layer `head`, 1 by default; and
            `adversarial`, the size of the step in `adversarial_loss`, without one by default.
        seed: of the order of the images and of their augmentation.
        batch_size: images in a step.
        targets: (n, C) probabilities in the place of the labels.
        resume: a file for the state after every epoch but the last. An interrupted run continues
            from it and ends with the same weights (except with dropout, whose random state it does
            not keep). The caller removes the file once the result is saved. A state from other
            weights, images or hyper-parameters is not used.
        after_epoch: called with the number of finished epochs.
        progress: the title of a progress bar. Without a title there is no bar.

    Returns:
        The model, in evaluation mode.

    Raises:
        DataError: the loss is no longer finite.
        ParameterError: warmup or floor is not a share.
    """
    h = hyperparameters
    epochs = check_integer("epochs", h["epochs"], minimum=1)
    device = next(model.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    key = _run_key(model, split, h, seed=seed, batch_size=batch_size, targets=targets)
    if targets is None:
        targets = F.one_hot(split.labels, split.num_classes).float()
    optimizer = torch.optim.AdamW(
        _parameter_groups(model, h), lr=h["lr"], weight_decay=h["weight_decay"], fused=True
    )
    steps_per_epoch = math.ceil(len(split) / batch_size)
    schedule = _schedule(optimizer, epochs * steps_per_epoch, h)
    state = _ResumeFile(resume, key, rng, optimizer=optimizer, model=model, schedule=schedule)
    epochs_done = state.load()
    model.train()
    bar = tqdm(
        total=epochs * steps_per_epoch,
        initial=epochs_done * steps_per_epoch,
        desc=progress,
        disable=not progress,
    )
    for epoch in range(epochs_done + 1, epochs + 1):
        for chosen in torch.randperm(len(split), generator=rng).split(batch_size):
            x = augment(split.images[chosen], h, rng)
            x, y = mixup(x, targets[chosen], h.get("mixup", 0.0), rng)
            loss = _loss(model, x.to(device), y.to(device), h)
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
            state.save(epoch)
    bar.close()
    return model.eval()


def _loss(model: nn.Module, x: Tensor, y: Tensor, hyperparameters: Hyperparameters) -> Tensor:
    label_smoothing = hyperparameters["label_smoothing"]
    if size := hyperparameters.get("adversarial", 0.0):
        return adversarial_loss(model, x, y, size=size, label_smoothing=label_smoothing)
    return F.cross_entropy(model(x), y, label_smoothing=label_smoothing)


def train_checkpoint(
    model: nn.Module,
    split: ArraySplit,
    hyperparameters: Hyperparameters,
    seed: int,
    path: Path,
    *,
    batch_size: int = 32,
    targets: Tensor | None = None,
    dtype: torch.dtype | None = None,
    progress: str = "",
) -> None:
    """`train`, then `save_checkpoint`. An interrupted run continues from the state beside `path`.

    Args:
        path: of the checkpoint.
        dtype: of the floating-point tensors in it. Their own when not given.

    The others are those of `train`.
    """
    state = path.with_suffix(".state")
    train(
        model,
        split,
        hyperparameters,
        seed,
        batch_size=batch_size,
        targets=targets,
        resume=state,
        progress=progress,
    )
    save_checkpoint(model, path, hyperparameters, dtype=dtype)
    state.unlink(missing_ok=True)


def _parameter_groups(model: nn.Module, hyperparameters: Hyperparameters) -> list[dict[str, Any]]:
    """The trained parameters: all in one group, or the head apart with a rate of its own."""
    factor = hyperparameters.get("head_factor", 1.0)
    trained = [(name, tensor) for name, tensor in model.named_parameters() if tensor.requires_grad]
    if factor == 1.0:
        return [{"params": [tensor for _, tensor in trained]}]
    head = [tensor for name, tensor in trained if name.startswith("head.")]
    body = [tensor for name, tensor in trained if not name.startswith("head.")]
    return [{"params": body}, {"params": head, "lr": hyperparameters["lr"] * factor}]


def _schedule(
    optimizer: torch.optim.Optimizer, num_steps: int, hyperparameters: Hyperparameters
) -> torch.optim.lr_scheduler.LRScheduler:
    for key, maximum in (("warmup", 0.99), ("floor", 1.0)):
        if not 0 <= hyperparameters.get(key, 0.0) <= maximum:
            raise ParameterError(
                f"{key} must be a share from 0 to {maximum:g}, not {hyperparameters[key]!r}."
            )
    warmup_steps = round(hyperparameters.get("warmup", 0.0) * num_steps)
    floor = hyperparameters.get("floor", 0.0)

    def share_of_rate(step: int) -> float:
        if step < warmup_steps:
            return (step + 1) / warmup_steps
        angle = math.pi * (step - warmup_steps) / (num_steps - warmup_steps)
        return floor + (1 - floor) * (1 + math.cos(angle)) / 2

    return torch.optim.lr_scheduler.LambdaLR(optimizer, share_of_rate)


def _run_key(
    model: nn.Module,
    split: ArraySplit,
    hyperparameters: Hyperparameters,
    *,
    seed: int,
    batch_size: int,
    targets: Tensor | None,
) -> str:
    """A hash of everything that the result of a run depends on."""
    return hash_text(
        json.dumps(hyperparameters, sort_keys=True),
        str(seed),
        str(batch_size),
        split.fingerprint,
        repr(model),
        _hash_tensors(model.state_dict()),
        *([] if targets is None else [_hash_tensors({"targets": targets})]),
    )


def _hash_tensors(tensors: Mapping[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name, tensor in tensors.items():
        update_hash(digest, name, tensor)
    return digest.hexdigest()


class _ResumeFile:
    """The state from which an interrupted run continues. Only a run with the same key reads it."""

    def __init__(self, path: Path | None, key: str, rng: torch.Generator, **parts: Any) -> None:
        self.path = path
        self.key = key
        self.rng = rng
        self.parts = parts

    def save(self, epoch: int) -> None:
        if self.path is None:
            return
        state = {name: part.state_dict() for name, part in self.parts.items()}
        state |= {"key": self.key, "epoch": epoch, "rng": self.rng.get_state()}
        with atomic_path(self.path) as temporary:
            torch.save(state, temporary)

    def load(self) -> int:
        """Load the state into the parts; returns the finished epochs, 0 without a fitting state."""
        if self.path is None or not self.path.exists():
            return 0
        try:
            state = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, KeyError, ValueError, EOFError, pickle.UnpicklingError):
            return 0  # a damaged file: the run starts again
        # Nothing is loaded unless all of it can be: half a state would give other weights.
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


def build_seeded(build: Callable[[], Model], seed: int) -> Model:
    """A new model with the random weights of `seed`. The caller's random state does not change."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return build()


def save_checkpoint(
    model: nn.Module,
    path: Path,
    hyperparameters: Hyperparameters,
    *,
    dtype: torch.dtype | None = None,
) -> None:
    """Write a state dict as safetensors, atomically, its hyper-parameters as JSON in the header.

    Args:
        dtype: of the real tensors; complex ones take the precision. Their own when not given.
    """
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    if dtype is not None:
        state = {key: to_precision(tensor, dtype) for key, tensor in state.items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"hyperparameters": json.dumps(hyperparameters)})


def read_hyperparameters(path: Path) -> Hyperparameters:
    """The hyper-parameters in the header of a checkpoint that `save_checkpoint` wrote.

    They are empty for a damaged file and for one without them.
    """
    try:
        with safe_open(path, framework="pt") as file:
            return dict(json.loads((file.metadata() or {}).get("hyperparameters", "{}")))
    except SafetensorError:
        return {}

"""Small zoos for tasks that are not one class for each image, on data that scikit-learn holds.

- diabetes: one number for each patient (regression);
- pixels: one class for each pixel of a digit, seen through noise (segmentation);
- properties: three yes-or-no labels for each digit (multi-label).
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from radin.checkpoints.zoo import Zoo
from radin.errors import ParameterError, check_integer
from radin.experiments.zoos.digits import zoo_paths
from radin.experiments.zoos.train import (
    Hyperparameters,
    build_seeded,
    read_hyperparameters,
    save_checkpoint,
)
from radin.files import hash_text
from radin.inference.devices import single_thread

NUM_TRAINING = {"diabetes": 222, "pixels": 897, "properties": 897}
NUM_VALIDATION = {"diabetes": 110, "pixels": 400, "properties": 400}
PIXEL_NOISE = 0.5  # standard deviation; ink is 1 and paper 0
STRONG_INK = 8  # of 16; fainter ink is a class of its own
PROPERTIES = {
    "even": (0, 2, 4, 6, 8),
    "more than four": (5, 6, 7, 8, 9),
    "closed loop": (0, 6, 8, 9),
}
BATCH_SIZE = 32
# Few patients are learned by heart soon, so this start stops early; its fine-tunes go on.
PRETRAINING: dict[str, Hyperparameters] = {
    "diabetes": {"lr": 1e-3, "epochs": 5},
    "pixels": {"lr": 3e-3, "epochs": 30},
    "properties": {"lr": 3e-3, "epochs": 30},
}


@dataclass(frozen=True)
class Task:
    """A task: its data, its network and its loss.

    Attributes:
        name: "diabetes", "pixels" or "properties".
        parts: "train", "val" and "test" to (input, label) pairs. The labels are numbers (n,) for
            diabetes, classes (n, 8, 8) for pixels, and zeros and ones (n, 3) for properties.
        build: returns an empty network.
        loss: of outputs and labels.
    """

    name: str
    parts: dict[str, TensorDataset]
    build: Callable[[], nn.Module]
    loss: Callable[[Tensor, Tensor], Tensor]


def other_task(name: str) -> Task:
    """A task by its name.

    Raises:
        ParameterError: another name than "diabetes", "pixels" or "properties".

    >>> from radin.experiments.zoos.other_tasks import other_task
    >>> inputs, targets = other_task("diabetes").parts["val"].tensors
    >>> inputs.shape, targets.dtype
    (torch.Size([110, 10]), torch.float32)
    """
    tasks = {"diabetes": _diabetes, "pixels": _pixels, "properties": _properties}
    if name not in tasks:
        raise ParameterError(f"task must be one of {', '.join(tasks)}, not {name!r}.")
    return tasks[name]()


def other_zoo(task: Task, num_models: int = 7, *, quick: bool = False) -> Zoo:
    """One network trained on a task, then fine-tuned `num_models` times at different rates.

    It is trained once and then found again under `RADIN_CACHE`.

    Args:
        task: what to train for.
        num_models: N, at least 1.
        quick: whether to train for a tenth of the epochs, for tests.

    >>> from radin.experiments.zoos.other_tasks import other_task, other_zoo
    >>> zoo = other_zoo(other_task("diabetes"), 2, quick=True)
    >>> zoo.names
    ['ingredient_00', 'ingredient_01']
    """
    num_models = check_integer("num_models", num_models, minimum=1)
    runs = [PRETRAINING[task.name], *_sweep(num_models)]
    if quick:
        runs = [{**run, "epochs": max(1, int(run["epochs"]) // 10)} for run in runs]
    inputs, labels = task.parts["train"].tensors
    content = (str(inputs.double().sum().item()), str(labels.double().sum().item()))
    key = hash_text("tasks-1", repr(task.build()), json.dumps([runs[0], _sweep(1)]), *content)
    paths = zoo_paths(f"{task.name}-{key[:16]}", num_models)
    for number, (path, run) in enumerate(zip(paths, runs, strict=True)):
        if path.exists() and read_hyperparameters(path) == run:
            continue
        model = build_seeded(task.build, 0)
        if number > 0:
            model.load_state_dict(dict(Zoo.open([paths[0]], progress=False)[0]))
        with single_thread():  # so that the weights do not depend on the number of cores
            _train(model, task, run, seed=number)
        save_checkpoint(model, path, run)
    return Zoo.open(paths[1:], build=task.build, init=paths[0], progress=False)


def _sweep(num_models: int) -> list[Hyperparameters]:
    """Rates from careful to reckless, and numbers of epochs."""
    rng = np.random.default_rng(0)
    return [
        {"lr": float(10 ** rng.uniform(-3.5, -2.3)), "epochs": int(rng.integers(10, 41))}
        for _ in range(num_models)
    ]


def _train(model: nn.Module, task: Task, run: Hyperparameters, *, seed: int) -> None:
    rng = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=run["lr"])
    inputs, labels = task.parts["train"].tensors
    for _ in range(int(run["epochs"])):
        for chosen in torch.randperm(len(inputs), generator=rng).split(BATCH_SIZE):
            optimizer.zero_grad()
            task.loss(model(inputs[chosen]), labels[chosen]).backward()
            optimizer.step()


def _parts(name: str, inputs: Tensor, labels: Tensor) -> dict[str, TensorDataset]:
    order = torch.randperm(len(inputs), generator=torch.Generator().manual_seed(0))
    num_training, num_validation = NUM_TRAINING[name], NUM_VALIDATION[name]
    sizes = [num_training, num_validation, len(inputs) - num_training - num_validation]
    return {
        part: TensorDataset(inputs[chosen], labels[chosen])
        for part, chosen in zip(("train", "val", "test"), order.split(sizes), strict=True)
    }


def _diabetes() -> Task:
    """The progress of the disease, of which the training patients have mean 0 and deviation 1."""
    from sklearn.datasets import load_diabetes

    data = load_diabetes()
    inputs = torch.from_numpy(data.data).float()
    parts = _parts("diabetes", inputs / inputs.std(0), torch.from_numpy(data.target).float())
    _, training = parts["train"].tensors
    middle, spread = training.mean(), training.std()
    parts = {
        part: TensorDataset(pairs.tensors[0], (pairs.tensors[1] - middle) / spread)
        for part, pairs in parts.items()
    }
    build = partial(_mlp, 10, 32, 1)
    return Task("diabetes", parts, build, lambda out, y: F.mse_loss(out.squeeze(1), y))


def _digits() -> tuple[Tensor, Tensor]:
    from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float(), torch.from_numpy(data.target)


def _pixels() -> Task:
    images, _ = _digits()
    labels = (images > 0).long() + (images >= STRONG_INK).long()
    noise = torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    inputs = (images / 16 + PIXEL_NOISE * noise).unsqueeze(1)
    return Task("pixels", _parts("pixels", inputs, labels), _pixel_network, F.cross_entropy)


def _properties() -> Task:
    images, digits = _digits()
    labels = torch.stack([torch.isin(digits, torch.tensor(d)) for d in PROPERTIES.values()], 1)
    parts = _parts("properties", images.flatten(1) / 16, labels.float())
    build = partial(_mlp, 64, 32, len(PROPERTIES))
    return Task("properties", parts, build, F.binary_cross_entropy_with_logits)


def _mlp(num_inputs: int, width: int, num_outputs: int) -> nn.Module:
    return nn.Sequential(
        nn.Linear(num_inputs, width),
        nn.GELU(),
        nn.Linear(width, width),
        nn.GELU(),
        nn.Linear(width, num_outputs),
    )


def _pixel_network() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 16, 3, padding=1),
        nn.GELU(),
        nn.Conv2d(16, 3, 1),
    )

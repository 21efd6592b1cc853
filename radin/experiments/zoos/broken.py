"""Zoos broken on purpose, one for each way in which souping fails."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from radin.checkpoints.checkpoint import open_checkpoint
from radin.checkpoints.zoo import Zoo
from radin.data.load import load_split
from radin.data.splits import ArraySplit
from radin.errors import ParameterError, check_seed, check_integer
from radin.experiments.networks import DigitsNet
from radin.experiments.zoos.digits import (
    PRETRAINING,
    digits_zoo,
    follow,
    shorten,
    sweep,
    train_missing,
    zoo_paths,
)
from radin.experiments.zoos.train import Hyperparameters, fresh, save_checkpoint, trained_with
from radin.files import hash_file, hash_text
from radin.inference.devices import pick_device
from radin.inference.predict import predict

KINDS: dict[str, str] = {
    "healthy": "Nothing is wrong: the ingredients of digits_zoo, for comparison.",
    "rate": "The learning rate was far too high, so the ingredients ended too far apart for an average to work.",
    "initialisation": "Every ingredient was trained from a random initialisation of its own.",
    "permuted": "The hidden units of all ingredients but the first are in another order; each computes what it did.",
    "batch_norm": "The network has batch norm, and averaged running statistics are not those of the soup.",
    "heads": "Every ingredient began with a large random head of its own, to which the shared body had to bend.",
    "sharp": "The least accurate ingredient is by far the most confident, so it outvotes all others in the ensemble.",
}

# Ingredients must be good alone, or bad soups would prove nothing. Trained with fresh noise at every step they are,
# even at far too high a rate.
STEADY: Hyperparameters = {"augment": 0.5, "noise": 0.6, "label_smoothing": 0.1, "mixup": 0.0}
RATE: Hyperparameters = {**STEADY, "lr": 2e-2, "epochs": 40}
# A body bends only to a head that is larger than it would have learned; different heads of torch's own size, 1,
# are no harm, because on one body the average of heads is the average of their logits.
HEADS: Hyperparameters = {**STEADY, "lr": 2e-3, "epochs": 40}
HEAD_SIZE = 3.0
# Batch norm hides the size of the weights before it, its running statistics do not: ingredients that decayed to
# different sizes are sound alone, and the average of their statistics fits no soup of theirs.
BATCH_NORM: Hyperparameters = {**STEADY, "lr": 5e-3, "epochs": 30}
DECAYS = (0.01, 3.0)
OWN_EPOCHS = 25  # of pretraining, where each ingredient has one of its own
SHARPNESS = 30.0


def broken_zoo(
    kind: str,
    num_models: int = 5,
    seed: int = 0,
    quick: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Zoo:
    """A zoo on the embedded digits whose soups fail in one known way, or the healthy one to compare it with.

    Made once and then found again under `RADIN_CACHE`. Every checkpoint is written as soon as it is
    there, so a killed run goes on where it stopped.

    Args:
        kind: one of `KINDS`, which says what is wrong with each.
        num_models: N, at least 1.
        seed: of the initialisation, the sweep, the order of the images and what the kind itself draws.
        quick: a tenth of the epochs, for tests; the ingredients are poor.
        device: "auto", "cpu" or "cuda".

    Returns: a Zoo with `build` and `init`; the `init` of "initialisation" is the first ingredient's own.

    Raises ParameterError for an unknown kind or an impossible number, seed or device.
    """
    makers: dict[str, Callable[[_Order], Zoo]] = {
        "healthy": lambda order: order.healthy(order.num_models),
        "rate": _rate,
        "initialisation": _initialisation,
        "permuted": _permuted,
        "batch_norm": _batch_norm,
        "heads": _heads,
        "sharp": _sharp,
    }
    if kind not in list(KINDS):  # a list, which has an answer for whatever cannot be a key too
        raise ParameterError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    num_models, seed = check_integer("num_models", num_models, minimum=1), check_seed(seed)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "no common start"
        )  # what is wrong with some of these is meant to be
        return makers[kind](_Order(kind, num_models, seed, quick, pick_device(device), progress))


@dataclass(frozen=True)
class _Order:
    """What `broken_zoo` was asked for, and the steps that several kinds share."""

    kind: str
    num_models: int
    seed: int
    quick: bool
    device: torch.device
    progress: bool

    def healthy(self, num_models: int) -> Zoo:
        return digits_zoo(num_models, self.seed, self.quick, str(self.device), self.progress)

    def sweep(self, changes: Hyperparameters | None = None) -> list[Hyperparameters]:
        return [{**run, **(changes or {})} for run in sweep(self.num_models, self.seed)]

    def paths(self, *determines: str) -> list[Path]:
        """Initialisation and ingredients; the folder's name holds what no header of a checkpoint says."""
        data = (_split("pretrain").fingerprint, _split("train").fingerprint)
        key = hash_text(
            "broken-1", str(self.seed), str(self.quick), self.device.type, *data, *determines
        )
        return zoo_paths(f"broken-{self.kind}-{key[:16]}", self.num_models)

    def pretrain(
        self, path: Path, run: Hyperparameters, build: Callable[[], DigitsNet], seed: int
    ) -> None:
        (run,) = shorten([run], self.quick)
        train_missing(
            path, run, lambda: fresh(build, seed).to(self.device), _split("pretrain"), seed
        )

    def tune(
        self, paths: list[Path], runs: list[Hyperparameters], start: Callable[[int], nn.Module]
    ) -> None:
        """Fine-tune from `start(number)` every ingredient that is not there yet."""
        bar = follow(paths, f"training the zoo {self.kind!r}", self.progress)
        for number, (path, run) in enumerate(zip(bar, shorten(runs, self.quick), strict=True)):

            def begin(number: int = number) -> nn.Module:
                return start(number).to(self.device)

            train_missing(path, run, begin, _split("train"), self.own_seed(number))

    def own_seed(self, number: int) -> int:
        """The seed of one ingredient, as in digits_zoo."""
        return 1000 * self.seed + number + 1

    def change(
        self, healthy: Zoo, paths: list[Path], change: Callable[[DigitsNet, int], None]
    ) -> Zoo:
        """The healthy ingredients, each after `change(model, number)`."""
        for number, path in enumerate(paths[1:]):
            note: Hyperparameters = {"number": number}
            if path.exists() and trained_with(path) == note:
                continue
            model = _load(DigitsNet(), healthy.paths[number])
            with torch.no_grad():
                change(model, number)
            save_checkpoint(model, path, note)
        return Zoo.open(paths[1:], build=DigitsNet, init=_init_of(healthy), progress=False)


def _rate(order: _Order) -> Zoo:
    init = _init_of(order.healthy(1))
    paths = order.paths(hash_file(init))[1:]
    order.tune(paths, order.sweep(RATE), lambda _: _load(DigitsNet(), init))
    return Zoo.open(paths, build=DigitsNet, init=init, progress=False)


def _heads(order: _Order) -> Zoo:
    init = _init_of(order.healthy(1))
    paths = order.paths(hash_file(init), str(HEAD_SIZE))[1:]

    def start(number: int) -> DigitsNet:
        model = _load(DigitsNet(), init)
        model.head = fresh(DigitsNet, order.own_seed(number)).head
        with torch.no_grad():
            model.head.weight.mul_(HEAD_SIZE)
        return model

    order.tune(paths, order.sweep(HEADS), start)
    return Zoo.open(paths, build=DigitsNet, init=init, progress=False)


def _initialisation(order: _Order) -> Zoo:
    run = {**PRETRAINING, "epochs": OWN_EPOCHS}
    paths = order.paths(repr(DigitsNet()), json.dumps(run))[1:]
    inits = [path.with_name(path.name.replace("ingredient", "init")) for path in paths]
    for number, path in enumerate(follow(inits, "training the initialisations", order.progress)):
        order.pretrain(path, run, DigitsNet, order.own_seed(number))
    order.tune(paths, order.sweep(), lambda number: _load(DigitsNet(), inits[number]))
    return Zoo.open(paths, build=DigitsNet, init=inits[0], progress=False)


def _batch_norm(order: _Order) -> Zoo:
    build = partial(DigitsNet, norm="batch")
    init, *paths = order.paths(repr(build()), json.dumps(PRETRAINING))
    order.pretrain(init, PRETRAINING, build, 1000 * order.seed)
    runs = order.sweep(BATCH_NORM)
    runs = [
        {**run, "weight_decay": DECAYS[number % len(DECAYS)]} for number, run in enumerate(runs)
    ]
    order.tune(paths, runs, lambda _: _load(build(), init))
    return Zoo.open(paths, build=build, init=init, progress=False)


def _permuted(order: _Order) -> Zoo:
    healthy = order.healthy(order.num_models)

    def change(model: DigitsNet, number: int) -> None:
        if number > 0:
            _permute(model, torch.Generator().manual_seed(order.own_seed(number)))

    return order.change(healthy, order.paths(*healthy.fingerprints), change)


def _permute(model: DigitsNet, rng: torch.Generator) -> None:
    """Put the channels of every layer in another order, and what reads them likewise: the function stays."""
    convolutions = [layer for layer in model.body if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in model.body if isinstance(layer, nn.GroupNorm)]
    before = torch.arange(1)  # the image's one channel
    for convolution, norm in zip(convolutions, norms, strict=True):
        channels = _shuffled_channels(norm, rng)
        convolution.weight.copy_(convolution.weight[:, before])
        for parameter in (*convolution.parameters(), *norm.parameters()):
            parameter.copy_(parameter[channels])
        before = channels
    blocks = model.head.weight.unflatten(
        1, (len(before), -1)
    )  # (10, channels, the places of one channel)
    model.head.weight.copy_(blocks[:, before].flatten(1))


def _shuffled_channels(norm: nn.GroupNorm, rng: torch.Generator) -> Tensor:
    """A random order that keeps together the channels that are normalised together."""
    size = norm.num_channels // norm.num_groups
    groups = torch.randperm(norm.num_groups, generator=rng)
    within = torch.stack([torch.randperm(size, generator=rng) for _ in groups])
    return (size * groups.unsqueeze(1) + within).flatten()


def _sharp(order: _Order) -> Zoo:
    healthy = order.healthy(order.num_models)
    bank = predict(healthy, _split("val"), device=str(order.device), cache=False, progress=False)
    least = int(bank.accuracies().argmin())

    def change(model: DigitsNet, number: int) -> None:
        if number == least:
            for parameter in model.head.parameters():
                parameter.mul_(SHARPNESS)

    return order.change(
        healthy, order.paths(*healthy.fingerprints, str(least), str(SHARPNESS)), change
    )


def _split(part: str) -> ArraySplit:
    split = load_split("digits", part)
    assert isinstance(split, ArraySplit)
    return split


def _init_of(zoo: Zoo) -> Path:
    """The file of a digits zoo's initialisation."""
    return zoo.paths[0].with_name("init.safetensors")


def _load(model: DigitsNet, path: Path) -> DigitsNet:
    model.load_state_dict(dict(open_checkpoint(path)))
    return model

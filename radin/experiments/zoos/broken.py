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
from radin.errors import ParameterError, check_integer, check_seed
from radin.experiments.networks import DigitsNet
from radin.experiments.zoos.digits import (
    PRETRAINING,
    digits_zoo,
    progress_bar,
    shorten_runs,
    sweep,
    train_missing,
    zoo_paths,
)
from radin.experiments.zoos.train import (
    Hyperparameters,
    build_seeded,
    read_hyperparameters,
    save_checkpoint,
)
from radin.files import hash_file, hash_text
from radin.inference.devices import pick_device
from radin.inference.predict import predict

KINDS: dict[str, str] = {
    "healthy": "Nothing is wrong: the ingredients of digits_zoo, for comparison.",
    "rate": "The learning rate was far too high, so the ingredients ended too far apart for an "
    "average to work.",
    "initialisation": "Every ingredient was trained from a random initialisation of its own.",
    "permuted": "The hidden units of all ingredients but the first are in another order; each "
    "ingredient still computes the same function.",
    "batch_norm": "The network has batch norm, and averaged running statistics are not those of "
    "the soup.",
    "heads": "Every ingredient began with a large random head of its own, to which the shared body "
    "had to adapt.",
    "sharp": "The least accurate ingredient is by far the most confident, so it outvotes all "
    "others in the ensemble.",
}

# Ingredients must be good alone, or bad soups would prove nothing. With fresh noise at every step
# they are good, even at far too high a rate.
NOISY: Hyperparameters = {"augment": 0.5, "noise": 0.6, "label_smoothing": 0.1, "mixup": 0.0}
HIGH_RATE: Hyperparameters = {**NOISY, "lr": 2e-2, "epochs": 40}
# A body adapts only to a head that is larger than the one it would have learned. Different heads of
# torch's own size do no harm, because on one body the average of heads gives the average of logits.
OWN_HEADS: Hyperparameters = {**NOISY, "lr": 2e-3, "epochs": 40}
HEAD_FACTOR = 3.0  # times torch's own initial weights
# Batch norm hides the size of the weights before it, its running statistics do not. Ingredients
# whose weights decayed to different sizes are good alone, and the average of their statistics fits
# none of their soups.
BATCH_NORM: Hyperparameters = {**NOISY, "lr": 5e-3, "epochs": 30}
WEIGHT_DECAYS = (0.01, 3.0)  # the ingredients take turns
OWN_PRETRAINING_EPOCHS = 25  # where each ingredient has an initialisation of its own
SHARP_FACTOR = 30.0  # times the logits of the sharp ingredient


def broken_zoo(
    kind: str,
    num_models: int = 5,
    *,
    seed: int = 0,
    quick: bool = False,
    device: str = "auto",
    progress: bool = True,
) -> Zoo:
    """A zoo on the embedded digits whose soups fail in one way, or the healthy one to compare with.

    It is made once and then found again under `RADIN_CACHE`. Every checkpoint is written as soon as
    it is trained, so an interrupted run continues where it stopped.

    Args:
        kind: one of `KINDS`, which says what is wrong with each.
        num_models: N, at least 1.
        seed: of the initialisation, the sweep, the order of the images and what the kind itself
            draws.
        quick: whether to train for a tenth of the epochs, for tests. The ingredients are poor.
        device: "auto", "cpu" or "cuda".
        progress: whether to show progress bars.

    Returns:
        A Zoo with `build` and `init`. The `init` of "initialisation" is that of the first
        ingredient.

    Raises:
        ParameterError: an unknown kind, or an impossible number, seed or device.
    """
    if kind not in list(KINDS):  # a list, because a kind that is no text may not be hashable
        raise ParameterError(f"kind must be one of {', '.join(KINDS)}, not {kind!r}.")
    request = _Request(
        kind=kind,
        num_models=check_integer("num_models", num_models, minimum=1),
        seed=check_seed(seed),
        quick=quick,
        device=pick_device(device),
        progress=progress,
    )
    with warnings.catch_warnings():
        # Some of these zoos have no common start on purpose.
        warnings.filterwarnings("ignore", "no common start")
        return _MAKERS[kind](request)


@dataclass(frozen=True, kw_only=True)
class _Request:
    """The arguments of `broken_zoo`, and the steps that several kinds share."""

    kind: str
    num_models: int
    seed: int
    quick: bool
    device: torch.device
    progress: bool

    def healthy(self, num_models: int) -> Zoo:
        return digits_zoo(
            num_models,
            seed=self.seed,
            quick=self.quick,
            device=str(self.device),
            progress=self.progress,
        )

    def sweep(self, changes: Hyperparameters | None = None) -> list[Hyperparameters]:
        return [{**run, **(changes or {})} for run in sweep(self.num_models, self.seed)]

    def paths(self, *weights_depend_on: str) -> list[Path]:
        """The paths of the initialisation and the ingredients.

        The folder's name is a hash of everything that the weights depend on and that no header of a
        checkpoint says.
        """
        data = (_split("pretrain").fingerprint, _split("train").fingerprint)
        key = hash_text(
            "broken-1", str(self.seed), str(self.quick), self.device.type, *data, *weights_depend_on
        )
        return zoo_paths(f"broken-{self.kind}-{key[:16]}", self.num_models)

    def pretrain(
        self, path: Path, run: Hyperparameters, build: Callable[[], DigitsNet], *, seed: int
    ) -> None:
        (run,) = shorten_runs([run], quick=self.quick)

        def start() -> nn.Module:
            return build_seeded(build, seed).to(self.device)

        train_missing(path, run, start, _split("pretrain"), seed=seed)

    def fine_tune(
        self, paths: list[Path], runs: list[Hyperparameters], start: Callable[[int], nn.Module]
    ) -> None:
        """Fine-tune from `start(number)` every ingredient that does not exist yet."""
        bar = progress_bar(paths, f"training the zoo {self.kind!r}", show=self.progress)
        runs = shorten_runs(runs, quick=self.quick)
        for number, (path, run) in enumerate(zip(bar, runs, strict=True)):

            def start_on_device(number: int = number) -> nn.Module:
                return start(number).to(self.device)

            seed = self.ingredient_seed(number)
            train_missing(path, run, start_on_device, _split("train"), seed=seed)

    def ingredient_seed(self, number: int) -> int:
        """The seed of one ingredient, as in digits_zoo."""
        return 1000 * self.seed + number + 1

    def change_weights(
        self, healthy: Zoo, paths: list[Path], change: Callable[[DigitsNet, int], None]
    ) -> Zoo:
        """The healthy ingredients, each after `change(model, number)`."""
        for number, path in enumerate(paths[1:]):
            header: Hyperparameters = {"number": number}
            if path.exists() and read_hyperparameters(path) == header:
                continue
            model = _load(DigitsNet(), healthy.paths[number])
            with torch.no_grad():
                change(model, number)
            save_checkpoint(model, path, header)
        return Zoo.open(paths[1:], build=DigitsNet, init=_init_path(healthy), progress=False)


def _healthy(request: _Request) -> Zoo:
    return request.healthy(request.num_models)


def _rate(request: _Request) -> Zoo:
    init = _init_path(request.healthy(1))
    paths = request.paths(hash_file(init))[1:]
    request.fine_tune(paths, request.sweep(HIGH_RATE), lambda _: _load(DigitsNet(), init))
    return Zoo.open(paths, build=DigitsNet, init=init, progress=False)


def _heads(request: _Request) -> Zoo:
    init = _init_path(request.healthy(1))
    paths = request.paths(hash_file(init), str(HEAD_FACTOR))[1:]

    def start(number: int) -> DigitsNet:
        model = _load(DigitsNet(), init)
        model.head = build_seeded(DigitsNet, request.ingredient_seed(number)).head
        with torch.no_grad():
            model.head.weight.mul_(HEAD_FACTOR)
        return model

    request.fine_tune(paths, request.sweep(OWN_HEADS), start)
    return Zoo.open(paths, build=DigitsNet, init=init, progress=False)


def _initialisation(request: _Request) -> Zoo:
    run = {**PRETRAINING, "epochs": OWN_PRETRAINING_EPOCHS}
    paths = request.paths(repr(DigitsNet()), json.dumps(run))[1:]
    inits = [path.with_name(path.name.replace("ingredient", "init")) for path in paths]
    bar = progress_bar(inits, "training the initialisations", show=request.progress)
    for number, path in enumerate(bar):
        request.pretrain(path, run, DigitsNet, seed=request.ingredient_seed(number))
    request.fine_tune(paths, request.sweep(), lambda number: _load(DigitsNet(), inits[number]))
    return Zoo.open(paths, build=DigitsNet, init=inits[0], progress=False)


def _batch_norm(request: _Request) -> Zoo:
    build = partial(DigitsNet, norm="batch")
    init, *paths = request.paths(repr(build()), json.dumps(PRETRAINING))
    request.pretrain(init, PRETRAINING, build, seed=1000 * request.seed)
    runs = [
        {**run, "weight_decay": WEIGHT_DECAYS[number % len(WEIGHT_DECAYS)]}
        for number, run in enumerate(request.sweep(BATCH_NORM))
    ]
    request.fine_tune(paths, runs, lambda _: _load(build(), init))
    return Zoo.open(paths, build=build, init=init, progress=False)


def _permuted(request: _Request) -> Zoo:
    healthy = request.healthy(request.num_models)

    def change(model: DigitsNet, number: int) -> None:
        if number > 0:
            rng = torch.Generator().manual_seed(request.ingredient_seed(number))
            _permute(model, rng)

    return request.change_weights(healthy, request.paths(*healthy.fingerprints), change)


def _permute(model: DigitsNet, rng: torch.Generator) -> None:
    """Reorder the channels of every layer, and the weights that read them: same function."""
    convolutions = [layer for layer in model.body if isinstance(layer, nn.Conv2d)]
    norms = [layer for layer in model.body if isinstance(layer, nn.GroupNorm)]
    before = torch.arange(1)  # the image's one channel
    for convolution, norm in zip(convolutions, norms, strict=True):
        channels = _shuffled_channels(norm, rng)
        convolution.weight.copy_(convolution.weight[:, before])
        for parameter in (*convolution.parameters(), *norm.parameters()):
            parameter.copy_(parameter[channels])
        before = channels
    by_channel = model.head.weight.unflatten(1, (len(before), -1))  # (10, channels, pixels)
    model.head.weight.copy_(by_channel[:, before].flatten(1))


def _shuffled_channels(norm: nn.GroupNorm, rng: torch.Generator) -> Tensor:
    """A random order that keeps together the channels that are normalised together."""
    size = norm.num_channels // norm.num_groups
    groups = torch.randperm(norm.num_groups, generator=rng)
    within = torch.stack([torch.randperm(size, generator=rng) for _ in groups])
    return (size * groups.unsqueeze(1) + within).flatten()


def _sharp(request: _Request) -> Zoo:
    healthy = request.healthy(request.num_models)
    bank = predict(healthy, _split("val"), device=str(request.device), cache=False, progress=False)
    worst = int(bank.accuracies().argmin())

    def change(model: DigitsNet, number: int) -> None:
        if number == worst:
            for parameter in model.head.parameters():
                parameter.mul_(SHARP_FACTOR)

    paths = request.paths(*healthy.fingerprints, str(worst), str(SHARP_FACTOR))
    return request.change_weights(healthy, paths, change)


_MAKERS: dict[str, Callable[[_Request], Zoo]] = {
    "healthy": _healthy,
    "rate": _rate,
    "initialisation": _initialisation,
    "permuted": _permuted,
    "batch_norm": _batch_norm,
    "heads": _heads,
    "sharp": _sharp,
}


def _split(part: str) -> ArraySplit:
    split = load_split("digits", part)
    assert isinstance(split, ArraySplit)
    return split


def _init_path(zoo: Zoo) -> Path:
    """The file of a digits zoo's initialisation."""
    return zoo.paths[0].with_name("init.safetensors")


def _load(model: DigitsNet, path: Path) -> DigitsNet:
    model.load_state_dict(dict(open_checkpoint(path)))
    return model

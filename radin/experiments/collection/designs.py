"""The designs of the collection: what the zoos of one kind have in common."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from torch import nn

from radin.errors import ParameterError
from radin.experiments.collection.data import NUM_CLASSES, NUM_FEATURES, Sizes
from radin.experiments.networks import DigitsNet, Mlp, SmallTransformer
from radin.experiments.zoos.train import Hyperparameters

MODERATE_RATES = (1e-4, 3e-3)  # those of `radin.experiments.zoos.digits.sweep`
WILD_RATES = (1e-4, 3e-2)  # up to ten times higher
CONV_WIDTH = 12  # channels of the first layer


@dataclass(frozen=True, kw_only=True)
class Design:
    """What the zoos of one design have in common.

    Attributes:
        name: of the design; its zoos are called `<name>-<three digits>`.
        data: "digits", "gratings" or "clusters".
        network: "conv", "mlp" or "transformer".
        num_models: N.
        rates: smallest and largest learning rate; drawn on a log scale.
        epochs: smallest and largest number of epochs.
        start_epochs: of the common start.
        sizes: examples in each part of the data.
        num_val: how many of the validation examples the recipes see.
        wrong_labels: the share of wrong labels among the fine-tuning examples.
    """

    name: str
    data: str = "digits"
    network: str = "conv"
    num_models: int = 10
    rates: tuple[float, float] = MODERATE_RATES
    epochs: tuple[int, int] = (20, 60)
    start_epochs: int = 50
    sizes: Sizes = field(default_factory=Sizes)
    num_val: int = 500
    wrong_labels: float = 0.0

    @property
    def start(self) -> Hyperparameters:
        """Hyper-parameters of the common start."""
        return {
            "lr": 2e-3,
            "weight_decay": 1e-2,
            "epochs": self.start_epochs,
            "augment": 0.5 if self.data == "digits" else 0.0,
            "noise": 0.0,
            "label_smoothing": 0.0,
            "mixup": 0.0,
        }

    def build(self) -> nn.Module:
        """An empty network."""
        return _NETWORKS[self.network](self)


def draw_runs(design: Design, rng: np.random.Generator) -> list[Hyperparameters]:
    """Random hyper-parameters of each ingredient.

    Digits are turned and moved as in `radin.experiments.zoos.digits.sweep`. A turned grating is
    another class, so the other data are not.
    """
    low, high = (math.log10(rate) for rate in design.rates)
    strengths = [0.0, 0.5, 1.0] if design.data == "digits" else [0.0]
    return [
        {
            "lr": float(10 ** rng.uniform(low, high)),
            "weight_decay": float(10 ** rng.uniform(-4, -0.5)),
            "epochs": int(rng.integers(design.epochs[0], design.epochs[1] + 1)),
            "augment": float(rng.choice(strengths)),
            "noise": float(rng.choice([0.0, 0.3, 0.6])),
            "label_smoothing": float(rng.choice([0.0, 0.1])),
            "mixup": float(rng.choice([0.0, 0.2, 0.4])),
        }
        for _ in range(design.num_models)
    ]


def zoo_name(design: Design, seed: int) -> str:
    """The name of one zoo."""
    return f"{design.name}-{seed:03d}"


def parse_zoo_name(name: str) -> tuple[Design, int]:
    """The design and the seed of a zoo.

    Raises:
        ParameterError: no zoo has this name.
    """
    prefix, _, digits = name.rpartition("-")
    found = [design for design in DESIGNS if design.name == prefix]
    if not found or len(digits) != 3 or not digits.isdecimal():
        raise ParameterError(
            f"No zoo is called {name!r}; a name is a design and three digits, as "
            f"{zoo_name(DESIGNS[0], 0)!r}. Designs: {', '.join(each.name for each in DESIGNS)}."
        )
    return found[0], int(digits)


def random_seed(name: str) -> int:
    """The seed of everything random in one zoo: other zoos have other data and other sweeps."""
    return zlib.crc32(name.encode())


class FourTokens(SmallTransformer):
    """The small transformer on patches of 4 x 4 pixels, which makes four tokens."""

    PATCH_PIXELS = 4


_NETWORKS: dict[str, Callable[[Design], nn.Module]] = {
    "conv": lambda design: DigitsNet(CONV_WIDTH),
    "mlp": lambda design: Mlp(
        NUM_FEATURES if design.data == "clusters" else 64, NUM_CLASSES[design.data], width=64
    ),
    "transformer": lambda design: FourTokens(),
}

DESIGNS = (
    Design(name="digits-conv"),
    Design(name="digits-conv-wild", rates=WILD_RATES),
    Design(name="digits-mlp", network="mlp"),
    Design(name="digits-mlp-wild", network="mlp", rates=WILD_RATES),
    Design(name="digits-transformer", network="transformer", num_models=8, start_epochs=100),
    Design(name="digits-few-labels", sizes=Sizes(train=50, val=100), num_val=100),
    Design(name="digits-wrong-labels", wrong_labels=0.3),
    Design(name="digits-conv-6", num_models=6),
    Design(name="digits-mlp-13", network="mlp", num_models=13),
    Design(name="gratings-conv", data="gratings", sizes=Sizes(val=1000, test=1000)),
    Design(
        name="clusters-mlp",
        data="clusters",
        network="mlp",
        sizes=Sizes(val=5000, test=2000),
    ),
)

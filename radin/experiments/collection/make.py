"""Making one zoo of the collection: data, start, ingredients, and all of its soups evaluated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radin.checkpoints.zoo import Zoo
from radin.data.splits import ArraySplit
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.tabulate import pack_bits
from radin.experiments.collection.data import draw_parts
from radin.experiments.collection.designs import Design, draw_runs, parse_zoo_name, random_seed
from radin.experiments.collection.soups import FlatNetwork, soup_answers
from radin.experiments.zoos.train import Hyperparameters, build_seeded, save_checkpoint, train
from radin.inference.devices import single_thread
from radin.ranking.bank import LogitBank
from radin.ranking.candidates import exhaustive


@dataclass(frozen=True)
class Answers:
    """What the soups of one zoo answer on one part, image by image.

    Attributes:
        logits: (N, n, C), of the ingredients.
        labels: (n,).
        right: (R, n) boolean, of the soups of all subsets, in the order of `exhaustive(N)`.
        losses: (R, n) negative log-likelihoods in nats.
    """

    logits: Tensor
    labels: Tensor
    right: Tensor
    losses: Tensor

    def take(self, count: int) -> Answers:
        """The same on the first `count` images."""
        return Answers(
            self.logits[:, :count],
            self.labels[:count],
            self.right[:, :count],
            self.losses[:, :count],
        )

    @property
    def table(self) -> Tensor:
        """(R, 2) accuracy in percent and mean negative log-likelihood."""
        percent = self.right.sum(1).double() * 100 / self.right.shape[1]
        return torch.stack([percent, self.losses.double().mean(1)], 1)


@dataclass(frozen=True)
class MadeZoo:
    """One zoo in memory.

    Attributes:
        name: of the zoo.
        design: of the zoo.
        start: (P,) parameters of the common start.
        ingredients: (N, P) parameters.
        runs: N hyper-parameters.
        val: all validation images; recipes see the first `design.num_val`.
        test: the test part.
        shifted: the blurred test part; None where inputs are not images.
        splits: the images of "val", the first `design.num_val`, and of "test".
    """

    name: str
    design: Design
    start: Tensor
    ingredients: Tensor
    runs: list[Hyperparameters]
    val: Answers
    test: Answers
    shifted: ArraySplit | None
    splits: dict[str, ArraySplit]

    def bench(self, num_val: int | None = None) -> SoupBench:
        """The soup bench, with the design's validation images or the first `num_val`."""
        val = self.val.take(self.design.num_val if num_val is None else num_val)
        parts = {"val": val, "test": self.test}
        moves = (self.ingredients - self.start).double()
        return SoupBench(
            LogitBank(val.logits, val.labels),
            LogitBank(self.test.logits, self.test.labels),
            {part: answers.table for part, answers in parts.items()},
            right={part: pack_bits(answers.right) for part, answers in parts.items()},
            manifest={
                "task_vectors": (moves @ moves.T).tolist(),
                "distances": (moves.norm(dim=1) / self.start.double().norm()).tolist(),
            },
        )

    def accuracies(self, weights: Tensor) -> Tensor:
        """The accuracy in percent of soups with any mixing weights (M, N), on val and test: (M, 2).

        The validation images are those that the recipes see.
        """
        network = FlatNetwork(self.design.build)
        found = []
        with single_thread():
            for part in ("val", "test"):
                split = self.splits[part]
                right, _ = soup_answers(
                    network, self.ingredients, weights, split.images, split.labels
                )
                found.append(right.double().mean(1) * 100)
        return torch.stack(found, 1)

    def open(self, folder: Path) -> Zoo:
        """The ingredients as a zoo of files, which are written into a folder."""
        network = FlatNetwork(self.design.build)
        paths = []
        for k, vector in enumerate(self.ingredients):
            network.vector.copy_(vector)
            path = folder / f"ingredient_{k:02d}.safetensors"
            save_checkpoint(network.model, path, self.runs[k])
            paths.append(path)
        return Zoo.open(paths, build=self.design.build, progress=False)

    def accuracies_of(self, state: Mapping[str, Tensor]) -> tuple[float, float]:
        """The accuracy in percent of a network of the zoo's architecture, on val and test."""
        network = FlatNetwork(self.design.build)
        vector = network.flatten([state])[0]
        val, test = (
            100 * (network.logits(vector, split.images).argmax(1) == split.labels).double().mean()
            for split in (self.splits["val"], self.splits["test"])
        )
        return val.item(), test.item()

    def shifted_accuracies(self, rows: Sequence[int]) -> Tensor:
        """The accuracy of some soups on the shifted part, in percent: (len(rows),).

        It is NaN where there is no such part.
        """
        if self.shifted is None:
            return torch.full((len(rows),), torch.nan)
        weights = exhaustive(len(self.ingredients))[list(rows)]
        network = FlatNetwork(self.design.build)
        with single_thread():
            right, _ = soup_answers(
                network, self.ingredients, weights, self.shifted.images, self.shifted.labels
            )
        return right.double().mean(1) * 100


def make_zoo(name: str) -> MadeZoo:
    """Train one zoo of the collection and evaluate all of its soups.

    The same name gives the same zoo again on the same processor and version of torch.

    Args:
        name: of a zoo, such as "digits-conv-000".

    Raises:
        ParameterError: no zoo has this name.
    """
    design, _ = parse_zoo_name(name)
    rng = np.random.default_rng(random_seed(name))
    data_seed, start_seed, order_seed = (int(seed) for seed in rng.integers(2**31, size=3))
    parts = draw_parts(design.data, design.sizes, wrong_labels=design.wrong_labels, seed=data_seed)
    runs = draw_runs(design, rng)
    with single_thread():
        start = build_seeded(design.build, start_seed)
        train(start, parts.pretrain, design.start, order_seed)
        states = []
        for number, run in enumerate(runs, start=1):
            model = design.build()
            model.load_state_dict(start.state_dict())
            states.append(train(model, parts.train, run, order_seed + number).state_dict())
        network = FlatNetwork(design.build)
        ingredients = network.flatten(states)
        val = _answers(network, ingredients, parts.val)
        test = _answers(network, ingredients, parts.test)
    return MadeZoo(
        name,
        design,
        start=network.flatten([start.state_dict()])[0],
        ingredients=ingredients,
        runs=runs,
        val=val,
        test=test,
        shifted=parts.shifted,
        splits={"val": parts.val.subset(list(range(design.num_val))), "test": parts.test},
    )


def _answers(network: FlatNetwork, ingredients: Tensor, split: ArraySplit) -> Answers:
    logits = torch.stack([network.logits(vector, split.images) for vector in ingredients])
    weights = exhaustive(len(ingredients))
    right, losses = soup_answers(network, ingredients, weights, split.images, split.labels)
    return Answers(logits, split.labels, right, losses)

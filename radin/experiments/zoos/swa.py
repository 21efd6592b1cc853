"""Stochastic weight averaging: the average along one training run, an ancestor of model soups."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from radin.data.batches import mixed_batches
from radin.data.splits import ArraySplit
from radin.errors import ParameterError, check_integer
from radin.experiments.zoos.train import Hyperparameters, train

DEFAULT_FLOOR = 0.2  # share of the learning rate that a run ends at, unless it says another


@dataclass(frozen=True)
class AveragedRun:
    """What `swa` returns.

    Attributes:
        model: the averaged model, in evaluation mode.
        last: the model at the end of the run, in evaluation mode: the result without averaging.
        snapshots: number of epochs after which the weights were added to the average.
        epochs: epochs of training that both models together cost.
    """

    model: nn.Module
    last: nn.Module
    snapshots: int
    epochs: int


def swa(
    model: nn.Module,
    split: ArraySplit,
    hyperparameters: Hyperparameters,
    seed: int,
    *,
    start: float = 0.5,
    batch_size: int = 32,
    progress: str = "",
) -> AveragedRun:
    """Train a model in place, and average its weights after every epoch beyond a first share.

    This is a reference to compare the recipes with, and not a recipe. A recipe chooses among the
    ingredients of a zoo, each from a run of its own. This averages along one run that it trains
    itself, so its cost is epochs of training and not evaluations. With batch norm it costs one more
    forward pass over the images, because the running statistics of an average must be measured.

    The learning rate must stay above zero, or the last snapshots are nearly the same and so is
    their average. An interrupted run starts again, because the average is not part of the state
    that `train` keeps.

    Args:
        model: where the run starts, on the device to train on. It becomes the last model.
        split: the training images.
        hyperparameters: as `radin.experiments.zoos.train.train` takes them. `floor`, the share of
            lr that the run ends at, is 0.2 when it is missing.
        seed: of the order of the images and of their augmentation.
        start: share of the epochs before the first snapshot, at least 0 and below 1.
        batch_size: images in a step.
        progress: the title of a progress bar. Without a title there is no bar.

    Raises:
        ParameterError: `start` or `floor` is out of range. Nothing is trained then.
        DataError: the loss is no longer finite.

    Source: Izmailov et al. 2018, algorithm 1, with one slow decay in place of cycles.
    """
    if not 0 <= start < 1:  # NaN fails this too
        raise ParameterError(
            f"start must be a share of the epochs, from 0 to below 1; it is {start!r}."
        )
    h = {"floor": DEFAULT_FLOOR, **hyperparameters}
    if not 0 < h["floor"] <= 1:
        raise ParameterError(
            "floor must be above 0 and at most 1, so that the snapshots differ; it is "
            f"{h['floor']!r}. Leave it out for {DEFAULT_FLOOR}."
        )
    epochs = check_integer("epochs", h["epochs"], minimum=1)
    skipped = math.floor(round(start * epochs, 9))  # rounded: 0.29 * 100 is a little below 29
    averaged = AveragedModel(model)  # averages the parameters; buffers are those of the last model

    def add_snapshot(epoch: int) -> None:
        if epoch > skipped:
            averaged.update_parameters(model)

    train(
        model,
        split,
        h,
        seed,
        batch_size=batch_size,
        after_epoch=add_snapshot,
        progress=progress,
    )
    device = next(model.parameters()).device
    update_bn(mixed_batches(split, batch_size, seed=seed), averaged.module, device)
    return AveragedRun(averaged.module.eval(), model, epochs - skipped, epochs)

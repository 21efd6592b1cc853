"""Stochastic weight averaging: the average along one training run, from which soups descend."""

from __future__ import annotations

import math
from dataclasses import dataclass

from torch import nn
from torch.optim.swa_utils import AveragedModel, update_bn

from radin.data.batches import mixed_batches
from radin.data.splits import ArraySplit
from radin.errors import ParameterError, check_integer
from radin.experiments.zoos.train import Hyperparameters, train

FLOOR = 0.2  # share of the learning rate that a run ends at, where its hyper-parameters do not say


@dataclass(frozen=True)
class AveragedRun:
    """What `swa` returns.

    Attributes:
        model: the averaged model, in evaluation mode.
        last: the model at the end of the run, in evaluation mode: what there is without averaging.
        snapshots: how many epochs' ends were averaged.
        epochs: epochs of training that both of them together cost.
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
    start: float = 0.5,
    batch_size: int = 32,
    progress: str = "",
) -> AveragedRun:
    """Train a model in place and average it as it stands at the end of every epoch after the first share.

    It is a reference beside the recipes and not one of them: a recipe chooses among the ingredients of a
    zoo, each from a run of its own, while this averages along one run that it trains itself. So its price
    is in epochs of training, not in evaluations: those of the run, and with batch norm one more forward
    pass over the images, since running statistics belong to no average until they are measured anew.

    The rate must stay above zero, or the last snapshots are nearly one point and their average is no other.
    A killed run starts afresh: the average is not part of the state that `train` keeps.

    Args:
        model: where the run starts, on the device to train on; ends as the last iterate.
        split: the training images.
        hyperparameters: as `radin.experiments.zoos.train.train` takes them; `floor`, the share of lr that the run ends
            at, is 0.2 where it is missing.
        seed: of the order of the images and of their augmentation.
        start: share of the epochs before the first snapshot, at least 0 and below 1.
        progress: the name of a progress bar; none without it.

    Raises:
        ParameterError: `start` or `floor` out of range, before anything is trained.
        DataError: the loss stops being finite.

    Source: Izmailov et al. 2018, algorithm 1, with one slow decay in place of cycles.
    """
    if not 0 <= start < 1:  # NaN fails this too
        raise ParameterError(
            f"start must be a share of the epochs, from 0 to below 1; it is {start!r}."
        )
    h = {"floor": FLOOR, **hyperparameters}
    if not 0 < h["floor"] <= 1:
        raise ParameterError(
            f"floor must be above 0 and at most 1, so that the snapshots differ; it is {h['floor']!r}. Leave it out "
            f"for {FLOOR}."
        )
    epochs = check_integer("epochs", h["epochs"], minimum=1)
    before = math.floor(round(start * epochs, 9))  # 0.29 * 100 is a little less than 29
    averaged = AveragedModel(model)  # the mean of the parameters; buffers are the last iterate's

    def snapshot(epoch: int) -> None:
        if epoch > before:
            averaged.update_parameters(model)

    train(model, split, h, seed, batch_size, after_epoch=snapshot, progress=progress)
    update_bn(
        mixed_batches(split, batch_size, seed), averaged.module, next(model.parameters()).device
    )
    return AveragedRun(averaged.module.eval(), model, epochs - before, epochs)

"""What zoos start from: pretrained networks, each with the way to build and to load it."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radin.checkpoints.checkpoint import open_checkpoint
from radin.data.load import load_split
from radin.data.splits import ArraySplit, in_memory
from radin.experiments.bench.shipped import PRETRAINED_FILE, shipped_root
from radin.experiments.networks import SmallResNet
from radin.experiments.pretrained import (
    LITE0_PACKAGE,
    MINILM_PACKAGE,
    EfficientNetLite0,
    EfficientNetLite0Upper,
    MiniLmClassifier,
    Package,
    lite0_body,
    lite0_upper,
    lower_features,
    minilm_encoder,
)
from radin.experiments.zoos.train import (
    Hyperparameters,
    build_seeded,
    read_hyperparameters,
    train_checkpoint,
)
from radin.files import cache_root, hash_file, hash_text

WIDTHS = (32, 64, 128)  # of the small network; thirteen of it in half precision are 8 MB
PRETRAINING_BATCH_SIZE = 128
PRETRAINING_PIXELS = 32  # edge of the images, for every copy of Tiny ImageNet
PRETRAINING_SEED = 0
# On Tiny ImageNet, for 200 classes. Light augmentation, because sixteen epochs cannot use more.
PRETRAINING: Hyperparameters = {
    "lr": 3e-3,
    "weight_decay": 5e-2,
    "epochs": 16,
    "warmup": 0.1,
    "augment": 0.4,
    "flip": 0.5,
    "colour": 0.0,
    "erase": 0.0,
    "noise": 0.0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
}


@dataclass(frozen=True, kw_only=True)
class Start:
    """A pretrained network that zoos are fine-tuned from.

    Attributes:
        build: an empty network for C classes. It has a linear layer `head`, and a method
            `features` that gives its input.
        body: the pretrained tensors without the head's, by their keys; by (device, progress).
        key: what the tensors depend on, for the names of folders in the cache.
        describe: the manifest's entry on the pretrained weights.
        dtype: of the ingredients' checkpoints.
        prepare: what a frozen part of the network makes of a batch of images, so that it is run
            only once for all soups; None where nothing is frozen.
    """

    build: Callable[[int], nn.Module]
    body: Callable[[torch.device, bool], Mapping[str, Tensor]]
    key: Callable[[torch.device, bool], str]
    describe: Callable[[], dict[str, Any]]
    dtype: torch.dtype
    prepare: Callable[[Tensor], Tensor] | None = None


def small_network(num_classes: int) -> SmallResNet:
    """The small residual network that this project pretrains itself."""
    return SmallResNet(num_classes, widths=WIDTHS)


def pretrained_checkpoint(device: torch.device, *, progress: bool) -> Path:
    """The small network trained on Tiny ImageNet.

    The shipped one is used as long as it was trained with `PRETRAINING`.
    """
    shipped = shipped_root() / PRETRAINED_FILE
    if shipped.exists() and read_hyperparameters(shipped) == PRETRAINING:
        return shipped
    split = _tiny_imagenet()
    key = hash_text(
        "tiny-imagenet-2",
        json.dumps(PRETRAINING),
        f"{small_network(1)!r} batch {PRETRAINING_BATCH_SIZE}",
        device.type,
        split.fingerprint,
    )
    path = cache_root() / "zoos" / f"tiny-imagenet-{key[:16]}" / PRETRAINED_FILE
    if not path.exists():
        model = build_seeded(partial(small_network, split.num_classes), PRETRAINING_SEED)
        train_checkpoint(
            model.to(device),
            split,
            PRETRAINING,
            PRETRAINING_SEED,
            path,
            batch_size=PRETRAINING_BATCH_SIZE,
            progress="pretraining on Tiny ImageNet" if progress else "",
        )
    return path


@cache
def _tiny_imagenet() -> ArraySplit:
    return in_memory(load_split("tiny-imagenet", "train", size=PRETRAINING_PIXELS))


def _small_body(device: torch.device, progress: bool) -> dict[str, Tensor]:
    pretrained = open_checkpoint(pretrained_checkpoint(device, progress=progress))
    return {key: tensor for key, tensor in pretrained.items() if not key.startswith("head.")}


def _small_key(device: torch.device, progress: bool) -> str:
    return hash_file(pretrained_checkpoint(device, progress=progress))


def _describe_small() -> dict[str, Any]:
    return {"data": "tiny-imagenet", "size": PRETRAINING_PIXELS, **PRETRAINING}


def _packaged(
    package: Package,
    build: Callable[[int], nn.Module],
    body: Callable[[], Mapping[str, Tensor]],
    prepare: Callable[[Tensor], Tensor] | None = None,
) -> Start:
    """A start whose weights come from a package."""
    return Start(
        build=build,
        body=lambda device, progress: body(),
        key=lambda device, progress: f"{package.name} {package.version}",
        describe=package.describe,
        dtype=torch.float32,
        prepare=prepare,
    )


STARTS = {
    "small-resnet": Start(
        build=small_network,
        body=_small_body,
        key=_small_key,
        describe=_describe_small,
        dtype=torch.float16,
    ),
    "efficientnet-lite0": _packaged(LITE0_PACKAGE, EfficientNetLite0, lite0_body),
    # The same with running statistics that follow the batches: what refreshing them is worth.
    "efficientnet-lite0-moving": _packaged(
        LITE0_PACKAGE, partial(EfficientNetLite0, moving_statistics=True), lite0_body
    ),
    "efficientnet-lite0-upper": _packaged(
        LITE0_PACKAGE, EfficientNetLite0Upper, lite0_upper, lower_features
    ),
    "minilm": _packaged(MINILM_PACKAGE, MiniLmClassifier, minilm_encoder),
}

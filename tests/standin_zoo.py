"""A stand-in for the published ingredients: the same network and files, trained on drawings.

With the drawings of `standin_images` it lets every step of the ImageNet experiment run on a machine
that has neither the images nor the published ingredients. Its numbers say nothing about ImageNet.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from radin.checkpoints.checkpoint import open_checkpoint
from radin.data.batches import batches
from radin.data.load import load_split
from radin.data.splits import CLIP, FolderSplit, Normalised
from radin.errors import CheckpointError, check_integer, check_seed
from radin.experiments.model_soups.experiment import network_builder
from radin.experiments.zoos.train import build_seeded
from radin.files import atomic_path, cache_root, hash_text
from radin.inference.devices import single_thread
from standin_images import NUM_CLASSES, keep_trained_classes

NUM_QUICK_BLOCKS = 2  # of its 12, for tests
NUM_WORDS = 16  # rows of the unused word embedding; the published files have 49,408, or 101 MB

# How an ingredient is made from the start that all share. The k-th takes k + 1 times the rate.
TRAIN_SHARE = 0.5  # of the training images, drawn for each ingredient
RIDGE_STRENGTH = 0.1  # of the regression that makes the head, relative to the features' mean square
HEAD_FACTOR = 20.0  # features of length 1 give logits too close together for cross-entropy
LEARNING_RATE = 5e-5
NUM_STEPS = 30
BATCH_SIZE = 32

_FORMAT = "standin-1"


def small_builder(*, quick: bool = False) -> Callable[[], nn.Module]:
    """A function that builds the published ingredients' network, `quick` with two of 12 blocks."""
    whole = network_builder()
    return partial(_keep_first_blocks, whole) if quick else whole


def _keep_first_blocks(build: Callable[[], nn.Module]) -> nn.Module:
    model = build()
    transformer = _image_tower(model).transformer
    transformer.resblocks = transformer.resblocks[:NUM_QUICK_BLOCKS]
    return model


def _image_tower(model: nn.Module) -> Any:
    return model.get_submodule("model.visual")


def make_ingredients(
    root: Path,
    num_models: int = 4,
    *,
    seed: int = 0,
    quick: bool = False,
    folder: Path | None = None,
    progress: bool = True,
) -> list[Path]:
    """Fine-tune checkpoints `model_<i>.pt` on the stand-in's training images.

    They have the keys of the published ones. All start from one random network. Each gets a head by
    ridge regression of the start's features on its own half of the images. Then some steps of
    gradient descent change the head and the layers after the last block: one core does no more in a
    minute. The tensors of the image tower and the head have their real shapes. The text part, which
    no image classifier uses, has the real names, and a vocabulary of 16 words.

    A complete file is kept, so an interrupted run continues where it stopped.

    Args:
        root: what `make_images` returned.
        num_models: N, at least 1. Each takes 350 MB.
        seed: of the start, the halves and the order of the images.
        quick: whether to use a network of two blocks, for tests. Each takes 75 MB.
        folder: of the files. By default one under `RADIN_CACHE`.
        progress: whether to show a progress bar.

    Returns:
        The N paths.
    """
    num_models = check_integer("num_models", num_models, minimum=1)
    seed = check_seed(seed)
    images = cast(FolderSplit, load_split("imagenet", "train", root))
    split = Normalised(keep_trained_classes(images), *CLIP)
    if folder is None:
        key = _cache_key(split, seed=seed, quick=quick)
        folder = cache_root() / "zoos" / f"standin-{key}"
    paths = [folder / f"model_{k}.pt" for k in range(num_models)]
    missing = [number for number, path in enumerate(paths) if not _is_complete(path)]
    if missing:
        with single_thread():  # so that the weights do not depend on the number of cores
            model = build_seeded(small_builder(quick=quick), 1000 * seed).eval()
            start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            tokens = _class_tokens(model, split)
            for number in tqdm(
                missing, desc="fine-tuning the stand-in", unit=" ingredients", disable=not progress
            ):
                model.load_state_dict(start)
                rate = LEARNING_RATE * (number + 1)
                own_seed = 1000 * seed + number + 1
                _fine_tune(_Tail(model), tokens, split.labels, rate=rate, seed=own_seed)
                _save(model, paths[number], seed)
    return paths


def _cache_key(split: Normalised, *, seed: int, quick: bool) -> str:
    recipe = (TRAIN_SHARE, RIDGE_STRENGTH, HEAD_FACTOR, LEARNING_RATE, NUM_STEPS, BATCH_SIZE)
    return hash_text(_FORMAT, str(recipe), str(seed), str(quick), split.fingerprint)[:16]


def _is_complete(path: Path) -> bool:
    try:
        return len(open_checkpoint(path)) > 0
    except CheckpointError:
        return False


class _Tail(nn.Module):
    """The layers after the last block of a network. It shares the network's parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        tower = _image_tower(model)
        self.ln_post: nn.Module = tower.ln_post
        self.proj: nn.Parameter = tower.proj
        self.head = cast(nn.Linear, model.get_submodule("classification_head"))

    def features(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.ln_post(tokens) @ self.proj, dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(tokens))
        return logits


@torch.no_grad()
def _class_tokens(model: nn.Module, split: Normalised) -> Tensor:
    """The class token of every image after the last block: (n, 768)."""
    tokens: list[Tensor] = []
    tower = _image_tower(model)
    hook = tower.ln_post.register_forward_pre_hook(
        lambda _, inputs: tokens.append(inputs[0][:, 0].clone())
    )
    for images, _ in batches(split, BATCH_SIZE):
        tower(images)
    hook.remove()
    return torch.cat(tokens)


def _fine_tune(tail: _Tail, tokens: Tensor, labels: Tensor, *, rate: float, seed: int) -> None:
    """Fit a head to a random share of the images, then fine-tune the tail on them, in place."""
    rng = torch.Generator().manual_seed(seed)
    own = torch.randperm(len(tokens), generator=rng)[: int(TRAIN_SHARE * len(tokens))]
    with torch.no_grad():
        weight, bias = _ridge(tail.features(tokens[own]), labels[own])
        tail.head.weight.copy_(HEAD_FACTOR * weight)
        tail.head.bias.copy_(HEAD_FACTOR * bias)
    optimizer = torch.optim.AdamW(tail.parameters(), weight_decay=0.1)
    for step in range(NUM_STEPS):
        for group in optimizer.param_groups:
            group["lr"] = rate * (1 - step / NUM_STEPS)
        batch = own[torch.randperm(len(own), generator=rng)[:BATCH_SIZE]]
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(tail(tokens[batch]), labels[batch], label_smoothing=0.1).backward()
        optimizer.step()


def _ridge(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (C, width) and bias (C,) of the ridge regression of labels on features (n, width)."""
    targets = F.one_hot(labels, NUM_CLASSES).float()
    mean = features.mean(0)
    base = targets.mean(0)
    centred = features - mean
    products = centred @ centred.T  # (n, n): there are fewer images than numbers in a feature
    strength = RIDGE_STRENGTH * products.diagonal().mean() * torch.eye(len(products))
    weight = torch.linalg.solve(products + strength, targets - base).T @ centred
    return weight, base - weight @ mean


def _save(model: nn.Module, path: Path, seed: int) -> None:
    """Write a state dict as the authors of Model soups did.

    It includes the text part, which is the same in all files.
    """
    rng = torch.Generator().manual_seed(seed)
    text_part = {
        "positional_embedding": torch.randn(77, 512, generator=rng),
        "text_projection": torch.randn(512, 512, generator=rng),
        "logit_scale": torch.tensor(100.0).log(),
        "token_embedding.weight": torch.randn(NUM_WORDS, 512, generator=rng),
        "ln_final.weight": torch.ones(512),
        "ln_final.bias": torch.zeros(512),
    }
    prefixed = {f"model.{name}": tensor for name, tensor in text_part.items()}
    state = {**model.state_dict(), **prefixed}
    # Through an open file, because torch would write the file's own name into it.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        torch.save(state, file)

"""A stand-in of the ImageNet experiment: its folders, network and checkpoints, with few images that a program draws.

Nothing that is measured on it says anything about ImageNet. It lets every step of the experiment run, on a machine
that has neither the images nor the published ingredients.
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

from radin.checkpoints.architectures import builder
from radin.checkpoints.checkpoint import open_checkpoint
from radin.data.batches import batches
from radin.data.load import load_split
from radin.data.splits import CLIP, Normalised
from radin.errors import CheckpointError, check_integer, check_seed
from radin.experiments.model_soups.standin_images import NUM_CLASSES, learned
from radin.experiments.zoos.train import fresh
from radin.files import atomic_path, cache_root, hash_text
from radin.inference.devices import single_thread

MODEL = "open_clip:ViT-B-32-quickgelu"  # the published ingredients' network
QUICK_BLOCKS = 2  # of its 12, where it has to be quick
VOCABULARY = 16  # rows of the unused word embedding; the published files have 49,408, which are 101 MB of each

# How an ingredient is made from the start that all share; the k-th takes k + 1 times the rate.
SHARE = 0.5  # of the training images, drawn for each ingredient
RIDGE = (
    0.1  # strength of the ridge regression that makes the head, beside the features' mean square
)
HEAD_SIZE = (
    20.0  # logits of features of length 1 lie close together; cross-entropy would see no difference
)
RATE, STEPS, BATCH = 5e-5, 30, 32

_FORMAT = "standin-1"


def build(quick: bool = False) -> Callable[[], nn.Module]:
    """A function that builds the ingredients' network, 88.4 million parameters; `quick` keeps two of its 12 blocks."""
    return (
        partial(_shortened, builder(MODEL, NUM_CLASSES)) if quick else builder(MODEL, NUM_CLASSES)
    )


def _shortened(whole: Callable[[], nn.Module]) -> nn.Module:
    model = whole()
    transformer = _visual(model).transformer
    transformer.resblocks = transformer.resblocks[:QUICK_BLOCKS]
    return model


def _visual(model: nn.Module) -> Any:
    """open_clip's image tower."""
    return model.get_submodule("model.visual")


def make_ingredients(
    root: Path,
    num_models: int = 4,
    seed: int = 0,
    quick: bool = False,
    folder: Path | None = None,
    progress: bool = True,
) -> list[Path]:
    """Checkpoints `model_<i>.pt` with the keys of the published ones, fine-tuned on the stand-in's training images.

    All start from one random network. Each gets a head by ridge regression of the start's features of its own half of
    the images, and then some steps of gradient descent, which move the head and what stands behind the last block:
    all that a minute of one core allows. The tensors of the image tower and the head have their real shapes; the
    text leftovers, which no image classifier uses, are there by name, and the vocabulary has 16 words.

    A file that is whole is kept, so a killed run goes on where it stopped.

    Args:
        root: what `make_images` returned.
        num_models: N, at least 1; 350 MB each.
        seed: of the start, the halves and the order of the images.
        quick: a network of two blocks, for tests; 75 MB each.
        folder: where the files lie; by default one under `RADIN_CACHE`.
        progress: whether to show bars.

    Returns: the N paths.
    """
    num_models, seed = check_integer("num_models", num_models, minimum=1), check_seed(seed)
    split = Normalised(learned(load_split("imagenet", "train", root)), *CLIP)  # type: ignore[arg-type]
    recipe = (SHARE, RIDGE, HEAD_SIZE, RATE, STEPS, BATCH)
    key = hash_text(_FORMAT, str(recipe), str(seed), str(quick), split.fingerprint)[:16]
    place = cache_root() / "zoos" / f"standin-{key}" if folder is None else folder
    paths = [place / f"model_{k}.pt" for k in range(num_models)]
    missing = [number for number, path in enumerate(paths) if not _is_whole(path)]
    if missing:
        with single_thread():  # also: the weights do not depend on the number of cores
            model = fresh(build(quick), 1000 * seed).eval()
            start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
            seen = _before_the_tail(model, split)
            for number in tqdm(
                missing, desc="fine-tuning the stand-in", unit=" ingredients", disable=not progress
            ):
                model.load_state_dict(start)
                _tune(_Tail(model), seen, split.labels, number, 1000 * seed + number + 1)
                _save(model, paths[number], seed)
    return paths


def _is_whole(path: Path) -> bool:
    try:
        return len(open_checkpoint(path)) > 0
    except CheckpointError:
        return False


class _Tail(nn.Module):
    """What stands behind the last block of a network; it shares the network's parameters."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        visual = _visual(model)
        self.ln_post: nn.Module = visual.ln_post
        self.proj: nn.Parameter = visual.proj
        self.head = cast(nn.Linear, model.get_submodule("classification_head"))

    def features(self, tokens: Tensor) -> Tensor:
        return F.normalize(self.ln_post(tokens) @ self.proj, dim=-1)

    def forward(self, tokens: Tensor) -> Tensor:
        logits: Tensor = self.head(self.features(tokens))
        return logits


@torch.no_grad()
def _before_the_tail(model: nn.Module, split: Normalised) -> Tensor:
    """The class token of every image behind the last block: (n, 768)."""
    seen: list[Tensor] = []
    visual = _visual(model)
    hook = visual.ln_post.register_forward_pre_hook(
        lambda _, inputs: seen.append(inputs[0][:, 0].clone())
    )
    for images, _ in batches(split, BATCH):
        visual(images)
    hook.remove()
    return torch.cat(seen)


def _tune(tail: _Tail, seen: Tensor, labels: Tensor, number: int, seed: int) -> None:
    """Fit a head to an ingredient's own share of the images, then fine-tune the tail on them, in place."""
    rng = torch.Generator().manual_seed(seed)
    mine = torch.randperm(len(seen), generator=rng)[: int(SHARE * len(seen))]
    with torch.no_grad():
        weight, bias = _ridge(tail.features(seen[mine]), labels[mine])
        tail.head.weight.copy_(HEAD_SIZE * weight)
        tail.head.bias.copy_(HEAD_SIZE * bias)
    optimizer = torch.optim.AdamW(tail.parameters(), weight_decay=0.1)
    for step in range(STEPS):
        for group in optimizer.param_groups:
            group["lr"] = RATE * (number + 1) * (1 - step / STEPS)
        some = mine[torch.randperm(len(mine), generator=rng)[:BATCH]]
        optimizer.zero_grad(set_to_none=True)
        F.cross_entropy(tail(seen[some]), labels[some], label_smoothing=0.1).backward()
        optimizer.step()


def _ridge(features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Weight (C, width) and bias (C,) of the ridge regression of one-hot labels on features (n, width)."""
    targets = F.one_hot(labels, NUM_CLASSES).float()
    mean, base = features.mean(0), targets.mean(0)
    centred = features - mean
    products = centred @ centred.T  # (n, n): there are fewer images than numbers in a feature
    strength = RIDGE * products.diagonal().mean() * torch.eye(len(products))
    weight = torch.linalg.solve(products + strength, targets - base).T @ centred
    return weight, base - weight @ mean


def _save(model: nn.Module, path: Path, seed: int) -> None:
    """Write a state dict as the authors of Model soups did, with text leftovers, which are the same in all files."""
    rng = torch.Generator().manual_seed(seed)
    leftovers = {
        "positional_embedding": torch.randn(77, 512, generator=rng),
        "text_projection": torch.randn(512, 512, generator=rng),
        "logit_scale": torch.tensor(100.0).log(),
        "token_embedding.weight": torch.randn(VOCABULARY, 512, generator=rng),
        "ln_final.weight": torch.ones(512),
        "ln_final.bias": torch.zeros(512),
    }
    state = {
        **model.state_dict(),
        **{f"model.{name}": tensor for name, tensor in leftovers.items()},
    }
    with (
        atomic_path(path) as temporary,
        open(temporary, "wb") as file,
    ):  # a file's own name would be among its bytes
        torch.save(state, file)

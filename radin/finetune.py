"""Making a zoo: one initialisation, then a random sweep of hyper-parameters."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from radin.data import ArraySplit, load_split
from radin.errors import DataError, check_seed, check_whole
from radin.files import atomic_path, cache_root, hash_text
from radin.models import DigitsNet
from radin.predict import pick_device, single_thread
from radin.zoo import Zoo, open_checkpoint

Hyperparameters = dict[str, float]

# The initialisation: no label smoothing or mixup, some augmentation, long enough to converge.
PRETRAINING: Hyperparameters = {
    "lr": 2e-3,
    "weight_decay": 1e-2,
    "epochs": 100,
    "augment": 0.5,
    "noise": 0.0,
    "label_smoothing": 0.0,
    "mixup": 0.0,
}


def sweep(num_models: int, seed: int = 0) -> list[Hyperparameters]:
    """Random hyper-parameters for `num_models` ingredients, after Wortsman et al. 2022, section 3.1.

    Learning rate and weight decay are drawn on a log scale, so a sweep holds timid and reckless runs
    alike. A longer sweep begins with a shorter one of the same seed.
    """
    rng = np.random.default_rng(seed)
    return [
        {
            "lr": float(10 ** rng.uniform(-4, math.log10(3e-3))),
            "weight_decay": float(10 ** rng.uniform(-4, -0.5)),
            "epochs": int(rng.integers(20, 81)),
            "augment": float(rng.choice([0.0, 0.5, 1.0])),  # 1: turned by 30 degrees, scaled by 25%, moved by 1 pixel
            "noise": float(rng.choice([0.0, 0.3, 0.6])),  # standard deviation of fresh noise at every step
            "label_smoothing": float(rng.choice([0.0, 0.1])),
            "mixup": float(rng.choice([0.0, 0.2, 0.4])),  # alpha of the Beta distribution; 0 is off
        }
        for _ in range(num_models)
    ]


def train(
    model: nn.Module, split: ArraySplit, hyperparameters: Hyperparameters, seed: int, batch_size: int = 32
) -> nn.Module:
    """Train a model in place with AdamW and one cosine decay, wherever its parameters lie; returns it.

    Raises DataError when the loss stops being finite.
    """
    h = hyperparameters
    epochs = check_whole("epochs", h["epochs"], least=1)
    device = next(model.parameters()).device
    rng = torch.Generator().manual_seed(seed)
    images, labels = split.images, F.one_hot(split.labels, split.num_classes).float()
    optimizer = torch.optim.AdamW(model.parameters(), lr=h["lr"], weight_decay=h["weight_decay"])
    steps = epochs * math.ceil(len(split) / batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    model.train()
    for _ in range(epochs):
        for chosen in torch.randperm(len(split), generator=rng).split(batch_size):
            x = augment(images[chosen], h["augment"], h["noise"], rng)
            x, y = mixup(x, labels[chosen], h["mixup"], rng)
            loss = F.cross_entropy(model(x.to(device)), y.to(device), label_smoothing=h["label_smoothing"])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    if not torch.isfinite(loss):
        raise DataError(f"Training diverged with {h}; lower the learning rate.")
    return model.eval()


def augment(images: Tensor, strength: float, noise: float, rng: torch.Generator) -> Tensor:
    """Turn, scale and move each image at random, then add Gaussian noise: (n, C, H, W) to the same shape.

    Args:
        strength: 0 leaves the geometry alone; 1 turns by up to 30 degrees, scales by 25%, moves by an eighth.
        noise: standard deviation.
    """
    n = len(images)
    if strength > 0:
        turn, scale, right, down = torch.rand(4, n, generator=rng).mul(2).sub(1).mul(strength)
        angle, scale = turn * math.pi / 6, 1 + scale / 4
        cosine, sine = angle.cos() * scale, angle.sin() * scale
        affine = torch.stack([cosine, -sine, right / 4, sine, cosine, down / 4], 1).view(n, 2, 3)
        grid = F.affine_grid(affine, list(images.shape), align_corners=False)
        images = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    if noise > 0:
        images = images + noise * torch.randn(images.shape, generator=rng)
    return images


def mixup(images: Tensor, targets: Tensor, alpha: float, rng: torch.Generator) -> tuple[Tensor, Tensor]:
    """Blend each image and its target (n, C) with another of the batch; the share is Beta(alpha, alpha)."""
    if alpha == 0:
        return images, targets
    # torch's Beta takes no generator, so numpy draws the share from a seed that the generator gives.
    share = float(np.random.default_rng(int(torch.randint(2**31, (1,), generator=rng))).beta(alpha, alpha))
    other = torch.randperm(len(images), generator=rng)
    return share * images + (1 - share) * images[other], share * targets + (1 - share) * targets[other]


def digits_zoo(
    num_models: int = 10, seed: int = 0, quick: bool = False, device: str = "auto", progress: bool = True
) -> Zoo:
    """The embedded zoo: one small network pretrained on digits, then fine-tuned `num_models` times.

    Made once and then found again under `RADIN_CACHE`. Every checkpoint is written as soon as it is
    trained, so a killed run goes on where it stopped; its header holds the hyper-parameters.

    Args:
        num_models: N, at least 1.
        seed: of the initialisation, the sweep and the order of the images.
        quick: a tenth of the epochs, for tests; the ingredients are poor.
        device: "auto", "cpu" or "cuda".

    Returns: a Zoo with `build` and `init`, ingredients named ingredient_00, ingredient_01, ...
    """
    num_models, seed = check_whole("num_models", num_models, least=1), check_seed(seed)
    chosen = pick_device(device)
    runs = [PRETRAINING, *sweep(num_models, seed)]
    if quick:
        runs = [{**run, "epochs": max(1, int(run["epochs"]) // 10)} for run in runs]
    pretrain, tune = load_split("digits", "pretrain"), load_split("digits", "train")
    assert isinstance(pretrain, ArraySplit)
    assert isinstance(tune, ArraySplit)
    # Whatever the weights depend on names the folder. The number of ingredients is not part of it, so that a
    # longer sweep takes over the ingredients of a shorter one; a sweep from other ranges shows in its first run.
    recipe = json.dumps([PRETRAINING, *sweep(1, seed)])
    data = (pretrain.fingerprint, tune.fingerprint)
    key = hash_text("digits-1", repr(DigitsNet()), recipe, str(seed), str(quick), chosen.type, *data)
    folder = cache_root() / "zoos" / f"digits-{key[:16]}"
    paths = [folder / "init.safetensors", *(folder / f"ingredient_{k:02d}.safetensors" for k in range(num_models))]
    for number, (path, run) in enumerate(
        zip(
            tqdm(paths, desc="training the digits zoo", disable=not progress or all(p.exists() for p in paths)),
            runs,
            strict=True,
        )
    ):
        if path.exists():
            continue
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            model = DigitsNet().to(chosen)
        if number > 0:
            model.load_state_dict(dict(open_checkpoint(paths[0])))
        with single_thread():  # also: the order of sums, and so the weights, does not depend on the number of cores
            train(model, tune if number > 0 else pretrain, run, seed=1000 * seed + number)
        save_checkpoint(model, path, run)
    return Zoo.open(paths[1:], build=DigitsNet, init=paths[0], progress=False)


def save_checkpoint(model: nn.Module, path: Path, hyperparameters: Hyperparameters) -> None:
    """Write a state dict as safetensors, atomically, its hyper-parameters as JSON in the header."""
    state = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata={"hyperparameters": json.dumps(hyperparameters)})

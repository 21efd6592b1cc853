"""What the tests of radin share: a zoo of tiny networks, a split, and slow, exact references."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from fractions import Fraction
from pathlib import Path

import torch
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from radin import LogitBank, Zoo
from radin.data.splits import ArraySplit

CLASSES = 3


def build() -> nn.Module:
    """An empty tiny network for images of 1 x 2 x 2 and three classes."""
    return nn.Sequential(nn.Flatten(), nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, CLASSES))


def state(seed: int) -> dict[str, Tensor]:
    """The state dict of one tiny network, the same for the same seed."""
    rng = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(tensor.shape, generator=rng)
        for key, tensor in build().state_dict().items()
    }


def save(tensors: object, path: Path) -> Path:
    """Write a checkpoint in the format that its suffix names."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".safetensors":
        save_file(tensors, path)
    else:
        torch.save(tensors, path)
    return path


def save_states(
    folder: Path, *states: dict[str, Tensor], suffix: str = ".safetensors"
) -> list[Path]:
    """Write state dicts as model_0, model_1, ... and return their paths."""
    return [save(tensors, folder / f"model_{k}{suffix}") for k, tensors in enumerate(states)]


def tiny_zoo(folder: Path, num_models: int = 3) -> Zoo:
    """A zoo of tiny networks, with `build` and `init`."""
    paths = save_states(folder, *(state(seed) for seed in range(num_models)))
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "no common start")  # random networks have none
        return Zoo.open(
            paths, build, init=save(state(99), folder / "init.safetensors"), progress=False
        )


def tiny_split(num_images: int = 20, seed: int = 0, part: str = "val") -> ArraySplit:
    """Random images for the tiny networks with random labels."""
    rng = torch.Generator().manual_seed(seed)
    images = torch.randn(num_images, 1, 2, 2, generator=rng)
    labels = torch.randint(CLASSES, (num_images,), generator=rng)
    return ArraySplit("tiny", part, images, labels, [str(c) for c in range(CLASSES)])


class Listed(Dataset):
    """A dataset of the plainest kind, which counts what is asked of it."""

    def __init__(self, split: ArraySplit) -> None:
        self.items = [split[i] for i in range(len(split))]
        self.asked: list[int] = []

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        self.asked.append(index)
        return self.items[index]


def random_bank(
    num_models: int = 3, num_images: int = 20, num_classes: int = 3, seed: int = 0
) -> LogitBank:
    """A bank of random logits and labels."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_models, num_images, num_classes, generator=rng)
    return LogitBank(logits, torch.randint(num_classes, (num_images,), generator=rng))


@st.composite
def tied_banks(draw: st.DrawFn) -> LogitBank:
    """Small banks full of ties: integer logits, equal models, each image at its own scale."""
    N, n, C = draw(st.integers(1, 5)), draw(st.integers(1, 6)), draw(st.integers(2, 4))
    half = draw(st.booleans())
    logits = draw(st.lists(st.integers(-2, 2), min_size=N * n * C, max_size=N * n * C))
    scale = draw(st.lists(st.integers(*((-8, 8) if half else (-60, 60))), min_size=n, max_size=n))
    tensor = torch.tensor(logits, dtype=torch.float32).view(N, n, C)
    if draw(st.booleans()):
        tensor[-1] = tensor[0]
    tensor = tensor * 2.0 ** torch.tensor(scale).view(1, n, 1)
    labels = draw(st.lists(st.integers(0, C - 1), min_size=n, max_size=n))
    return LogitBank(tensor.half() if half else tensor, torch.tensor(labels))


@st.composite
def mixing_weights(draw: st.DrawFn, num_models: int) -> Tensor:
    """Mixing weights (N,) in single precision, zeros among them."""
    parts = draw(st.lists(st.integers(0, 4), min_size=num_models, max_size=num_models).filter(any))
    return torch.tensor(parts, dtype=torch.float32) / sum(parts)


def exact_ensemble(bank: LogitBank, weights: Tensor) -> list[list[Fraction]]:
    """Logits (n, C) of the ensemble as fractions: nothing is rounded."""
    p = [Fraction(w) for w in weights.tolist()]
    logits = bank.logits.tolist()
    return [
        [
            sum(p[k] * Fraction(logits[k][i][c]) for k in range(len(p)))
            for c in range(bank.num_classes)
        ]
        for i in range(bank.num_images)
    ]


def exact_accuracy(bank: LogitBank, weights: Tensor) -> Fraction:
    """Accuracy of the ensemble in percent as a fraction; the lowest class wins a tie."""
    rows = exact_ensemble(bank, weights)
    right = sum(
        row.index(max(row)) == label for row, label in zip(rows, bank.labels.tolist(), strict=True)
    )
    return Fraction(100 * right, bank.num_images)


def run_python(code: str, *arguments: object, **environment: object) -> subprocess.Popen[str]:
    """Start Python on `code` in another process; `environment` is added to this one's."""
    helpers = f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
    return subprocess.Popen(
        [sys.executable, "-c", helpers + code, *map(str, arguments)],
        env=os.environ | {key: str(value) for key, value in environment.items()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen[str], code: int = 0) -> str:
    """Wait for a process, check its exit status, and return what it printed."""
    out, err = process.communicate(timeout=300)
    assert process.returncode == code, out + err
    return out


def files_below(folder: Path) -> list[str]:
    """Every file under a folder, hidden ones too: what a crash would have left shows here."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())

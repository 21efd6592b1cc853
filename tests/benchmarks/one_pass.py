"""One pass for many networks, against one loop for each: the entry fee on JPEG images.

    python tests/benchmarks/one_pass.py           # 10 minutes on two cores; more cases with a GPU
    python tests/benchmarks/one_pass.py --quick   # a tenth of the images, printed only

The peer is what one would write with torch and torchvision: for each network a DataLoader that
decodes with as many processes as there are cores. Both give the same accuracies, on the same
images, in the same process. Each case is written to `radin/experiments/results/one_pass.json` when
it is finished; a killed run continues with the next one.
"""

from __future__ import annotations

import argparse
import os
import platform
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader
from torchvision import datasets, transforms

import radin
from entries import Entries
from radin.checkpoints.architectures import builder
from radin.data.batches import batches
from radin.data.splits import CLIP, Normalised
from radin.experiments.networks import SmallResNet
from radin.inference.forward import half_dtype

OUT = Path(radin.__file__).parent / "experiments" / "results" / "one_pass.json"
NUM_NETWORKS = 13
NUM_CLASSES = 8
NUM_CORES = (
    len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
)
build_vit = builder("open_clip:ViT-B-32-quickgelu", 1000)


def build_small() -> nn.Module:
    return SmallResNet(NUM_CLASSES)


def write_images(folder: Path, count: int) -> None:
    """Smooth random photos of ImageNet's usual size, some 40 kB each, as val/<class>/<image>."""
    rng = np.random.default_rng(0)
    for i in range(count):
        class_folder = folder / "val" / f"class{i % NUM_CLASSES}"
        class_folder.mkdir(parents=True, exist_ok=True)
        pixels = Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).resize(
            (500, 375), Image.Resampling.BICUBIC
        )
        pixels.save(class_folder / f"{i:05}.jpg", quality=90)


def write_zoo(folder: Path, build: Callable[[], nn.Module], count: int) -> radin.Zoo:
    paths = []
    for seed in range(count):
        torch.manual_seed(seed)
        paths.append(folder / f"model_{seed}.safetensors")
        paths[-1].parent.mkdir(parents=True, exist_ok=True)
        save_file(build().state_dict(), paths[-1])
    return radin.Zoo.open(paths, build, progress=False)


def timed(work: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Seconds of the fastest of several runs, after one to warm up, and the last result."""
    spent, answer = [], work() if repeats > 1 else None
    for _ in range(repeats):
        start = time.perf_counter()
        answer = work()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        spent.append(time.perf_counter() - start)
    return min(spent), answer


def loop(zoo: radin.Zoo, folder: Path, size: int, batch: int, device: str) -> list[float]:
    """One pass over the files for each network."""
    steps = [
        transforms.Resize(size, transforms.InterpolationMode.BICUBIC),
        transforms.CenterCrop(size),
    ]
    data = datasets.ImageFolder(
        folder,
        transforms.Compose(
            [*steps, transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)]
        ),
    )
    found = []
    for k in range(len(zoo)):
        model, right = zoo.model(k).to(device), 0
        with torch.inference_mode():
            for images, labels in DataLoader(data, batch, num_workers=NUM_CORES):
                right += int((model(images.to(device)).argmax(1).cpu() == labels).sum())
        found.append(100 * right / len(data))
    return found


def many_networks(folder: Path, images: int, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """13 small networks at 32 pixels: decoding is what costs."""
    write_images(folder, images)
    zoo = write_zoo(folder, build_small, NUM_NETWORKS)
    split = radin.load_split(str(folder), "val", size=32)
    predict = partial(radin.predict, zoo, split, device, cache=False, progress=False)
    together, bank = timed(predict, repeats)
    apart, accuracies = timed(
        lambda: loop(zoo, folder / "val", 32, 256, device), max(1, repeats // 2)
    )
    mine, _ = timed(
        lambda: [
            radin.predict(zoo.subset([k]), split, device, cache=False, progress=False)
            for k in range(NUM_NETWORKS)
        ],
        1,
    )
    decode, _ = timed(lambda: list(batches(split, 256)), repeats)
    return {
        "networks": NUM_NETWORKS,
        "images": images,
        "seconds": together,
        "times_faster_than_a_loop": apart / together,
        "times_faster_than_radin_one_by_one": mine / together,
        "share_of_decoding": decode / together,
        "largest_difference_in_accuracy": max(
            abs(a - b) for a, b in zip(bank.accuracies().tolist(), accuracies, strict=True)
        ),
    }


def stage_two(folder: Path, images: int, repeats: int) -> dict[str, Any]:
    """Four soups evaluated in one pass, and one by one."""
    write_images(folder, images)
    zoo = write_zoo(folder, build_small, NUM_NETWORKS)
    split = radin.load_split(str(folder), "val", size=32)
    rows = list(radin.monte_carlo(NUM_NETWORKS, 4))
    evaluate = radin.evaluator(zoo, split, "cpu")
    together, found = timed(lambda: evaluate.many(rows), repeats)
    apart, again = timed(lambda: [evaluate(row) for row in rows], repeats)
    assert found == again
    return {
        "soups": 4,
        "images": images,
        "seconds": together,
        "times_faster_than_one_by_one": apart / together,
    }


def half_precision(folder: Path, images: int, repeats: int, device: str = "cpu") -> dict[str, Any]:
    """CLIP ViT-B/32 in its own precision and in half: time, and how many answers change."""
    write_images(folder, images)
    zoo = write_zoo(folder, build_vit, 1)
    split = Normalised(radin.load_split(str(folder), "val", size=224), *CLIP)
    banks: list[Tensor] = []
    seconds = []
    for half in (False, True):
        spent, bank = timed(
            partial(
                radin.predict,
                zoo,
                split,
                device,
                batch_size=32,
                cache=False,
                progress=False,
                half=half,
            ),
            repeats,
        )
        seconds.append(spent)
        banks.append(bank.logits[0])
    differ = (banks[0].argmax(1) != banks[1].argmax(1)).double().mean().item()
    spread = banks[0].std().item()
    return {
        "images": images,
        "dtype": str(half_dtype(torch.device(device))).removeprefix("torch."),
        "seconds": seconds[1],
        "times_faster_than_single": seconds[0] / seconds[1],
        "percent_of_images_with_another_answer": 100 * differ,
        "mean_change_in_standard_deviations": ((banks[0] - banks[1]).abs().mean() / spread).item(),
    }


def vit_on_gpu(folder: Path, images: int, repeats: int) -> dict[str, Any]:
    """13 CLIP ViT-B/32 on a GPU: the throughput of `predict` and of forward passes alone."""
    write_images(folder, images)
    zoo = write_zoo(folder, build_vit, NUM_NETWORKS)
    split = Normalised(radin.load_split(str(folder), "val", size=224), *CLIP)
    spent, _ = timed(
        partial(radin.predict, zoo, split, "cuda", cache=False, progress=False), repeats
    )
    models = [zoo.model(k).cuda() for k in range(NUM_NETWORKS)]
    batch = torch.randn(256, 3, 224, 224, device="cuda")

    def forward() -> None:
        with torch.inference_mode():
            for model in models:
                for _ in range(images // 256):
                    model(batch)

    pure, _ = timed(forward, repeats)
    pure *= images / (images // 256 * 256)
    return {
        "networks": NUM_NETWORKS,
        "images": images,
        "seconds": spent,
        "percent_of_pure_forward": 100 * pure / spent,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="a tenth of the images; nothing is kept"
    )
    quick = parser.parse_args().quick
    warnings.simplefilter("ignore")
    cases: dict[str, tuple[Callable[..., dict[str, Any]], int]] = {
        "many_networks": (many_networks, 2_000),
        "stage_two": (stage_two, 2_000),
        "half_precision": (half_precision, 256),
    }
    if torch.cuda.is_available():
        cases |= {
            "vit_on_gpu": (vit_on_gpu, 4_096),
            "half_precision_gpu": (partial(half_precision, device="cuda"), 4_096),
        }
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch) / "quick.json" if quick else OUT
        entries = Entries(
            out, f"{platform.machine()}, {NUM_CORES} cores, torch {torch.__version__}"
        )
        for name, (case, images) in cases.items():
            entries.measure(
                name,
                partial(
                    case, Path(scratch) / name, images // 10 if quick else images, 1 if quick else 3
                ),
            )


if __name__ == "__main__":
    main()

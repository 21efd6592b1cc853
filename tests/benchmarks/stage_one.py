"""Stage 1 against a plain loop, against AutoGluon, and against reading the logits: `make bench`.

The floor is one max-reduction over the same logits: any exact method must read them once.
Each case runs in its own process, floor and peer in the same process as radin. Finished cases are
kept in `_build/bench`, so that a killed run of the same code continues where it stopped. A complete
run writes `radin/experiments/results/stage_one.json`, which the book's chapter on stage 1 shows.

    python tests/benchmarks/stage_one.py          # all: 6 minutes, 20 GB of memory, 7 GB of disk
    python tests/benchmarks/stage_one.py --case subsets_single    # one of them, printed
    python tests/benchmarks/stage_one.py --quick  # a tenth of the images, into another file
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import hashlib
import json
import os
import platform
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

import radin
from radin.experiments.synthetic import synthetic_bank
from radin.files import atomic_path
from radin.ranking.margins import Moves

ROOT = Path(__file__).resolve().parent.parent.parent
WORK = ROOT / "_build" / "bench"
AUTOGLUON = Path(__file__).with_name("autogluon.txt")
Results = dict[str, Any]


def seconds(work: Callable[[], Any], repeats: int = 5) -> float:
    """The best of several runs, more of them when they are short, after one that does not count."""
    work()
    spent = [once(work) for _ in range(repeats)]
    while sum(spent) < 0.3 and len(spent) < 100:
        spent.append(once(work))
    return min(spent)


def once(work: Callable[[], Any]) -> float:
    wait_for_gpu()
    start = time.perf_counter()
    work()
    wait_for_gpu()
    return time.perf_counter() - start


def wait_for_gpu() -> None:
    if torch.cuda.is_initialized():
        torch.cuda.synchronize()


def floor_of(logits: Tensor) -> float:
    """Seconds for one max-reduction; of half precision as int16, for which torch is fast."""
    plain = (
        logits.view(torch.int16)
        if logits.dtype == torch.float16 and logits.device.type == "cpu"
        else logits
    )
    return seconds(lambda: plain.amax(-1))


def peak_beyond(work: Callable[[], Any]) -> int:
    """Peak bytes of anonymous memory of `work`, read every millisecond (Linux; else 0)."""
    status = Path("/proc/self/status")
    if not status.exists():
        return 0

    def anonymous() -> int:
        lines = status.read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("RssAnon"))

    with contextlib.suppress(
        OSError, AttributeError
    ):  # what was freed before is not to serve `work` unseen
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    peak, done, before = 0, threading.Event(), anonymous()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.001):
            peak = max(peak, anonymous() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        work()
    finally:
        done.set()
        watcher.join()
    return peak


def loop_each(bank: radin.LogitBank, candidates: Tensor, sample: int) -> tuple[float, float]:
    """Seconds to form each candidate's ensemble, and the largest difference from radin (points)."""
    chosen = candidates[
        torch.randperm(len(candidates), generator=torch.Generator().manual_seed(0))[:sample]
    ]
    chosen = chosen.to(bank.logits.device)
    logits = (
        bank.logits.float() if bank.logits.device.type == "cpu" else bank.logits
    )  # half is slower still on a CPU

    def accuracy(p: Tensor) -> float:
        right = torch.tensordot(p.to(logits.dtype), logits, dims=1).argmax(-1) == bank.labels
        return right.double().mean().item() * 100

    accuracy(chosen[0])
    start = time.perf_counter()
    found = torch.tensor([accuracy(p) for p in chosen], dtype=torch.float64)
    spent = time.perf_counter() - start
    return spent / len(chosen), (found - radin.fast_estimate(bank, chosen)).abs().max().item()


def against_loop(
    bank: radin.LogitBank, candidates: Tensor, sample: int, repeats: int = 5
) -> Results:
    def estimate() -> Tensor:
        return radin.fast_estimate(bank, candidates)

    tiny = radin.LogitBank(bank.logits[:, :8].cpu(), bank.labels[:8].cpu()).to(bank.logits.device)
    radin.fast_estimate(tiny, candidates)  # compiles
    memory = peak_beyond(estimate)
    own = seconds(estimate, repeats)
    floor = floor_of(bank.logits)
    each, apart = loop_each(bank, candidates, sample)
    return {
        "sizes": {
            "N": bank.num_models,
            "n": bank.num_images,
            "C": bank.num_classes,
            "M": len(candidates),
            "dtype": str(bank.logits.dtype).removeprefix("torch."),
            "device": bank.logits.device.type,
        },
        "seconds": own,
        "floor_seconds": floor,
        "times_floor": own / floor,
        "loop_seconds_each": each,
        "loop_candidates_timed": sample,
        "times_faster_than_loop": each * len(candidates) / own,
        "largest_difference_from_loop": apart,
        "memory_mib": memory / 2**20,
        "memory_share": memory / (bank.logits.numel() * bank.logits.element_size()),
        "single_accuracy": bank.accuracies().mean().item(),
        "ensemble_accuracy": radin.fast_estimate(
            bank, torch.full((1, bank.num_models), 1 / bank.num_models)
        ).item(),
    }


def subsets(images: int, dtype: torch.dtype, device: str = "cpu") -> Results:
    bank = synthetic_bank(13, images, 1000, dtype=dtype).to(device)
    return against_loop(bank, radin.exhaustive(13), sample=12)


def monte_carlo(images: int) -> Results:
    return against_loop(
        synthetic_bank(72, images, 1000), radin.monte_carlo(72, 10_000), sample=5, repeats=3
    )


def dirichlet(images: int) -> Results:
    return against_loop(synthetic_bank(13, images, 1000), radin.dirichlet(13, 8191), sample=12)


def few_classes(images: int) -> Results:
    return against_loop(synthetic_bank(13, images // 10, 10), radin.exhaustive(13), sample=200)


def digits(images: int) -> Results:
    zoo = radin.digits_zoo(progress=False)
    return against_loop(
        radin.predict(zoo, radin.load_split("digits", "val"), device="cpu"),
        radin.exhaustive(10),
        sample=200,
    )


def moves(images: int) -> Results:
    """All moves from a subset of half the ingredients, against scoring the candidates in full."""
    bank = synthetic_bank(13, images, 1000)
    counts = torch.tensor([1, 0] * 6 + [1])
    collected = seconds(lambda: Moves(bank), 3)
    search = Moves(bank)
    timed = {"add": search.add, "drop": search.drop, "swap": search.swap}
    result: Results = {"sizes": {"N": 13, "n": images, "C": 1000}, "collect_seconds": collected}
    one = radin.ranking.candidates.from_subsets(counts.unsqueeze(0))
    result["full_score_seconds"] = seconds(lambda: radin.fast_estimate(bank, one))
    for name, move in timed.items():
        result[f"{name}_seconds"] = seconds(lambda move=move: move(counts))
    result["swaps"] = int(search.swap(counts).isfinite().sum())
    return result


def likelihood(images: int) -> Results:
    bank, p = synthetic_bank(13, images // 10, 1000), radin.monte_carlo(13, 32)

    def loop() -> list[float]:
        logits = bank.logits.double()
        return [
            torch.nn.functional.cross_entropy(
                torch.tensordot(row, logits, dims=1), bank.labels
            ).item()
            for row in p.double() / p.double().sum(1, keepdim=True)
        ]

    own, peer = seconds(lambda: radin.fast_estimate(bank, p, "nll"), 3), seconds(loop, 3)
    found = radin.fast_estimate(bank, p, "nll")
    return {
        "sizes": {"N": 13, "n": images // 10, "C": 1000, "M": 32},
        "seconds": own,
        "loop_seconds": peer,
        "times_faster_than_loop": peer / own,
        "largest_difference_from_loop": (found - torch.tensor(loop(), dtype=torch.float64))
        .abs()
        .max()
        .item(),
    }


def caruana(images: int) -> Results:
    """25 greedy steps with replacement: radin on logits, AutoGluon on probabilities."""
    bank, steps = synthetic_bank(13, images, 1000), 25
    own = seconds(lambda: radin.greedy_path(bank, steps), 3)
    best = radin.fast_estimate(bank, radin.greedy_path(bank, steps)).max().item()
    folder = WORK / "autogluon"
    python = autogluon_python(folder)
    np.save(folder / "labels.npy", bank.labels.numpy())
    np.save(folder / "probabilities.npy", bank.logits.softmax(-1).numpy())
    try:
        done = subprocess.run(
            [python, Path(__file__).with_name("caruana_autogluon.py"), folder, str(steps)],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
    finally:
        (folder / "probabilities.npy").unlink()
    peer = json.loads(done.stdout.splitlines()[-1])
    return {
        "sizes": {"N": 13, "n": images, "C": 1000, "steps": steps},
        "seconds": own,
        "best_accuracy": best,
        "floor_seconds": floor_of(bank.logits),
        "autogluon": peer,
        "times_faster_than_autogluon": peer["seconds"] / own,
    }


def autogluon_python(folder: Path) -> Path:
    """The Python of AutoGluon's own environment, which is made on first use."""
    venv = folder / "venv"
    if not (venv / ".ready").exists():
        shutil.rmtree(venv, ignore_errors=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
        subprocess.run(
            [venv / "bin" / "python", "-m", "pip", "install", "-qq", "-r", AUTOGLUON], check=True
        )
        (venv / ".ready").touch()
    return venv / "bin" / "python"


def scaling(images: int) -> Results:
    """Seconds as one size grows and the others stay."""

    def curve(
        sizes: list[int],
        bank_of: Callable[[int], radin.LogitBank],
        candidates_of: Callable[[int], Tensor],
    ) -> list[Results]:
        points = []
        for size in sizes:
            bank, candidates = bank_of(size), candidates_of(size)
            own = seconds(
                lambda bank=bank, candidates=candidates: radin.fast_estimate(bank, candidates), 3
            )
            floor = floor_of(bank.logits)
            each, _ = loop_each(bank, candidates, 5)
            points.append(
                {
                    "size": size,
                    "seconds": own,
                    "floor_seconds": floor,
                    "loop_seconds": each * len(candidates),
                }
            )
        return points

    few, every = images // 10, radin.exhaustive(13)
    large = synthetic_bank(72, few, 100)
    return {
        "sizes": {"N": 13, "n": few, "C": 100, "M": 8191},
        "N": curve(
            [2, 4, 6, 8, 10, 12, 14, 16, 18],
            lambda N: synthetic_bank(N, few, 100),
            radin.exhaustive,
        ),
        "n": curve(
            [few // 16, few // 4, few, 4 * few],
            lambda n: synthetic_bank(13, n, 100),
            lambda n: every,
        ),
        "C": curve([10, 32, 100, 316, 1000], lambda C: synthetic_bank(13, few, C), lambda C: every),
        "M": curve(
            [100, 1000, 10_000, 100_000], lambda M: large, lambda M: radin.monte_carlo(72, M)
        ),
    }


CASES: dict[str, Callable[[int], Results]] = {
    "subsets_single": lambda images: subsets(images, torch.float32),
    "subsets_half": lambda images: subsets(images, torch.float16),
    "monte_carlo_72": monte_carlo,
    "dirichlet": dirichlet,
    "few_classes": few_classes,
    "digits": digits,
    "moves": moves,
    "likelihood": likelihood,
    "caruana": caruana,
    "scaling": scaling,
}
if torch.cuda.is_available():
    CASES["subsets_single_gpu"] = lambda images: subsets(images, torch.float32, "cuda")
    CASES["subsets_half_gpu"] = lambda images: subsets(images, torch.float16, "cuda")


def hardware() -> Results:
    names = [line.split(":")[1].strip() for line in cpu_lines() if line.startswith("model name")]
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return {
        "processor": names[0] if names else platform.machine(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "memory_gib": round(memory),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "date": time.strftime("%Y-%m-%d"),
        "python": platform.python_version(),
        "numba": version("numba"),
        "torch": torch.__version__,
        "system": platform.system(),
    }


def cpu_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text().splitlines() if path.exists() else []


def code() -> str:
    """A fingerprint of the code that is measured."""
    files = sorted([*(ROOT / "radin").rglob("*.py"), *Path(__file__).parent.glob("*")])
    return hashlib.sha256(
        b"".join(path.read_bytes() for path in files if path.is_file())
    ).hexdigest()[:16]


def run_all(quick: bool) -> None:
    """Run the cases that are not done, each in its own process; then write table and file."""
    path = WORK / f"{'quick' if quick else 'stage_one'}-{code()}.json"
    results: Results = (
        json.loads(path.read_text()) if path.exists() else {"hardware": hardware(), "cases": {}}
    )
    for name in CASES:
        if name in results["cases"]:
            continue
        print(f"{name} ...", end=" ", flush=True)
        start = time.monotonic()
        command = [sys.executable, __file__, "--case", name, *(["--quick"] if quick else [])]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise SystemExit(
                f"error: the case {name} failed (see above); the others are kept in {path}"
            )
        results["cases"][name] = json.loads(done.stdout.splitlines()[-1])
        write(results, path)
        print(f"{time.monotonic() - start:.0f} s", flush=True)
    print(table(results))
    final = (
        WORK / "quick.json"
        if quick
        else ROOT / "radin" / "experiments" / "results" / "stage_one.json"
    )
    write(results, final)
    path.unlink()  # the next run measures again
    print(final)


def write(results: Results, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(results, indent=1) + "\n")


def table(results: Results) -> str:
    lines = [f"{'case':20} {'seconds':>9} {'x floor':>8} {'x faster than its peer':>24} {'MiB':>7}"]
    for name, case in results["cases"].items():
        faster = case.get("times_faster_than_loop") or case.get("times_faster_than_autogluon")
        cells = [
            (case.get("seconds"), 9, ".4f"),
            (case.get("times_floor"), 8, ".2f"),
            (faster, 24, ",.0f"),
        ]
        text = " ".join(
            f"{value:{width}{form}}" if value else " " * width for value, width, form in cells
        )
        memory = f"{case['memory_mib']:7.1f}" if "memory_mib" in case else ""
        lines.append(f"{name:20} {text} {memory}")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Benchmarks of stage 1.", allow_abbrev=False)
    parser.add_argument("--case", choices=CASES, help="run this case alone and print its results")
    parser.add_argument("--quick", action="store_true", help="a tenth of the images")
    options = parser.parse_args()
    images = 5000 if options.quick else 50_000
    if options.case:
        print(json.dumps(CASES[options.case](images)))
    else:
        run_all(options.quick)


if __name__ == "__main__":
    main()

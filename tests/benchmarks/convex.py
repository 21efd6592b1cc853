"""The convex candidate beside one pass over its bank, in the same run.

A made-up bank in half precision is written to disk and mapped from there. One pass is the negative
log-likelihood of one ensemble, which reads every logit once (`fast_estimate`); a plain sum of all
logits is beside it. Seconds of the processor do not depend on what else the machine does.

    python tests/benchmarks/convex.py                                # 13 x 50,000 x 1,000
    python tests/benchmarks/convex.py --models 72 --images 5000
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch

from radin import LogitBank, fast_estimate
from radin.ranking.convex import ConvexCandidate, convex_candidate

BLOCK_IMAGES = 500
REPEATS = 3


class Cost(NamedTuple):
    """Seconds of a clock and of the processor."""

    wall: float
    processor: float


def made_up_bank(num_models: int, num_images: int, num_classes: int) -> LogitBank:
    """Fine-tuned models of one start: they share most of their errors, and some are better."""
    rng = torch.Generator().manual_seed(0)
    labels = torch.randint(num_classes, (num_images,), generator=rng)
    logits = torch.empty(num_models, num_images, num_classes, dtype=torch.float16)
    quality = torch.linspace(0.6, 1.2, num_models)
    for start in range(0, num_images, BLOCK_IMAGES):
        own = labels[start : start + BLOCK_IMAGES]
        shared = 2 * torch.randn(len(own), num_classes, generator=rng)
        lead = 11 + 4 * torch.randn(len(own), generator=rng)
        for k in range(num_models):
            noise = torch.randn(len(own), num_classes, generator=rng)
            block = shared + (0.6 + 0.06 * (k % 13)) * noise
            block[torch.arange(len(own)), own] += quality[k] * lead
            logits[k, start : start + len(own)] = block.half()
    return LogitBank(logits, labels)


def cost_of(work: Callable[[], object]) -> Cost:
    began = time.perf_counter(), time.process_time()
    work()
    return Cost(time.perf_counter() - began[0], time.process_time() - began[1])


def kib(key: str) -> int:
    return int(Path("/proc/self/status").read_text().split(key + ":")[1].split()[0])


def row(name: str, cost: Cost, one_pass: Cost) -> str:
    ratios = [mine / its for mine, its in zip(cost, one_pass, strict=True)]
    return (
        f"{name:<28}{cost.wall:>10.2f}{cost.processor:>12.2f}{ratios[0]:>14.2f}{ratios[1]:>14.2f}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", type=int, default=13)
    parser.add_argument("--images", type=int, default=50_000)
    parser.add_argument("--classes", type=int, default=1_000)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    convex_candidate(made_up_bank(3, 40, 10))  # loads what is needed once
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "bank.safetensors"
        made_up_bank(options.models, options.images, options.classes).save(path)
        measure(LogitBank.load(path))


def measure(bank: LogitBank) -> None:
    uniform = torch.full((1, bank.num_models), 1 / bank.num_models)
    anonymous = kib("RssAnon")
    passes = [cost_of(lambda: fast_estimate(bank, uniform, "nll")) for _ in range(REPEATS)]
    one_pass = Cost(*(min(costs) for costs in zip(*passes, strict=True)))
    found: list[ConvexCandidate] = []
    cost = cost_of(lambda: found.append(convex_candidate(bank)))
    memory = kib("RssAnon") - anonymous
    total = cost_of(lambda: [block.float().sum() for block in bank.logits.split(16, dim=1)])
    N, n, C = bank.logits.shape
    print(
        f"{N} x {n:,} x {C:,}, {bank.logits.nbytes / 2**30:.2f} GiB in half precision, "
        f"{torch.get_num_threads()} threads"
    )
    print(f"{'':<28}{'seconds':>10}{'processor':>12}{'passes':>14}{'by processor':>14}")
    print(row("a sum of all logits", total, one_pass))
    print(row("one ensemble's likelihood", one_pass, one_pass))
    print(row("convex_candidate", cost, one_pass))
    (candidate,) = found
    print(
        f"read the bank {candidate.passes:.2f} times, gap {candidate.gap:.1e} nats, "
        f"{int((candidate.weights > 0).sum())} of {N} ingredients; "
        f"{memory / 2**10:.0f} MiB of memory beside the mapped bank"
    )


if __name__ == "__main__":
    main()

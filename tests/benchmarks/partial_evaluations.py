"""Evaluations on a share of the images beside whole ones, on every shipped soup bench.

For each bench and each of some samples of images, every soup is estimated from the share that the
first soup of RADIN's order asks for. The table says how much of the images that is, how the
estimates rank the soups, how often their 95% intervals hold the whole evaluation, and whether RADIN
would return the same soup at budgets of 2 to 16 evaluations.

    python tests/benchmarks/partial_evaluations.py                   # share 0.3, 40 samples each
    python tests/benchmarks/partial_evaluations.py --share 0.2 --fixed
"""

from __future__ import annotations

import argparse
import math

import numpy as np
from scipy.stats import spearmanr
from torch import Tensor

from radin import SoupBench
from radin.experiments.bench import replay
from radin.experiments.bench.shipped import shipped_benches
from radin.inference.partial import MAX_NOISE_RATIO, PartialEvaluations
from radin.ranking.named_metrics import ACCURACY
from radin.ranking.rank import ensemble_answers
from radin.recipes.rules import best_so_far

BUDGETS = range(2, 17)
HEADER = (
    "bench",
    "soups",
    "share",
    "rank corr.",
    "lowest",
    "bias",
    "error",
    "coverage",
    "same",
    "test",
)


class Tabulated(PartialEvaluations):
    """Evaluations whose ensembles are computed once for all samples of images."""

    table: Tensor  # (M, n), of the soups in their order

    def _ensembles(self, rows: Tensor) -> Tensor:
        return self.table[:1] if len(rows) == 1 else self.table[1:]  # the first soup comes alone


def one_sample(
    bench: SoupBench, rows: np.ndarray, ensembles: Tensor, right: Tensor, **options: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """The share in use, and estimates and standard errors of the soups in these rows."""
    evaluations = Tabulated(bench.val, ACCURACY, **options)
    evaluations.table = ensembles

    def look_up(soups, images):
        values = right[list(soups)]
        return 100 * (values if images is None else values[:, images]).double()

    estimates = evaluations.evaluate(list(bench.candidates[rows]), look_up)
    errors = [each.standard_error for each in evaluations.evaluations]
    return evaluations.share, np.array(estimates), np.array(errors)


def measure(name: str, *, share: float, samples: int, max_noise_ratio: float) -> list[str]:
    """A row of the table: points of accuracy, and fractions."""
    bench = SoupBench.load(name)
    rows = replay.order(bench)  # the first is the soup that is run on all images
    rows = rows[[(bench.sizes[row] > 1).item() for row in rows]]
    whole = bench.soups("val").numpy()[rows]
    test = bench.soups("test").numpy()[rows]
    right = bench.right("val", rows.tolist())
    ensembles = 100 * ensemble_answers(bench.val, bench.candidates[rows])[0].double()
    correlations, off, covered, same, lost, shares = [], [], [], [], [], []
    for seed in range(samples):
        used, estimates, errors = one_sample(
            bench,
            rows,
            ensembles,
            right,
            share=share,
            seed=seed,
            max_noise_ratio=max_noise_ratio,
        )
        shares.append(used)
        correlations.append(spearmanr(estimates[1:], whole[1:]).statistic)
        off.append(estimates[1:] - whole[1:])
        covered.append(np.abs(off[-1]) <= 1.96 * errors[1:] + 1e-9)
        for budget in BUDGETS:
            ours, theirs = (best_so_far(v[:budget])[-1] for v in (estimates, whole))
            same.append(whole[ours] == whole[theirs])
            lost.append(test[theirs] - test[ours])
    return [
        name,
        f"{len(rows)}",
        f"{np.mean(shares):.2f}",
        f"{np.mean(correlations):.4f}",
        f"{np.min(correlations):.4f}",
        f"{np.mean(off):+.4f}",
        f"{np.std(off):.3f}",
        f"{np.mean(covered):.3f}",
        f"{np.mean(same):.3f}",
        f"{np.mean(lost):+.4f}",
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--share", type=float, default=0.3)
    parser.add_argument("--samples", type=int, default=40)
    parser.add_argument("--fixed", action="store_true", help="a share that never grows")
    parser.add_argument("--benches", nargs="*", default=shipped_benches())
    options = parser.parse_args()
    ratio = math.inf if options.fixed else MAX_NOISE_RATIO
    print("  ".join(f"{head:>17}" if head == "bench" else f"{head:>10}" for head in HEADER))
    for name in options.benches:
        row = measure(name, share=options.share, samples=options.samples, max_noise_ratio=ratio)
        print("  ".join(f"{cell:>{10 if k else 17}}" for k, cell in enumerate(row)), flush=True)


if __name__ == "__main__":
    main()

"""A soup bench in NumPy alone, as the page reads it from a file of static arrays."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import IO, Any

import numpy as np

from radin_lite import Array, LogitBank, OffGridError, check_weights

NORMAL_QUANTILE = 1.959963984540054  # at 97.5%


class SoupBench:
    """A zoo whose 2^N - 1 soups are evaluated: an evaluation is a look-up.

    Args:
        val: the validation bank.
        soup_val, soup_test: (2^N - 1,) on how many images each soup is right.
        right: (2^N - 1, ceil(num_test / 8)) whether, test image by test image, packed.
        num_test: test images.
    """

    def __init__(
        self, val: LogitBank, soup_val: Array, soup_test: Array, right: Array, num_test: int
    ) -> None:
        self.val = val
        self.num_models = val.num_models
        self.soup_val = soup_val.astype(np.float64) * 100 / val.num_images
        self.soup_test = soup_test.astype(np.float64) * 100 / num_test
        self._right = right
        self._num_test = num_test

    @classmethod
    def read(cls, file: IO[bytes]) -> SoupBench:
        """A bench from a file of arrays, which book/tools/recipe_page.py writes."""
        arrays = np.load(file)
        bank = LogitBank(arrays["logits"], arrays["labels"])
        return cls(
            bank,
            arrays["soup_val"],
            arrays["soup_test"],
            arrays["right"],
            num_test=int(arrays["num_test"]),
        )

    def row(self, weights: Any) -> int:
        """The row of a subset. Raises OffGridError for a soup that was never evaluated."""
        p = check_weights(weights, self.num_models)
        used = p > 0
        if not np.allclose(p[used], p[used].mean(), rtol=1e-4, atol=0):
            raise OffGridError(
                "This soup is not in the bench: it holds subsets with equal weights only. "
                f"The weights were {[round(float(weight), 4) for weight in p]}."
            )
        return sum(1 << k for k in np.flatnonzero(used).tolist()) - 1

    def evaluator(self) -> Callable[[Any], float]:
        """A function from mixing weights (N,) to the soup's validation accuracy in percent."""
        return lambda weights: float(self.soup_val[self.row(weights)])

    def regret(self, weights: Any) -> float:
        """Test accuracy of the best soup on test minus this soup's, in points."""
        return float(self.soup_test.max() - self.soup_test[self.row(weights)])

    def difference(self, weights: Any, others: Any) -> tuple[float, float, float]:
        """Test accuracy of one soup minus that of another, with its paired 95% interval."""
        one, other = (self._answers(self.row(each)) for each in (weights, others))
        return paired_interval(one, other)

    def _answers(self, row: int) -> Array:
        return np.unpackbits(self._right[row], count=self._num_test).astype(bool)


def paired_interval(one: Array, other: Array) -> tuple[float, float, float]:
    """Accuracy of one minus that of another (n,) on the same images: points, low, high."""
    n = len(one)
    only_one = int((one & ~other).sum())
    only_other = int((other & ~one).sum())
    p = (only_one + 1) / (n + 2)
    q = (only_other + 1) / (n + 2)
    half = NORMAL_QUANTILE * math.sqrt((p + q - (p - q) ** 2) / (n + 2))
    low, high = max(-1.0, p - q - half), min(1.0, p - q + half)
    return 100 * (only_one - only_other) / n, 100 * low, 100 * high

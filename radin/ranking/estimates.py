"""Fast estimates of many candidates, for metrics other than accuracy.

How much work a candidate costs depends on the shape of the metric:

- counts for each class (`class_metric`): the kernels of accuracy count them, and no ensemble is
  formed;
- the mean squared error (`squared_error`): N^2 numbers hold all that any candidate needs;
- another mean over images (`mean_over_images`): every ensemble is formed, a block of images at a
  time;
- any other function (`one_by_one`): every ensemble is formed for all images.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from copy import copy

import torch
from torch import Tensor
from tqdm import tqdm

from radin.errors import ParameterError
from radin.ranking.bank import LogitBank
from radin.ranking.metrics import ClassCounts, Metric, PerImage

_BLOCK_LOGITS = 2**18  # 2 MiB in double precision, which fit a core's cache
_MAX_PASS_LOGITS = 2**22  # read at once where each logit is read once

CountRight = Callable[[LogitBank], Tensor]  # on how many images each candidate is right: (M,)


def mean_over_images(bank: LogitBank, p: Tensor, per_image: PerImage) -> Tensor:
    """The mean of `per_image` over the bank, for each ensemble: (M,) double.

    Args:
        p: (M, N) double. Each row has the sum 1, or any where `per_image` asks for the order of
            the logits alone.
    """
    total = torch.zeros(len(p), dtype=torch.float64, device=bank.logits.device)
    for rows, _, values in _values_by_block(bank, p, per_image):
        total[rows] += values.sum(-1)
    return total.cpu() / bank.num_images


def values_of_images(bank: LogitBank, p: Tensor, per_image: PerImage) -> Tensor:
    """The values of `per_image`: (M, n) double on the CPU, for each ensemble and each image.

    Args:
        p: (M, N) double, as in `mean_over_images`.
    """
    found = torch.empty(len(p), bank.num_images, dtype=torch.float64)
    for rows, images, values in _values_by_block(bank, p, per_image):
        found[rows, images] = values.cpu()
    return found


def _values_by_block(
    bank: LogitBank, p: Tensor, per_image: PerImage
) -> Iterator[tuple[slice, slice, Tensor]]:
    """For blocks of candidates and images: both, and the values (rows, images)."""
    p = p.to(bank.logits.device)
    block_images = max(1, _BLOCK_LOGITS // (bank.num_models * bank.num_classes))
    starts = range(0, bank.num_images, block_images)
    # Images in the outer loop: each block of the bank is converted to double once.
    for start in tqdm(starts, desc="estimates", delay=3, leave=False):
        images = slice(start, start + block_images)
        logits = bank.logits[:, images].double()
        block_rows = max(1, _BLOCK_LOGITS // logits[0].numel())
        for first in range(0, len(p), block_rows):
            rows = slice(first, first + block_rows)
            ensemble = p[rows] @ logits.flatten(1)
            ensemble = bank.projected(ensemble.view(-1, *logits.shape[1:]))  # (rows, images, C)
            yield rows, images, per_image(ensemble, bank.labels[images])


def one_by_one(bank: LogitBank, p: Tensor, metric: Metric) -> Tensor:
    """The metric of each ensemble, formed for all images: (M,) double.

    Args:
        p: (M, N) double, each row of any positive scale.
    """
    values = [
        metric(ensemble_outputs(bank, weights), bank.labels)
        for weights in tqdm(p, desc="estimates", delay=3, leave=False)
    ]
    return torch.tensor(values, dtype=torch.float64)


def ensemble_outputs(bank: LogitBank, weights: Tensor) -> Tensor:
    """The averaged logits (n, C) of one ensemble in double precision.

    Args:
        weights: (N,) double, of any positive scale. A sum is divided last, so that ties stay ties.
    """
    total = torch.zeros(bank.logits.shape[1:], dtype=torch.float64, device=bank.logits.device)
    for k in weights.nonzero().flatten().tolist():
        total += weights[k].item() * bank.logits[k].double()
    return bank.projected(total / weights.sum().item())


def squared_error(bank: LogitBank, p: Tensor) -> Tensor:
    """The mean squared error of each ensemble, without forming one: (M,) double.

    The error of an average is the average of the errors, so its mean square is sum_kl p_k p_l E_kl,
    where E_kl is the mean product of the errors of ingredients k and l.

    Args:
        p: (M, N) double, rows of sum 1.

    Source: Krogh and Vedelsby 1994.
    """
    device = bank.logits.device
    products = torch.zeros(bank.num_models, bank.num_models, dtype=torch.float64, device=device)
    targets = bank.labels.reshape(bank.num_images, -1)
    block_images = max(1, _MAX_PASS_LOGITS // (bank.num_models * bank.num_classes))
    for start in range(0, bank.num_images, block_images):
        images = slice(start, start + block_images)
        errors = (bank.logits[:, images].double() - targets[images]).flatten(1)
        products += errors @ errors.T
    p = p.to(device)
    return ((p @ products) * p).sum(1).clamp(min=0).cpu() / targets.numel()


def class_metric(
    bank: LogitBank, metric: Metric, count_right: CountRight, *, num_candidates: int
) -> Tensor:
    """A metric of counts for each class, without forming an ensemble: (M,) double.

    An ensemble gives an image to class c exactly if it would be right on the image with label c.
    So the counts of a class are counts of right answers, on the images that can be given to it.

    Args:
        metric: with `class_terms`.
        count_right: the count of right answers for every candidate, on any bank.
        num_candidates: M.

    Raises:
        ParameterError: no image counts, because the classes that the bank has weigh nothing.
    """
    assert metric.class_terms is not None
    contested = _Contested(bank, all_classes=metric.needs_false_alarms)
    above = torch.zeros(num_candidates, dtype=torch.float64)
    below = torch.zeros(num_candidates, dtype=torch.float64)
    for c in tqdm(range(bank.num_classes), desc="classes", delay=3, leave=False):
        more_above, more_below = metric.class_terms(contested.counts(c, count_right))
        above += more_above
        below += more_below
    if not (below > 0).all():
        raise ParameterError(f"{metric.name} has no image to count; give its classes weights.")
    return above * 100 / below


class _Contested:
    """The images that ensembles give to different classes, and the classes possible there.

    If all ingredients give an image to one class, so does every ensemble. On the other images a
    class is possible unless one of the ingredients' answers is ahead of it in all of them.

    Args:
        all_classes: find every possible class; else only the label counts.
    """

    def __init__(self, bank: LogitBank, *, all_classes: bool) -> None:
        answers = torch.stack([logits.argmax(-1) for logits in bank.logits])  # (N, n)
        agreed = (answers == answers[0]).all(0)
        right = answers[0] == bank.labels
        self.bank = bank
        self.images = (~agreed).nonzero().flatten()
        self.labels = bank.labels[self.images]
        self.possible = (
            _possible_classes(bank, self.images, answers)
            if all_classes
            else torch.nn.functional.one_hot(self.labels, bank.num_classes).bool()
        )
        self.agreed_hits = self._per_class(answers[0][agreed & right])
        self.agreed_false_alarms = self._per_class(answers[0][agreed & ~right])
        self.supports = self._per_class(bank.labels)

    def _per_class(self, classes: Tensor) -> list[int]:
        return torch.bincount(classes, minlength=self.bank.num_classes).tolist()

    def counts(self, c: int, count_right: CountRight) -> ClassCounts:
        """The counts of one class for every candidate."""
        is_label = self.labels == c
        possible = self.possible[:, c]
        hits = self._given(c, self.images[possible & is_label], count_right)
        false_alarms = self._given(c, self.images[possible & ~is_label], count_right)
        return ClassCounts(
            index=c,
            num_classes=self.bank.num_classes,
            support=self.supports[c],
            hits=hits + self.agreed_hits[c],
            false_alarms=false_alarms + self.agreed_false_alarms[c],
        )

    def _given(self, c: int, images: Tensor, count_right: CountRight) -> Tensor:
        """How many of some images each candidate gives to class c: (M,), or (1,) for none."""
        if not len(images):
            return torch.zeros(1, dtype=torch.float64)
        part = copy(self.bank)  # not checked again
        part.logits = self.bank.logits[:, images]
        part.labels = torch.full_like(images, c)
        return count_right(part).double()


def _possible_classes(bank: LogitBank, images: Tensor, answers: Tensor) -> Tensor:
    """The classes of some images that no answer is ahead of in all ingredients: (I, C) boolean.

    Args:
        images: (I,) indices.
        answers: (N, n) the ingredients' classes.
    """
    possible = torch.ones(len(images), bank.num_classes, dtype=torch.bool, device=images.device)
    answers = answers[:, images].sort(0).values
    images_in_memory = max(1, _MAX_PASS_LOGITS // (bank.num_models * bank.num_classes))
    for k in range(bank.num_models):
        is_new = answers[k] != answers[k - 1] if k else torch.ones_like(images, dtype=torch.bool)
        for rows in is_new.nonzero().flatten().split(images_in_memory):
            logits = bank.logits[:, images[rows]]
            possible[rows] &= ~_is_ahead_in_all(logits, answers[k][rows])
    return possible


def _is_ahead_in_all(logits: Tensor, rivals: Tensor) -> Tensor:
    """Whether a rival is ahead of each class in all ingredients; the lower class wins a tie.

    Args:
        logits: (N, n, C).
        rivals: (n,) a class for each image.

    Returns: (n, C) boolean.
    """
    own = logits.gather(2, rivals.expand(len(logits), -1).unsqueeze(2))
    lower = rivals.unsqueeze(1) < torch.arange(logits.shape[2], device=logits.device)
    return ((own > logits) | ((own == logits) & lower)).all(0)

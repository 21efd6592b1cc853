"""Evaluations: soups that are really averaged and really run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor
from torch.utils.data import Dataset

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.data.samples import as_split, subset_of
from radin.data.splits import Split, projection_of
from radin.errors import BankError, ParameterError, check_integer
from radin.inference.batch_norm import check_batch_norm, refresh_batch_norm
from radin.inference.devices import network_memory_bytes, pick_device
from radin.inference.forward import NUM_PROBE_IMAGES, batch_logits, check_workers, forward_all
from radin.inference.parallel import num_joblib_workers, run_tasks, task_device
from radin.inference.partial import MAX_NOISE_RATIO, PartialEvaluations
from radin.ranking.bank import LogitBank, check_labels
from radin.ranking.candidates import check_weights
from radin.ranking.named_metrics import MetricLike, find_metric
from radin.soup.average import SoupLike, soup_states


@runtime_checkable
class LiveEvaluator(Protocol):
    """An evaluator with the networks and the images behind its values, such as `Evaluator`.

    Some recipes need more than an accuracy. They ask `isinstance(evaluate, LiveEvaluator)`.
    """

    zoo: Zoo
    split: Dataset[Any]
    device: torch.device
    batch_size: int
    refresh: Dataset[Any] | None

    def __call__(self, soup: SoupLike) -> float: ...

    def many(self, soups: Sequence[SoupLike]) -> list[float]: ...


@runtime_checkable
class ImageEvaluator(Protocol):
    """An evaluator that also gives a soup's values on single images."""

    partial: PartialEvaluations | None

    def image_values(
        self, soups: Sequence[Tensor], images: list[int] | None, *, bank: LogitBank
    ) -> Tensor: ...


class Evaluator:
    """A function from mixing weights (N,) to the soup's accuracy in percent, by a forward pass.

    With another `metric` it gives that one.

    `radin.evaluator` is this class. Each call is one evaluation of the budget: it averages the
    checkpoints and predicts the whole split. A call also takes the state dict of a soup that no
    mixing weights describe. The method `many` evaluates several soups in one pass over the images;
    `radin.craft` uses it where a recipe knows beforehand what it evaluates.

    With a bank and a `share`, only that share of the images is read and run, and each call costs
    that share of an evaluation. The ensemble answers for the other images. The images are taken
    with chances that follow from the bank, so that the answer has no bias. The first soup is
    evaluated whole, and where it leaves its ensemble, the share grows.

    Args:
        zoo: the ingredients, opened with `build`.
        split: (image, label) pairs, or other labelled data (see `as_split`).
        device: where networks run.
        batch_size: images in one forward pass.
        refresh: training images; each soup then goes through `refresh_batch_norm` first, which
            costs a pass over them.
        half: run the networks in half precision instead of their own.
        workers: threads that decode images; by default one for each core.
        progress: show a bar for each pass.
        metric: what is measured: a name, a `Metric`, or a function of the soup's logits (n, C) for
            all images and the labels, as in `radin.fast_estimate`. `radin.craft` then ranks by it.
        higher_is_better: whether larger numbers of a function are better.
        bank: the ingredients' logits on the split, as `radin.predict` gives them; for a `share`.
        share: of the images, above 0 and at most 1.
        seed: of the sample of images.
        max_noise_ratio: how large the sample's error may be beside the noise of the split itself,
            before the share grows; infinite for a share that never grows.

    Attributes:
        partial: the `PartialEvaluations` that holds what was found, each with its standard error
            and cost, and reports on it; None without a bank.

    Raises:
        ParameterError: a zoo without `build`, an impossible device, number or metric, `refresh`
            where there is no batch norm to measure, a share without a bank, or a bank of other
            images or ingredients.

    >>> import radin, torch
    >>> zoo = radin.SoupBench.load("cifar10").zoo()
    >>> images = torch.utils.data.TensorDataset(torch.zeros(8, 3, 32, 32), torch.arange(8))
    >>> evaluate = radin.evaluator(zoo, images, device="cpu")
    >>> evaluate([1 / 10] * 10)  # one class is right
    12.5
    """

    def __init__(
        self,
        zoo: Zoo,
        split: Dataset[Any],
        device: str | torch.device = "auto",
        *,
        batch_size: int = 256,
        refresh: Dataset[Any] | None = None,
        half: bool = False,
        workers: int | None = None,
        progress: bool = False,
        metric: MetricLike = "accuracy",
        higher_is_better: bool | None = None,
        bank: LogitBank | None = None,
        share: float = 1.0,
        seed: int = 0,
        max_noise_ratio: float = MAX_NOISE_RATIO,
    ) -> None:
        self.zoo = zoo
        self.split = as_split(split)
        self.refresh = refresh
        self.device = pick_device(device)
        self._device_option = str(device)  # "auto" may mean another device on another machine
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        self.half = half
        self.workers = check_workers(workers)
        self.progress = progress
        self.metric = find_metric(metric, higher_is_better)
        # A zoo without networks is refused here, not after the entry fee.
        model = zoo.model(0, copy=False)
        if refresh is not None:
            if isinstance(refresh, bool | str) or not hasattr(refresh, "__len__"):
                raise ParameterError(
                    "refresh takes a training split, as radin.load_split gives one, "
                    f"not {refresh!r}."
                )
            self.refresh = as_split(refresh)
            check_batch_norm(model)
            images, _ = next(batches(self.refresh, NUM_PROBE_IMAGES))
            batch_logits(model.to(self.device), images, self.device)
        self.partial: PartialEvaluations | None = None
        if bank is not None:
            self._check_bank(bank)
            self.partial = PartialEvaluations(
                bank, self.metric, share=share, seed=seed, max_noise_ratio=max_noise_ratio
            )
        elif share != 1:
            raise ParameterError(
                f"share={share!r} needs the logit bank, which says what images to run: "
                "bank=radin.predict(zoo, split)."
            )

    @property
    def standard_error(self) -> float:
        """Of the last evaluation, in the metric's unit; 0 where it was whole."""
        return self.partial.last_error if self.partial else 0.0

    def _check_bank(self, bank: LogitBank) -> None:
        found = (len(self.zoo), len(self.split))  # type: ignore[arg-type]
        if found != (bank.num_models, bank.num_images):
            raise ParameterError(
                f"The bank holds {bank.num_models} ingredients and {bank.num_images} images, but "
                f"zoo and split have {found[0]} and {found[1]}; make it from them with "
                "radin.predict."
            )

    def __call__(self, soup: SoupLike) -> float:
        """Accuracy in percent, or the metric, of a soup: mixing weights (N,) or a state dict."""
        return self.many([soup])[0]

    def many(self, soups: Sequence[SoupLike]) -> list[float]:
        """The accuracies, or metric, of several soups, in one pass over the images if it can be.

        The ingredients are read once for all of them. Inside `joblib.parallel_config` the soups
        are divided among its workers.
        """
        if self.partial is None:
            return self._divided(self._evaluate, soups)
        described = [
            None if isinstance(soup, Mapping) else check_weights(soup, len(self.zoo))
            for soup in soups
        ]
        bank = self.partial.bank

        def run(which: Sequence[int], images: list[int] | None) -> Tensor:
            return self.image_values([soups[k] for k in which], images, bank=bank)

        return self.partial.evaluate(described, run)

    def image_values(
        self, soups: Sequence[SoupLike], images: list[int] | None, *, bank: LogitBank
    ) -> Tensor:
        """The metric's values of soups on single images, in one pass over these images.

        Args:
            soups: M of them.
            images: k indices, ascending; all for None.
            bank: the ingredients' logits on all images, whose labels must be the split's.

        Returns: (M, k) double.

        Raises:
            BankError: the labels are others.
        """
        other = copy(self)
        other.partial = None  # a worker needs no bank
        expected = bank.labels.cpu()
        if images is not None:
            if isinstance(self.split, Split):
                other.split = self.split.subset(images)
            else:
                other.split = subset_of(self.split, images)
            expected = expected[images]
        found = other._divided(other._measure, soups)
        if not torch.equal(found[0][1], expected):
            raise BankError(
                "The bank and the split have other labels; make the bank from this split with "
                "radin.predict."
            )
        return torch.stack([values for values, _ in found])

    def _divided(self, work: Callable[[Any], list[Any]], soups: Sequence[SoupLike]) -> list[Any]:
        """What `work` finds for each soup, done by the workers of joblib."""
        num_groups = min(num_joblib_workers(), len(soups))
        groups = [list(range(k, len(soups), num_groups)) for k in range(num_groups)]
        results: list[Any] = [None] * len(soups)

        def finished(index: int, found: list[Any]) -> None:
            for k, result in zip(groups[index], found, strict=True):
                results[k] = result

        tasks = [(index, [soups[k] for k in group]) for index, group in enumerate(groups)]
        run_tasks(work, tasks, finished, progress=False)
        return results

    def logits(
        self, states: Sequence[Mapping[str, Tensor]], device: torch.device, *, desc: str
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Logits of some soups on the split's own classes, batch by batch.

        A projection comes after the average that a soup is.

        Returns: the index of the soup, its logits (batch, C) and the labels (batch,).
        """
        make_models = [partial(self.zoo.model, state, copy=False) for state in states]
        projection = projection_of(self.split)
        for k, logits, labels in forward_all(
            make_models,
            self.split,
            device,
            batch_size=self.batch_size,
            half=self.half,
            workers=self.workers,
            desc=desc,
            progress=self.progress,
        ):
            if not logits.isfinite().all():
                raise BankError(
                    "The network gives NaN or infinite logits"
                    f"{', in half precision' if self.half else ''}; "
                    "look for a broken checkpoint, or for ingredients that do not average."
                )
            logits = logits.float() if projection is None else projection(logits.float())
            if not labels.is_floating_point():
                check_labels(labels, logits.shape[-1])
            yield k, logits, labels

    def _evaluate(self, task: tuple[int, list[SoupLike]]) -> list[float]:
        return [self._value_of(*found) for found in self._outputs(task)]

    def _measure(self, task: tuple[int, list[SoupLike]]) -> list[tuple[Tensor, Tensor]]:
        """The values (n,) of each soup on the images, and the labels."""
        return list(self._outputs(task))

    def _outputs(self, task: tuple[int, list[SoupLike]]) -> Iterator[tuple[Tensor, Tensor]]:
        """For each soup what the metric needs of all images, and the labels."""
        index, soups = task
        device = pick_device(task_device(self._device_option, index))
        bytes_of_one = sum(tensor.nbytes for tensor in self.zoo[0].values())
        at_once = max(1, network_memory_bytes() // bytes_of_one)
        for first in range(0, len(soups), at_once):
            states = self._states(soups[first : first + at_once], device)
            parts: list[list[tuple[Tensor, Tensor]]] = [[] for _ in states]
            desc = f"evaluating {len(states)} soups"
            for k, logits, labels in self.logits(states, device, desc=desc):
                parts[k].append(self._reduced(logits, labels))
            for part in parts:
                found, labels = (torch.cat(tensors) for tensors in zip(*part, strict=True))
                yield found, labels

    def _reduced(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """What the metric needs of a batch: its values for each image, or logits; and labels."""
        self.metric.check_labels(labels, num_outputs=logits.shape[-1])
        logits = logits.cpu()
        if self.metric.per_image is None:
            return logits, labels
        return self.metric.per_image(logits.double()[None], labels)[0], labels

    def _value_of(self, found: Tensor, labels: Tensor) -> float:
        if self.metric.per_image is not None:
            return found.sum().item() / len(labels)
        return self.metric(found, labels)

    def _states(
        self, soups: Sequence[SoupLike], device: torch.device
    ) -> list[Mapping[str, Tensor]]:
        states = soup_states(self.zoo, soups)
        if self.refresh is None:
            return states
        return [
            refresh_batch_norm(
                self.zoo, state, self.refresh, str(device), batch_size=self.batch_size
            )
            for state in states
        ]


evaluator = Evaluator  # the public name: a call of it makes one


def soup_logits(
    zoo: Zoo,
    soup: SoupLike,
    split: Dataset[Any],
    device: str | torch.device = "auto",
    *,
    batch_size: int = 256,
    half: bool = False,
    workers: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Average the ingredients and run the soup over a split.

    Args:
        zoo: the ingredients, opened with `build`.
        soup: (N,) mixing weights, or the state dict of a soup that no mixing weights describe.
        split: (image, label) pairs, or other labelled data (see `as_split`).
        device: where the network runs.
        batch_size: images in one forward pass.
        half: run the network in half precision instead of its own.
        workers: threads that decode images; by default one for each core.

    Returns: logits (n, C) of the split's classes in single precision and labels (n,), on the CPU.

    >>> import radin, torch
    >>> zoo = radin.SoupBench.load("cifar10").zoo()
    >>> images = torch.utils.data.TensorDataset(torch.zeros(8, 3, 32, 32), torch.arange(8))
    >>> logits, labels = radin.soup_logits(zoo, [1 / 10] * 10, images, device="cpu")
    >>> logits.shape, labels.shape
    (torch.Size([8, 10]), torch.Size([8]))
    """
    evaluate = Evaluator(zoo, split, device, batch_size=batch_size, half=half, workers=workers)
    states = soup_states(zoo, [soup])
    found = list(evaluate.logits(states, evaluate.device, desc="predicting a soup"))
    logits = torch.cat([logits.cpu() for _, logits, _ in found])
    return logits, torch.cat([labels for _, _, labels in found])

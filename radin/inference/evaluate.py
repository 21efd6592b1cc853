"""Evaluations: soups really averaged and really run, and batch norm measured anew."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from radin.checkpoints.zoo import Zoo
from radin.data.batches import batches
from radin.errors import BankError, ParameterError, check_integer
from radin.inference.batch_norm import _check_batch_norm, refresh_batch_norm
from radin.inference.devices import memory, pick_device
from radin.inference.forward import PROBE, batch_logits, check_workers, stream
from radin.inference.parallel import num_workers, run_tasks, task_device
from radin.ranking.bank import check_labels
from radin.soup.average import SoupLike, _soup_states


class Evaluator:
    """What `radin.evaluator` returns: call it with mixing weights (N,) for the soup's accuracy in percent.

    Attributes:
        zoo, split: what it averages and what it predicts, for recipes that need more than an accuracy.
        device: where it computes.
        batch_size: images in one forward pass.
        refresh: training images on which every soup's batch norm is measured anew, or None.
        half: whether networks run in half precision.
        workers: threads that decode images, or None for one for each core.
        progress: whether `many` shows a bar.
    """

    def __init__(
        self,
        zoo: Zoo,
        split: Dataset[Any],
        device: str = "auto",
        batch_size: int = 256,
        refresh: Dataset[Any] | None = None,
        half: bool = False,
        workers: int | None = None,
        progress: bool = False,
    ) -> None:
        self.zoo, self.split, self.refresh = zoo, split, refresh
        self.device = pick_device(device)
        self._asked = str(device)  # by a worker elsewhere, "auto" may be answered otherwise
        self.batch_size = check_integer("batch_size", batch_size, minimum=1)
        self.half, self.workers, self.progress = half, check_workers(workers), progress
        model = zoo.model(
            0, copy=False
        )  # a zoo without networks is refused here, not after the entry fee
        if refresh is not None:
            if isinstance(refresh, bool | str) or not hasattr(refresh, "__len__"):
                raise ParameterError(
                    f"refresh takes a training split, as radin.load_split gives one, not {refresh!r}."
                )
            _check_batch_norm(model)
            batch_logits(model.to(self.device), next(batches(refresh, PROBE))[0], self.device)

    def __call__(self, soup: SoupLike) -> float:
        """Accuracy in percent of a soup, given as mixing weights (N,) or as a state dict of the zoo."""
        return self.many([soup])[0]

    def many(self, soups: Sequence[SoupLike]) -> list[float]:
        """Accuracies in percent of several soups in one pass over the images, as far as memory holds them together.

        The ingredients are read once for all of them. Inside `joblib.parallel_config` the soups are divided among
        its workers.
        """
        groups = [
            list(range(len(soups)))[k :: num_workers()]
            for k in range(min(num_workers(), len(soups)))
        ]
        accuracies = [0.0] * len(soups)

        def finished(position: int, found: list[float]) -> None:
            for k, accuracy in zip(groups[position], found, strict=True):
                accuracies[k] = accuracy

        tasks = [(position, [soups[k] for k in group]) for position, group in enumerate(groups)]
        run_tasks(self._evaluate, tasks, finished, progress=False)
        return accuracies

    def _evaluate(self, task: tuple[int, list[SoupLike]]) -> list[float]:
        position, soups = task
        device = pick_device(task_device(self._asked, position))
        at_once = max(1, memory() // sum(tensor.nbytes for tensor in self.zoo[0].values()))
        hits = []
        for first in range(0, len(soups), at_once):
            states = self._states(soups[first : first + at_once], device)
            right = [0] * len(states)
            desc = f"evaluating {len(states)} soups"
            for k, logits, labels in self._stream(states, device, desc):
                right[k] += int((logits.argmax(-1) == labels.to(logits.device)).sum())
            hits += right
        return [count * 100 / len(self.split) for count in hits]  # type: ignore[arg-type]

    def _states(
        self, soups: Sequence[SoupLike], device: torch.device
    ) -> list[Mapping[str, Tensor]]:
        states = _soup_states(self.zoo, soups)
        if self.refresh is None:
            return states
        return [
            refresh_batch_norm(self.zoo, state, self.refresh, str(device), self.batch_size)
            for state in states
        ]

    def _stream(
        self, states: Sequence[Mapping[str, Tensor]], device: torch.device, desc: str
    ) -> Iterator[tuple[int, Tensor, Tensor]]:
        """Logits of the split's own classes, projected after the average that a soup is."""
        sources = [partial(self.zoo.model, state, copy=False) for state in states]
        projection = getattr(self.split, "projection", None)
        for k, logits, labels in stream(
            sources,
            self.split,
            device,
            self.batch_size,
            None,
            self.half,
            self.workers,
            desc,
            self.progress,
        ):
            if not logits.isfinite().all():
                raise BankError(
                    f"The network gives NaN or infinite logits{', in half precision' if self.half else ''}; look for a "
                    "broken checkpoint, or for ingredients that do not average."
                )
            logits = logits.float() if projection is None else projection(logits.float())
            check_labels(labels, logits.shape[-1])
            yield k, logits, labels


def evaluator(
    zoo: Zoo,
    split: Dataset[Any],
    device: str = "auto",
    batch_size: int = 256,
    refresh: Dataset[Any] | None = None,
    half: bool = False,
    workers: int | None = None,
    progress: bool = False,
) -> Evaluator:
    """A function from mixing weights (N,) to the soup's accuracy in percent, by a real forward pass.

    Each call is one evaluation of the budget: it averages the checkpoints and predicts the whole split. It also takes
    the state dict of a soup that no mixing weights describe. Its method `many` evaluates several soups in one pass
    over the images; `radin.craft` uses it where a recipe knows what it wants to evaluate beforehand.

    Args:
        refresh: training images; each soup then goes through `refresh_batch_norm` first, which costs a pass over them.
        half: run the networks in half precision instead of their own.
        workers: threads that decode images; by default one for each core.
        progress: show a bar for each pass.

    Raises ParameterError for `refresh` where there is no batch norm to measure.
    """
    return Evaluator(zoo, split, device, batch_size, refresh, half, workers, progress)


def soup_logits(
    zoo: Zoo,
    soup: SoupLike,
    split: Dataset[Any],
    device: str = "auto",
    batch_size: int = 256,
    half: bool = False,
    workers: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Average the ingredients and run the soup over a split.

    Args:
        soup: (N,) mixing weights, or the state dict of a soup that no mixing weights describe.
        half: run the network in half precision instead of its own.
        workers: threads that decode images; by default one for each core.

    Returns: logits (n, C) of the split's classes in single precision and labels (n,), on the CPU.
    """
    evaluate = Evaluator(zoo, split, device, batch_size, half=half, workers=workers)
    pairs = list(evaluate._stream(_soup_states(zoo, [soup]), evaluate.device, "predicting a soup"))
    return torch.cat([logits.cpu() for _, logits, _ in pairs]), torch.cat(
        [labels for _, _, labels in pairs]
    )

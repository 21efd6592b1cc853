"""The logit bank: what every ingredient said about every image of one split, with the labels."""

from __future__ import annotations

import json
from collections.abc import Sequence
from copy import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from radin.errors import BankError, ParameterError
from radin.files import atomic_path, load_tensors
from radin.ranking.projection import Projection

_FORMAT = "radin-bank-1"
_LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Percent of images whose largest logit is the label's; the lowest class wins a tie, as in argmax.

    Args:
        logits: (..., n, C).
        labels: (n,).

    Returns: (...) in double precision.
    """
    # Hits times 100, then divided: everywhere in this order, so that equal accuracies are equal numbers.
    return (logits.argmax(-1) == labels).sum(-1).double() * 100 / len(labels)


def check_labels(labels: Tensor, num_classes: int, first: int = 0) -> None:
    """BankError when a label lies outside the classes 0 to C - 1; `first` is the number of the first image."""
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        raise BankError(
            f"Image {first + int(outside[0])} has label {int(labels[outside[0]])}, but the logits have classes 0 to "
            f"{num_classes - 1} ({len(outside)} such images); check that data and model belong together."
        )


class LogitBank:
    """The ingredients' logits on one split.

    Args:
        logits: (N, n, C) in half or single precision (double is rounded to single); finite. Kept on the CPU
            until `to` moves them.
        labels: (n,) whole numbers from 0 to C - 1.
        names: N names for tables; "0", "1", ... when not given.
        projection: for a split some of whose classes have several logits: how its K classes are read from C logits.
            It is applied to averages of logits, never before.

    Raises BankError when the shapes do not fit, the split is empty, a label lies outside the classes,
    or a logit is NaN or infinite (the message names the model and the image).
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        names: Sequence[str] | None = None,
        projection: Projection | None = None,
    ) -> None:
        logits, labels = torch.as_tensor(logits).detach().cpu(), torch.as_tensor(labels).cpu()
        if logits.ndim != 3 or logits.dtype not in _LOGIT_DTYPES:
            raise BankError(
                f"Logits must be floating point (half, bfloat16, single or double) of shape (N, n, C): ingredients, "
                f"images, classes; these are {logits.dtype} of shape {tuple(logits.shape)}."
            )
        if 0 in logits.shape:
            raise BankError(
                f"A logit bank needs an ingredient, an image and a class; its shape is {tuple(logits.shape)}."
            )
        if labels.shape != logits.shape[1:2] or labels.is_floating_point():
            raise BankError(
                f"Labels must be {logits.shape[1]} whole numbers, one for each image; "
                f"these are {labels.dtype} of shape {tuple(labels.shape)}."
            )
        if names is not None and len(names) != len(logits):
            raise BankError(f"{len(names)} names were given for {len(logits)} ingredients.")
        if projection is not None and projection.num_logits != logits.shape[2]:
            raise BankError(
                f"The projection reads {projection.num_logits} logits; these are {logits.shape[2]}."
            )
        self.projection = projection
        self.logits = logits.float() if logits.dtype == torch.float64 else logits
        self.labels = labels.long().contiguous()
        self.names = (
            [str(name) for name in names]
            if names is not None
            else [str(k) for k in range(len(logits))]
        )
        self._check_values()

    def _check_values(self) -> None:
        check_labels(
            self.labels,
            self.num_classes if self.projection is None else self.projection.num_classes,
        )
        half = self.logits.dtype == torch.float16
        for k, name in enumerate(self.names):
            if all(extreme.isfinite() for extreme in self.logits[k].aminmax()):
                continue
            bad = (~torch.isfinite(self.logits[k])).any(-1).nonzero().flatten()
            raise BankError(
                f"Ingredient {name} gives NaN or infinite logits on {len(bad)} images, the first is image "
                f"{int(bad[0])}; leave this ingredient out{' or keep single precision' if half else ''}."
            )

    @property
    def num_models(self) -> int:
        return self.logits.shape[0]

    @property
    def num_images(self) -> int:
        return self.logits.shape[1]

    @property
    def num_classes(self) -> int:
        return self.logits.shape[2]

    def __len__(self) -> int:
        return self.num_models

    def __repr__(self) -> str:
        return f"LogitBank({self.num_models} ingredients, {self.num_images} images, {self.num_classes} classes)"

    def accuracies(self) -> Tensor:
        """Accuracy of each ingredient alone, in percent: (N,) double."""
        return torch.stack(
            [accuracy(self.projected(logits), self.labels) for logits in self.logits]
        ).cpu()

    def projected(self, ensemble: Tensor) -> Tensor:
        """Logits (..., C) of ensembles as logits (..., K) of the split's own classes; the same without a projection."""
        return ensemble if self.projection is None else self.projection(ensemble)

    def refuse_projection(self, what: str) -> None:
        """ParameterError for a bank with a projection, where logits and classes must be the same."""
        if self.projection is not None:
            raise ParameterError(
                f"{what} needs one logit for each class; {self.num_classes} logits stand for "
                f"{self.projection.num_classes} classes here, so take the images that soups are chosen by."
            )

    def to(self, device: str | torch.device) -> LogitBank:
        """The same bank with its tensors on another device, "cpu" or "cuda"; stage 1 then computes there.

        Raises ParameterError for a device that is not there, or has no double precision.
        """
        moved = copy(self)
        try:
            moved.logits, moved.labels = self.logits.to(device), self.labels.to(device)
            torch.zeros(1, dtype=torch.float64, device=moved.logits.device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ParameterError(
                f"device={device!r} cannot hold a bank here; use 'cpu' or 'cuda'."
            ) from error
        return moved

    def save(self, path: str | Path) -> Path:
        """Write the bank as one safetensors file, atomically."""
        path = Path(path)
        tensors = {
            "logits": self.logits.contiguous().cpu(),
            "labels": self.labels.contiguous().cpu(),
        }
        metadata = {"format": _FORMAT, "names": json.dumps(self.names)}
        if self.projection is not None:
            metadata["groups"] = json.dumps(self.projection.groups)
        with atomic_path(path) as temporary:
            save_file(tensors, temporary, metadata=metadata)
        return path

    @classmethod
    def load(cls, path: str | Path) -> LogitBank:
        """Open a saved bank; its logits are mapped from disk and read once, to check them.

        It may be larger than memory. Then it is read-only: an attempt to change a logit in place ends the program.

        Raises BankError when the file is missing, damaged, or not a bank.
        """
        tensors, metadata = load_tensors(path, _FORMAT)
        try:
            logits, groups = tensors["logits"], json.loads(metadata.get("groups", "null"))
            projection = None if groups is None else Projection(groups, logits.shape[2])
            return cls(logits, tensors["labels"], json.loads(metadata["names"]), projection)
        except (KeyError, json.JSONDecodeError) as error:
            raise BankError(
                f"{path}: not a whole logit bank ({error} is missing); make it again."
            ) from error

"""The logit bank: the logits of every ingredient on one split, with the labels."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor

from radin.errors import BankError, ParameterError, counted
from radin.files import atomic_path, expand_path, load_tensors
from radin.ranking.bank_files import find_files, labels_of, names_of, read_model
from radin.ranking.model_tables import combine, models_of_arrays
from radin.ranking.projection import Projection

_FORMAT = "radin-bank-1"
_LOGIT_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Percent of images whose largest logit is the label's. The lowest class wins a tie.

    Args:
        logits: (..., n, C).
        labels: (n,).

    Returns:
        (...) double.
    """
    # Hits times 100, then divided: in this order everywhere, so that equal accuracies are equal.
    return (logits.argmax(-1) == labels).sum(-1).double() * 100 / len(labels)


def check_labels(labels: Tensor, num_classes: int, *, first: int = 0) -> None:
    """Check that all labels are classes.

    Args:
        labels: (n,).
        num_classes: C.
        first: index of the first image in its split, for the error message.

    Raises:
        BankError: a label is not one of 0 to C - 1.
    """
    outside = ((labels < 0) | (labels >= num_classes)).nonzero().flatten()
    if len(outside):
        raise BankError(
            f"Image {first + int(outside[0])} has label {int(labels[outside[0]])}, but the logits "
            f"have classes 0 to {num_classes - 1} ({len(outside)} such images); check that data "
            "and model belong together."
            f"{' For regression, give targets in floating point.' if num_classes == 1 else ''}"
        )


class LogitBank:
    """The ingredients' logits on one split.

    Args:
        logits: (N, n, C) half or single precision (double is rounded to single), finite. They
            stay on the CPU until `to` moves them.
        labels: (n,) integers from 0 to C - 1; or, for regression and for several labels of one
            image, targets (n,) or (n, D) in floating point. Targets are kept in double precision.
            Only metrics of numbers, such as "mean_squared_error", or functions can use them.
        names: N names for tables. Default: "0", "1", ...
        projection: reads the K classes of a split from C logits, where some classes have
            several logits. It is applied to averages of logits, never before.

    Raises:
        BankError: the shapes do not fit, the split is empty, a label is not a class, or a logit
            or a target is NaN or infinite. It names the ingredient and the image.

    >>> import radin, torch
    >>> logits = torch.tensor([[[2.0, 0.0], [0.0, 1.0]], [[0.5, 1.0], [0.0, 3.0]]])
    >>> bank = radin.LogitBank(logits, torch.tensor([0, 1]), names=["a", "b"])
    >>> bank
    LogitBank(2 ingredients, 2 images, 2 classes)
    >>> bank.accuracies().tolist()
    [100.0, 50.0]
    """

    def __init__(
        self,
        logits: Tensor,
        labels: Tensor,
        names: Sequence[str] | None = None,
        *,
        projection: Projection | None = None,
    ) -> None:
        logits = torch.as_tensor(logits).detach().cpu()
        labels = torch.as_tensor(labels).cpu()
        _check_shapes(logits, labels)
        if names is not None and len(names) != len(logits):
            raise BankError(
                f"{counted(len(names), 'name')} given for {counted(len(logits), 'ingredient')}."
            )
        if projection is not None and projection.num_logits != logits.shape[2]:
            raise BankError(
                f"The projection reads {projection.num_logits} logits; these are {logits.shape[2]}."
            )
        self.projection = projection
        self.logits = logits.float() if logits.dtype == torch.float64 else logits
        self.labels = (
            labels.double() if labels.is_floating_point() else labels.long()
        ).contiguous()
        self.names = [str(name) for name in (range(len(logits)) if names is None else names)]
        if self.has_targets:
            _check_targets(self.labels)
            self.refuse_projection("A bank of targets")
        else:
            check_labels(self.labels, self.num_outputs)
        self._check_finite()

    def _check_finite(self) -> None:
        is_half = self.logits.dtype == torch.float16
        for k, name in enumerate(self.names):
            if all(extreme.isfinite() for extreme in self.logits[k].aminmax()):
                continue
            bad = (~torch.isfinite(self.logits[k])).any(-1).nonzero().flatten()
            raise BankError(
                f"Ingredient {name} gives NaN or infinite logits on {counted(len(bad), 'image')}, "
                f"the first is image {int(bad[0])}; leave this ingredient out"
                f"{' or keep single precision' if is_half else ''}."
            )

    @property
    def num_models(self) -> int:
        """N."""
        return self.logits.shape[0]

    @property
    def num_images(self) -> int:
        """n."""
        return self.logits.shape[1]

    @property
    def num_classes(self) -> int:
        """C, the number of logits of an image."""
        return self.logits.shape[2]

    @property
    def num_outputs(self) -> int:
        """How many outputs a metric sees for an image: C, or K with a projection."""
        return self.num_classes if self.projection is None else self.projection.num_classes

    @property
    def has_targets(self) -> bool:
        """Whether the labels are targets in floating point, as in regression, and no classes."""
        return self.labels.is_floating_point()

    def __len__(self) -> int:
        return self.num_models

    def __repr__(self) -> str:
        outputs = "outputs" if self.has_targets else "classes"
        return (
            f"LogitBank({self.num_models} ingredients, {self.num_images} images, "
            f"{self.num_classes} {outputs})"
        )

    def accuracies(self) -> Tensor:
        """Accuracy of each ingredient alone, in percent: (N,) double.

        Raises ParameterError for a bank of targets.
        """
        self.refuse_targets("An accuracy")
        return torch.stack(
            [accuracy(self.projected(logits), self.labels) for logits in self.logits]
        ).cpu()

    def projected(self, ensemble: Tensor) -> Tensor:
        """Logits (..., C) of ensembles as logits (..., K) of the classes of the split.

        They stay as they are without a projection.
        """
        return ensemble if self.projection is None else self.projection(ensemble)

    def refuse_projection(self, what: str) -> None:
        """Refuse a bank with a projection.

        Args:
            what: what needs one logit for each class, for the error message.

        Raises:
            ParameterError: the bank has a projection.
        """
        if self.projection is not None:
            raise ParameterError(
                f"{what} needs one logit for each class; {self.num_classes} logits stand for "
                f"{self.projection.num_classes} classes here, so take the images that soups are "
                "chosen by."
            )

    def refuse_targets(self, what: str) -> None:
        """Refuse a bank whose labels are targets.

        Args:
            what: what needs classes, for the error message.

        Raises:
            ParameterError: the labels are targets in floating point.
        """
        if self.has_targets:
            raise ParameterError(
                f"{what} needs classes as labels, and this bank holds targets (regression); use a "
                'metric of numbers, such as metric="mean_squared_error", or a function.'
            )

    def to(self, device: str | torch.device) -> LogitBank:
        """The same bank on another device, "cpu" or "cuda". Stage 1 then computes there.

        Raises:
            ParameterError: the device does not exist or has no double precision.
        """
        moved = copy(self)
        try:
            moved.logits = self.logits.to(device)
            moved.labels = self.labels.to(device)
            torch.zeros(1, dtype=torch.float64, device=moved.logits.device)
        except (RuntimeError, AssertionError, TypeError) as error:
            raise ParameterError(
                f"device={device!r} cannot hold a bank here; use 'cpu' or 'cuda'."
            ) from error
        return moved

    def save(self, path: str | Path) -> Path:
        """Write the bank as one safetensors file, atomically."""
        path = expand_path(path)
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
        """Open a saved bank. Its logits are mapped from disk and read once, to check them.

        The file can be larger than memory. Then the bank is read-only: writing to a logit ends
        the program.

        Raises:
            BankError: the file is missing, damaged, or not a bank.
        """
        tensors, metadata = load_tensors(path, _FORMAT)
        try:
            logits = tensors["logits"]
            groups = json.loads(metadata.get("groups", "null"))
            projection = None if groups is None else Projection(groups, logits.shape[2])
            names = json.loads(metadata["names"])
            return cls(logits, tensors["labels"], names, projection=projection)
        except (KeyError, json.JSONDecodeError) as error:
            raise BankError(
                f"{path}: not a whole logit bank ({error} is missing); make it again."
            ) from error

    @classmethod
    def from_arrays(
        cls,
        arrays: Mapping[str, Any] | Sequence[Any] | np.ndarray | Tensor,
        labels: Any,
        *,
        names: Sequence[str] | None = None,
        ids: Sequence[Any] | None = None,
        label_ids: Sequence[Any] | None = None,
        probabilities: bool = False,
    ) -> LogitBank:
        """A bank of logits that another program computed, one array (n, C) for each model.

        Arrays of numpy, torch and JAX are taken, and nested lists. With ids, the rows of every
        model are put into the order of the first model's. A model with the logits of another one,
        and a model that is no better than a guess, give a warning.

        Args:
            arrays: N arrays, or a mapping from the models' names to them.
            labels: (n,) whole numbers from 0 to C - 1.
            names: N names, where the arrays have none.
            ids: N lists of what the n images are called, where the models saw them in different
                orders.
            label_ids: (n,) the same for the labels; needed with `ids`.
            probabilities: take the logarithm of probabilities, which ranks as the logits do.

        Raises:
            BankError: arrays of different shapes or images, labels that are no classes, numbers
                that are missing or NaN, or probabilities where they were not announced. It names
                the model.

        >>> import radin
        >>> logits = {"a": [[2.0, 0.0], [0.0, 1.0]], "b": [[0.0, 3.0], [0.5, 1.0]]}
        >>> bank = radin.LogitBank.from_arrays(
        ...     logits, [0, 1], ids=[["x", "y"], ["y", "x"]], label_ids=["x", "y"]
        ... )
        >>> bank.names, bank.accuracies().tolist()
        (['a', 'b'], [100.0, 50.0])
        """
        models = models_of_arrays(arrays, names, ids)
        given = labels_of(labels, label_ids)
        logits, found = combine(models, len(models), given, probabilities=probabilities)
        if names is None and isinstance(arrays, Mapping):
            names = [str(name) for name in arrays]
        return cls(logits, found, names)

    @classmethod
    def from_files(
        cls,
        paths: str | Path | Iterable[str | Path],
        labels: Any = None,
        *,
        names: Sequence[str] | None = None,
        probabilities: bool = False,
    ) -> LogitBank:
        """A bank of logits that another program wrote, one file for each model.

        `.npy` files hold an array (n, C). `.npz` files hold it as "logits", beside "labels" and
        "ids" where they have them. `.csv` and `.parquet` files hold a row for each image and a
        column for each class, and the columns "label" and "id" where they have them. Rows are put
        into the order of the first file's ids, columns into the order of its names. Nothing is
        unpickled. One file that `save` wrote is read as `load` does.

        Args:
            paths: the files, one folder of them, or a glob such as `logits/*.npy` (natural order:
                model_2 before model_10).
            labels: a file of labels, or (n,) labels, where the files do not hold them.
            names: N names for tables. Default: the files' stems.
            probabilities: take the logarithm of probabilities, which ranks as the logits do.

        Raises:
            BankError: a file is missing, damaged, pickled, of another kind, or does not fit the
                others, as in `from_arrays`. It names the file.

        >>> import numpy, radin
        >>> numpy.save("model_1.npy", [[2.0, 0.0], [0.0, 1.0]])
        >>> numpy.save("model_2.npy", [[0.5, 1.0], [0.0, 3.0]])
        >>> radin.LogitBank.from_files("model_*.npy", labels=[0, 1])
        LogitBank(2 ingredients, 2 images, 2 classes)
        """
        files = find_files(paths, labels if isinstance(labels, str | Path) else None)
        if len(files) == 1 and files[0].suffix == ".safetensors":
            if labels is not None or names is not None or probabilities:
                raise BankError(
                    f"{files[0]}: a saved bank has its labels and names; leave labels, names and "
                    "probabilities out."
                )
            return cls.load(files[0])
        if names is not None and len(names) != len(files):
            raise BankError(
                f"{counted(len(names), 'name')} given for {counted(len(files), 'file')}."
            )
        models = (read_model(file) for file in files)
        given = labels_of(labels, None)
        logits, found = combine(models, len(files), given, probabilities=probabilities)
        return cls(logits, found, names_of(files) if names is None else names)


def _check_shapes(logits: Tensor, labels: Tensor) -> None:
    if logits.ndim != 3 or logits.dtype not in _LOGIT_DTYPES:
        raise BankError(
            "Logits must be floating point (half, bfloat16, single or double) of shape (N, n, C): "
            f"ingredients, images, classes; these are {logits.dtype} of shape "
            f"{tuple(logits.shape)}."
        )
    if 0 in logits.shape:
        raise BankError(
            "A logit bank needs an ingredient, an image and a class; its shape is "
            f"{tuple(logits.shape)}."
        )
    are_targets = labels.is_floating_point()
    if (
        labels.shape[:1] != logits.shape[1:2]
        or labels.ndim > 1 + are_targets
        or labels.is_complex()
    ):
        raise BankError(
            f"Labels must be {logits.shape[1]} whole numbers, one for each image, or targets in "
            f"floating point, one row for each; these are {labels.dtype} of shape "
            f"{tuple(labels.shape)}."
        )


def _check_targets(targets: Tensor) -> None:
    if 0 in targets.shape:
        raise BankError(f"Targets of shape {tuple(targets.shape)} hold no number.")
    bad = (~targets.isfinite()).reshape(len(targets), -1).any(1).nonzero().flatten()
    if len(bad):
        raise BankError(
            f"The targets of {counted(len(bad), 'image')} are NaN or infinite, the first is image "
            f"{int(bad[0])}; leave these images out."
        )

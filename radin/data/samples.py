"""Labelled data of any kind behind the face of a split: pairs, dicts, and torch's DataLoader."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)
from torch.utils.data.distributed import DistributedSampler
from tqdm import tqdm

from radin.data.images import from_pillow
from radin.data.network_inputs import Inputs, tensors_of
from radin.data.splits import Split, projection_of
from radin.errors import DataError, list_names
from radin.ranking.projection import Projection

LABEL_KEYS = ("labels", "label", "target")
# What the tokenizers, image and feature processors of transformers call their results
MODEL_KEYS = (
    *("pixel_values", "pixel_mask", "input_ids", "attention_mask", "token_type_ids"),
    *("position_ids", "inputs_embeds", "global_attention_mask", "bbox", "input_values"),
    *("input_features",),
)
IMAGE_KEYS = ("image", "img")
_LABELS_AT_ONCE = 256
NUM_READ_TWICE = 4  # items of a loader, to see whether they are the same each time
_RANDOM_SAMPLERS = (RandomSampler, SubsetRandomSampler, WeightedRandomSampler)

Pair = tuple[Inputs, Any]  # the inputs of a network, and a label or labels


class Samples(Dataset[Any]):
    """Any labelled data in a fixed order: item i is (inputs, label).

    Args:
        source: has a length, and gives item i by its index: a pair of inputs and label, or a dict
            with keys such as "pixel_values" and "label".
        indices: of the items, in this order; all when not given.
        collate: makes a batch of a list of items, as that of a DataLoader.
        num_workers: processes that read the items where no other number is asked for.
    """

    def __init__(
        self,
        source: Any,
        *,
        indices: Sequence[int] | None = None,
        collate: Any = None,
        num_workers: int = 0,
    ) -> None:
        self.source = source
        self.indices = range(len(source)) if indices is None else indices
        self.num_workers = num_workers
        self._collate = collate
        self._is_whole = indices is None and collate is None

    @property
    def fingerprint(self) -> str:
        """The source's own, where it has one."""
        if not self._is_whole:
            raise AttributeError("these are other items than the source's")
        return str(self.source.fingerprint)

    @property
    def projection(self) -> Projection | None:
        return projection_of(self.source)

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, index: int) -> Any:
        """Item `index` as (inputs, label); as the source gives it where `collate` is given."""
        if not 0 <= index < len(self):  # a list of pairs is iterated so
            raise IndexError(index)
        item = self.source[self.indices[index]]
        return item if self._collate is not None else as_pair(item)

    def __repr__(self) -> str:
        return f"a {type(self.source).__name__} of {len(self)}"

    def subset(self, indices: Sequence[int]) -> Self:
        """The items with these indices, in this order."""
        return type(self)(
            self.source,
            indices=[self.indices[i] for i in indices],
            collate=self._collate,
            num_workers=self.num_workers,
        )

    def batches(
        self, batch_size: int, *, start: int = 0, workers: int | None = None
    ) -> Iterator[tuple[Inputs, Tensor]]:
        """The items in order, as batches of inputs and labels.

        Raises:
            DataError: an item that is no labelled data, or labels of another form.
        """
        rest = self.subset(range(start, len(self))) if start else self
        num_workers = self.num_workers if workers is None else workers
        loader = DataLoader(
            rest, batch_size=batch_size, num_workers=num_workers, collate_fn=self._batch
        )
        for inputs, labels in loader:
            yield inputs, check_label_form(labels, repr(self))

    def _batch(self, items: list[Any]) -> Pair:
        inputs, labels = (
            default_collate(items) if self._collate is None else as_pair(self._collate(items))
        )
        lengths = {len(tensor) if tensor.ndim else 0 for tensor in tensors_of(inputs)}
        if lengths != {len(items)}:
            raise DataError(
                f"{self!r}: {len(items)} items became a batch of {list_names(sorted(lengths))}; "
                "each tensor of a batch needs one entry for each item."
            )
        return inputs, torch.as_tensor(labels)


def as_split(data: Any) -> Dataset[Any]:
    """The data as a split, whose item i is (inputs, label): what a function of radin reads.

    Args:
        data: a split; a data set or list of pairs (image, label); one of dicts, as those of the
            library datasets; a DataLoader of such data that keeps their order; or a tuple of two
            arrays, the images as the network takes them and their labels.

    Raises:
        DataError: the data are no such thing, or a DataLoader that shuffles.

    >>> import radin, torch
    >>> pairs = [(torch.rand(1, 2, 2), 0), (torch.rand(1, 2, 2), 1)]
    >>> from radin.data.samples import as_split
    >>> len(as_split(torch.utils.data.DataLoader(pairs, batch_size=2)))
    2
    >>> try:
    ...     as_split(torch.utils.data.DataLoader(pairs, shuffle=True))
    ... except DataError as error:
    ...     print(str(error).partition(",")[0])
    The DataLoader gives its items in another order each time (RandomSampler)
    """
    if isinstance(data, OwnSplit):
        return data.samples
    if isinstance(data, Split | Samples):
        return data
    if isinstance(data, DataLoader):
        return _from_loader(data)
    if isinstance(data, tuple) and len(data) == 2 and all(map(_is_array, data)):
        return Samples(_from_arrays(*data))
    _check_data(data)
    return Samples(data)


def _is_array(value: Any) -> bool:
    return isinstance(value, Tensor | np.ndarray)


def _from_arrays(inputs: Tensor | np.ndarray, labels: Tensor | np.ndarray) -> TensorDataset:
    """Images and labels in memory."""
    x = torch.as_tensor(inputs)
    y = torch.as_tensor(labels)
    if x.ndim == 0 or y.ndim == 0 or len(x) != len(y):
        raise DataError(
            f"Images of shape {tuple(x.shape)} and labels of shape {tuple(y.shape)} do not belong "
            "together; give one label for each image."
        )
    if x.dtype == torch.uint8 and x.ndim > 2:
        raise DataError(
            "These images are bytes from 0 to 255; give them as the network takes them, as floats "
            "of shape (n, channels, height, width) with the scale of the training."
        )
    return TensorDataset(x.float() if x.dtype == torch.float64 else x, y)


class OwnSplit(Split):
    """Data of the user's own with the face of a split: their labels are read once.

    Whatever reads images reads the data themselves: `as_split` gives them.

    Args:
        name: of the data, for messages.
        part: of them.
        data: anything that `as_split` takes. Classes have the names of its `classes`, else their
            numbers.

    Raises:
        DataError: as `as_split`, or labels that are not whole numbers.
    """

    def __init__(self, name: str, part: str, data: Any) -> None:
        self.name = name
        self.part = part
        self.samples = as_split(data)
        if not isinstance(self.samples, Samples):
            assert isinstance(self.samples, Split)
            self.labels = self.samples.labels
            self.class_names = self.samples.class_names
            self.projection = self.samples.projection
            self.files = self.samples.files
            self.note = self.samples.note
            return
        self.labels = _labels_of(self.samples, f"{name}, {part}")
        given = getattr(self.samples.source, "classes", None)
        highest = int(self.labels.max()) + 1
        self.class_names = (
            [str(each) for each in given]
            if isinstance(given, list | tuple) and len(given) >= highest
            else [str(k) for k in range(highest)]
        )

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        pair: tuple[Tensor, int] = self.samples[index]
        return pair

    def subset(self, indices: list[int]) -> Self:
        fewer = copy.copy(self)
        fewer.samples = subset_of(self.samples, indices)
        fewer.labels = self.labels[indices]
        fewer.files = [self.files[i] for i in indices] if self.files else ()
        return fewer


def _labels_of(samples: Samples, name: str) -> Tensor:
    """The labels of all items, which are read for it: (n,) int64."""
    if not len(samples):
        raise DataError(f"{name} holds no images.")
    read = samples.batches(_LABELS_AT_ONCE)
    found = [labels for _, labels in tqdm(read, desc=f"labels of {name}", delay=3, disable=None)]
    labels = torch.cat(found)
    if labels.is_floating_point() or int(labels.min()) < 0:
        raise DataError(f"{name}: labels must be whole numbers from 0, one for each image.")
    return labels


def subset_of(split: Dataset[Any], indices: Sequence[int]) -> Dataset[Any]:
    """The items of a split with these indices, in this order."""
    split = as_split(split)
    return (
        split.subset(list(indices))
        if isinstance(split, Samples)
        else Samples(split, indices=indices)
    )


def _check_data(data: Any) -> None:
    if isinstance(data, Mapping):
        raise DataError(
            f"A {type(data).__name__} of {list_names(map(str, data))} is no list of labelled "
            "items; give one part, such as data['validation'], or a data set of items."
        )
    if isinstance(data, IterableDataset) or not hasattr(data, "__len__"):
        raise DataError(
            f"A {type(data).__name__} has no fixed length and order; give a data set that is read "
            "by index, or list(...) of it."
        )
    if isinstance(data, str | bytes | Tensor | np.ndarray) or not hasattr(data, "__getitem__"):
        raise DataError(
            f"A {type(data).__name__} holds no labelled items; give a split, as radin.load_split "
            "does, or a data set or list of (inputs, label) pairs."
        )


# Loaders -----------------------------------------------------------------------------------------


def _from_loader(loader: DataLoader[Any]) -> Dataset[Any]:
    """The items of a DataLoader in its order, in batches of any size."""
    _check_data(loader.dataset)
    order = _fixed_order(loader)
    collate = None if loader.collate_fn is default_collate else loader.collate_fn
    is_whole = order == list(range(len(loader.dataset)))  # type: ignore[arg-type]
    if isinstance(loader.dataset, Split) and collate is None and is_whole:
        return loader.dataset
    samples = Samples(
        loader.dataset,
        indices=None if is_whole else order,
        collate=collate,
        num_workers=loader.num_workers,
    )
    _check_same_each_time(samples)
    return samples


def _fixed_order(loader: DataLoader[Any]) -> list[int]:
    """The indices of a loader's items.

    Raises:
        DataError: they are others each time.
    """
    if loader.batch_sampler is None:
        raise DataError(
            "The DataLoader has batch_size=None, so its data set makes the batches itself; give a "
            "data set of single items."
        )
    sampler = getattr(loader.batch_sampler, "sampler", loader.sampler)
    order = [] if isinstance(sampler, _RANDOM_SAMPLERS) else _indices(loader)
    if isinstance(sampler, _RANDOM_SAMPLERS) or order != _indices(loader):
        raise DataError(
            "The DataLoader gives its items in another order each time "
            f"({type(sampler).__name__}), so logits and labels of different passes would not "
            "belong together; make it with shuffle=False."
        )
    if isinstance(sampler, DistributedSampler) and sampler.num_replicas > 1:
        raise DataError(
            f"The DataLoader gives this process one of {sampler.num_replicas} parts of the data "
            "(DistributedSampler), some items twice; give the data set itself."
        )
    left_out = len(loader.dataset) - len(order)  # type: ignore[arg-type]
    if getattr(loader.batch_sampler, "drop_last", False) and left_out > 0:
        warnings.warn(
            f"The DataLoader leaves out {left_out} of {len(loader.dataset)} items "  # type: ignore
            "(drop_last=True); with drop_last=False all of them count.",
            stacklevel=4,
        )
    return order


def _indices(loader: DataLoader[Any]) -> list[int]:
    return [int(index) for batch in loader.batch_sampler for index in batch]  # type: ignore


def _check_same_each_time(samples: Samples) -> None:
    """Refuse items with random changes: no pass would see the images of another one."""
    if not len(samples):
        return
    first = samples.subset(range(min(NUM_READ_TWICE, len(samples))))
    (one, labels), (other, labels_again) = (
        next(first.batches(NUM_READ_TWICE, workers=0)) for _ in range(2)
    )
    pairs = zip([*tensors_of(one), labels], [*tensors_of(other), labels_again], strict=True)
    if not all(torch.allclose(a, b, rtol=0, atol=0, equal_nan=True) for a, b in pairs):
        raise DataError(
            "The DataLoader gives other numbers for the same item each time, as random crops and "
            "masks do; give a loader with the transforms of an evaluation."
        )


# Items -------------------------------------------------------------------------------------------


def as_pair(item: Any) -> Pair:
    """An item, or a batch of them, as the inputs of a network and the label.

    A dict gives the tensors that transformers names, by their names if there are several, or else
    its image; other entries are left out.

    Raises:
        DataError: it is neither a pair nor such a dict.
    """
    if isinstance(item, Mapping):
        return _pair_of_dict(item)
    if isinstance(item, tuple | list) and len(item) == 2:
        inputs, label = item
        if isinstance(inputs, Mapping):
            return {name: _as_tensor(name, value) for name, value in inputs.items()}, label
        return _as_tensor("the first of a pair", inputs), _checked_label(label)
    found = f"{len(item)} things" if isinstance(item, tuple | list) else f"a {type(item).__name__}"
    raise DataError(
        f"An item of the data is {found}; it must be a pair of inputs and label, or a dict with "
        "such keys as 'pixel_values' and 'label'."
    )


def _pair_of_dict(item: Mapping[str, Any]) -> Pair:
    keys = list_names(map(str, item))
    label_keys = [key for key in LABEL_KEYS if key in item]
    if len(label_keys) != 1:
        found = f"several labels: {' and '.join(label_keys)}" if label_keys else "no label"
        raise DataError(
            f"An item with {keys} has {found}; keep one column, and call it 'label' or 'labels'."
        )
    names = [key for key in MODEL_KEYS if key in item]
    names = names or [key for key in IMAGE_KEYS if key in item][:1]
    if not names:
        raise DataError(
            f"An item with {keys} has no inputs of a network; make tensors of it first, with a "
            f"tokenizer or an image processor. Keys that are read: "
            f"{', '.join((*MODEL_KEYS, *IMAGE_KEYS))}."
        )
    inputs = {name: _as_tensor(name, item[name]) for name in names}
    label = _checked_label(item[label_keys[0]])
    return (next(iter(inputs.values())) if len(inputs) == 1 else inputs), label


def _as_tensor(name: str, value: Any) -> Tensor:
    """A tensor of numbers; images of Pillow as (3, height, width), scaled to -1 .. 1."""
    if isinstance(value, Tensor):
        return value
    if hasattr(value, "convert") and hasattr(value, "mode"):
        return from_pillow(value)
    try:
        tensor = torch.as_tensor(np.asarray(value))
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{name} is a {type(value).__name__}, which no tensor can be made of ({error}); give "
            "numbers, one length for all of them."
        ) from error
    # The data set did not choose the precision of Python's own numbers.
    is_own = not isinstance(value, np.ndarray | np.generic)
    return tensor.float() if is_own and tensor.dtype == torch.float64 else tensor


def _checked_label(label: Any) -> Any:
    if isinstance(label, str | bytes) or label is None:
        raise DataError(f"A label is {label!r}; number the classes from 0, and give the numbers.")
    return label


def check_label_form(labels: Any, name: str) -> Tensor:
    """Labels (batch,) int64, or targets (batch,) or (batch, D) in floating point.

    Raises:
        DataError: they have another form.
    """
    labels = torch.as_tensor(labels)
    if labels.is_floating_point() and 1 <= labels.ndim <= 2:
        return labels
    if labels.ndim != 1 or labels.is_complex():
        raise DataError(
            f"{name}: labels must be whole numbers, one for each image, or targets in floating "
            f"point, one row for each; these are {labels.dtype} of shape "
            f"{tuple(labels.shape[1:])}."
        )
    return labels.long()

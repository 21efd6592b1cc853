"""One pass over the images for many networks: each image is decoded once for all of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.data.batches import batches
from radin.data.network_inputs import (
    Inputs,
    call_arguments,
    call_network,
    count_inputs,
    describe_inputs,
    logits_in,
    map_inputs,
    num_bytes,
    split_inputs,
)
from radin.data.samples import as_split
from radin.errors import DataError, check_integer
from radin.inference.devices import network_memory_bytes

MakeModel = Callable[[], nn.Module]  # returns a network in evaluation mode, on the CPU
Batch = tuple[Inputs, Tensor]  # images (batch, ...) and labels (batch,)

MIN_FREE_GPU_SHARE = 0.25  # of the GPU's memory, left free for activations
NUM_PROBE_IMAGES = 8  # run to see whether a network takes the images, or gives its stored logits
MAX_CHUNK_BYTES = 2**31  # of images held in memory while networks take turns on the device
STORED_TOLERANCE = 1e-2  # of the largest logit: other devices and batch sizes change less than this


def forward_all(
    make_models: Sequence[MakeModel],
    split: Dataset[Any],
    device: torch.device,
    *,
    batch_size: int,
    skip: Sequence[int] | None = None,
    half: bool = False,
    workers: int | None = None,
    desc: str = "",
    progress: bool = False,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Run K networks over a split in one pass, and yield their logits batch by batch.

    As many networks as fit stay on the device. The others take turns: each is loaded once for a
    chunk of many batches. A batch that is too large for the device is run in smaller pieces, with
    a warning.

    Args:
        make_models: K functions, each called when its network is needed.
        skip: (K,) how many images each network skips at the beginning, multiples of `batch_size`;
            none by default.
        half: run the networks in half precision (see `half_dtype`) instead of their own.
        workers: threads that decode images; by default one for each core.
        desc: text before the progress bar.
        progress: whether to show the bar.

    Yields:
        The index of a network, its logits (batch, C) on the device, and the labels (batch,). The
        batches of one network come in the order of the split.

    Raises:
        DataError: an empty split, an unreadable image, or images that do not fit a network.
    """
    if not make_models:
        return
    skips = [0] * len(make_models) if skip is None else list(skip)
    split = as_split(split)
    total = len(split)  # type: ignore[arg-type]
    chunk_start = min(skips)
    models = _DeviceModels(make_models, device, half_dtype(device) if half else None)
    num_to_run = sum(total - skipped for skipped in skips)
    with tqdm(
        total=num_to_run, desc=desc, unit=" images", leave=False, disable=not progress
    ) as bar:
        decoded = batches(split, batch_size, start=chunk_start, workers=workers)
        for chunk in _chunks(decoded, single_batches=models.all_fit):
            if models.all_fit:  # copied to the device once for all networks
                chunk = [(inputs_to(images, device), labels) for images, labels in chunk]
            starts = list(accumulate((len(labels) for _, labels in chunk), initial=chunk_start))
            for k, skipped in enumerate(skips):
                todo = [
                    batch for start, batch in zip(starts, chunk, strict=False) if start >= skipped
                ]
                if not todo:
                    continue
                model = models.get(k)
                for images, labels in todo:
                    yield k, models.forward(model, images), labels
                    bar.update(len(labels))
                del model  # its memory is free before the next network is loaded
            chunk_start = starts[-1]
            bar.set_postfix_str(
                f"{chunk_start:,} of {total:,} decoded for {len(make_models)} networks",
                refresh=False,
            )


def check_workers(workers: int | None) -> int | None:
    """The number of decoding threads.

    Raises:
        ParameterError: it is neither None nor a whole number of at least 1.
    """
    return None if workers is None else check_integer("workers", workers, minimum=1)


def half_dtype(device: torch.device) -> torch.dtype:
    """The dtype of half precision that the device computes in quickly."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def _chunks(decoded: Iterator[Batch], *, single_batches: bool) -> Iterator[list[Batch]]:
    """Batches in lists: of one batch, or of as many as `MAX_CHUNK_BYTES` holds."""
    for batch in decoded:
        length = 1 if single_batches else MAX_CHUNK_BYTES // max(1, num_bytes(batch[0]))
        yield list(chain([batch], islice(decoded, max(0, length - 1))))


class _DeviceModels:
    """Networks for one device: those that fit stay there, the others are loaded on request."""

    def __init__(
        self, make_models: Sequence[MakeModel], device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self.make_models = make_models
        self.device = device
        self.dtype = dtype
        self.max_images = 0  # in one forward pass; set once a batch was too large
        self.resident: list[nn.Module] = []
        while len(self.resident) < len(make_models) and self._has_room():
            try:
                self.resident.append(self._load(len(self.resident)))
            except torch.OutOfMemoryError:
                break
        self.all_fit = len(self.resident) == len(make_models)

    def get(self, k: int) -> nn.Module:
        return self.resident[k] if k < len(self.resident) else self._load(k)

    def _load(self, k: int) -> nn.Module:
        return move_model(self.make_models[k](), self.device, self.dtype)

    def _has_room(self) -> bool:
        if not self.resident:
            return True
        if self.device.type != "cuda":
            # Most networks are mapped from disk and need no memory; a copy does need it.
            size = sum(tensor.nbytes for tensor in self.resident[-1].state_dict().values())
            return size * (len(self.resident) + 1) <= network_memory_bytes()
        free, total = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return free > MIN_FREE_GPU_SHARE * total

    def forward(self, model: nn.Module, images: Inputs) -> Tensor:
        """Logits of a batch, in pieces when the device has too little memory for all of it."""
        pieces = list(split_inputs(images, self.max_images or count_inputs(images)))
        try:
            with torch.inference_mode():
                return torch.cat([batch_logits(model, piece, self.device) for piece in pieces])
        except torch.OutOfMemoryError:
            size = count_inputs(pieces[0])
            if size == 1:
                raise
        self.max_images = (size + 1) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"{self.device} has too little memory for {size} images at once; going on with "
            f"{self.max_images}.",
            stacklevel=4,
        )
        return self.forward(model, images)


def batch_logits(
    model: nn.Module,
    images: Inputs,
    device: torch.device,
    *,
    state: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """One forward pass.

    Args:
        images: (batch, ...), on any device; they are run in the model's own dtype. A mapping gives
            the model several tensors by the names of its arguments.
        state: tensors used instead of the model's own in this pass; gradients flow into them.

    Returns:
        Logits (batch, C), on the device.

    Raises:
        DataError: the network does not take these images, or does not return logits.
        torch.OutOfMemoryError: the batch is too large for the device.
    """
    try:
        x = images_for_model(images, model, device)
        logits = call_network(model, x) if state is None else functional_logits(model, state, x)
    except torch.OutOfMemoryError:  # a smaller batch helps
        raise
    except Exception as error:  # anything can go wrong in a network that a user wrote
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if any(name in reason for name in ("CUDA", "cuDNN", "CUBLAS", "HIP")):
            raise  # the device failed, the images are not the cause
        if "can't allocate memory" in reason:  # how torch reports it on a CPU
            raise torch.OutOfMemoryError(reason) from error
        way_out = (
            "check size and channels, as in load_split(..., size=224)"
            if isinstance(images, Tensor)
            else "check their names and sizes, and the arguments of its forward"
        )
        raise DataError(
            f"{type(model).__name__} cannot predict {describe_inputs(images)} ({reason}); "
            f"{way_out}."
        ) from error
    _check_logits(logits, model, images)
    return logits


def functional_logits(model: nn.Module, state: Mapping[str, Tensor], images: Inputs) -> Tensor:
    """The model's logits (n, C) with the tensors of `state` instead of its own."""
    # A state dict names tied tensors more than once; each name then has its own (equal) value.
    arguments, named = call_arguments(images)
    return logits_in(functional_call(model, dict(state), arguments, named, tie_weights=False))


def _check_logits(logits: Any, model: nn.Module, images: Inputs) -> None:
    if not isinstance(logits, Tensor):
        found = f"a {type(logits).__name__}"
    elif logits.ndim != 2 or len(logits) != count_inputs(images):
        found = f"shape {tuple(logits.shape)}"
    else:
        return
    raise DataError(
        f"{type(model).__name__} must give logits (batch, classes) for a batch of images, "
        f"not {found}."
    )


def inputs_to(images: Inputs, device: torch.device) -> Inputs:
    """The images on a device."""
    return map_inputs(lambda tensor: tensor.to(device), images)


def images_for_model(images: Inputs, model: nn.Module, device: torch.device) -> Inputs:
    """The images on the device, in the dtype of the model's real parameters if they are real."""
    real = (parameter for parameter in model.parameters() if parameter.is_floating_point())
    parameter = next(real, None)
    dtype = None if parameter is None else parameter.dtype
    return map_inputs(
        lambda tensor: tensor.to(device, dtype if tensor.is_floating_point() else None), images
    )


def move_model(model: nn.Module, device: torch.device, dtype: torch.dtype | None) -> nn.Module:
    """The model on a device, in a real precision if one is given.

    Complex parameters stay as they are. torch's own `.to` drops their imaginary part.
    """
    return model._apply(lambda t: t.to(device, dtype if t.is_floating_point() else None))


def matches_stored(logits: Tensor, stored: Tensor) -> bool:
    """Whether logits equal stored ones, up to the effect of another device or batch size."""
    if logits.shape != stored.shape:
        return False
    tolerance = STORED_TOLERANCE * stored.abs().max().item()
    return torch.allclose(logits, stored, rtol=0, atol=tolerance)

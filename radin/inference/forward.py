"""One pass over the images for many networks: each image is decoded once, whatever their number."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import chain, islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils.data import Dataset
from tqdm import tqdm

from radin.data.batches import batches
from radin.errors import DataError, check_integer
from radin.inference.devices import memory

Source = Callable[[], nn.Module]  # gives a network in evaluation mode, on the CPU

ACTIVATIONS = 0.25  # share of a GPU's memory that waiting networks leave to the images that pass through one of them
PROBE = 8  # images that show whether a network takes them, or still says what a store has of it
CHUNK = (
    2**31
)  # bytes of images that wait in memory while networks that do not fit together take turns


def stream(
    sources: Sequence[Source],
    split: Dataset[Any],
    device: torch.device,
    batch_size: int,
    starts: Sequence[int] | None = None,
    half: bool = False,
    workers: int | None = None,
    desc: str = "",
    progress: bool = False,
) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Run K networks over a split in one pass, and hand out their logits as they come.

    As many networks as fit stay on the device. The others take turns: each is loaded for a chunk of images, not for
    every batch. A batch that is too large for the device is run in smaller pieces, and a warning says so.

    Args:
        sources: the K networks; each is asked for when its turn comes.
        starts: (K,) how many images each network may skip at the beginning, multiples of `batch_size`; by default none.
        half: run the networks in half precision (see `half_of`) instead of their own.
        workers: threads that decode images; by default one for each core.
        desc, progress: words before the progress bar, and whether to show it.

    Yields the number of the network; its logits (batch, C), on the device; and the labels (batch,). The batches of one
    network come in the order of the split.

    Raises DataError for an empty split, an unreadable image or images that do not fit a network.
    """
    if not sources:
        return
    begins = [0] * len(sources) if starts is None else list(starts)
    total = len(split)  # type: ignore[arg-type]
    place = min(begins)
    fleet = _Fleet(sources, device, half_of(device) if half else None)
    images_to_run = sum(total - begin for begin in begins)
    with tqdm(
        total=images_to_run, desc=desc, unit=" images", leave=False, disable=not progress
    ) as bar:
        for chunk in _chunks(batches(split, batch_size, place, workers), one_by_one=fleet.all_fit):
            if fleet.all_fit:
                chunk = [
                    (images.to(device), labels) for images, labels in chunk
                ]  # once, not for each network
            for k, begin in enumerate(begins):
                first, model = place, None
                for images, labels in chunk:
                    if first >= begin:
                        model = fleet.get(k) if model is None else model
                        yield k, fleet.forward(model, images), labels
                        bar.update(len(labels))
                    first += len(labels)
            place = first
            bar.set_postfix_str(
                f"{place:,} of {total:,} decoded for {len(sources)} networks", refresh=False
            )


def check_workers(workers: int | None) -> int | None:
    """The number of decoding threads; ParameterError unless it is None or a whole number of at least 1."""
    return None if workers is None else check_integer("workers", workers, minimum=1)


def half_of(device: torch.device) -> torch.dtype:
    """The half precision that a kind of device computes in quickly."""
    return torch.float16 if device.type == "cuda" else torch.bfloat16


def _chunks(
    pending: Iterator[tuple[Tensor, Tensor]], one_by_one: bool
) -> Iterator[list[tuple[Tensor, Tensor]]]:
    """Batches in lists: of one, or of as many as `CHUNK` holds."""
    for batch in pending:
        more = 0 if one_by_one else CHUNK // max(1, batch[0].nbytes)
        yield list(chain([batch], islice(pending, max(0, more - 1))))


class _Fleet:
    """Networks on their way through a device: those that fit are held there, the others are loaded when asked for."""

    def __init__(
        self, sources: Sequence[Source], device: torch.device, dtype: torch.dtype | None
    ) -> None:
        self.sources, self.device, self.dtype = sources, device, dtype
        self.most = 0  # images in one forward pass, once a batch has proved too large
        self.held: list[nn.Module] = []
        while len(self.held) < len(sources) and self._has_room():
            try:
                self.held.append(self._load(len(self.held)))
            except torch.OutOfMemoryError:
                break
        self.all_fit = len(self.held) == len(sources)

    def get(self, k: int) -> nn.Module:
        return self.held[k] if k < len(self.held) else self._load(k)

    def _load(self, k: int) -> nn.Module:
        return self.sources[k]().to(self.device, self.dtype)

    def _has_room(self) -> bool:
        if not self.held:
            return True
        if self.device.type != "cuda":
            # Most are mapped from disk, which takes no room and no time. One that is a copy takes both.
            size = sum(tensor.nbytes for tensor in self.held[-1].state_dict().values())
            return size * (len(self.held) + 1) <= memory()
        free, total = torch.cuda.mem_get_info(self.device)
        free += torch.cuda.memory_reserved(self.device) - torch.cuda.memory_allocated(self.device)
        return free > ACTIVATIONS * total

    def forward(self, model: nn.Module, images: Tensor) -> Tensor:
        """Logits of a batch, in pieces when the device has too little memory for the whole."""
        pieces = images.split(self.most or len(images))
        try:
            with torch.inference_mode():
                return torch.cat([batch_logits(model, piece, self.device) for piece in pieces])
        except torch.OutOfMemoryError:
            size = len(pieces[0])
            if size == 1:
                raise
        self.most = (size + 1) // 2
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"{self.device} has too little memory for {size} images at once; going on with {self.most}.",
            stacklevel=4,
        )
        return self.forward(model, images)


def batch_logits(
    model: nn.Module,
    images: Tensor,
    device: torch.device,
    state: Mapping[str, Tensor] | None = None,
) -> Tensor:
    """One forward pass: (batch, C). DataError when the network does not take these images or gives no logits.

    Args:
        state: tensors to use in place of the model's own for this pass; gradients flow back into them.
    """
    try:
        x = like(images, model, device)
        # A state dict names tied tensors more than once; each name then has its own (equal) value.
        answer = (
            model(x)
            if state is None
            else functional_call(model, dict(state), (x,), tie_weights=False)
        )
    except torch.OutOfMemoryError:  # smaller batches mend it
        raise
    except Exception as error:  # the network may be anybody's
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        if any(
            word in reason for word in ("CUDA", "cuDNN", "CUBLAS", "HIP")
        ):  # the device's fault, not the images'
            raise
        if "can't allocate memory" in reason:  # how a CPU says it
            raise torch.OutOfMemoryError(reason) from error
        raise DataError(
            f"{type(model).__name__} cannot predict images of shape {tuple(images.shape[1:])} "
            f"({reason}); check size and channels, as in load_split(..., size=224)."
        ) from error
    if not isinstance(answer, Tensor) or answer.shape[:1] != images.shape[:1] or answer.ndim != 2:
        what = (
            f"shape {tuple(answer.shape)}"
            if isinstance(answer, Tensor)
            else f"a {type(answer).__name__}"
        )
        raise DataError(
            f"{type(model).__name__} must give logits (batch, classes) for a batch of images, not {what}."
        )
    return answer


def like(images: Tensor, model: nn.Module, device: torch.device) -> Tensor:
    """The images on the device, in the model's own precision."""
    parameter = next(model.parameters(), None)
    if parameter is None or not images.is_floating_point():
        return images.to(device)
    return images.to(device, parameter.dtype)


def close_to_stored(now: Tensor, known: Tensor) -> bool:
    """Whether logits are those that were stored: another device, batch size or precision moves them in the third
    digit at most."""
    return now.shape == known.shape and torch.allclose(
        now, known, rtol=0, atol=1e-2 * known.abs().max().item()
    )

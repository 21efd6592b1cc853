"""One image file as pixels: decoded, resized and cropped as CLIP and torchvision do it."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from radin.errors import DataError

LARGEST = 2**27  # pixels that an image may have once its shorter edge is resized: half a gigabyte
_MEND = "; replace or remove it."


def read_image(path: Path, size: int | None = None, border: int = 0) -> Tensor:
    """An image file as (3, height, width), scaled to -1 .. 1; with `size`, its centre square resized to size x size.

    Args:
        border: pixels that are cut off at each edge before anything else.

    Raises DataError when the file is not an image, is cut short, or is too small or too narrow for this.
    """
    return scale(torch.from_numpy(decode(path, read_file(path), size, border)))


def fault(path: Path, size: int | None = None, border: int = 0) -> str:
    """Why `read_image` would refuse the file; empty when it would not."""
    try:
        decode(path, read_file(path), size, border)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ").removesuffix(_MEND)
    return ""


def read_file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: could not be read ({error.strerror}).") from error


def decode(path: Path, content: bytes, size: int | None = None, border: int = 0) -> np.ndarray:
    """The content of an image file as (height, width, 3) bytes.

    To the pixel what torchvision's Resize(size, bicubic) and CenterCrop(size) make of the RGB image that its folders
    of images hand them, which is how published accuracies of CLIP models are measured: the longer edge is rounded
    down, the offset of the crop to the nearest even. Colours are converted first; open_clip's own transform, given a
    palette, would resize the palette's numbers.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as file:
            image = file.convert("RGB")
    except (
        Exception
    ) as error:  # a damaged file makes Pillow's readers stumble in every way there is
        reason = (
            "cut short or no image" if isinstance(error, UnidentifiedImageError) else error
        )  # it names a buffer
        raise DataError(f"{path}: not a readable image ({reason}){_MEND}") from error
    if border:
        if min(image.size) <= 2 * border:
            raise DataError(
                f"{path}: has {_edges(image.size)} pixels, nothing but a border of {border}{_MEND}"
            )
        image = image.crop((border, border, image.width - border, image.height - border))
    if size is not None:
        shorter = min(image.size)
        width, height = (
            size if edge == shorter else int(size * edge / shorter) for edge in image.size
        )
        if width * height > LARGEST:
            raise DataError(
                f"{path}: too narrow to be resized ({_edges(image.size)} pixels){_MEND}"
            )
        left, top = round((width - size) / 2), round((height - size) / 2)
        image = image.resize((width, height), Image.Resampling.BICUBIC).crop(
            (left, top, left + size, top + size)
        )
    return np.array(image)


def scale(pixels: Tensor) -> Tensor:
    """Bytes (..., height, width, 3) as (..., 3, height, width) in single precision, -1 .. 1."""
    return (
        pixels.movedim(-1, -3).float().div_(127.5).sub_(1)
    )  # in place: ten times faster than two new tensors


def _edges(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"

"""One image file as pixels: decoded, resized and cropped as CLIP and torchvision do it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from radin.errors import DataError

if TYPE_CHECKING:
    from PIL import Image

MAX_RESIZED_PIXELS = 2**27  # of an image whose shorter edge is resized: half a gigabyte
_TIFF_BITS = 258  # the numbers of the tags
_TIFF_PHOTOMETRIC = 262
_WHAT_TO_DO = "; replace or remove it."


def read_image(path: Path, size: int | None = None, border: int = 0) -> Tensor:
    """An image file as (3, height, width), scaled to -1 .. 1.

    Args:
        size: edge in pixels of the centre square that the image is resized and cropped to; the
            image keeps its size when not given.
        border: pixels that are cut off at each edge before anything else.

    Raises:
        DataError: the file is not an image, is truncated, is too small or too narrow, or its
            pixels have 32 bits or a fraction, which says nothing about black and white.
    """
    return scale(torch.from_numpy(decode(path, read_file(path), size, border)))


def describe_fault(path: Path, size: int | None = None, border: int = 0) -> str:
    """Why `read_image` would refuse the file; empty when it would not."""
    try:
        decode(path, read_file(path), size, border)
    except DataError as error:
        return str(error).removeprefix(f"{path}: ").removesuffix(_WHAT_TO_DO)
    return ""


def read_file(path: Path) -> bytes:
    """The content of a file. Raises DataError when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: could not be read ({error.strerror}).") from error


def decode(path: Path, content: bytes, size: int | None = None, border: int = 0) -> np.ndarray:
    """The content of an image file as (height, width, 3) bytes, resized as by `read_image`.

    Every pixel is equal to that of torchvision's Resize(size, bicubic) and CenterCrop(size) on the
    RGB image, with which the published accuracies of CLIP models are measured: the longer edge is
    rounded down, the offset of the crop to the nearest even number. Colours are converted first.
    open_clip's own transform would resize the indices of an image with a palette. As there, of
    several frames the first is read, transparency is left out, and a camera's note on how to turn
    the image (EXIF) is not followed.

    Grey images of 16 bits are the exception: torchvision would make nearly all of their pixels
    white. Here 65,535 becomes 255.
    """
    from PIL import Image, UnidentifiedImageError

    try:
        with Image.open(io.BytesIO(content)) as file:
            image = _to_rgb(file)
    except Exception as error:  # Pillow raises errors of any type for a damaged file
        # The text of an UnidentifiedImageError names a buffer, not the file.
        unidentified = isinstance(error, UnidentifiedImageError)
        reason = "truncated or no image" if unidentified else error
        raise DataError(f"{path}: not a readable image ({reason}){_WHAT_TO_DO}") from error
    if border:
        if min(image.size) <= 2 * border:
            raise DataError(
                f"{path}: has {_edges(image.size)} pixels, nothing but a border of {border}"
                f"{_WHAT_TO_DO}"
            )
        image = image.crop((border, border, image.width - border, image.height - border))
    if size is not None:
        shorter = min(image.size)
        width, height = (
            size if edge == shorter else int(size * edge / shorter) for edge in image.size
        )
        if width * height > MAX_RESIZED_PIXELS:
            raise DataError(
                f"{path}: too narrow to be resized ({_edges(image.size)} pixels){_WHAT_TO_DO}"
            )
        left = round((width - size) / 2)
        top = round((height - size) / 2)
        resized = image.resize((width, height), Image.Resampling.BICUBIC)
        image = resized.crop((left, top, left + size, top + size))
    return np.array(image)


def _to_rgb(file: Image.Image) -> Image.Image:
    """An image in 8 bits for each of three colours.

    Raises:
        ValueError: its range from black to white is not known.
    """
    # Pillow opens 16-bit grey of PNG and PGM as I in some versions, scaled to 65,535.
    if file.mode.startswith("I;16") or (file.mode == "I" and file.format in ("PNG", "PPM")):
        return _sixteen_bits_to_rgb(file)
    if file.mode in ("I", "F"):
        raise ValueError(
            f"pixels of mode {file.mode}, 32 bits, whose range from black to white no file tells; "
            "save it with 8 or 16 bits"
        )
    return file.convert("RGB")


def _sixteen_bits_to_rgb(file: Image.Image) -> Image.Image:
    from PIL import Image

    tags = getattr(file, "tag_v2", {})  # of TIFF, where 12 bits and negatives are in use
    highest = 2 ** int(tags.get(_TIFF_BITS, (16,))[0]) - 1
    values = np.asarray(file).astype(np.uint32).clip(max=highest)
    if tags.get(_TIFF_PHOTOMETRIC) == 0:  # white is zero
        values = highest - values
    grey = (values * 255 + highest // 2) // highest
    return Image.fromarray(grey.astype(np.uint8)).convert("RGB")


def from_pillow(image: Image.Image) -> Tensor:
    """An image of Pillow as (3, height, width), scaled to -1 .. 1.

    Raises:
        DataError: its range from black to white is not known.
    """
    try:
        return scale(torch.from_numpy(np.array(_to_rgb(image))))
    except ValueError as error:
        raise DataError(f"An image cannot be used ({error}).") from error


def scale(pixels: Tensor) -> Tensor:
    """Bytes (..., height, width, 3) as (..., 3, height, width) in single precision, -1 .. 1."""
    # In place: ten times faster than two new tensors.
    return pixels.movedim(-1, -3).float().div_(127.5).sub_(1)


def _edges(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"

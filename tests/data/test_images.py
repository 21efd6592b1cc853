"""radin/data/images.py: pixels as torchvision and open_clip make them."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from radin.data.images import decode, describe_fault, read_image
from radin.errors import DataError

MODES = ("RGB", "L", "LA", "RGBA", "P", "1", "CMYK")


def draw(path: Path, size: tuple[int, int], mode: str = "RGB", seed: int = 0) -> Path:
    """An image of noise, without loss: any difference of a pixel or of a rounding shows."""
    rng = np.random.default_rng(seed)
    image = Image.fromarray(rng.integers(0, 256, (size[1], size[0], 4), dtype=np.uint8), "RGBA")
    image = image if mode in ("RGBA", "LA") else image.convert("RGB")
    image = image.quantize(64) if mode == "P" else image.convert(mode)
    path = path.with_suffix(".tif" if mode == "CMYK" else ".png")
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)
    return path


def torchvision_pixels(path: Path, size: int) -> np.ndarray:
    """What torchvision's folder of images and its two transforms make of a file."""
    from torchvision.datasets.folder import pil_loader
    from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

    transform = Compose([Resize(size, interpolation=InterpolationMode.BICUBIC), CenterCrop(size)])
    return np.asarray(transform(pil_loader(str(path))))


@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    size=st.integers(1, 40),
    mode=st.sampled_from(MODES),
    seed=st.integers(0, 9),
)
@settings(max_examples=150)
def test_pixels_are_those_of_torchvision(tmp_path_factory, width, height, size, mode, seed):
    path = draw(
        tmp_path_factory.getbasetemp() / "images" / mode.replace(";", ""),
        (width, height),
        mode,
        seed,
    )
    pixels = decode(path, path.read_bytes(), size)
    assert pixels.shape == (size, size, 3)
    assert np.array_equal(pixels, torchvision_pixels(path, size))


# Longer edges that end in a fraction, odd margins of either parity, images that must grow, 95 x 190
# where the order of multiplying and dividing shows, and a very long one.
SIZES = [
    (500, 375),
    (375, 500),
    (333, 500),
    (225, 226),
    (224, 224),
    (100, 80),
    (2, 3),
    (1, 1),
    (95, 190),
    (40, 1900),
]


@pytest.mark.parametrize("size", SIZES)
def test_pixels_are_those_of_torchvision_at_the_size_of_clip(tmp_path, size):
    path = draw(tmp_path / "a", size)
    assert np.array_equal(decode(path, path.read_bytes(), 224), torchvision_pixels(path, 224))


def test_pixels_are_those_of_open_clip(tmp_path):
    import open_clip
    from torchvision.datasets.folder import pil_loader

    transform = open_clip.image_transform(224, is_train=False, mean=(0.5,) * 3, std=(0.5,) * 3)
    for k, (size, mode) in enumerate(
        [((500, 333), "RGB"), ((301, 450), "L"), ((120, 226), "P"), ((90, 61), "CMYK")]
    ):
        path = draw(tmp_path / str(k), size, mode)
        theirs = transform(pil_loader(str(path)))
        assert (read_image(path, 224) - theirs).abs().max() < 1e-6


def test_colours_come_before_the_size(tmp_path):
    """An image with a palette is converted to RGB before it is resized."""
    path = draw(tmp_path / "a", (50, 40), "P")
    with Image.open(path) as image:
        other = np.asarray(
            image.resize((12, 10), Image.Resampling.BICUBIC).convert("RGB").crop((1, 0, 11, 10))
        )
    assert not np.array_equal(decode(path, path.read_bytes(), 10), other)


def test_a_border_is_cut_off_first(tmp_path):
    path = draw(tmp_path / "a", (64, 48))
    with Image.open(path) as image:
        image.crop((2, 2, 62, 46)).save(tmp_path / "inner.png")
    inner = tmp_path / "inner.png"
    assert torch.equal(read_image(path, border=2), read_image(inner))
    assert torch.equal(read_image(path, 20, border=2), read_image(inner, 20))
    assert not torch.equal(read_image(path, 20), read_image(inner, 20))


def test_nothing_but_a_border(tmp_path):
    assert read_image(draw(tmp_path / "a", (5, 9)), border=2).shape == (3, 5, 1)
    path = draw(tmp_path / "b", (4, 9))
    with pytest.raises(
        DataError,
        match=r"b\.png: has 4 x 9 pixels, nothing but a border of 2; replace or remove it",
    ):
        read_image(path, border=2)


def test_too_narrow_to_be_resized(tmp_path):
    path = draw(tmp_path / "line", (1, 4000))
    assert read_image(path).shape == (3, 4000, 1)
    with pytest.raises(
        DataError, match=r"line\.png: too narrow to be resized \(1 x 4000 pixels\); replace"
    ):
        read_image(path, 224)


# Depths ------------------------------------------------------------------------------------------

RAMP = np.linspace(0, 65535, 256).round().astype(np.uint16).reshape(16, 16)


def eight_bits(values: np.ndarray, highest: int) -> np.ndarray:
    """The nearest of 256 levels, by exact fractions."""
    flat = [round(Fraction(255 * int(value), highest)) for value in values.flatten()]
    return np.array(flat).reshape(values.shape)


def grey(path: Path, size: int | None = None) -> np.ndarray:
    """The one colour of a grey image."""
    pixels = decode(path, path.read_bytes(), size)
    assert (pixels == pixels[..., :1]).all()
    return pixels[..., 0]


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_sixteen_bits_keep_their_levels(tmp_path, name):
    image = Image.fromarray(RAMP)
    image.save(tmp_path / name)
    assert np.array_equal(grey(tmp_path / name), np.arange(256).reshape(16, 16))
    assert grey(tmp_path / name, 8).shape == (8, 8)


@given(st.lists(st.integers(0, 65535), min_size=4, max_size=4))
def test_sixteen_bits_are_rounded_to_the_nearest_level(tmp_path_factory, values):
    path = tmp_path_factory.getbasetemp() / "sixteen.png"
    pixels = np.array(values, dtype=np.uint16).reshape(2, 2)
    Image.fromarray(pixels).save(path)
    assert np.array_equal(grey(path), eight_bits(pixels, 65535))


def test_sixteen_bits_in_the_other_order_of_bytes_and_with_white_as_zero(tmp_path):
    big = Image.frombytes("I;16B", (16, 16), RAMP.astype(">u2").tobytes())
    big.save(tmp_path / "big.tif")
    assert np.array_equal(grey(tmp_path / "big.tif"), np.arange(256).reshape(16, 16))
    Image.fromarray(RAMP).save(tmp_path / "white.tif", tiffinfo={262: 0})
    with Image.open(tmp_path / "white.tif") as file:
        assert file.tag_v2[262] == 0
    assert np.array_equal(grey(tmp_path / "white.tif"), 255 - np.arange(256).reshape(16, 16))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_pixels_without_a_known_range_are_refused(tmp_path, dtype):
    Image.fromarray(RAMP.astype(dtype)).save(tmp_path / "wide.tif")
    with pytest.raises(
        DataError,
        match=r"wide\.tif: not a readable image \(pixels of mode [IF], 32 bits, .* 16 bits",
    ):
        read_image(tmp_path / "wide.tif")


def test_one_frame_and_no_turning_as_torchvision_does(tmp_path):
    frames = [Image.new("RGB", (6, 4), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moving.webp", save_all=True, append_images=frames[1:], lossless=True)
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    exif = Image.Exif()
    exif[274] = 6  # a camera held upright
    frames[0].save(tmp_path / "turned.jpg", exif=exif)
    for name in ("moving.webp", "pages.tif", "turned.jpg"):
        pixels = decode(tmp_path / name, (tmp_path / name).read_bytes())
        assert pixels.shape == (4, 6, 3)
        assert pixels[..., 0].min() > 200
        assert np.array_equal(
            decode(tmp_path / name, (tmp_path / name).read_bytes(), 4),
            torchvision_pixels(tmp_path / name, 4),
        )


def test_the_module_s_place_in_version_0_1_still_imports():
    import radin.images

    assert radin.images.read_image is read_image


def test_faults_are_told_without_the_path(tmp_path):
    good = draw(tmp_path / "good", (30, 20))
    assert describe_fault(good) == describe_fault(good, 8, 2) == ""
    assert describe_fault(good, 8, 10) == "has 30 x 20 pixels, nothing but a border of 10"
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no image")
    assert describe_fault(bad) == "not a readable image (truncated or no image)"
    bad.write_bytes(good.read_bytes()[:-300])
    assert describe_fault(bad).startswith("not a readable image (")
    assert describe_fault(tmp_path / "absent.png").startswith("could not be read (No such file")

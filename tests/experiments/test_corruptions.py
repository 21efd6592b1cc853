"""radin/experiments/corruptions.py: what each corruption does to the pixels."""

from __future__ import annotations

import io

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.ndimage import gaussian_filter1d

from radin.data.splits import ArraySplit
from radin.errors import ParameterError
from radin.experiments.corruptions import SEVERITIES, corrupt


@pytest.fixture
def photos() -> ArraySplit:
    """Six smooth pictures of 56 x 56 pixels."""
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(6, 3, 7, 7, generator=generator) * 2 - 1
    images = torch.nn.functional.interpolate(small, size=56, mode="bilinear")
    return ArraySplit("pictures", "test", images, torch.arange(6) % 2, ["a", "b"])


@pytest.mark.parametrize("kind", SEVERITIES)
def test_a_higher_severity_changes_more(photos, kind):
    changes = []
    for severity in range(1, 6):
        changed = corrupt(photos, kind, severity)
        assert changed.images.shape == photos.images.shape
        assert changed.images.abs().max() <= 1
        assert torch.equal(changed.labels, photos.labels)
        changes.append((changed.images - photos.images).square().mean().item())
    assert changes == sorted(changes)
    assert changes[0] > 0


def test_each_corrupted_split_has_a_fingerprint_of_its_own(photos):
    splits = [corrupt(photos, kind, severity) for kind in SEVERITIES for severity in (1, 3)]
    splits += [photos, corrupt(photos, "noise", 1, seed=1)]
    assert len({split.fingerprint for split in splits}) == len(splits)
    assert corrupt(photos, "jpeg", 3).part == "test+jpeg3"


def test_noise_has_its_standard_deviation():
    grey = ArraySplit("grey", "test", torch.zeros(4, 3, 64, 64), torch.zeros(4).long(), ["grey"])
    changed = corrupt(grey, "noise", 1).images
    assert (changed.std() / 2).item() == pytest.approx(0.08, rel=0.02)
    assert torch.equal(changed, corrupt(grey, "noise", 1).images)
    assert not torch.equal(changed, corrupt(grey, "noise", 1, seed=1).images)


def test_contrast_shrinks_the_distance_to_the_mean_of_each_channel(photos):
    changed = corrupt(photos, "contrast", 2).images
    mean = photos.images.mean((2, 3), keepdim=True)
    assert torch.allclose(changed - mean, 0.3 * (photos.images - mean), atol=1e-5)


def test_blur_is_the_gaussian_of_scipy_at_the_size_of_the_images(photos):
    changed = corrupt(photos, "blur", 4).images[0, 0].numpy()
    sigma = 4 * 56 / 224
    pixels = (photos.images[0, 0].numpy() + 1) / 2
    expected = pixels
    for axis in (0, 1):
        expected = gaussian_filter1d(expected, sigma, axis=axis, mode="mirror", truncate=4)
    assert np.allclose((changed + 1) / 2, expected, atol=1e-3)


def test_jpeg_is_that_of_pillow(photos):
    changed = corrupt(photos, "jpeg", 2).images
    for image, found in zip(photos.images, changed, strict=True):
        pixels = ((image + 1) / 2 * 255).round().to(torch.uint8).movedim(0, -1).numpy()
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "JPEG", quality=18)
        expected = np.asarray(Image.open(file), dtype=np.float32)
        mine = ((found + 1) / 2 * 255).movedim(0, -1).numpy()
        assert np.allclose(mine, expected, atol=1e-3)


def test_what_is_unknown_is_refused(photos):
    with pytest.raises(ParameterError, match="noise, blur, contrast, jpeg"):
        corrupt(photos, "fog", 1)
    with pytest.raises(ParameterError, match="1, 2, 3, 4 or 5"):
        corrupt(photos, "noise", 6)

"""radin/experiments/zoos/augment.py: what training images go through."""

from __future__ import annotations

import pytest
import torch

from radin.experiments.zoos.augment import augment, drop_words, erase, mixup, move, recolour

IMAGES = torch.rand(50, 3, 8, 8, generator=torch.Generator().manual_seed(1)) * 2 - 1


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_without_keys_nothing_changes():
    assert torch.equal(augment(IMAGES, {}, generator()), IMAGES)
    assert torch.equal(
        augment(IMAGES, {"augment": 0.0, "flip": 0, "colour": 0.0}, generator()), IMAGES
    )


@pytest.mark.parametrize("key", ["augment", "flip", "colour", "erase", "noise"])
def test_each_key_changes_images_by_the_seed(key):
    changed = augment(IMAGES, {key: 0.5}, generator())
    assert changed.shape == IMAGES.shape
    assert not torch.equal(changed, IMAGES)
    assert torch.equal(changed, augment(IMAGES, {key: 0.5}, generator()))
    assert not torch.equal(changed, augment(IMAGES, {key: 0.5}, generator(1)))


def test_noise_has_its_standard_deviation():
    noisy = augment(IMAGES, {"noise": 0.5}, generator())
    assert (noisy - IMAGES).std().item() == pytest.approx(0.5, rel=0.05)


def test_moved_images_keep_their_range():
    moved = move(IMAGES, 1.0, generator())
    assert moved.min() >= IMAGES.min() - 1e-6
    assert moved.max() <= IMAGES.max() + 1e-6
    flat = torch.full((4, 1, 8, 8), 0.3)
    assert torch.allclose(move(flat, 1.0, generator()), flat)


def test_some_images_are_mirrored_whole():
    flipped = augment(IMAGES, {"flip": 0.5}, generator())
    same = (flipped == IMAGES).flatten(1).all(1)
    mirrored = (flipped == IMAGES.flip(-1)).flatten(1).all(1)
    assert (same | mirrored).all()
    assert 5 < mirrored.sum() < 45


def test_a_grey_image_stays_grey():
    grey = IMAGES.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    changed = recolour(grey, 0.5, generator())
    assert torch.allclose(changed, changed[:, :1].expand_as(changed), atol=1e-6)
    # Strength s bounds the change: contrast and saturation are scaled by 1 - s to 1 + s, and
    # brightness moves by s / 2.
    spread = changed.flatten(1).std(1) / grey.flatten(1).std(1)
    assert (spread >= 0.5 - 1e-5).all()
    assert (spread <= 1.5 + 1e-5).all()
    shift = changed.mean((1, 2, 3)) - grey.mean((1, 2, 3))
    assert shift.abs().max() <= 0.25 + 1e-6


def test_an_erased_square_is_grey_and_the_rest_unchanged():
    images = torch.ones(200, 2, 10, 10)
    erased = erase(images, 0.4, generator())
    assert set(erased.unique().tolist()) == {0.0, 1.0}
    gone = (erased == 0).all(1)
    assert torch.equal(gone, (erased == 0).any(1))  # the same square in every channel
    assert gone.flatten(1).sum(1).max() == 16
    for hole in gone:
        rows, columns = hole.any(1).nonzero(), hole.any(0).nonzero()
        assert hole.sum() == len(rows) * len(columns)
        if len(rows):
            assert rows.max() - rows.min() + 1 == len(rows)


def test_mixup_blends_images_and_targets_with_one_share():
    targets = torch.eye(10)
    images = targets.view(10, 1, 1, 10).clone()
    mixed, blended = mixup(images, targets, 0.4, generator())
    assert torch.equal(mixed.view(10, 10), blended)
    assert torch.allclose(blended.sum(1), torch.ones(10))
    assert not torch.equal(blended, targets)
    same, kept = mixup(images, targets, 0.0, generator())
    assert torch.equal(same, images)
    assert torch.equal(kept, targets)


def sentences(rng: torch.Generator) -> torch.Tensor:
    """Token ids of 40 sentences of 3 to 12 tokens, from 1 to 99, padded with 0."""
    tokens = torch.randint(1, 100, (40, 12), generator=rng)
    lengths = torch.randint(3, 13, (40, 1), generator=rng)
    return tokens.masked_fill(torch.arange(12) >= lengths, 0)


def test_dropped_words_leave_the_others_in_their_order():
    tokens = sentences(generator())
    changed = augment(tokens, {"drop_words": 0.4, "noise": 1.0}, generator())
    assert not torch.equal(changed, tokens)
    for before, after in zip(tokens.tolist(), changed.tolist(), strict=True):
        words = [word for word in before if word]
        kept = [word for word in after if word]
        assert after == kept + [0] * (len(after) - len(kept))
        assert (kept[0], kept[-1]) == (words[0], words[-1])
        remaining = iter(words)
        assert all(word in remaining for word in kept)  # a subsequence


def test_words_are_dropped_with_their_probability():
    tokens = torch.ones(200, 52, dtype=torch.int64)
    assert torch.equal(drop_words(tokens, 0.0, generator()), tokens)
    changed = drop_words(tokens, 0.3, generator())
    assert (changed == 0).sum().item() / (200 * 50) == pytest.approx(0.3, abs=0.02)
    assert (drop_words(tokens, 1.0, generator()) != 0).sum(1).unique().tolist() == [2]

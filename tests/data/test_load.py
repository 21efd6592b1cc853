"""radin/data/load.py: the embedded digits, and folders of images as people really have them."""

from __future__ import annotations

import io
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import save, tiny_split
from radin import RadinError, Zoo, load_split, predict
from radin.data import digits
from radin.data.batches import batches, fingerprint
from radin.data.folders import HELD_OUT_SHARE
from radin.data.images import read_image
from radin.data.splits import ArraySplit, FolderSplit, in_memory
from radin.errors import DataError

SHARES = list(digits._SHARES)


@pytest.mark.parametrize("part", digits.DIGITS_PARTS)
def test_every_part_of_digits(part):
    split = load_split("digits", part)
    count, _ = digits._SHARES[part.split("-")[0]]
    assert len(split) == len(split.labels) == count
    assert (split.num_classes, split.class_names) == (10, [str(digit) for digit in range(10)])
    assert split.images.shape == (count, 1, 8, 8)
    assert (split.images.dtype, split.labels.dtype) == (torch.float32, torch.int64)
    assert sorted(set(split.labels.tolist())) == list(range(10))
    image, label = split[count - 1]
    assert torch.equal(image, split.images[-1])
    assert label == split.labels[-1]


def clean_digits(monkeypatch: pytest.MonkeyPatch, part: str) -> ArraySplit:
    quiet = {share: (count, 0.0) for share, (count, _) in digits._SHARES.items()}
    monkeypatch.setattr(digits, "_SHARES", quiet)
    return digits.digits_split.__wrapped__(part)


def test_no_scan_is_in_two_shares(monkeypatch):
    from sklearn.datasets import load_digits

    scans, labels = load_digits(return_X_y=True)
    by_bytes = {(scan / 8 - 1).astype(np.float32).tobytes(): i for i, scan in enumerate(scans)}
    assert len(by_bytes) == len(scans)
    used = []
    for share in SHARES:
        split = clean_digits(monkeypatch, share)
        found = [by_bytes[image.numpy().tobytes()] for image in split.images]
        assert split.labels.tolist() == labels[found].tolist()
        used += found
    assert len(set(used)) == len(used) == sum(count for count, _ in digits._SHARES.values())


@pytest.mark.parametrize("part", digits.DIGITS_PARTS)
def test_digits_are_the_same_every_time(part):
    once, again = (digits.digits_split.__wrapped__(part) for _ in range(2))
    assert torch.equal(once.images, again.images)
    assert once.fingerprint == again.fingerprint == fingerprint(once)


def test_parts_have_fingerprints_of_their_own():
    assert len({load_split("digits", part).fingerprint for part in digits.DIGITS_PARTS}) == len(
        digits.DIGITS_PARTS
    )


@pytest.mark.parametrize("part", digits._SHIFTS)
def test_shifted_parts_are_the_test_scans_changed(part):
    test, shifted = load_split("digits", "test"), load_split("digits", part)
    assert torch.equal(shifted.labels, test.labels)
    assert not torch.equal(shifted.images, test.images)


def test_shares_are_noisy_as_stated(monkeypatch):
    stated = {share: noise for share, (_, noise) in digits._SHARES.items()}
    noisy = {share: load_split("digits", share).images for share in SHARES}
    for share in SHARES:
        rest = noisy[share] - clean_digits(monkeypatch, share).images
        assert rest.std().item() == pytest.approx(stated[share], rel=0.05, abs=1e-6)
        assert rest.mean().item() == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("part", ["training", "", "test-", "test-upside-down", "Test"])
def test_unknown_part_of_digits(part):
    with pytest.raises(DataError, match=f"digits has no part '{part}'; it has .*train, val, test"):
        load_split("digits", part)


# Folders -----------------------------------------------------------------------------------------


def draw_image(
    path: Path, size: tuple[int, int] = (6, 6), mode: str = "RGB", value: int = 0
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng([value, *path.as_posix().encode()])
    channels = {"L": (), "RGB": (3,), "RGBA": (4,)}[mode]
    Image.fromarray(rng.integers(0, 256, (size[1], size[0], *channels), dtype=np.uint8), mode).save(
        path
    )
    return path


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    """A data set of 20 cats and 30 dogs for training and 3 of each for the test."""
    for count, name in ((20, "cat"), (30, "dog")):
        for k in range(count):
            draw_image(tmp_path / "pets" / "train" / name / f"{k:03d}.png")
        for k in range(3):
            draw_image(tmp_path / "pets" / "test" / name / f"{k}.png")
    return tmp_path / "pets"


def test_a_folder_by_name_by_path_and_by_environment(pets, monkeypatch):
    monkeypatch.setenv("RADIN_DATA", str(pets.parent))
    for split in (
        load_split("pets", "test", root=pets.parent),
        load_split(str(pets), "test"),
        load_split("pets", "test"),
    ):
        assert split.class_names == ["cat", "dog"]
        assert split.labels.tolist() == [0, 0, 0, 1, 1, 1]
        assert len(split) == 6
        image, label = split[5]
        assert image.shape == (3, 6, 6)
        assert label == 1
        assert [path.name for path in split.files] == ["0.png", "1.png", "2.png"] * 2


def test_pixels_run_from_minus_1_to_1(tmp_path):
    Image.fromarray(np.array([[[0, 127, 255]]], dtype=np.uint8)).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png").flatten().tolist() == pytest.approx(
        [-1, 127 / 127.5 - 1, 1]
    )


def test_validation_is_held_out_of_training(pets):
    train, val = load_split(str(pets), "train"), load_split(str(pets), "val")
    everything = sorted((pets / "train").rglob("*.png"))
    assert sorted(train.files + val.files) == everything
    assert [path.parent.name for path in val.files] == ["cat"] * round(20 * HELD_OUT_SHARE) + [
        "dog"
    ] * round(30 * HELD_OUT_SHARE)
    assert val.labels.tolist() == [0, 0, 1, 1, 1]
    again = load_split(str(pets), "val")
    assert again.files == val.files
    assert again.fingerprint == val.fingerprint != train.fingerprint


def test_validation_of_its_own_is_taken_as_it_is(pets):
    for name in ("cat", "dog"):
        draw_image(pets / "val" / name / "x.png")
    assert [path.name for path in load_split(str(pets), "val").files] == ["x.png", "x.png"]
    assert len(load_split(str(pets), "train")) == 50


def test_too_few_images_to_hold_any_out(tmp_path):
    draw_image(tmp_path / "train" / "cat" / "a.png")
    assert len(load_split(str(tmp_path), "train")) == 1
    with pytest.raises(DataError, match="too few images to hold out a part 'val'"):
        load_split(str(tmp_path), "val")


def test_labels_mean_the_same_class_in_every_part(pets):
    """A test part without cats: its dogs must be dogs, or the part must be refused."""
    for path in (pets / "test" / "cat").iterdir():
        path.unlink()
    (pets / "test" / "cat").rmdir()
    try:
        split = load_split(str(pets), "test")
    except DataError as error:
        assert "cat" in str(error)
        return
    assert {split.class_names[label] for label in split.labels} == {"dog"}
    assert set(split.labels.tolist()) == {load_split(str(pets), "train").class_names.index("dog")}


@pytest.mark.parametrize("mode", ["L", "RGBA"])
@pytest.mark.parametrize("suffix", [".png", ".tif", ".webp", ".PNG"])
def test_gray_and_transparent_images_become_colour(tmp_path, mode, suffix):
    path = draw_image(tmp_path / f"a{suffix}", mode=mode)
    image = read_image(path)
    assert image.shape == (3, 6, 6)
    assert image.abs().max() <= 1
    if mode == "L" and suffix != ".webp":  # which rounds its colours
        assert torch.equal(image[0], image[1])
        assert torch.equal(image[0], image[2])


def test_jpegs_and_palettes(tmp_path):
    Image.new("CMYK", (5, 4)).save(tmp_path / "a.jpg")
    Image.new("P", (5, 4)).save(tmp_path / "b.png")
    Image.new("1", (5, 4)).save(tmp_path / "c.bmp")
    for path in tmp_path.iterdir():
        assert read_image(path).shape == (3, 4, 5)


@pytest.mark.parametrize("size", [(6, 6), (30, 7), (7, 31), (1, 50)])
def test_size_makes_every_image_a_square(tmp_path, size):
    assert read_image(draw_image(tmp_path / "a.png", size), 8).shape == (3, 8, 8)


def test_size_keeps_the_centre(tmp_path):
    wide = np.zeros((8, 24, 3), dtype=np.uint8)
    wide[:, 8:16] = 255
    Image.fromarray(wide).save(tmp_path / "a.png")
    assert read_image(tmp_path / "a.png", 8)[:, 2:6, 2:6].min() == 1
    assert read_image(tmp_path / "a.png", 4)[:, 1:3, 1:3].min() > 0.9


def test_images_of_different_sizes(pets):
    draw_image(pets / "test" / "dog" / "large.png", (9, 9))
    with pytest.raises(DataError, match="differ in size; pass load_split"):
        list(batches(load_split(str(pets), "test"), 4))
    shapes = [
        tuple(images.shape) for images, _ in batches(load_split(str(pets), "test", size=5), 4)
    ]
    assert shapes == [(4, 3, 5, 5), (3, 3, 5, 5)]


@pytest.mark.parametrize("size", [0, -3, 2.5, "x"])
def test_impossible_sizes(pets, size):
    with pytest.raises(RadinError, match="size"):
        load_split(str(pets), "test", size=size)[0]


def test_other_files_are_left_alone(pets):
    (pets / "test" / "cat" / "readme.txt").write_text("not an image")
    (pets / "test" / "notes.txt").write_text("no class")
    (pets / "test" / "cat" / ".DS_Store").write_bytes(b"\0")
    assert len(load_split(str(pets), "test")) == 6


def test_a_class_without_images(pets):
    (pets / "train" / "eel").mkdir()
    with pytest.raises(DataError, match=r"train.eel: no images in this class"):
        load_split(str(pets), "train")


def test_a_class_that_training_does_not_have(pets):
    (pets / "test" / "eel").mkdir()
    with pytest.raises(DataError, match=r"test: classes that .*train does not have: eel"):
        load_split(str(pets), "test")


def test_a_part_without_classes(tmp_path):
    draw_image(tmp_path / "train" / "lonely.png")
    with pytest.raises(DataError, match="no class folders"):
        load_split(str(tmp_path), "train")


def test_unknown_part_and_data_set(pets):
    with pytest.raises(
        DataError, match=r"pets has no part 'sketch'; it has finetune, pretrain, test, train, val\."
    ):
        load_split(str(pets), "sketch")
    with pytest.raises(
        DataError, match="Unknown data set 'pest': it is none of digits, cifar10, .*RADIN_DATA"
    ):
        load_split("pest", "train", root=pets.parent)


def test_a_truncated_jpeg_is_named(pets):
    path = draw_image(pets / "test" / "dog" / "9.jpg", (64, 64))
    path.write_bytes(path.read_bytes()[:-200])
    split = load_split(str(pets), "test")
    with pytest.raises(DataError, match=r"9\.jpg: not a readable image"):
        list(batches(split, 4))


def encoded(kind: str) -> bytes:
    buffer = io.BytesIO()
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8)).save(buffer, kind)
    return buffer.getvalue()


ENCODED = {kind: encoded(kind) for kind in ("png", "jpeg", "bmp", "webp", "tiff", "ppm")}


@given(kind=st.sampled_from(sorted(ENCODED)), data=st.data())
@settings(max_examples=150, report_multiple_bugs=False, phases=[Phase.explicit, Phase.generate])
@pytest.mark.filterwarnings("ignore")
def test_a_damaged_image_is_read_or_refused_but_never_crashes(tmp_path_factory, kind, data):
    content = bytearray(ENCODED[kind])
    for _ in range(data.draw(st.integers(0, 3))):
        # much damage falls on the header, where it is worst
        position = data.draw(st.one_of(st.integers(0, 60), st.integers(0, len(content) - 1)))
        content[position] = data.draw(st.integers(0, 255))
    if data.draw(st.booleans()):
        content = content[: data.draw(st.integers(0, len(content)))]
    path = tmp_path_factory.getbasetemp() / f"damaged.{kind}"
    path.write_bytes(content)
    try:
        image = read_image(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert image.ndim == 3


def test_fingerprints_of_folders(pets):
    first = load_split(str(pets), "test").fingerprint
    assert load_split(str(pets), "test").fingerprint == first
    assert load_split(str(pets), "test", size=4).fingerprint != first
    draw_image(pets / "test" / "cat" / "0.png", value=1)
    assert load_split(str(pets), "test").fingerprint != first


# In memory ---------------------------------------------------------------------------------------


@pytest.fixture
def mixed(pets) -> Path:
    """Pets in several formats and colours, more than fit into one block."""
    draw_image(pets / "test" / "cat" / "gray.jpg", mode="L")
    draw_image(pets / "test" / "cat" / "thin.webp", (6, 6), "RGBA")
    Image.new("P", (6, 6)).save(pets / "test" / "dog" / "palette.PNG")
    return pets


@pytest.mark.parametrize("block", [1, 4, 9, 1024])
@pytest.mark.parametrize("size", [None, 5])
def test_in_memory_is_the_same_split(mixed, monkeypatch, block, size):
    monkeypatch.setattr("radin.data.splits._IMAGES_PER_BLOCK", block)
    split = load_split(str(mixed), "test", size=size)
    quick = in_memory(split, progress=False)
    assert isinstance(quick, ArraySplit)
    assert (len(quick), quick.images.shape[1:]) == (9, (3, size or 6, size or 6))
    assert quick.images.dtype == torch.float32
    assert torch.equal(quick.images, torch.stack([image for image, _ in split]))
    assert torch.equal(quick.labels, split.labels)
    assert (quick.name, quick.part, quick.class_names) == (
        split.name,
        split.part,
        split.class_names,
    )
    assert (
        quick.fingerprint
        == load_split(str(mixed), "test", size=size).fingerprint
        == split.fingerprint
    )
    assert list(map(len, next(iter(batches(quick, 9))))) == [9, 9]


def test_a_prediction_on_the_folder_is_found_for_memory(pets, tmp_path):
    zoo, split = photo_zoo(tmp_path / "zoo"), load_split(str(pets), "test")
    predict(zoo, split, cache=tmp_path / "banks", progress=False)
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "banks").rglob("*")}
    predict(zoo, in_memory(split, progress=False), cache=tmp_path / "banks", progress=False)
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "banks").rglob("*")} == before


def photo_zoo(folder: Path) -> Zoo:
    def build() -> torch.nn.Module:
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 6 * 6, 2))

    paths = [save(build().state_dict(), folder / f"{k}.safetensors") for k in range(2)]
    return Zoo.open(paths, build, progress=False)


def test_in_memory_shows_a_bar(pets, capfd):
    in_memory(load_split(str(pets), "test"))
    assert "test: 100%" in capfd.readouterr().err
    in_memory(load_split(str(pets), "test"), progress=False)
    assert capfd.readouterr().err == ""


def test_what_lies_in_memory_stays_as_it_is():
    split = load_split("digits", "val")
    assert in_memory(split) is split


def test_in_memory_takes_splits_only():
    with pytest.raises(DataError, match=r"is not a split that radin\.load_split made"):
        in_memory([(torch.zeros(1, 2, 2), 0)])


def test_in_memory_names_the_image_at_fault(pets):
    path = draw_image(pets / "test" / "dog" / "large.png", (9, 8))
    split = load_split(str(pets), "test")
    with pytest.raises(
        DataError,
        match=r"large\.png has 9 x 8 pixels, .*0\.png has 6 x 6; pass load_split\(..., size=",
    ):
        in_memory(split, progress=False)
    assert in_memory(load_split(str(pets), "test", size=4), progress=False).images.shape == (
        7,
        3,
        4,
        4,
    )
    for content in (path.read_bytes()[:60], b"hello", b""):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"large\.png: not a readable image \((?!.*BytesIO)"):
            in_memory(split, progress=False)
    path.unlink()
    for read in (
        lambda: in_memory(split, progress=False),
        lambda: split.fingerprint,
        lambda: split[len(split) - 1],
    ):
        with pytest.raises(DataError, match=r"large\.png: could not be read \(No such file"):
            read()


# Real data: only where RADIN_DATA has it ---------------------------------------------------------


def real(name: str, part: str) -> FolderSplit:
    root = Path(os.environ.get("RADIN_DATA", "/nowhere"))
    if not any(root.glob(f"{name}*")):
        pytest.skip(f"no {name} under RADIN_DATA")
    return load_split(name, part)


def test_real_cifar10():
    sizes = {"train": 45_000, "val": 5_000, "test": 10_000, "pretrain": 22_500, "finetune": 22_500}
    files = {}
    for part, size in sizes.items():
        split = real("cifar10", part)
        assert len(split) == size
        assert torch.bincount(split.labels).tolist() == [size // 10] * 10
        files[part] = set(split.files)
    assert files["train"].isdisjoint(files["val"])
    assert files["pretrain"].isdisjoint(files["finetune"])
    assert files["pretrain"] | files["finetune"] == files["train"]
    image, label = split[0]
    assert image.shape == (3, 32, 32)
    assert label == 0


def test_real_tiny_imagenet():
    sizes = {"train": 100_000, "val": 10_000, "pretrain": 50_000, "finetune": 50_000}
    for part, size in sizes.items():
        split = real("tiny-imagenet", part)
        assert (len(split), split.num_classes) == (size, 200)
    with pytest.raises(DataError, match="never published"):
        load_split("tiny-imagenet", "test")


def test_real_pacs():
    sizes = {"art_painting": 2048, "cartoon": 2344, "photo": 1670, "sketch": 3929}
    for domain, size in sizes.items():
        split = real("pacs", domain)
        assert (len(split), split.num_classes) == (size, 7)
        others = [real("pacs", f"without-{domain}/{share}") for share in ("train", "val")]
        assert sum(map(len, others)) == sum(sizes.values()) - size
        assert not set(others[0].files) & set(others[1].files)


# Batches -----------------------------------------------------------------------------------------


def test_batches_hold_everything_in_order():
    split = tiny_split(10)
    for each in (split, [split[i] for i in range(10)]):
        found = list(batches(each, 4))
        assert [len(images) for images, _ in found] == [4, 4, 2]
        assert torch.equal(torch.cat([images for images, _ in found]), split.images)
        assert torch.equal(torch.cat([labels for _, labels in found]), split.labels)

"""radin/data/download/archives.py: damaged and harmful archives, and small copies of the official
ones."""

from __future__ import annotations

import io
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from helpers import files_below
from packing import cifar_archive, cifar_records, packed, picture
from radin.data.download import archives
from radin.data.download.archives import members
from radin.data.download.classes import class_names
from radin.errors import DataError

KINDS = ["zip", "tar", "tar.gz"]
FILES = {"top/a.txt": b"first", "top/b.txt": b"second" * 50, "other/c.txt": b""}


def write(folder: Path, kind: str, content: bytes) -> Path:
    path = folder / f"archive.{kind}"
    path.write_bytes(content)
    return path


def read(path: Path, pattern: str = r".*") -> dict[str, bytes]:
    return {match[0]: content for match, content in members(path, pattern)}


@pytest.mark.parametrize("kind", KINDS)
def test_files_that_fit_the_pattern(tmp_path, kind):
    path = write(tmp_path, kind, packed(kind, FILES))
    assert read(path) == FILES
    assert read(path, r"top/(\w)\.txt") == {
        name: FILES[name] for name in ("top/a.txt", "top/b.txt")
    }
    assert [match[1] for match, _ in members(path, r"top/(\w)\.txt")] == ["a", "b"]
    assert read(path, r"top") == {}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "name", ["../evil", "/etc/evil", "top/../../evil", "..\\evil", "top\\..\\..\\evil", "C:\\evil"]
)
def test_names_that_lead_out_are_refused(tmp_path, kind, name):
    path = write(tmp_path, kind, packed(kind, {"top/a.txt": b"good", name: b"evil"}))
    with pytest.raises(DataError, match=r"archive\.\S+: .*evil' leads out of the archive"):
        read(path, r"top/a\.txt")  # even when nobody asked for it
    assert files_below(tmp_path) == [path.name]


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE]
)
def test_links_and_devices_in_a_tar_are_refused(tmp_path, kind):
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        entry = tarfile.TarInfo("top/a.txt")
        entry.type, entry.linkname = kind, "/etc/passwd"
        tar.addfile(entry)
    with pytest.raises(DataError, match="'top/a.txt' leads out of the archive"):
        read(write(tmp_path, "tar", buffer.getvalue()))


def test_links_in_a_zip_are_refused(tmp_path):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as zipped:
        info = zipfile.ZipInfo("top/a.txt")
        info.external_attr = 0o120777 << 16
        zipped.writestr(info, "/etc/passwd")
    with pytest.raises(DataError, match="'top/a.txt' leads out of the archive"):
        read(write(tmp_path, "zip", buffer.getvalue()))


@pytest.mark.parametrize("kind", ["zip", "tar.gz"])
def test_bombs_are_refused(tmp_path, kind, monkeypatch):
    monkeypatch.setattr(archives, "MAX_MEMBER_BYTES", 10_000)
    one = write(tmp_path, kind, packed(kind, {"top/a.txt": bytes(10_001)}))
    with pytest.raises(
        DataError, match="'top/a.txt' is larger than any file of the official archive"
    ):
        read(one)
    many = write(tmp_path, kind, packed(kind, {f"top/{k}": bytes(9_000) for k in range(100)}))
    with pytest.raises(DataError, match="larger than any file"):
        read(many)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_archive_is_named(tmp_path, kind):
    whole = packed(kind, FILES)
    cut = whole[
        : 1700 if kind == "tar" else len(whole) // 3
    ]  # a tar is padded far beyond its content
    for content in (cut, b"", b"<html>", b"PK\x03\x04"):
        with pytest.raises(DataError, match=rf"archive\.{kind}: a damaged archive"):
            read(write(tmp_path, kind, content))


@given(kind=st.sampled_from(KINDS), data=st.data())
@settings(max_examples=200)
def test_a_damaged_archive_is_read_or_refused_but_never_crashes(tmp_path_factory, kind, data):
    content = bytearray(packed(kind, FILES))
    for _ in range(data.draw(st.integers(0, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.one_of(st.just(len(content)), st.integers(0, len(content))))]
    path = write(tmp_path_factory.getbasetemp(), kind, content)
    try:
        found = read(path)
    except DataError as error:
        assert str(path) in str(error)
    else:
        assert all(isinstance(each, bytes) for each in found.values())


# Small copies of the official ones ---------------------------------------------------------------


def test_cifar10_becomes_pngs_in_the_order_of_the_batches(tmp_path):
    path = write(tmp_path, "tar.gz", cifar_archive(per_class=2))
    archives.arrange_cifar10(path, tmp_path / "out", progress=False)
    found = files_below(tmp_path / "out")
    assert found == sorted(
        f"{part}/{name}/{k:04d}.png"
        for part, count in (("train", 10), ("test", 2))
        for name in class_names("cifar10")
        for k in range(count)
    )
    first, third, test = (
        np.frombuffer(cifar_records([0] * 20, seed), np.uint8).reshape(20, 3073)
        for seed in (1, 0, 2)
    )
    for name, record in (
        ("train/cat/0001", first[13]),
        ("train/cat/0004", third[3]),
        ("test/truck/0000", test[9]),
    ):
        pixels = np.array(Image.open(tmp_path / "out" / f"{name}.png"))
        assert (pixels.transpose(2, 0, 1).ravel() == record[1:]).all()


@pytest.mark.parametrize(
    ("content", "fault"),
    [(cifar_records([10]), "label 10"), (cifar_records([1, 2])[:-1], "no sequence of CIFAR-10")],
)
def test_cifar10_with_impossible_records(tmp_path, content, fault):
    path = write(
        tmp_path, "tar.gz", packed("tar.gz", {"cifar-10-batches-bin/data_batch_1.bin": content})
    )
    with pytest.raises(DataError, match=rf"archive\.tar\.gz: data_batch_1\.bin .*{fault}"):
        archives.arrange_cifar10(path, tmp_path / "out", progress=False)


def tiny_imagenet() -> dict[str, bytes]:
    """Two classes. As in the official archive, some images of val precede the list of classes."""
    top = "tiny-imagenet-200"
    wnids = class_names("tiny-imagenet")[:2]
    files = {f"{top}/val/images/val_{k}.JPEG": picture(k) for k in range(3)}
    files[f"{top}/val/val_annotations.txt"] = b"".join(
        b"val_%d.JPEG\t%s\t0\t0\t62\t62\n" % (k, wnids[k % 2].encode()) for k in range(3)
    )
    for wnid in wnids:
        files[f"{top}/train/{wnid}/{wnid}_boxes.txt"] = b"x"
        files |= {f"{top}/train/{wnid}/images/{wnid}_{k}.JPEG": picture(k) for k in range(2)}
    return files | {f"{top}/test/images/test_0.JPEG": picture(9), f"{top}/wnids.txt": b"x"}


def test_tiny_imagenet_is_sorted_into_classes(tmp_path):
    path = write(tmp_path, "zip", packed("zip", tiny_imagenet()))
    archives.arrange_tiny_imagenet(path, tmp_path / "out", progress=False)
    one, two = class_names("tiny-imagenet")[:2]
    assert files_below(tmp_path / "out") == [
        *(f"train/{wnid}/{wnid}_{k}.JPEG" for wnid in (one, two) for k in range(2)),
        f"val/{one}/val_0.JPEG",
        f"val/{one}/val_2.JPEG",
        f"val/{two}/val_1.JPEG",
    ]
    assert (tmp_path / "out" / "val" / two / "val_1.JPEG").read_bytes() == picture(1)


@pytest.mark.parametrize(
    "line", [b"", b"val_7.JPEG\tn01443537\n", b"val_0.JPEG\t../..\n", b"val_0.JPEG"]
)
def test_tiny_imagenet_with_an_image_of_no_class(tmp_path, line):
    files = {
        "tiny-imagenet-200/val/images/val_0.JPEG": b"x",
        "tiny-imagenet-200/val/val_annotations.txt": line,
    }
    path = write(tmp_path, "zip", packed("zip", files))
    with pytest.raises(DataError, match=r"val/images/val_0\.JPEG is of none of the 200 classes"):
        archives.arrange_tiny_imagenet(path, tmp_path / "out", progress=False)


def test_domainnet_is_taken_as_it_is(tmp_path):
    files = {
        "sketch/t-shirt/sketch_1.jpg": b"1",
        "sketch/The_Mona_Lisa/2.png": b"2",
        "sketch/notes.txt": b"3",
    }
    path = write(tmp_path, "zip", packed("zip", files))
    archives.arrange_domainnet(path, tmp_path / "out", progress=False)
    assert files_below(tmp_path / "out") == [
        "sketch/The_Mona_Lisa/2.png",
        "sketch/t-shirt/sketch_1.jpg",
    ]

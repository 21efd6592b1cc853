"""The data sets that radin knows by name: their contents, folders and sources."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from radin.data.download import archives
from radin.data.download.classes import class_names
from radin.data.download.transfer import check_sha256, download, offline, one_process_at_a_time
from radin.errors import DataError
from radin.files import data_root, expand_path


@dataclass(frozen=True)
class Archive:
    """A file of the official source.

    Attributes:
        url: its address; the last part is the file's name.
        num_bytes: its size.
        sha256: its checksum, hex.
        folders: the top folders of the data set that its images go to.
    """

    url: str
    num_bytes: int
    sha256: str
    folders: tuple[str, ...]

    @property
    def name(self) -> str:
        return self.url.rsplit("/", 1)[1]


@dataclass(frozen=True)
class DataSet:
    """A data set that radin knows by name.

    Attributes:
        name: as `radin.load_split` takes it.
        page: the web page of the data set.
        domains: its top folders, when it is divided into domains and not into train and test.
        absent: parts that people may expect but that do not exist, each with the reason.
        archives: what can be downloaded, if anything.
        arrange: (archive, folder, progress) sorts the archive's images as
            `<part or domain>/<class>/<image>`.
    """

    name: str
    page: str
    domains: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()
    arrange: Callable[[Path, Path, bool], None] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of its class folders."""
        return class_names(self.name)

    @property
    def layout(self) -> str:
        """The folders that its images belong in, for messages."""
        tops = self.domains or tuple(
            folder for archive in self.archives for folder in archive.folders
        )
        return f"{self.name}/{{{','.join(tops)}}}/<class>/<image>"


def find_data_set(name: str, root: str | Path | None = None) -> tuple[Path, DataSet | None]:
    """The folder of a data set, downloaded if it is missing, and its entry in `DATA_SETS`.

    Args:
        name: a name of `DATA_SETS`, perhaps followed by the edge of its images in pixels
            (`pacs-64`); the name of a folder under `root`; or the path of a folder.
        root: the folder of the data sets; `RADIN_DATA` or the user's cache directory when not
            given.

    Raises:
        DataError: the data set is missing and cannot be downloaded.
    """
    given = expand_path(name)
    if given.is_absolute() and os.path.isdir(given):
        return given, None
    root = data_root(root)
    folder = _existing_folder(name, root)
    if folder is None and name not in DATA_SETS:
        raise DataError(
            f"Unknown data set {name!r}: it is none of digits, {', '.join(DATA_SETS)}, imagenet, "
            f"and there is no folder {root / name}. Put the images there as <part>/<class>/<image>"
            ", or point RADIN_DATA (or root=...) at the folder that holds it."
        )
    return folder or fetch(name, root), DATA_SETS.get(re.sub(r"-\d+$", "", name))


def fetch(name: str, root: str | Path | None = None, *, progress: bool = True) -> Path:
    """The folder of a data set of `DATA_SETS`, downloaded from its official source if missing.

    An archive that is under `root` already, by its official name, is used instead of a download.
    With RADIN_OFFLINE=1 in the environment nothing is downloaded.

    Args:
        name: "cifar10", "tiny-imagenet", "pacs" or "domainnet".
        root: the folder of the data sets; `RADIN_DATA` or the user's cache directory when not
            given.
        progress: whether to show bars.

    Raises:
        DataError: it cannot be downloaded, or the file that arrives is not the official one. The
            message says where to get the data set and where to put it.
    """
    root = data_root(root)
    if name not in DATA_SETS:
        raise DataError(f"radin cannot fetch {name!r}; it knows {', '.join(DATA_SETS)}.")
    data_set = DATA_SETS[name]
    if (folder := _existing_folder(name, root)) is not None:
        return folder
    if not data_set.archives:
        raise DataError(
            f"{name} is not under {root}, and its source has no file that a program could "
            f"download. Get it from {data_set.page} and put the images there as "
            f"{data_set.layout}, or point RADIN_DATA (or root=...) at the folder that holds {name}."
        )
    lock = root / f".{name}.lock"
    try:
        root.mkdir(parents=True, exist_ok=True)
        with one_process_at_a_time(lock):
            # Another process may have downloaded it while this one waited.
            folder = _existing_folder(name, root) or _build(data_set, root, progress)
        lock.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{error.filename or root}: could not be written ({error.strerror}); free some space "
            "or point RADIN_DATA at another folder."
        ) from error
    return folder


def _existing_folder(name: str, root: Path) -> Path | None:
    """The folder of that name under `root`, or else in the working directory; None without one."""
    exact = root / expand_path(name)  # an absolute path replaces the root
    if os.path.isdir(exact):
        return exact
    if name in DATA_SETS and root.is_dir():
        pattern = re.compile(rf"{re.escape(name)}-\d+")
        sized = sorted(
            path for path in root.iterdir() if pattern.fullmatch(path.name) and path.is_dir()
        )
        if len(sized) > 1:
            names = ", ".join(path.name for path in sized)
            raise DataError(
                f"{root} holds more than one {name}: {names}; ask for one of them by its full name."
            )
        if sized:
            return sized[0]
    return Path(name) if os.path.isdir(name) else None


def _build(data_set: DataSet, root: Path, progress: bool) -> Path:
    """Get every archive, arrange it in a hidden folder, and rename that folder at the end.

    A killed run leaves the hidden folder: an archive in it is continued, and a part or domain in
    it is complete.
    """
    assert data_set.arrange is not None
    staging = root / f".{data_set.name}.part"
    staging.mkdir(exist_ok=True)
    for archive in data_set.archives:
        if all((staging / folder).is_dir() for folder in archive.folders):
            continue
        source = _get_archive(archive, data_set, root, staging, progress=progress)
        unpacking = staging / ".unpacking"
        shutil.rmtree(unpacking, ignore_errors=True)
        unpacking.mkdir()
        data_set.arrange(source, unpacking, progress)
        for folder in archive.folders:
            if not (unpacking / folder).is_dir():
                raise DataError(
                    f"{source}: holds no images for {data_set.name}/{folder}; download it again."
                )
            shutil.rmtree(staging / folder, ignore_errors=True)
            (unpacking / folder).rename(staging / folder)
        shutil.rmtree(unpacking)
        # The download, and the part of one whose archive somebody put there by hand.
        for name in (archive.name, f"{archive.name}.part"):
            (staging / name).unlink(missing_ok=True)
    return staging.rename(root / data_set.name)


def _get_archive(
    archive: Archive, data_set: DataSet, root: Path, staging: Path, *, progress: bool
) -> Path:
    """A checked archive: put there by hand, left by a killed run, or downloaded."""
    for path in (root / archive.name, staging / archive.name):
        if path.is_file():
            check_sha256(path, archive.sha256)
            return path
    size = f"{archive.num_bytes / 1e9:.2f} GB"
    by_hand = (
        f"By hand: get {archive.url} ({size}; see {data_set.page}) and put it into {root}, without "
        f"unpacking it; or put the images there as {data_set.layout}."
    )
    if offline():
        raise DataError(
            f"{data_set.name} is not under {root}, and RADIN_OFFLINE forbids downloading it. "
            f"{by_hand}"
        )
    # Small files fill more blocks than their archive does.
    if shutil.disk_usage(root).free < 3 * archive.num_bytes:
        raise DataError(
            f"{root}: too little space to download and unpack {archive.name} of {data_set.name} "
            f"(3 x {size}); free some or point RADIN_DATA at another folder."
        )
    print(
        f"radin: downloading {data_set.name} from {archive.url} ({size}) into {root}",
        file=sys.stderr,
    )
    try:
        return download(
            archive.url,
            staging / archive.name,
            num_bytes=archive.num_bytes,
            sha256=archive.sha256,
            progress=progress,
        )
    except DataError as error:
        raise DataError(f"{error} {by_hand}") from error


# The data sets -----------------------------------------------------------------------------------

# The sizes and SHA-256 sums are those that TensorFlow Datasets keeps for the same addresses. Tiny
# ImageNet is not in its list; that sum is the one on which independent publishers agree.
_VISDA = "http://csr.bu.edu/ftp/visda/2019/multi-source"
# Clipart and painting are the authors' cleaned version, which they recommend.
_DOMAINNET = (
    (
        "groundtruth/clipart.zip",
        1_270_909_081,
        "f8f248a3e8bbc9868c523ae24e6601b4c2ad102afc60c0efeb4f3255df22354d",
    ),
    (
        "infograph.zip",
        4_338_659_804,
        "891e14f476317e97b6f06d6498c11d0a5b8d0c8b57210765ed9beb072da611fa",
    ),
    (
        "groundtruth/painting.zip",
        3_679_366_174,
        "fa47e6d405503ea0286cabd767f176bd30e988b63ddd7b9db16cf030c9770015",
    ),
    (
        "quickdraw.zip",
        459_920_701,
        "9f37df2a8c3733703dbb35ad9964202a65f675ca30137756457537536b485d84",
    ),
    ("real.zip", 6_062_039_589, "d7fe010b430c5b510f85d657d38c4a1924822695fabea4fef57bd00dba251d63"),
    (
        "sketch.zip",
        2_633_992_926,
        "23a7dbae7016b343e934399beaa8a68728fb5e570ebe2c71df9b75cf91c499fc",
    ),
)
_CIFAR10 = Archive(
    "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",
    170_052_171,
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("train", "test"),
)
_TINY_IMAGENET = Archive(
    "http://cs231n.stanford.edu/tiny-imagenet-200.zip",
    248_100_043,
    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    ("train", "val"),
)

DATA_SETS = {
    data_set.name: data_set
    for data_set in (
        DataSet(
            "cifar10",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            archives=(_CIFAR10,),
            arrange=archives.arrange_cifar10,
        ),
        DataSet(
            "tiny-imagenet",
            "http://cs231n.stanford.edu",
            absent={"test": "the labels of its test images were never published; use val"},
            archives=(_TINY_IMAGENET,),
            arrange=archives.arrange_tiny_imagenet,
        ),
        DataSet(
            "pacs",
            "https://dali-dl.github.io/project_iccv2017.html",
            domains=("art_painting", "cartoon", "photo", "sketch"),
        ),
        DataSet(
            "domainnet",
            "http://ai.bu.edu/M3SDA/",
            domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
            archives=tuple(
                Archive(f"{_VISDA}/{path}", num_bytes, sha256, (Path(path).stem,))
                for path, num_bytes, sha256 in _DOMAINNET
            ),
            arrange=archives.arrange_domainnet,
        ),
    )
}

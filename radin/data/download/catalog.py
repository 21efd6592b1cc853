"""The data sets that radin knows by name: what they hold, where they lie, and where they come from."""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from radin.data.download import archives, class_names
from radin.data.download.transfer import check_sha256, download, offline, only_one
from radin.errors import DataError
from radin.files import data_root


@dataclass(frozen=True)
class Archive:
    """A file of the official source.

    Attributes:
        url: where it is; its last part is the file's name.
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
    """What is known of a data set.

    Attributes:
        name: as `radin.load_split` takes it.
        page: where people read about it and get it.
        classes: the names of its class folders.
        domains: its top folders, when it is divided into domains and not into train and test.
        absent: parts that one would look for in vain, each with the reason.
        archives: what can be downloaded, if anything.
        arrange: (archive, folder, progress) sorts the archive's images as `<part or domain>/<class>/<image>`.
    """

    name: str
    page: str
    classes: tuple[str, ...]
    domains: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    archives: tuple[Archive, ...] = ()
    arrange: Callable[[Path, Path, bool], None] | None = None

    @property
    def layout(self) -> str:
        """Where its images belong, for people."""
        tops = self.domains or tuple(
            folder for archive in self.archives for folder in archive.folders
        )
        return f"{self.name}/{{{','.join(tops)}}}/<class>/<image>"


def find(name: str, root: str | Path | None = None) -> tuple[Path, DataSet | None]:
    """The folder of a data set, fetched if need be, and what is known of it.

    Args:
        name: of a known data set, perhaps with the edge of its images in pixels behind it (`pacs-64`); of a folder
            under `root`; or the path of a folder.
        root: where data sets lie; `RADIN_DATA` or the user's cache directory when not given.

    Raises DataError when it is not there and cannot be had.
    """
    place = _place(root)
    folder = _lying(name, place)
    if folder is None and name not in KNOWN:
        raise DataError(
            f"Unknown data set {name!r}: it is none of digits, {', '.join(KNOWN)}, imagenet, and there is no folder "
            f"{place / name}. Put the images there as <part>/<class>/<image>, or point RADIN_DATA (or root=...) at the "
            "folder that holds it."
        )
    return folder or fetch(name, place), KNOWN.get(re.sub(r"-\d+$", "", name))


def fetch(name: str, root: str | Path | None = None, progress: bool = True) -> Path:
    """The folder of a data set that radin knows, downloaded from its official source if it is not there.

    An archive that lies under `root` already, by its official name, is taken in place of a download. With
    RADIN_OFFLINE=1 in the environment nothing is downloaded.

    Args:
        name: "cifar10", "tiny-imagenet", "pacs" or "domainnet".
        root: where data sets lie; `RADIN_DATA` or the user's cache directory when not given.
        progress: whether to show bars.

    Raises DataError, saying where to get the data set and where to put it, when it cannot be downloaded, and when
    what arrives is not the official file.
    """
    place = _place(root)
    if name not in KNOWN:
        raise DataError(f"radin cannot fetch {name!r}; it knows {', '.join(KNOWN)}.")
    known = KNOWN[name]
    if (folder := _lying(name, place)) is not None:
        return folder
    if not known.archives:
        raise DataError(
            f"{name} is not under {place}, and its source has no file that a program could download. Get it from "
            f"{known.page} and put the images there as {known.layout}, or point RADIN_DATA (or root=...) at the folder "
            f"that holds {name}."
        )
    lock = place / f".{name}.lock"
    try:
        place.mkdir(parents=True, exist_ok=True)
        with only_one(lock):
            folder = _lying(name, place) or _build(
                known, place, progress
            )  # another process may just have fetched it
        lock.unlink(missing_ok=True)
    except OSError as error:
        raise DataError(
            f"{error.filename or place}: could not be written ({error.strerror}); free some space or point RADIN_DATA "
            "at another folder."
        ) from error
    return folder


def _place(root: str | Path | None) -> Path:
    return Path(root).expanduser() if root is not None else data_root()


def _lying(name: str, place: Path) -> Path | None:
    """The folder under `place`, or else in the working directory, that has the name; None when there is none."""
    exact = place / Path(name).expanduser()  # an absolute name stands for itself
    if exact.is_dir():
        return exact
    if name in KNOWN and place.is_dir():
        pattern = re.compile(rf"{re.escape(name)}-\d+")
        sized = sorted(
            path for path in place.iterdir() if pattern.fullmatch(path.name) and path.is_dir()
        )
        if len(sized) > 1:
            names = ", ".join(path.name for path in sized)
            raise DataError(
                f"{place} holds more than one {name}: {names}; ask for one of them by its full name."
            )
        if sized:
            return sized[0]
    return Path(name) if Path(name).is_dir() else None


def _build(known: DataSet, place: Path, progress: bool) -> Path:
    """Get every archive, arrange it beside the final place, and move the whole there when all is done.

    What a killed run leaves lies in a hidden folder: an archive there is continued, a part or domain there is whole.
    """
    assert known.arrange is not None
    staging = place / f".{known.name}.part"
    staging.mkdir(exist_ok=True)
    for archive in known.archives:
        if all((staging / folder).is_dir() for folder in archive.folders):
            continue
        source = _archive(archive, known, place, staging, progress)
        unpacking = staging / ".unpacking"
        shutil.rmtree(unpacking, ignore_errors=True)
        unpacking.mkdir()
        known.arrange(source, unpacking, progress)
        for folder in archive.folders:
            if not (unpacking / folder).is_dir():
                raise DataError(
                    f"{source}: holds no images for {known.name}/{folder}; get it anew."
                )
            shutil.rmtree(staging / folder, ignore_errors=True)
            (unpacking / folder).rename(staging / folder)
        shutil.rmtree(unpacking)
        for name in (
            archive.name,
            f"{archive.name}.part",
        ):  # a download, and one that an archive put there replaced
            (staging / name).unlink(missing_ok=True)
    return staging.rename(place / known.name)


def _archive(archive: Archive, known: DataSet, place: Path, staging: Path, progress: bool) -> Path:
    """A checked archive: the one that somebody put there, one that a killed run has left, or a download."""
    for path in (place / archive.name, staging / archive.name):
        if path.is_file():
            check_sha256(path, archive.sha256)
            return path
    size = f"{archive.num_bytes / 1e9:.2f} GB"
    by_hand = (
        f"By hand: get {archive.url} ({size}; see {known.page}) and put it into {place}, packed as it is; or put the "
        f"images there as {known.layout}."
    )
    if offline():
        raise DataError(
            f"{known.name} is not under {place}, and RADIN_OFFLINE forbids downloading it. {by_hand}"
        )
    if (
        shutil.disk_usage(place).free < 3 * archive.num_bytes
    ):  # small files fill more blocks than their archive does
        raise DataError(
            f"{place}: too little space to download and unpack {archive.name} of {known.name} (3 x {size}); free some "
            "or point RADIN_DATA at another folder."
        )
    print(
        f"radin: downloading {known.name} from {archive.url} ({size}) into {place}", file=sys.stderr
    )
    try:
        return download(
            archive.url, staging / archive.name, archive.num_bytes, archive.sha256, progress
        )
    except DataError as error:
        raise DataError(f"{error} {by_hand}") from error


# What is known ----------------------------------------------------------------------------------

# The sizes and SHA-256 sums are those that TensorFlow Datasets keeps for the same addresses, except Tiny ImageNet's,
# which is on no such list and is the one that people who publish theirs agree on.
_VISDA = "http://csr.bu.edu/ftp/visda/2019/multi-source"
# Of clipart and painting the authors' cleaned version, which they recommend.
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

KNOWN = {
    known.name: known
    for known in (
        DataSet(
            "cifar10",
            "https://www.cs.toronto.edu/~kriz/cifar.html",
            class_names.CIFAR10,
            archives=(_CIFAR10,),
            arrange=archives.arrange_cifar10,
        ),
        DataSet(
            "tiny-imagenet",
            "http://cs231n.stanford.edu",
            class_names.TINY_IMAGENET,
            absent={"test": "the labels of its test images were never published; use val"},
            archives=(_TINY_IMAGENET,),
            arrange=archives.arrange_tiny_imagenet,
        ),
        DataSet(
            "pacs",
            "https://dali-dl.github.io/project_iccv2017.html",
            class_names.PACS,
            domains=("art_painting", "cartoon", "photo", "sketch"),
        ),
        DataSet(
            "domainnet",
            "http://ai.bu.edu/M3SDA/",
            class_names.DOMAINNET,
            domains=("clipart", "infograph", "painting", "quickdraw", "real", "sketch"),
            archives=tuple(
                Archive(f"{_VISDA}/{path}", num_bytes, sha256, (Path(path).stem,))
                for path, num_bytes, sha256 in _DOMAINNET
            ),
            arrange=archives.arrange_domainnet,
        ),
    )
}

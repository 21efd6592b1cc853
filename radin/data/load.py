"""Splits by name: the embedded digits, data sets that are downloaded once, and any folder of images."""

from __future__ import annotations

from pathlib import Path

from radin.data import imagenet
from radin.data.digits import _digits
from radin.data.download.catalog import find
from radin.data.folders import part_files
from radin.data.splits import FolderSplit, Split
from radin.errors import DataError, check_integer


def load_split(
    name: str, part: str, root: str | Path | None = None, size: int | None = None
) -> Split:
    """One part of a data set as a torch Dataset with `.num_classes` and `.class_names`.

    Args:
        name: "digits" (embedded in scikit-learn), "cifar10", "tiny-imagenet", "pacs", "domainnet", "imagenet", or a
            folder of images: a name under `root` or a path of its own.
        part: of digits, one of `radin.data.digits.DIGITS_PARTS`. Of a folder `<part>/<class>/<image>`: "train", "val",
            "test", or any other part it has. Without a folder `val` it gets one: a fixed tenth of each class of
            `train`, which `train` then leaves out. "pretrain" and "finetune" are two fixed halves of "train".
            Of a folder `<domain>/<class>/<image>`, such as pacs and domainnet: "<domain>", all of it;
            "<domain>/train" and "<domain>/val", which is a fixed tenth of each class; and "without-<domain>/train"
            and "without-<domain>/val", the same for all other domains together. Of imagenet, one of
            `radin.data.imagenet.PARTS`; "val" is then the 2% held out of its training images, "test" its own validation
            images, and the shifted test sets are parts too.
        root: where data sets lie; `RADIN_DATA` or the user's cache directory when not given. A set that radin
            knows by name may have its edge in pixels behind it (`pacs-64`), and is downloaded if it is not there;
            with RADIN_OFFLINE=1 in the environment an error says what would have been.
        size: edge in pixels that folder images are resized and cropped to, 224 for imagenet by default; of other
            folders the images must all have one size already where it is not given.

    Raises DataError when the data set, part or a class is missing, empty or unreadable.
    """
    if size is not None:
        check_integer("size", size, minimum=1)
    if name == "imagenet":
        found = imagenet.find_images(part, root)
        split = FolderSplit(
            name, part, found.files, found.class_names, size or imagenet.SIZE, found.border
        )
        split.projection, split.note = found.projection, found.note
        return split
    if name == "digits":
        if size not in (None, 8):
            raise DataError(f"digits are 8 x 8 pixels; leave out size={size}.")
        return _digits(part)
    base, known = find(name, root)
    files, class_names = part_files(base, part, known)
    return FolderSplit(name, part, files, class_names, size)


# Digits -----------------------------------------------------------------------------------------

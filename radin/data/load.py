"""Splits by name: the embedded digits, data sets that are downloaded once, and any image folder."""

from __future__ import annotations

import warnings
from pathlib import Path

from radin.data import imagenet
from radin.data.digits import digits_split
from radin.data.download.catalog import find_data_set
from radin.data.folders import part_files
from radin.data.splits import FolderSplit, Split
from radin.errors import DataError, check_integer


def load_split(
    name: str, part: str, root: str | Path | None = None, *, size: int | None = None
) -> Split:
    """One part of a data set as a torch Dataset with `.num_classes` and `.class_names`.

    Args:
        name: "digits" (embedded in scikit-learn), "cifar10", "tiny-imagenet", "pacs",
            "domainnet", "imagenet", or a folder of images: a name under `root` or a path.
        part: of digits, one of `radin.data.digits.DIGITS_PARTS`.
            Of a folder `<part>/<class>/<image>`: "train", "val", "test", or any other part that
            it has. Folders such as `valid` and `training` are known too
            (`radin.data.folders.PART_NAMES`). Without a folder for it, "val" is a fixed tenth of
            each class of `train`, and "train" is the rest. "pretrain" and "finetune" are two fixed
            halves of "train".
            Of a folder `<domain>/<class>/<image>`, such as pacs and domainnet: "<domain>", all of
            it; "<domain>/train" and "<domain>/val", which is a fixed tenth of each class; and
            "without-<domain>/train" and "without-<domain>/val", the same for all other domains
            together.
            Of imagenet, one of `radin.data.imagenet.PARTS`: "val" is the 2% held out of its
            training images, "test" its own validation images, and the shifted test sets are parts
            too.
        root: the folder of the data sets; `RADIN_DATA` or the user's cache directory when not
            given. The folder of a data set that radin knows by name may end in the edge of its
            images in pixels (`pacs-64`). Such a data set is downloaded if it is missing; with
            RADIN_OFFLINE=1 in the environment an error says what would have been downloaded.
        size: edge in pixels that folder images are resized and cropped to. For imagenet 224 when
            not given; for other folders the images must then all have one size.

    Returns:
        The split. Its `note`, which is a warning too, says what was left aside (files of other
        endings, hidden folders, links to images that count already) and how many of its images are
        in another part of the folder, too.

    Raises:
        DataError: the data set, part or a class is missing, empty or unreadable.

    >>> split = load_split("digits", "test")
    >>> split
    ArraySplit(digits, test: 847 images, 10 classes)
    >>> image, label = split[0]
    >>> tuple(image.shape), label
    ((1, 8, 8), 5)
    """
    if size is not None:
        check_integer("size", size, minimum=1)
    if name == "imagenet":
        found = imagenet.find_images(part, root)
        size = size or imagenet.SIZE_PIXELS
        split = FolderSplit(
            name, part, found.files, found.class_names, size=size, border=found.border
        )
        split.projection = found.projection
        split.note = found.note
        return split
    if name == "digits":
        if size not in (None, 8):
            raise DataError(f"digits are 8 x 8 pixels; leave out size={size}.")
        return digits_split(part)
    base, data_set = find_data_set(name, root)
    files, class_names, notes = part_files(base, part, data_set)
    split = FolderSplit(name, part, files, class_names, size=size)
    split.note = "; ".join(notes)
    if notes:
        warnings.warn(f"{name}, {part}: {split.note}.", stacklevel=2)
    return split

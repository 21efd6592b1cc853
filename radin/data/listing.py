"""The images below a folder: which files count, and which are left aside."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from radin.errors import DataError, counted, list_names

# Those of torchvision's ImageFolder, and no others, so that both count the same images.
IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")
# Made by systems and programs for themselves, beside all names that begin with a dot.
_SERVICE_NAMES = {
    *("__macosx", "@eadir", "@tmp", "@recycle", "@recently-snapshot", "#recycle", "#snapshot"),
    *("$recycle.bin", "system volume information", "lost+found", "__pycache__", "thumbs.db"),
    *("desktop.ini", "ehthumbs.db"),
}
# Texts and tables that lie beside images and that nobody takes for one.
_TEXT_SUFFIXES = {
    *("", ".txt", ".csv", ".tsv", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".html"),
    *(".ini", ".db", ".log", ".py", ".url", ".mat", ".lst", ".list", ".rst", ".pdf"),
}


@dataclass
class Aside:
    """What lies beside images and is not read, counted.

    Attributes:
        suffixes: files of other endings, by their ending.
        folders: hidden folders and those of a system, by their name.
        hidden: hidden files with the ending of an image.
        repeated: links to images or folders that count already.
    """

    suffixes: Counter[str] = field(default_factory=Counter)
    folders: Counter[str] = field(default_factory=Counter)
    hidden: int = 0
    repeated: int = 0

    def add(self, other: Aside) -> None:
        """Add what was counted elsewhere."""
        self.suffixes += other.suffixes
        self.folders += other.folders
        self.hidden += other.hidden
        self.repeated += other.repeated

    def describe(self) -> list[str]:
        """A text for each kind of things that were left aside."""
        texts = []
        if self.suffixes:
            texts.append(
                f"left aside, {counted(self.suffixes.total(), 'file')} of other endings: "
                f"{_list_counts(self.suffixes)}"
            )
        if self.folders:
            texts.append(
                f"left aside, {counted(self.folders.total(), 'hidden or system folder')}: "
                f"{_list_counts(self.folders)}"
            )
        if self.hidden:
            texts.append(f"left aside, {counted(self.hidden, 'hidden file')}")
        if self.repeated:
            texts.append(
                f"left aside, {counted(self.repeated, 'link')} to images that count already"
            )
        return texts


def _list_counts(counts: Counter[str]) -> str:
    return list_names(f"{name} ({count:,})" for name, count in sorted(counts.items()))


def is_service_name(name: str) -> bool:
    """Whether a file or folder is hidden, or made by a system for itself."""
    return name.startswith(".") or name.lower() in _SERVICE_NAMES


def subfolders(folder: Path) -> list[str]:
    """Names of the folders in a folder, sorted, without hidden ones and those of a system."""
    try:
        with os.scandir(folder) as entries:
            return sorted(
                entry.name
                for entry in entries
                if not is_service_name(entry.name) and os.path.isdir(entry.path)
            )
    except OSError as error:
        raise DataError(f"{folder}: could not be read ({error.strerror}).") from error


def list_images(folder: Path, aside: Aside) -> list[Path]:
    """The images anywhere below a folder, sorted. Links are followed, and each image counts once.

    Args:
        folder: of one class.
        aside: gets what is not read.

    Raises:
        DataError: a folder cannot be read.
    """
    by_file: dict[str, Path] = {}
    links: list[Path] = []
    for path, real_path in _walk(folder, aside, links):
        if by_file.setdefault(real_path, path) is not path:
            aside.repeated += 1
    for link in links:  # after the files themselves, whose own names are kept
        real_path = os.path.realpath(link)
        if by_file.setdefault(real_path, link) is not link:
            aside.repeated += 1
    return sorted(by_file.values())


def _walk(folder: Path, aside: Aside, links: list[Path]) -> Iterator[tuple[Path, str]]:
    """The images below a folder with their real paths; those that are links go to `links`.

    Folders that are links come last, and no real folder comes twice, so a loop of links ends.
    """
    waiting = [folder]
    linked_folders: list[Path] = []
    visited: set[str] = set()
    while waiting or linked_folders:
        current = waiting.pop() if waiting else linked_folders.pop(0)
        real = os.path.realpath(current)
        if real in visited:
            aside.repeated += 1
            continue
        visited.add(real)
        for entry in _entries(current):
            is_link = entry.is_symlink()
            if os.path.isdir(entry.path) if is_link else entry.is_dir():
                if is_service_name(entry.name):
                    aside.folders[entry.name] += 1
                else:
                    (linked_folders if is_link else waiting).append(Path(entry.path))
            elif _is_image(entry.name, aside):
                if is_link:
                    links.append(Path(entry.path))
                else:
                    yield Path(entry.path), os.path.join(real, entry.name)


def _is_image(name: str, aside: Aside) -> bool:
    """Whether a file is an image by its name. If not, it is counted where one could think so."""
    suffix = os.path.splitext(name)[1].lower()
    if suffix not in IMAGE_SUFFIXES:
        if not is_service_name(name) and suffix not in _TEXT_SUFFIXES:
            aside.suffixes[suffix] += 1
        return False
    if is_service_name(name):
        aside.hidden += 1
        return False
    return True


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    try:
        with os.scandir(folder) as entries:
            return list(entries)
    except OSError as error:
        raise DataError(f"{folder}: could not be read ({error.strerror}).") from error

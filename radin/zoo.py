"""A zoo: ingredients of one architecture, opened lazily and checked before any work starts."""

from __future__ import annotations

import glob
import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn
from tqdm import tqdm

from radin.checkpoints import (
    CHECKPOINT_SUFFIXES,
    INDEX_SUFFIX,
    Checkpoint,
    common_prefix,
    locate,
    open_checkpoint,
    read_index,
    some,
)
from radin.errors import CheckpointError, ParameterError
from radin.files import update_hash

RUNNING_STATISTICS = ("running_mean", "running_var")  # how the keys of batch norm end, in every torch network


class Zoo:
    """N ingredients of one architecture; `len(zoo)` is N. Make one with `Zoo.open`.

    Attributes:
        paths: the N checkpoint files.
        names: their N file stems, or longer parts of their paths where stems repeat, for tables.
        build: returns one empty model, or None when only averaging is wanted.
        init: the checkpoint of the common initialisation as a lazy mapping, or None.
        fingerprints: N hex hashes of the ingredients' tensors, whatever file format or prefix holds them.
        notes: what was found and taken off in the files, a line for each finding; empty for plain state dicts.
    """

    def __init__(
        self,
        paths: list[Path],
        checkpoints: list[Mapping[str, Tensor]],
        fingerprints: list[str],
        build: Callable[[], nn.Module] | None,
        init: Mapping[str, Tensor] | None,
        notes: Iterable[str] = (),
    ) -> None:
        self.paths = paths
        self.names = _names(paths)
        self.fingerprints = fingerprints
        self.build = build
        self.init = init
        self.notes = list(notes)
        self._checkpoints = checkpoints

    @classmethod
    def open(
        cls,
        paths: str | Path | Iterable[str | Path],
        build: Callable[[], nn.Module] | None = None,
        init: str | Path | None = None,
        progress: bool = True,
        unused: str = "error",
    ) -> Zoo:
        """Open checkpoints and check every one of them against the others before any work starts.

        Each file is read once, to look for NaN or infinite weights and to hash its content; after
        that tensors are mapped from disk only when they are used. A prefix before every key of a file,
        such as "module.", is taken off where the model (or another file) has the keys without it.

        Args:
            paths: checkpoint files (what `open_checkpoint` takes, each), one folder of them, or a glob such
                as `runs/*.safetensors` (natural order: model_2 before model_10; shards count as their index).
            build: a function that returns one empty model; checkpoints must then fit its state dict.
            init: the checkpoint that all ingredients were fine-tuned from.
            progress: show a progress bar.
            unused: what to do with keys that the model of `build` does not have: "error", or "skip" those
                that are the same, byte for byte, in every file.

        Raises:
            CheckpointError: a file is missing, truncated, pickled code or not a state dict; holds NaN
                or infinite weights; holds the same weights as another; or keys, shapes or kinds of
                number differ (all differences are listed, sorted).
            ParameterError: `build` is a model, or `unused` is another word or "skip" without `build`.
        """
        if isinstance(build, nn.Module):
            raise ParameterError(
                "build must be a function that returns an empty model, not a model: build=lambda: Net()."
            )
        if unused not in ("error", "skip"):
            raise ParameterError(f'unused must be "error" or "skip", not {unused!r}.')
        if unused == "skip" and build is None:
            raise ParameterError('unused="skip" needs build=..., the model that says which keys are used.')
        files = _expand(paths)
        if init is not None and len(files) > 1:  # a folder or glob may hold the initialisation too
            files = [path for path in files if path.resolve() != locate(init).resolve()]
        opened = [open_checkpoint(path) for path in files]
        if init is not None:
            opened.append(open_checkpoint(init))
        reference, reference_name = _reference(opened, build)
        opened = [checkpoint.fit(reference) for checkpoint in opened]
        skipped = _same_everywhere(opened[: len(files)], opened, reference) if unused == "skip" else set()
        opened = [checkpoint.without(skipped) for checkpoint in opened]
        _check_alike(opened, reference, reference_name, unused if build is not None else "")
        checkpoints, start = opened[: len(files)], opened[-1] if init is not None else None
        fingerprints = []
        for checkpoint in tqdm(checkpoints, desc="checking ingredients", disable=not progress, leave=False):
            fingerprints.append(_fingerprint(checkpoint))
        _check_distinct(files, fingerprints)
        if start is not None:
            _fingerprint(start)
        return cls(files, list(checkpoints), fingerprints, build, start, _notes(opened, files, skipped))

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        parameters = sum(self._checkpoints[0][key].numel() for key in self.keys())
        return f"Zoo({len(self)} ingredients, {parameters:,} numbers each)"

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        """The state dict of ingredient `index`, mapped lazily from disk."""
        return self._checkpoints[index]

    def keys(self) -> list[str]:
        """The tensor names that every ingredient has, in the first one's order."""
        return list(self._checkpoints[0])

    def parameter_keys(self) -> list[str]:
        """Those of `keys` that training moves: no whole numbers, and no running statistics of batch norm."""
        return [
            key
            for key, tensor in self._checkpoints[0].items()
            if tensor.is_floating_point() and not key.endswith(RUNNING_STATISTICS)
        ]

    def model(self, state: int | Mapping[str, Tensor]) -> nn.Module:
        """A model in evaluation mode that holds ingredient `state` (an index) or any state dict of this zoo.

        Raises ParameterError when the zoo was opened without `build`.
        """
        if self.build is None:
            raise ParameterError(
                "This zoo was opened without build=...; pass Zoo.open(..., build=f), where f() returns one empty model."
            )
        model = self.build()
        model.load_state_dict(dict(state if isinstance(state, Mapping) else self[state]))
        return model.eval()


def _expand(paths: str | Path | Iterable[str | Path]) -> list[Path]:
    if not isinstance(paths, str | Path):
        files = [locate(path) for path in paths]
        if not files:
            raise CheckpointError("No checkpoints given: a zoo needs at least one ingredient.")
        return files
    place = Path(paths).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        found = [path for path in place.iterdir() if path.name.endswith((*CHECKPOINT_SUFFIXES, INDEX_SUFFIX))]
    else:
        matches = [Path(match) for match in glob.glob(str(place), recursive=True)]
        found = [path for path in matches if path.is_file()]
        found += [locate(path) for path in matches if path.is_dir() and any(path.glob(f"*{INDEX_SUFFIX}"))]
    indices = {path for path in found if path.name.endswith(INDEX_SUFFIX)}
    shards = {index.parent / name for index in indices for name in read_index(index).values()}
    found = [path for path in dict.fromkeys(found) if path not in shards]
    if not found:
        raise CheckpointError(
            f"{paths}: no checkpoint found there; give files, a folder or a glob of {', '.join(CHECKPOINT_SUFFIXES)}."
        )
    return sorted(found, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", str(path))])


def _names(paths: list[Path]) -> list[str]:
    stems = [path.name.removesuffix(INDEX_SUFFIX) if path.name.endswith(INDEX_SUFFIX) else path.stem for path in paths]
    longer = [f"{path.parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    if len(set(longer)) < len(paths):  # only the ending, or more, differs
        return [str(path) for path in paths]
    return [stem if stems.count(stem) == 1 else name for stem, name in zip(stems, longer, strict=True)]


def _reference(opened: list[Checkpoint], build: Callable[[], nn.Module] | None) -> tuple[Mapping[str, Tensor], str]:
    """What all checkpoints must look like, and its name: the model, or the first file, or the one with less prefix."""
    if build is not None:
        return build().state_dict(), "the model that build() returns"
    barest = max(opened, key=lambda checkpoint: len(common_prefix(opened[0], checkpoint)))  # the first of equals
    return barest, str(barest.path)


def _same_everywhere(
    ingredients: list[Checkpoint], opened: list[Checkpoint], reference: Mapping[str, Tensor]
) -> set[str]:
    """The keys beyond the reference's that every ingredient has, with the same bytes wherever they are."""
    extra = set.intersection(*(set(checkpoint) for checkpoint in ingredients)) - set(reference)
    return {key for key in extra if len({_hash(checkpoint, [key]) for checkpoint in opened if key in checkpoint}) == 1}


def _check_alike(opened: list[Checkpoint], reference: Mapping[str, Tensor], reference_name: str, unused: str) -> None:
    """Compare keys, shapes and kinds of number with the reference; list every difference at once."""
    differences = []
    for checkpoint in opened:
        path = checkpoint.path
        for key in sorted({*reference, *checkpoint}):
            if key not in checkpoint:
                differences.append(f"{path}: missing key {key}")
            elif key not in reference:
                reason = ", which is not the same in every file" if unused == "skip" else ""
                differences.append(f"{path}: extra key {key}{reason}")
            else:
                here, there = checkpoint[key], reference[key]
                if here.shape != there.shape:
                    differences.append(f"{path}: {key} has shape {tuple(here.shape)}, not {tuple(there.shape)}")
                elif here.is_floating_point() != there.is_floating_point():
                    differences.append(f"{path}: {key} is {here.dtype}, not {there.dtype}")
    if not differences:
        return
    lines = sorted(differences)
    if unused == "error" and set.intersection(*(set(checkpoint) for checkpoint in opened)) - set(reference):
        lines.append('unused="skip" leaves out the extra keys that are the same in every file')
    raise CheckpointError(
        f"Ingredients must have one architecture, but these differ from {reference_name}:\n  " + "\n  ".join(lines)
    )


def _notes(opened: list[Checkpoint], ingredients: list[Path], skipped: set[str]) -> list[str]:
    """What was found in which files and what was skipped: files with one finding share a line."""
    found: dict[str, list[Path]] = {}
    for checkpoint in opened:
        if checkpoint.finding:
            found.setdefault(checkpoint.finding, []).append(checkpoint.path)
    if skipped:
        keys = f"{len(skipped)} key{'s' if len(skipped) > 1 else ''}"
        said = f"skipped {keys} that the model does not have, the same in every file: {some(sorted(skipped))}"
        found[said] = ingredients
    return [
        f"{paths[0]}{f' and {len(paths) - 1} more' if len(paths) > 1 else ''}: {said}" for said, paths in found.items()
    ]


def _fingerprint(checkpoint: Checkpoint) -> str:
    """Hash of all tensors by sorted key; refuses NaN and infinite weights on the way."""
    return _hash(checkpoint, sorted(checkpoint), finite=True)


def _hash(checkpoint: Checkpoint, keys: list[str], finite: bool = False) -> str:
    digest = hashlib.sha256()
    for key in keys:
        tensor = checkpoint[key]
        try:
            broken = finite and tensor.is_floating_point() and not torch.isfinite(tensor).all()
            update_hash(digest, key, tensor)
        except (RuntimeError, TypeError, ValueError, MemoryError) as error:  # 8-bit floats, a name that is not text
            raise CheckpointError(
                f"{checkpoint.path}: {key!r}, {tensor.dtype}, cannot be read ({error}); save it in single precision."
            ) from error
        if broken:
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{checkpoint.path}: {key} holds {bad} NaN or infinite weight{'s' if bad > 1 else ''}; "
                "the training run diverged, leave this ingredient out."
            )
    return digest.hexdigest()


def _check_distinct(files: list[Path], fingerprints: list[str]) -> None:
    first: dict[str, Path] = {}
    twins = []
    for path, fingerprint in zip(files, fingerprints, strict=True):
        if fingerprint in first:
            twins.append(f"{path} holds the same weights as {first[fingerprint]}")
        first.setdefault(fingerprint, path)
    if twins:
        raise CheckpointError("Duplicated ingredients; leave one of each pair out:\n  " + "\n  ".join(twins))

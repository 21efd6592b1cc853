"""A zoo: ingredients of one architecture, opened lazily and checked before any work starts."""

from __future__ import annotations

import copy
import glob
import re
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from radin.checkpoints.checkpoint import locate, open_checkpoint
from radin.checkpoints.formats import (
    CHECKPOINT_SUFFIXES,
    INDEX_SUFFIXES,
    is_parameter,
    read_index,
)
from radin.checkpoints.inspection import (
    _check_alike,
    _everywhere,
    _notes,
    _reference,
    check_spare,
    duplicates,
    read_all,
    strangers,
    unmoved,
)
from radin.checkpoints.zero_copy import mapped_model
from radin.errors import CheckpointError, ParameterError, check_integer


class Zoo:
    """N ingredients of one architecture; `len(zoo)` is N. Make one with `Zoo.open`.

    A zoo can be pickled, which sends no weights along: a process that has the same files opens them when it needs
    them, and does not read them again to check them. A `build` without a name in a module needs cloudpickle, as joblib
    and Ray use it.

    Attributes:
        paths: the N checkpoint files.
        names: their N file stems, or longer parts of their paths where stems repeat, for tables.
        build: returns one empty model, or None when only averaging is wanted.
        init: the checkpoint of the common initialisation as a lazy mapping, or None.
        fingerprints: N hex hashes of the ingredients' tensors, whatever file format or prefix holds them. Ingredients
            with the same weights have the same one.
        notes: what was found and taken off in the files, a line for each finding; empty for plain state dicts.
        distances: ||theta_k - theta_0|| / ||theta_0||, how far each ingredient lies from the initialisation beside that
            one's length, over all parameters (no running statistics): (N,) double. None without `init`.
        cosines: between theta_k and theta_0, (N,) double. None without `init`.
    """

    def __init__(
        self,
        paths: list[Path],
        checkpoints: Sequence[Mapping[str, Tensor]],
        fingerprints: list[str],
        build: Callable[[], nn.Module] | None,
        init: Mapping[str, Tensor] | None,
        notes: Iterable[str] = (),
        distances: Tensor | None = None,
        cosines: Tensor | None = None,
    ) -> None:
        self.paths = paths
        self.names = _names(paths)
        self.fingerprints = fingerprints
        self.build = build
        self.init = init
        self.notes = list(notes)
        self.distances, self.cosines = distances, cosines
        self._checkpoints = list(checkpoints)

    @classmethod
    def open(
        cls,
        paths: str | Path | Iterable[str | Path],
        build: Callable[[], nn.Module] | None = None,
        init: str | Path | None = None,
        progress: bool = True,
        unused: str = "error",
        ema: bool = False,
    ) -> Zoo:
        """Open checkpoints and check every one of them against the others before any work starts.

        Each file is read once, to look for NaN or infinite weights, to hash its content and to compare it with the
        initialisation; after that tensors are mapped from disk only when they are used. A prefix of the keys, such as
        "module.", is taken off where the model (or another file) has the keys without it.

        Ingredients that hold the same weights, or have next to nothing in common with `init`, are a warning; both
        are in `notes` too.

        Args:
            paths: checkpoint files (what `open_checkpoint` takes, each), one folder of them, or a glob such
                as `runs/*.safetensors` (natural order: model_2 before model_10; shards count as their index).
            build: a function that returns one empty model; checkpoints must then fit its state dict.
            init: the checkpoint that all ingredients were fine-tuned from.
            progress: show a progress bar.
            unused: what to do with keys that the model of `build` does not have: "error", or "skip" those
                that are the same, byte for byte, in every file.
            ema: read the exponential moving average of the weights (EMA) that every ingredient's file holds beside
                them, in an entry or under a prefix. Without it the ordinary weights are read, and `notes` says where
                an EMA is. The initialisation is always read as it was before training, ordinary.

        Raises:
            CheckpointError: a file is missing, truncated, pickled code or not a state dict; holds NaN
                or infinite weights, or no EMA where one is asked for; or keys, shapes or kinds of
                number differ (all differences are listed, sorted).
            ParameterError: `build` is a model, `unused` is another word or "skip" without `build`, or `ema` is
                neither True nor False.
        """
        if isinstance(build, nn.Module):
            raise ParameterError(
                "build must be a function that returns an empty model, not a model: build=lambda: Net()."
            )
        if unused not in ("error", "skip"):
            raise ParameterError(f'unused must be "error" or "skip", not {unused!r}.')
        if unused == "skip" and build is None:
            raise ParameterError(
                'unused="skip" needs build=..., the model that says which keys are used.'
            )
        if not isinstance(ema, bool):
            raise ParameterError(f"ema must be True or False, not {ema!r}.")
        files = _expand(paths)
        if init is not None and len(files) > 1:  # a folder or glob may hold the initialisation too
            files = [path for path in files if path.resolve() != locate(init).resolve()]
        opened = [open_checkpoint(path, ema) for path in files]
        if init is not None:
            opened.append(open_checkpoint(init))
        reference, reference_name = _reference(opened, build)
        opened = [checkpoint.fit(reference) for checkpoint in opened]
        spare = _everywhere(opened[: len(files)]) - set(reference) if unused == "skip" else set()
        used = [checkpoint.without(spare) for checkpoint in opened]
        _check_alike(used, reference, reference_name, unused if build is not None else "")
        start = used[-1] if init is not None else None
        readings = read_all(opened, spare, start, progress)
        check_spare(opened, readings, spare)
        notes, readings = _notes(used, files, spare), readings[: len(files)]
        said = [duplicates(files, readings)]
        said += [strangers(files, readings, start.path)] if start is not None else []
        for line in filter(None, said):
            warnings.warn(line, stacklevel=2)
            notes.append(line)
        fingerprints = [each.fingerprint for each in readings]
        if start is None:
            return cls(files, used, fingerprints, build, None, notes)
        notes += filter(None, [unmoved(files, readings, start.path)])
        distances = torch.tensor([each.distance for each in readings], dtype=torch.float64)
        cosines = torch.tensor([each.cosine for each in readings], dtype=torch.float64)
        return cls(files, used[:-1], fingerprints, build, start, notes, distances, cosines)

    def subset(self, indices: Iterable[int] | Tensor) -> Zoo:
        """The zoo of some of the ingredients, in the order given; nothing is read again.

        `notes` stay as they are: they tell of the zoo that was opened.

        Raises ParameterError for an index that is no ingredient's, the same one twice, or none.
        """
        chosen = [
            check_integer("an index", k, minimum=0)
            for k in (indices.tolist() if isinstance(indices, Tensor) else indices)
        ]
        if not chosen or len(set(chosen)) < len(chosen) or max(chosen) >= len(self):
            raise ParameterError(
                f"A subset takes different indices from 0 to {len(self) - 1}, at least one, not {chosen}."
            )
        part = copy.copy(self)
        for name in ("paths", "names", "fingerprints", "_checkpoints"):
            setattr(part, name, [getattr(self, name)[k] for k in chosen])
        part.notes = list(self.notes)
        if self.distances is not None and self.cosines is not None:
            part.distances, part.cosines = self.distances[chosen], self.cosines[chosen]
        return part

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
        return [key for key, tensor in self._checkpoints[0].items() if is_parameter(key, tensor)]

    def model(self, state: int | Mapping[str, Tensor], copy: bool = True) -> nn.Module:
        """A model in evaluation mode that holds ingredient `state` (an index) or any state dict of this zoo.

        Args:
            copy: False for a model for inference only, never to be trained or written to, whose tensors are those of
                `state` where the kind of number is the model's own: mapped from disk, or shared with the caller. It is
                built without numbers, in a small part of the time. A network that cannot be built so (one with a
                buffer that no checkpoint holds, or a `build` that computes with its weights) is copied all the same.
                Its logits may differ from those of a copy in the last digit: the numbers lie in memory otherwise.

        Raises ParameterError when the zoo was opened without `build`.
        """
        if self.build is None:
            raise ParameterError(
                "This zoo was opened without build=...; pass Zoo.open(..., build=f), where f() returns one empty model."
            )
        tensors = dict(state if isinstance(state, Mapping) else self[state])
        if not copy and (model := mapped_model(self.build, tensors)) is not None:
            return model.eval()
        model = self.build()
        model.load_state_dict(tensors)
        return model.requires_grad_(copy).eval()


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
        found = [
            path
            for path in place.iterdir()
            if path.name.endswith((*CHECKPOINT_SUFFIXES, *INDEX_SUFFIXES))
        ]
    else:
        matches = [Path(match) for match in glob.glob(str(place), recursive=True)]
        found = [path for path in matches if path.is_file()]
        folders = [path for path in matches if path.is_dir()]
        found += [
            locate(path)
            for path in folders
            if any(each.name.endswith(INDEX_SUFFIXES) for each in path.iterdir())
        ]
    indices = {path for path in found if path.name.endswith(INDEX_SUFFIXES)}
    shards = {index.parent / name for index in indices for name in read_index(index).values()}
    found = [path for path in dict.fromkeys(found) if path not in shards]
    if not found:
        raise CheckpointError(
            f"{paths}: no checkpoint found there; give files, a folder or a glob of {', '.join(CHECKPOINT_SUFFIXES)}."
        )
    return sorted(
        found,
        key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", str(path))],
    )


def _names(paths: list[Path]) -> list[str]:
    endings = [
        next((end for end in INDEX_SUFFIXES if path.name.endswith(end)), path.suffix)
        for path in paths
    ]
    stems = [path.name.removesuffix(end) for path, end in zip(paths, endings, strict=True)]
    longer = [f"{path.parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    if len(set(longer)) < len(paths):  # only the ending, or more, differs
        return [str(path) for path in paths]
    return [
        stem if stems.count(stem) == 1 else name for stem, name in zip(stems, longer, strict=True)
    ]

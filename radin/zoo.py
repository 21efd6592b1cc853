"""A zoo: ingredients of one architecture, opened lazily and checked before any work starts."""

from __future__ import annotations

import glob
import hashlib
import pickle
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn
from tqdm import tqdm

from radin.errors import CheckpointError, ParameterError
from radin.files import update_hash

CHECKPOINT_SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt")
RUNNING_STATISTICS = ("running_mean", "running_var")  # how the keys of batch norm end, in every torch network


class _SafetensorsFile(Mapping[str, Tensor]):
    """A safetensors file as a mapping; a tensor is mapped from disk when it is asked for."""

    def __init__(self, path: Path) -> None:
        self._file = safe_open(path, framework="pt", device="cpu")
        self._keys = list(self._file.keys())
        if not self._keys:
            raise CheckpointError(f"{path}: not a state dict, it holds no tensors; save model.state_dict().")

    def __getitem__(self, key: str) -> Tensor:
        if key not in self._keys:
            raise KeyError(key)
        return self._file.get_tensor(key)

    def __iter__(self) -> Iterator[str]:
        return iter(self._keys)

    def __len__(self) -> int:
        return len(self._keys)


def open_checkpoint(path: str | Path) -> Mapping[str, Tensor]:
    """Open a state dict without reading its tensors: `.safetensors`, or a file that `torch.save` wrote.

    Nothing is ever unpickled beyond plain tensors (`weights_only=True`).

    Raises CheckpointError when the file is missing, truncated, pickled code, or not a state dict.
    """
    path = Path(path)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such checkpoint file.")
    if path.suffix == ".safetensors":
        try:
            return _SafetensorsFile(path)
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path}: not a whole safetensors file ({error}); copy or make it again.") from error
    return _open_torch(path)


def _open_torch(path: Path) -> Mapping[str, Tensor]:
    try:
        try:
            loaded = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
        except RuntimeError as error:
            if "mmap" not in str(error):
                raise
            loaded = torch.load(path, map_location="cpu", weights_only=True)  # written before torch 1.6: no zip to map
    except pickle.UnpicklingError as error:
        raise CheckpointError(
            f"{path}: refused, because it holds pickled objects other than plain tensors and loading those can run "
            "code; save model.state_dict() instead of the model."
        ) from error
    except Exception as error:  # a damaged file fails wherever its reader happens to be: struct, zip, assert, ...
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CheckpointError(f"{path}: truncated or not a checkpoint ({reason}); copy or make it again.") from error
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{path}: holds a {type(loaded).__name__}, not a state dict; save model.state_dict().")
    wrong = sorted(
        str(key) for key, value in loaded.items() if not (isinstance(key, str) and isinstance(value, Tensor))
    )
    if wrong or not loaded:
        what = f"entries that are not tensors: {', '.join(wrong[:8])}" if wrong else "no tensors"
        inner = [key for key, value in loaded.items() if isinstance(value, Mapping) and value]
        mend = "save model.state_dict()" + (f", here torch.save(checkpoint[{inner[0]!r}], path)" if inner else "")
        raise CheckpointError(f"{path}: not a state dict, it holds {what}; {mend}.")
    return loaded


class Zoo:
    """N ingredients of one architecture; `len(zoo)` is N. Make one with `Zoo.open`.

    Attributes:
        paths: the N checkpoint files.
        names: their N file stems, or longer parts of their paths where stems repeat, for tables.
        build: returns one empty model, or None when only averaging is wanted.
        init: the checkpoint of the common initialisation as a lazy mapping, or None.
        fingerprints: N hex hashes of the ingredients' tensors, whatever file format holds them.
    """

    def __init__(
        self,
        paths: list[Path],
        checkpoints: list[Mapping[str, Tensor]],
        fingerprints: list[str],
        build: Callable[[], nn.Module] | None,
        init: Mapping[str, Tensor] | None,
    ) -> None:
        self.paths = paths
        self.names = _names(paths)
        self.fingerprints = fingerprints
        self.build = build
        self.init = init
        self._checkpoints = checkpoints

    @classmethod
    def open(
        cls,
        paths: str | Path | Iterable[str | Path],
        build: Callable[[], nn.Module] | None = None,
        init: str | Path | None = None,
        progress: bool = True,
    ) -> Zoo:
        """Open checkpoints and check every one of them against the others before any work starts.

        Each file is read once, to look for NaN or infinite weights and to hash its content; after
        that tensors are mapped from disk only when they are used.

        Args:
            paths: checkpoint files, one folder of them, or a glob such as `runs/*.safetensors`
                (a folder's or a glob's files come in natural order: model_2 before model_10).
            build: a function that returns one empty model; checkpoints must then fit its state dict.
            init: the checkpoint that all ingredients were fine-tuned from.
            progress: show a progress bar.

        Raises:
            CheckpointError: a file is missing, truncated, pickled code or not a state dict; holds NaN
                or infinite weights; holds the same weights as another; or keys, shapes or kinds of
                number differ (all differences are listed, sorted).
        """
        if isinstance(build, nn.Module):
            raise ParameterError(
                "build must be a function that returns an empty model, not a model: build=lambda: Net()."
            )
        files = _expand(paths)
        if init is not None and len(files) > 1:  # a folder or glob may hold the initialisation too
            files = [path for path in files if path.resolve() != Path(init).resolve()]
        checkpoints = [open_checkpoint(path) for path in files]
        start = open_checkpoint(init) if init is not None else None
        _check_alike(files, checkpoints, build, (Path(init), start) if init is not None and start is not None else None)
        fingerprints = []
        for path, checkpoint in tqdm(
            list(zip(files, checkpoints, strict=True)), desc="checking ingredients", disable=not progress, leave=False
        ):
            fingerprints.append(_fingerprint(path, checkpoint))
        _check_distinct(files, fingerprints)
        if init is not None and start is not None:
            _fingerprint(Path(init), start)
        return cls(files, checkpoints, fingerprints, build, start)

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
        files = [Path(path).expanduser() for path in paths]
        if not files:
            raise CheckpointError("No checkpoints given: a zoo needs at least one ingredient.")
        return files
    place = Path(paths).expanduser()
    if place.is_file():
        return [place]
    if place.is_dir():
        found = [path for path in place.iterdir() if path.suffix in CHECKPOINT_SUFFIXES]
    else:
        found = [path for path in map(Path, glob.glob(str(place), recursive=True)) if path.is_file()]
    if not found:
        raise CheckpointError(
            f"{paths}: no checkpoint found there; give files, a folder or a glob of {', '.join(CHECKPOINT_SUFFIXES)}."
        )
    return sorted(found, key=lambda path: [int(p) if p.isdecimal() else p for p in re.split(r"(\d+)", str(path))])


def _names(paths: list[Path]) -> list[str]:
    stems = [path.stem for path in paths]
    if len({(path.parent.name, path.stem) for path in paths}) < len(paths):  # only the ending, or more, differs
        return [str(path) for path in paths]
    return [
        stem if stems.count(stem) == 1 else f"{path.parent.name}/{stem}"
        for path, stem in zip(paths, stems, strict=True)
    ]


def _check_alike(
    files: list[Path],
    checkpoints: list[Mapping[str, Tensor]],
    build: Callable[[], nn.Module] | None,
    init: tuple[Path, Mapping[str, Tensor]] | None,
) -> None:
    """Compare keys, shapes and kinds of number with the model (or the first file); list every difference at once."""
    if build is not None:
        reference: Mapping[str, Tensor] = build().state_dict()
        reference_name = "the model that build() returns"
    else:
        reference, reference_name = checkpoints[0], str(files[0])
    differences = []
    named = list(zip(files, checkpoints, strict=True)) + ([init] if init is not None else [])
    for path, checkpoint in named:
        if prefix := _common_prefix(checkpoint, reference):
            differences.append(f"{path}: every key begins with {prefix!r}; save the state dict without this prefix")
            continue
        for key in sorted({*reference, *checkpoint}):
            if key not in checkpoint:
                differences.append(f"{path}: missing key {key}")
            elif key not in reference:
                differences.append(f"{path}: extra key {key}")
            else:
                here, there = checkpoint[key], reference[key]
                if here.shape != there.shape:
                    differences.append(f"{path}: {key} has shape {tuple(here.shape)}, not {tuple(there.shape)}")
                elif here.is_floating_point() != there.is_floating_point():
                    differences.append(f"{path}: {key} is {here.dtype}, not {there.dtype}")
    if differences:
        raise CheckpointError(
            f"Ingredients must have one architecture, but these differ from {reference_name}:\n  "
            + "\n  ".join(sorted(differences))
        )


def _common_prefix(checkpoint: Mapping[str, Tensor], reference: Mapping[str, Tensor]) -> str:
    """What stands before every key, such as "module.", if its keys fit the reference without it; else nothing."""
    prefix = next(iter(checkpoint)).partition(".")[0] + "."
    fits = {key.removeprefix(prefix) for key in checkpoint} == set(reference)
    return prefix if fits and set(checkpoint) != set(reference) else ""


def _fingerprint(path: Path, checkpoint: Mapping[str, Tensor]) -> str:
    """Hash of all tensors by sorted key; refuses NaN and infinite weights on the way."""
    digest = hashlib.sha256()
    for key in sorted(checkpoint):
        tensor = checkpoint[key]
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise CheckpointError(
                f"{path}: {key} holds {bad} NaN or infinite weight{'s' if bad > 1 else ''}; "
                "the training run diverged, leave this ingredient out."
            )
        update_hash(digest, key, tensor)
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

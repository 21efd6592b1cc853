"""A zoo: ingredients of one architecture, opened lazily and checked before any work starts."""

from __future__ import annotations

import copy
import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from radin.checkpoints.adapted import AdaptedCheckpoint
from radin.checkpoints.adapters import refuse_adapters
from radin.checkpoints.checkpoint import Checkpoint, open_checkpoint
from radin.checkpoints.contents import is_extra_state
from radin.checkpoints.formats import CHECKPOINT_SUFFIXES, INDEX_SUFFIXES, is_parameter
from radin.checkpoints.inspection import (
    check_architecture,
    check_unused,
    common_keys,
    describe_duplicates,
    describe_files,
    describe_unchanged,
    describe_unrelated,
    inspect_all,
)
from radin.checkpoints.not_averaged import check_extra_state, check_not_averaged
from radin.checkpoints.paths import describe_soups, find_checkpoints, locate
from radin.checkpoints.reference import fit_all
from radin.checkpoints.rounded_copies import describe_rounded_copies, rounded_copies
from radin.checkpoints.zero_copy import zero_copy_model
from radin.errors import ParameterError, check_integer


class Zoo:
    """N ingredients of one architecture; `len(zoo)` is N. Make one with `Zoo.open`.

    A zoo can be pickled, which sends no weights along: a process that has the same files opens them
    when it needs them, and does not read them again to check them. A `build` without a name in a
    module needs cloudpickle, as joblib and Ray use it.

    Attributes:
        paths: the N checkpoint files.
        names: their N file stems, or longer parts of their paths where stems repeat, for tables.
        build: returns one empty model, or None when only averaging is wanted.
        init: the checkpoint of the common initialisation as a lazy mapping, or None.
        fingerprints: N hex hashes of the ingredients' tensors, which do not depend on the file
            format or a prefix. Ingredients with the same weights have the same one.
        notes: a line for each thing that was removed from the files or is special about them;
            empty for plain state dicts.
        distances: ||theta_k - theta_0|| / ||theta_0||, the distance of each ingredient to the
            initialisation, over all parameters (no running statistics): (N,) double. None without
            `init`.
        cosines: between theta_k and theta_0, (N,) double. None without `init`.

    >>> import tempfile
    >>> from safetensors.torch import save_file
    >>> folder = tempfile.mkdtemp()
    >>> for k in range(2):
    ...     save_file(nn.Linear(4, 3).state_dict(), f"{folder}/model_{k}.safetensors")
    >>> zoo = Zoo.open(folder, build=lambda: nn.Linear(4, 3), progress=False)
    >>> zoo
    Zoo(2 ingredients, 15 numbers each)
    >>> zoo.names
    ['model_0', 'model_1']
    >>> zoo[1]["weight"].shape
    torch.Size([3, 4])
    """

    def __init__(
        self,
        paths: list[Path],
        checkpoints: Sequence[Mapping[str, Tensor]],
        fingerprints: list[str],
        *,
        build: Callable[[], nn.Module] | None = None,
        init: Mapping[str, Tensor] | None = None,
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
        self.distances = distances
        self.cosines = cosines
        self._checkpoints = list(checkpoints)

    @classmethod
    def open(
        cls,
        paths: str | Path | Iterable[str | Path],
        build: Callable[[], nn.Module] | None = None,
        *,
        init: str | Path | None = None,
        progress: bool = True,
        unused: str = "error",
        ema: bool = False,
    ) -> Zoo:
        """Open checkpoints and check all of them against each other before any work starts.

        Each file is read once, to look for NaN or infinite weights, to hash its content and to
        compare it with the initialisation; after that tensors are mapped from disk only when they
        are used. A prefix of the keys, such as "module.", and the names of wrappers inside them are
        removed where the model (or another file) has the keys without them. What the
        `load_state_dict` of the model completes or renames is completed and renamed.

        Ingredients that hold the same weights, are soups of others of them, or have next to nothing
        in common with `init`, give a warning; it is in `notes` too.

        Args:
            paths: checkpoint files (each as `open_checkpoint` takes it), one folder of them, or a
                glob such as `runs/*.safetensors` (natural order: model_2 before model_10; shards
                count as their index, a folder with one checkpoint in it as that checkpoint). What
                lies in a folder and is no ingredient is left aside, and `notes` says so: files of a
                training program beside the weights, and what radin wrote itself.
            build: a function that returns one empty model; checkpoints must then fit its state
                dict.
            init: the checkpoint that all ingredients were fine-tuned from.
            progress: whether to show a bar.
            unused: what to do with keys that the model of `build` does not have: "error", or "skip"
                those that are the same, byte for byte, in every file.
            ema: read the exponential moving average of the weights (EMA) that every ingredient's
                file holds beside them, in an entry or under a prefix. Without it the ordinary
                weights are read, and `notes` says where an EMA is. Of the initialisation the
                ordinary weights are always read.

        Raises:
            CheckpointError: a file is missing, truncated, pickled code or not a state dict; holds
                NaN or infinite weights, or no EMA where one is asked for; keys, shapes or dtypes
                differ (all differences are listed, sorted); or what has no average differs: whole
                numbers that are no counters, or several factors of one product.
            ParameterError: `build` is a model, `unused` is another word or "skip" without `build`,
                or `ema` is neither True nor False.
        """
        check_options(build, unused, ema=ema)
        files, notes = find_checkpoints(paths)
        refuse_adapters(files)
        if init is not None and len(files) > 1:  # a folder or glob may hold the initialisation too
            start_file = os.path.realpath(locate(init))
            files = [path for path in files if os.path.realpath(path) != start_file]
        opened = [open_checkpoint(path, ema=ema) for path in files]
        if init is not None:
            opened.append(open_checkpoint(init))
        fitted = fit_all(opened, build)
        opened = fitted.checkpoints
        unused_keys = (
            common_keys(opened[: len(files)]) - set(fitted.reference) if unused == "skip" else set()
        )
        used = [checkpoint.without(unused_keys) for checkpoint in opened]
        check_architecture(
            used,
            fitted.reference,
            fitted.reference_name,
            unused="" if build is None else unused,
        )
        extra_state_note = check_extra_state(used, fitted.extra_keys)
        start = used[-1] if init is not None else None
        inspections = inspect_all(opened, unused=unused_keys, init=start, progress=progress)
        check_unused(opened, inspections, unused_keys)
        copied_note = check_not_averaged(used, [each.compared for each in inspections])
        inspections = inspections[: len(files)]
        fingerprints = [each.fingerprint for each in inspections]
        problems = [
            describe_duplicates(files, fingerprints),
            describe_rounded_copies(files, rounded_copies(used[: len(files)], fingerprints)),
            describe_soups(files, fingerprints),
        ]
        if start is not None:
            problems.append(describe_unrelated(files, inspections, start.path))
        notes += describe_files(used, files, unused_keys)
        notes += filter(None, [extra_state_note, copied_note])
        for problem in filter(None, problems):
            warnings.warn(problem, stacklevel=2)
            notes.append(problem)
        if start is None:
            return cls(files, used, fingerprints, build=build, notes=notes)
        notes += filter(None, [describe_unchanged(files, inspections, start.path)])
        return cls(
            files,
            used[:-1],
            fingerprints,
            build=build,
            init=start,
            notes=notes,
            distances=torch.tensor([each.distance for each in inspections], dtype=torch.float64),
            cosines=torch.tensor([each.cosine for each in inspections], dtype=torch.float64),
        )

    def subset(self, indices: Iterable[int] | Tensor) -> Zoo:
        """The zoo of some of the ingredients, in the order given; nothing is read again.

        `notes` stay the same: they are about the zoo that was opened.

        Raises:
            ParameterError: an index that is no ingredient's, the same one twice, or none at all.
        """
        values = indices.tolist() if isinstance(indices, Tensor) else indices
        chosen = [check_integer("an index", k, minimum=0) for k in values]
        if not chosen or len(set(chosen)) < len(chosen) or max(chosen) >= len(self):
            raise ParameterError(
                f"A subset takes different indices from 0 to {len(self) - 1}, at least one, not "
                f"{chosen}."
            )
        part = copy.copy(self)
        for name in ("paths", "names", "fingerprints", "_checkpoints"):
            setattr(part, name, [getattr(self, name)[k] for k in chosen])
        part.notes = list(self.notes)
        if self.distances is not None and self.cosines is not None:
            part.distances = self.distances[chosen]
            part.cosines = self.cosines[chosen]
        return part

    def __len__(self) -> int:
        return len(self.paths)

    def __repr__(self) -> str:
        parameters = sum(self._header(key).numel() for key in self.keys())
        return f"Zoo({len(self)} ingredients, {parameters:,} numbers each)"

    def __getitem__(self, index: int) -> Mapping[str, Tensor]:
        """The state dict of ingredient `index`, mapped lazily from disk."""
        return self._checkpoints[index]

    def keys(self) -> list[str]:
        """The tensor names that every ingredient has, in the first one's order."""
        return list(self._checkpoints[0])

    def parameter_keys(self) -> list[str]:
        """Those of `keys` that training changes: no whole numbers, no running statistics."""
        return [key for key in self.keys() if is_parameter(key, self._header(key))]

    def _header(self, key: str) -> Tensor:
        """A tensor of the first ingredient, whose values may not be used: a merged one has none."""
        first = self._checkpoints[0]
        return first.meta(key) if isinstance(first, AdaptedCheckpoint) else first[key]

    def tied_keys(self) -> dict[str, str]:
        """Names that every file gives in its header to tensors it holds once, and their keys."""
        aliases = [
            set(each.aliases.items()) if isinstance(each, Checkpoint | AdaptedCheckpoint) else set()
            for each in self._checkpoints
        ]
        return dict(sorted(set.intersection(*aliases)))

    def extra_state(self) -> dict[str, Any]:
        """The extra state of the modules, by key, which all files with a model have in common."""
        first = self._checkpoints[0]
        return first.extra_state if isinstance(first, Checkpoint | AdaptedCheckpoint) else {}

    def model(self, state: int | Mapping[str, Tensor], *, copy: bool = True) -> nn.Module:
        """A model in evaluation mode that holds ingredient `state` or any state dict of this zoo.

        Args:
            state: the index of an ingredient, or a state dict.
            copy: False for a model for inference only, never to be trained or written to. Its
                tensors are those of `state`, mapped from disk or shared with the caller, where the
                dtype is the model's own. It is built in a small part of the time. A network that
                cannot be built so (one with a buffer that no checkpoint holds, or a `build` that
                computes with its weights) is copied all the same. Its logits may differ from those
                of a copy in the last digit, because its tensors are aligned differently in memory.

        Raises:
            ParameterError: the zoo was opened without `build`.
        """
        if self.build is None:
            raise ParameterError(
                "This zoo was opened without build=...; pass Zoo.open(..., build=f), where f() "
                "returns one empty model."
            )
        tensors = dict(state if isinstance(state, Mapping) else self[state])
        extra = self.extra_state()
        if not copy and (model := zero_copy_model(self.build, tensors, extra)) is not None:
            return model.eval()
        model = self.build()
        own_extra = {key: value for key, value in model.state_dict().items() if is_extra_state(key)}
        stored_extra = {key: value for key, value in extra.items() if key in own_extra}
        model.load_state_dict(tensors | own_extra | stored_extra)
        return model.requires_grad_(copy).eval()


def check_options(build: Callable[[], nn.Module] | None, unused: str, *, ema: bool) -> None:
    """Refuse values that `Zoo.open` does not take.

    Raises:
        ParameterError: one of them.
    """
    if isinstance(build, nn.Module):
        raise ParameterError(
            "build must be a function that returns an empty model, not a model: build=lambda: "
            "Net()."
        )
    if unused not in ("error", "skip"):
        raise ParameterError(f'unused must be "error" or "skip", not {unused!r}.')
    if unused == "skip" and build is None:
        raise ParameterError(
            'unused="skip" needs build=..., the model that says which keys are used.'
        )
    if not isinstance(ema, bool):
        raise ParameterError(f"ema must be True or False, not {ema!r}.")


def _names(paths: list[Path]) -> list[str]:
    """The shortest of stem, folder/stem and whole path that tells the files apart."""
    stems = []
    for path in paths:
        index_suffix = next((end for end in INDEX_SUFFIXES if path.name.endswith(end)), None)
        ending = index_suffix or max(
            (end for end in CHECKPOINT_SUFFIXES if path.name.endswith(end)),
            key=len,
            default=path.suffix,
        )
        stems.append(path.name.removesuffix(ending))
    longer = [f"{path.parent.name}/{stem}" for path, stem in zip(paths, stems, strict=True)]
    if len(set(longer)) < len(paths):  # only the ending, or more, differs
        return [str(path) for path in paths]
    return [
        stem if stems.count(stem) == 1 else name for stem, name in zip(stems, longer, strict=True)
    ]

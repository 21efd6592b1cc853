"""Checkpoints as people have them: beside an optimiser, under a prefix, with a moving average."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from itertools import accumulate
from pathlib import Path
from typing import Any

from torch import Tensor

from radin.checkpoints.formats import (
    check_plain,
    checkpoint_files,
    is_state_dict,
    open_file,
    state_dict_error,
)
from radin.checkpoints.paths import locate
from radin.errors import CheckpointError, list_names

# Where training programs (Lightning, timm, torch's own tutorials) put the state dict beside epochs
# and optimisers, and its exponential moving average over the training steps.
ORDINARY_ENTRIES = ("state_dict", "model", "model_state_dict")
EMA_ENTRIES = ("ema", "state_dict_ema", "model_ema", "ema_state_dict")
# While Lightning's WeightAveraging runs, the average is where the weights usually are, and the
# weights are here.
DISPLACED_ENTRY = "current_model_state"
# No training program wraps a network more often; a key made to do harm may have any number of dots.
MAX_PREFIX_NAMES = 8

_FileState = tuple[int, int]  # size in bytes, time of the last change in nanoseconds


class Checkpoint(Mapping[str, Tensor]):
    """The state dict in a checkpoint; a tensor is mapped from disk when it is asked for.

    A pickled one is a few texts: the paths of the files and how they were read. After unpickling it
    opens the files again when a tensor is asked for, and refuses files that have changed.

    Attributes:
        path: the file that it is read from; for shards, their index.
        entry: the entry of a nested checkpoint that is read, such as "state_dict", or "".
        emas: the entries of the file, and the prefixes of its keys, that hold an exponential moving
            average (EMA), whether it is read or not.
        prefix: what was removed from the front of the keys, such as "module.", or "".
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        *,
        entry: str = "",
        emas: Sequence[str] = (),
        ema: bool = False,
        file_states: Mapping[str, _FileState] | None = None,
    ) -> None:
        self.path = path
        self.entry = entry
        self.emas = tuple(emas)
        self.prefix = ""
        self._wants_ema = ema
        self._absolute_path = os.path.abspath(path)  # for a process in another working directory
        self._file_states = dict(file_states or {})
        self._tensors: Mapping[str, Tensor] | None = tensors
        self._stored_keys = {key: key for key in tensors}  # by the keys without prefix

    def __getitem__(self, key: str) -> Tensor:
        stored_key = self._stored_keys[key]
        if self._tensors is None:
            self._tensors = self._open_again()
        tensor = self._tensors[stored_key]
        return tensor.detach()  # a file may hold parameters, which would record gradients

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored_keys)

    def __len__(self) -> int:
        return len(self._stored_keys)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tensors": None}

    @property
    def is_ema(self) -> bool:
        """Whether what is read is an EMA."""
        return self.entry in self.emas or bool(ema_family(self.prefix))

    @property
    def summary(self) -> str:
        """What was read and what was left out, for a note; empty for a plain state dict."""
        parts = [f"its {self.entry!r}"] if self.entry else []
        parts += [f"without the prefix {self.prefix!r}"] if self.prefix else []
        read = f"read {', '.join(parts)}" if parts else ""
        if self.is_ema:
            only = "" if self._wants_ema else "; there is no ordinary state dict"
            return f"{read} (an EMA{only})"
        if self.emas:
            left_out = f"an EMA is there too, not read: {list_names(map(repr, self.emas))}"
            return f"{read}; {left_out}" if read else left_out
        return read

    def fit(self, reference: Collection[str]) -> Checkpoint:
        """This checkpoint without the prefix that separates most keys from the reference's.

        Other keys stay. An EMA beside the ordinary weights, under a prefix of its own such as
        "ema_model.", is left out. A checkpoint that was opened with `ema` is that EMA and nothing
        else of the file.

        Raises:
            CheckpointError: several prefixes fit equally well, or an EMA was asked for and there
                is none.
        """
        chooses_ema = self._wants_ema and not self.is_ema
        prefix = self._best_prefix(reference, chooses_ema)
        choose_keys = self._ema_keys if chooses_ema else self._ordinary_keys
        keys, emas = choose_keys(prefix, frozenset(reference))
        stored_keys: dict[str, str] = {}
        for key in keys:
            short = key.removeprefix(prefix)
            if short in stored_keys:
                raise CheckpointError(
                    f"{self.path}: holds both {short!r} and {prefix + short!r}, which would be "
                    "one; save the state dict of the model alone."
                )
            stored_keys[short] = self._stored_keys[key]
        view = self._select(stored_keys)
        view.prefix = self.prefix + prefix
        view.emas = tuple(dict.fromkeys([*self.emas, *emas]))
        return view

    def without(self, keys: Collection[str]) -> Checkpoint:
        """This checkpoint without some keys."""
        return self._select(
            {key: stored for key, stored in self._stored_keys.items() if key not in keys}
        )

    def _best_prefix(self, reference: Collection[str], ema: bool) -> str:
        fitting = best_prefixes(self, reference, ema=ema)
        if not fitting:
            raise CheckpointError(
                f"{self.path}: no EMA in it, neither an entry such as {EMA_ENTRIES[0]!r} nor keys "
                "that fit the model under a prefix such as 'ema_model.'; open it without ema=True "
                "or leave this file out."
            )
        if len(fitting) > 1:
            raise CheckpointError(
                f"{self.path}: holds the model's keys several times, under "
                f"{list_names(map(repr, fitting))}; save the ones you mean, without their prefix."
            )
        return fitting[0]

    def _ordinary_keys(self, prefix: str, reference: frozenset[str]) -> tuple[list[str], list[str]]:
        """The keys that are read as ordinary weights, and the families of the EMAs beside them."""
        if self.is_ema or ema_family(prefix):  # there is nothing else
            return list(self), [family] if (family := ema_family(prefix)) else []
        families = {
            key: ema_family(key) for key in self if key.removeprefix(prefix) not in reference
        }
        keys = [key for key in self if not families.get(key)]
        return keys, [family for family in families.values() if family]

    def _ema_keys(self, prefix: str, reference: frozenset[str]) -> tuple[list[str], list[str]]:
        """The keys of the EMA under a prefix, and its family.

        A key that the ordinary weights do not have, such as the number of the EMA's steps, is left
        out.
        """
        ordinary = best_prefixes(self, reference)[0]
        averaged = reference.union(key.removeprefix(ordinary) for key in self)
        keys = [
            key for key in self if key.startswith(prefix) and key.removeprefix(prefix) in averaged
        ]
        return keys, [ema_family(prefix)]

    def _select(self, stored_keys: dict[str, str]) -> Checkpoint:
        view = Checkpoint.__new__(Checkpoint)
        view.__dict__.update(self.__dict__, _stored_keys=stored_keys)
        return view

    def _open_again(self) -> Mapping[str, Tensor]:
        for file, state in self._file_states.items():
            now = _file_state(file)
            if now != state:
                change = "is gone" if now is None else "has changed"
                raise CheckpointError(
                    f"{file}: {change} since it was checked; put it back, or open the zoo again."
                )
        content = open_file(Path(self._absolute_path))
        return content[self.entry] if self.entry else content


def open_checkpoint(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Open a state dict without reading its tensors.

    Nothing but plain tensors, numbers, texts and lists of them is ever unpickled
    (`weights_only=True`).

    Args:
        path: a `.safetensors` file; the `.safetensors.index.json` or `.bin.index.json` of shards,
            or a folder with just one of these; or a file that `torch.save` wrote, which may hold
            the state dict as its `state_dict`, `model` or `model_state_dict` (where these are
            missing, as an EMA: `ema`, `state_dict_ema` or `model_ema`).
        ema: choose the entry that is an EMA, where the file has one. An EMA among the keys of one
            state dict is found when the checkpoint is fitted to a model, as `Zoo.open` does.

    Returns:
        The tensors by name. Its `summary` says which entry was read and whether an EMA is there.

    Raises:
        CheckpointError: the file or a shard is missing, truncated, pickled code or not a state
            dict; an index does not agree with its shards; or several entries could be the state
            dict.
    """
    path = locate(path)
    file_states = {os.path.abspath(file): _file_state(file) for file in checkpoint_files(path)}
    content = open_file(path)
    entry = ""
    emas: list[str] = []
    if isinstance(content, dict):  # of torch
        if not is_state_dict(content):
            entry, emas = _find_entry(path, content, ema)
        check_plain(path, content[entry] if entry else content)
    return Checkpoint(
        path,
        content[entry] if entry else content,
        entry=entry,
        emas=emas,
        ema=ema,
        file_states={file: state for file, state in file_states.items() if state},
    )


def best_prefixes(
    keys: Collection[str], reference: Collection[str], *, ema: bool = False
) -> list[str]:
    """The prefix of the reference's keys in `keys`, such as "module."; several if all are there.

    A prefix counts when it precedes more than half of the reference's keys, and those that precede
    the most are best. Where the reference's own keys, without a prefix, are among the best, the
    answer is "" alone. Prefixes of an EMA are best only where there are no others. Where nothing
    counts, the answer is the shortest prefix of those that fit the most keys.

    Args:
        ema: only prefixes of an EMA; there may be none.
    """
    reference = frozenset(reference)
    num_fitting = Counter({"": 0})
    for key in keys:
        for prefix in ("", *_possible_prefixes(key)):
            num_fitting[prefix] += key[len(prefix) :] in reference
    likely = [prefix for prefix, count in num_fitting.items() if 2 * count > len(reference)]
    chosen = [prefix for prefix in likely if bool(ema_family(prefix)) == ema]
    if not chosen and ema:
        return []
    chosen = chosen or likely
    if not chosen:
        return [max(num_fitting, key=lambda prefix: (num_fitting[prefix], -len(prefix)))]
    highest = max(num_fitting[prefix] for prefix in chosen)
    best = [prefix for prefix in chosen if num_fitting[prefix] == highest]
    return [""] if "" in best else best


def ema_family(key: str) -> str:
    """The front of a key up to the name that contains "ema", such as "ema_model."; "" if none."""
    for prefix in _possible_prefixes(key):
        last_name = prefix.split(".")[-2].lower()
        if "ema" in re.split(r"\W|_", last_name):
            return prefix
    return ""


def _possible_prefixes(key: str) -> list[str]:
    """What can precede a key's last name: "a.", "a.b." of "a.b.c"."""
    return list(accumulate(f"{name}." for name in key.split(".", MAX_PREFIX_NAMES)[:-1]))


def _find_entry(path: Path, content: Mapping[Any, Any], ema: bool) -> tuple[str, list[str]]:
    """The entry to read of a nested checkpoint, and its EMAs.

    It looks no deeper, because a dict may hold itself.
    """
    ordinary = [name for name in ORDINARY_ENTRIES if is_state_dict(content.get(name))]
    emas = [name for name in EMA_ENTRIES if is_state_dict(content.get(name))]
    if is_state_dict(content.get(DISPLACED_ENTRY)) and "state_dict" in ordinary:
        ordinary[ordinary.index("state_dict")] = DISPLACED_ENTRY
        emas.append("state_dict")
    entries = emas if ema and emas else ordinary or emas
    if len(entries) == 1:
        return entries[0], emas
    if entries:
        raise CheckpointError(
            f"{path}: holds several state dicts, {list_names(map(repr, entries))}; save the one "
            f"you mean, such as torch.save(checkpoint[{entries[0]!r}], path)."
        )
    raise state_dict_error(path, content)


def _file_state(file: str | Path) -> _FileState | None:
    """What changes when a file is written to; None when there is no such file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns

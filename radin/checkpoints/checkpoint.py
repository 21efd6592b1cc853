"""Checkpoints as people have them: nested beside an optimiser, under a prefix, with a moving average beside them."""

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
    INDEX_SUFFIXES,
    check_plain,
    files_of,
    is_state_dict,
    not_a_state_dict,
    read,
    some,
)
from radin.errors import CheckpointError

# Where training programs put the state dict beside epochs and optimisers (Lightning, timm, torch's own tutorials) ...
ORDINARY_ENTRIES = ("state_dict", "model", "model_state_dict")
# ... and its exponential moving average over the training steps.
EMA_ENTRIES = ("ema", "state_dict_ema", "model_ema", "ema_state_dict")
# While Lightning's WeightAveraging runs, the average takes the place of the weights, and these move here.
DISPLACED_ENTRY = "current_model_state"
DEEPEST_PREFIX = 8  # names joined by dots; no training program wraps a network so often, a hostile key may look it


class Checkpoint(Mapping[str, Tensor]):
    """The state dict that a checkpoint holds; a tensor is mapped from disk when it is asked for.

    A pickled one is a few texts: where the files lie and how they were read. Where it is unpickled, it opens them again
    when a tensor is asked for, and refuses files that are no longer those it was made of.

    Attributes:
        path: the file it is read from; of shards, their index.
        entry: the entry of a nested checkpoint that it is, such as "state_dict", or "".
        emas: the entries of the file, and the prefixes of its keys, that hold an exponential moving average (EMA),
            read or not.
        prefix: what was taken off the front of its keys, such as "module.", or "".
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        entry: str = "",
        emas: Sequence[str] = (),
        ema: bool = False,
        stamps: Mapping[str, tuple[int, int]] | None = None,
    ) -> None:
        self.path = path
        self.entry = entry
        self.emas = tuple(emas)
        self.prefix = ""
        self._asked_for_ema = ema
        self._place = os.path.abspath(path)  # a process that unpickles it may stand elsewhere
        self._stamps = dict(stamps or {})
        self._tensors: Mapping[str, Tensor] | None = tensors
        self._stored = {key: key for key in tensors}  # final name -> name in the file

    def __getitem__(self, key: str) -> Tensor:
        stored = self._stored[key]
        if self._tensors is None:
            self._tensors = self._read_again()
        return self._tensors[
            stored
        ].detach()  # a file may hold parameters, which would record gradients

    def __iter__(self) -> Iterator[str]:
        return iter(self._stored)

    def __len__(self) -> int:
        return len(self._stored)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tensors": None}

    @property
    def is_ema(self) -> bool:
        """Whether what is read is an EMA."""
        return self.entry in self.emas or bool(ema_family(self.prefix))

    @property
    def finding(self) -> str:
        """What was found and taken off, in words for a note; empty for a plain state dict."""
        parts = [f"its {self.entry!r}"] if self.entry else []
        parts += [f"less the prefix {self.prefix!r}"] if self.prefix else []
        said = ", ".join(parts)
        if self.is_ema:
            return f"read {said} (an EMA{'' if self._asked_for_ema else '; there is no ordinary state dict'})"
        if self.emas:
            said = f"{f'read {said}; ' if said else ''}an EMA is there too, not read: {some(map(repr, self.emas))}"
            return said
        return f"read {said}" if said else ""

    def fit(self, reference: Collection[str]) -> Checkpoint:
        """This checkpoint less the prefix without which it has most of the reference's keys; other keys stay.

        An EMA beside the ordinary weights, under a prefix of its own such as "ema_model.", is left out. A checkpoint
        that was opened with `ema` is that EMA and nothing else of the file.

        Raises CheckpointError when several prefixes fit alike, or an EMA was asked for and there is none.
        """
        wanted = self._asked_for_ema and not self.is_ema
        prefix = self._prefix(reference, wanted)
        keys, emas = (self._average if wanted else self._weights)(prefix, frozenset(reference))
        stored: dict[str, str] = {}
        for key in keys:
            short = key.removeprefix(prefix)
            if short in stored:
                raise CheckpointError(
                    f"{self.path}: holds both {short!r} and {prefix + short!r}, which would be one; save the state "
                    "dict of the model alone."
                )
            stored[short] = self._stored[key]
        view = self._select(stored)
        view.prefix, view.emas = self.prefix + prefix, tuple(dict.fromkeys([*self.emas, *emas]))
        return view

    def without(self, keys: Collection[str]) -> Checkpoint:
        """This checkpoint less some keys."""
        return self._select(
            {key: stored for key, stored in self._stored.items() if key not in keys}
        )

    def _prefix(self, reference: Collection[str], ema: bool) -> str:
        fitting = best_prefixes(self, reference, ema)
        if not fitting:
            raise CheckpointError(
                f"{self.path}: no EMA in it, neither an entry such as {EMA_ENTRIES[0]!r} nor keys that fit the model "
                "under a prefix such as 'ema_model.'; open it without ema=True or leave this file out."
            )
        if len(fitting) > 1:
            raise CheckpointError(
                f"{self.path}: holds the model's keys several times, under {some(map(repr, fitting))}; save the ones "
                "you mean, less their prefix."
            )
        return fitting[0]

    def _weights(self, prefix: str, known: frozenset[str]) -> tuple[list[str], list[str]]:
        """The keys that are read as ordinary weights, and the families of the EMAs beside them."""
        if self.is_ema or ema_family(prefix):  # there is nothing else
            return list(self), [family] if (family := ema_family(prefix)) else []
        families = {key: ema_family(key) for key in self if key.removeprefix(prefix) not in known}
        return [key for key in self if not families.get(key)], [
            family for family in families.values() if family
        ]

    def _average(self, prefix: str, known: frozenset[str]) -> tuple[list[str], list[str]]:
        """The keys of the EMA under a prefix, less what it keeps beside the weights, such as the number of its steps:
        what the ordinary weights do not have."""
        ordinary = best_prefixes(self, known)[0]
        averaged = known.union(key.removeprefix(ordinary) for key in self)
        keys = [
            key for key in self if key.startswith(prefix) and key.removeprefix(prefix) in averaged
        ]
        return keys, [ema_family(prefix)]

    def _select(self, stored: dict[str, str]) -> Checkpoint:
        view = Checkpoint.__new__(Checkpoint)
        view.__dict__.update(self.__dict__, _stored=stored)
        return view

    def _read_again(self) -> Mapping[str, Tensor]:
        for file, stamp in self._stamps.items():
            if (now := _stamp(file)) != stamp:
                what = "is gone" if now is None else "has changed"
                raise CheckpointError(
                    f"{file}: {what} since it was checked; put it back, or open the zoo again."
                )
        content = read(Path(self._place))
        return content[self.entry] if self.entry else content


def open_checkpoint(path: str | Path, ema: bool = False) -> Checkpoint:
    """Open a state dict without reading its tensors, from a file, from shards or from inside a nested checkpoint.

    Nothing is ever unpickled beyond plain tensors, numbers, texts and lists of them (`weights_only=True`).

    Args:
        path: a `.safetensors` file; the `.safetensors.index.json` or `.bin.index.json` of shards, or a folder with just
            one of these; or a file that `torch.save` wrote, which may hold the state dict as its `state_dict`, `model`
            or `model_state_dict` (failing those, as an EMA: `ema`, `state_dict_ema` or `model_ema`).
        ema: choose the entry that is an EMA, where the file has one. An EMA among the keys of one state dict is found
            when the checkpoint is fitted to a model, as `Zoo.open` does.

    Returns:
        The tensors by name. Its `finding` says in words which entry was read and whether an EMA is there.

    Raises:
        CheckpointError: the file or a shard is missing, truncated, pickled code or not a state dict; an
            index does not agree with its shards; or several entries could be the state dict.
    """
    path = locate(path)
    stamps = {os.path.abspath(file): _stamp(file) for file in files_of(path)}
    content = read(path)
    entry, emas = "", list[str]()
    if isinstance(content, dict):  # of torch
        if not is_state_dict(content):
            entry, emas = _find_entry(path, content, ema)
        check_plain(path, content[entry] if entry else content)
    tensors = content[entry] if entry else content
    return Checkpoint(
        path, tensors, entry, emas, ema, {file: stamp for file, stamp in stamps.items() if stamp}
    )


def locate(path: str | Path) -> Path:
    """The file that a path means: itself, or the one index of shards in it when it is a folder.

    Raises CheckpointError for a folder with no such index, or with several.
    """
    path = Path(path).expanduser()
    if not os.path.isdir(path):
        index = path.with_name(
            f"{path.name}.index.json"
        )  # what a sharded checkpoint was to be called
        return index if not os.path.exists(path) and os.path.isfile(index) else path
    indices = sorted(index for index in path.iterdir() if index.name.endswith(INDEX_SUFFIXES))
    if len(indices) != 1:
        what = f"several: {some(index.name for index in indices)}" if indices else "none"
        raise CheckpointError(
            f"{path}: a folder is one checkpoint when it holds one *{' or *'.join(INDEX_SUFFIXES)}, and this one holds "
            f"{what}; give the checkpoint file itself."
        )
    return indices[0]


def best_prefixes(
    keys: Collection[str], reference: Collection[str], ema: bool = False
) -> list[str]:
    """What stands before the reference's keys, such as "module."; several where the keys are there several times.

    A prefix counts when more than half of the reference's keys stand behind it, and those with most of them are best.
    Keys that are the reference's as they stand need none: it is then "", alone. Prefixes of an EMA are best only
    where there are no others. Where nothing counts, it is the shortest of those that fit anything.

    Args:
        ema: only prefixes of an EMA; there may be none.
    """
    known = frozenset(reference)
    fitting = Counter({"": 0})
    for key in keys:
        for prefix in ("", *_heads(key)):
            fitting[prefix] += key[len(prefix) :] in known
    likely = [prefix for prefix, count in fitting.items() if 2 * count > len(known)]
    chosen = [prefix for prefix in likely if bool(ema_family(prefix)) == ema]
    if not chosen and ema:
        return []
    if not (chosen := chosen or likely):
        return [max(fitting, key=lambda prefix: (fitting[prefix], -len(prefix)))]
    most = max(fitting[prefix] for prefix in chosen)
    best = [prefix for prefix in chosen if fitting[prefix] == most]
    return [""] if "" in best else best


def ema_family(key: str) -> str:
    """The front of a key up to the name that says EMA, such as "ema_model."; "" when none does."""
    heads = (
        head for head in _heads(key) if "ema" in re.split(r"\W|_", head.split(".")[-2].lower())
    )
    return next(heads, "")


def _heads(key: str) -> list[str]:
    """What can stand before a key's last name: "a.", "a.b." of "a.b.c"."""
    return list(accumulate(f"{name}." for name in key.split(".", DEEPEST_PREFIX)[:-1]))


def _find_entry(path: Path, content: Mapping[Any, Any], ema: bool) -> tuple[str, list[str]]:
    """The entry to read of a nested checkpoint, and its EMAs; never deeper, for a dict may hold itself."""
    ordinary = [name for name in ORDINARY_ENTRIES if is_state_dict(content.get(name))]
    emas = [name for name in EMA_ENTRIES if is_state_dict(content.get(name))]
    if is_state_dict(content.get(DISPLACED_ENTRY)) and "state_dict" in ordinary:
        ordinary[ordinary.index("state_dict")] = DISPLACED_ENTRY
        emas.append("state_dict")
    found = emas if ema and emas else ordinary or emas
    if len(found) == 1:
        return found[0], emas
    if found:
        raise CheckpointError(
            f"{path}: holds several state dicts, {some(map(repr, found))}; save the one you mean, such as "
            f"torch.save(checkpoint[{found[0]!r}], path)."
        )
    raise not_a_state_dict(path, content)


def _stamp(file: str | Path) -> tuple[int, int] | None:
    """Size in bytes and time of the last change in nanoseconds; None when there is no such file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns

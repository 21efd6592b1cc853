"""Checkpoints as people have them: beside an optimiser, under a prefix, with a moving average."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from radin.checkpoints.contents import check_plain, is_extra_state, is_state_dict
from radin.checkpoints.entries import Entry, find_entry
from radin.checkpoints.formats import (
    SafetensorsFile,
    checkpoint_files,
    open_file,
)
from radin.checkpoints.names import (
    AVERAGED_MODEL,
    COUNTERS,
    best_prefixes,
    common_front,
    ema_family,
    match_wrapped,
    second_weights,
    unwrapped,
)
from radin.checkpoints.paths import locate
from radin.errors import CheckpointError, list_names

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
        wrappers: whether names of wrappers were removed inside the keys.
        counters: keys that were left out, because they count the steps of an average.
        has_second: whether a second set of weights was left out, as mmcv keeps it.
        aliases: names that the file gives to tensors beside their keys, as for tied weights, and
            those keys.
        completed: keys that the file lacks and that were completed as `load_state_dict` does.
    """

    def __init__(
        self,
        path: Path,
        tensors: Mapping[str, Tensor],
        *,
        entry: Entry | None = None,
        ema: bool = False,
        file_states: Mapping[str, _FileState] | None = None,
    ) -> None:
        self.path = path
        self._entry = entry or Entry((), ())
        self.entry = ".".join(self._entry.names)
        self.emas = self._entry.emas
        self.prefix = ""
        self.wrappers = False
        self.counters: tuple[str, ...] = ()
        self.has_second = False
        self.aliases: dict[str, str] = {}
        self.completed: tuple[str, ...] = ()
        self._wants_ema = ema
        self._absolute_path = os.path.abspath(path)  # for a process in another working directory
        self._file_states = dict(file_states or {})
        self._tensors: Mapping[str, Tensor] | None = tensors
        # The keys in the file, by the names under which they are read
        self._stored_keys = {key: key for key in tensors if not is_extra_state(key)}
        self._extra_keys = {key: key for key in tensors if is_extra_state(key)}
        self._supplied: dict[str, Tensor] = {}

    def __getitem__(self, key: str) -> Tensor:
        if key in self._supplied:
            return self._supplied[key]
        tensor = self._stored(self._stored_keys[key])
        # A file may hold parameters, which would record gradients, and views of complex numbers.
        return tensor.detach().resolve_conj().resolve_neg()

    def _stored(self, key: str) -> Any:
        if self._tensors is None:
            self._tensors = self._open_again()
        return self._tensors[key]

    def __iter__(self) -> Iterator[str]:
        yield from self._stored_keys
        yield from self._supplied

    def __len__(self) -> int:
        return len(self._stored_keys) + len(self._supplied)

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_tensors": None}

    @property
    def extra_state(self) -> dict[str, Any]:
        """What the modules' `get_extra_state` returned, by key; it is no weight."""
        return {key: self._stored(stored) for key, stored in self._extra_keys.items()}

    @property
    def is_ema(self) -> bool:
        """Whether what is read is an EMA."""
        return self.entry in self.emas or bool(ema_family(self.prefix))

    @property
    def summary(self) -> str:
        """What was read and what was left out, for a note; empty for a plain state dict."""
        parts = [f"its {self.entry!r}"] if self.entry else []
        parts += [f"without the prefix {self.prefix!r}"] if self.prefix else []
        parts += [f"without its counter {list_names(self.counters)}"] if self.counters else []
        parts += ["without the names of wrappers inside its keys"] if self.wrappers else []
        if self.completed:
            parts.append(f"completed as load_state_dict does: {list_names(self.completed, most=3)}")
        if self.has_second:
            parts.append(
                "without the keys 'ema_*', in which mmcv keeps a second set of weights (in a file "
                "from the end of an epoch the trained ones, while what is read is their EMA)"
            )
        read = f"read {', '.join(parts)}" if parts else ""
        if self.is_ema:
            only = "" if self._wants_ema else "; there is no ordinary state dict"
            return f"{read} (an EMA{only})"
        if self.emas:
            left_out = f"an EMA is there too, not read: {list_names(map(repr, self.emas))}"
            return f"{read}; {left_out}" if read else left_out
        return read

    def fit(self, reference: Collection[str], *, exactly: bool = False) -> Checkpoint:
        """This checkpoint without the prefix that separates most keys from the reference's.

        Other keys stay. An EMA beside the ordinary weights, under a prefix of its own such as
        "ema_model.", is left out. A checkpoint that was opened with `ema` is that EMA and nothing
        else of the file.

        Args:
            reference: the keys that the tensors should have.
            exactly: do not remove names inside the keys that the network may have itself, such as
                "module".

        Raises:
            CheckpointError: several prefixes fit equally well, or an EMA was asked for and there
                is none.
        """
        wanted = unwrapped(reference)
        names = unwrapped(self)
        chooses_ema = self._wants_ema and not self.is_ema
        prefix = self._best_prefix(names, wanted, chooses_ema)
        choose_names = self._ema_names if chooses_ema else self._ordinary_names
        chosen, emas = choose_names(list(names), prefix, frozenset(wanted))
        keys: dict[str, str] = {}  # this checkpoint's own, by what they become
        for name in chosen:
            short = name.removeprefix(prefix)
            key = wanted.get(short, short)
            if key in keys:
                raise CheckpointError(
                    f"{self.path}: holds both {short!r} and {prefix + short!r}, which would be "
                    "one; save the state dict of the model alone."
                )
            keys[key] = names[name]
        pairs = {} if exactly else match_wrapped(keys, reference)
        view = self._renamed({pairs.get(key, key): own for key, own in keys.items()}, prefix)
        view.emas = tuple(dict.fromkeys([*self.emas, *emas]))
        left_out = set(names).difference(chosen)
        view.counters = tuple(sorted({*self.counters, *left_out.intersection(COUNTERS)}))
        view.has_second = self.has_second or bool(left_out.intersection(second_weights(names)))
        return view

    def under(self, prefix: str) -> Checkpoint:
        """The keys that begin with a prefix, without it, and no others."""
        keys = {key.removeprefix(prefix): key for key in self if key.startswith(prefix)}
        return self._renamed(keys, prefix)

    def with_aliases(self, wanted: Collection[str]) -> Checkpoint:
        """This checkpoint with those of its aliases that are wanted as keys."""
        added = {
            alias: self._stored_keys[key]
            for alias, key in self.aliases.items()
            if alias in wanted and alias not in self and key in self._stored_keys
        }
        return self._select({**self._stored_keys, **added}) if added else self

    def complete(
        self, same: Mapping[str, str], supplied: Mapping[str, Tensor], dropped: Collection[str]
    ) -> Checkpoint:
        """This checkpoint as the `load_state_dict` of a model reads it.

        Args:
            same: keys to add, and the keys whose tensors they are.
            supplied: tensors to add.
            dropped: keys to leave out.
        """
        kept = {key: own for key, own in self._stored_keys.items() if key not in dropped}
        view = self._select({**kept, **{key: self._stored_keys[own] for key, own in same.items()}})
        view._supplied = {**self._supplied, **supplied}
        view.completed = (*self.completed, *same, *supplied)
        return view

    def without(self, keys: Collection[str]) -> Checkpoint:
        """This checkpoint without some keys."""
        view = self._select({key: own for key, own in self._stored_keys.items() if key not in keys})
        view._supplied = {key: t for key, t in self._supplied.items() if key not in keys}
        return view

    def _best_prefix(self, names: Collection[str], wanted: Collection[str], ema: bool) -> str:
        fitting = best_prefixes(names, wanted, ema=ema)
        if not fitting:
            raise CheckpointError(
                f"{self.path}: no EMA in it, neither an entry such as 'ema' nor keys "
                "that fit the model under a prefix such as 'ema_model.'; open it without ema=True "
                "or leave this file out."
            )
        if len(fitting) > 1:
            raise CheckpointError(
                f"{self.path}: holds the model's keys several times, under "
                f"{list_names(map(repr, fitting))}; save the ones you mean, without their prefix."
            )
        return fitting[0]

    def _ordinary_names(
        self, names: list[str], prefix: str, reference: frozenset[str]
    ) -> tuple[list[str], list[str]]:
        """The names that are read as ordinary weights, and the families of the EMAs beside them."""
        if self.is_ema or ema_family(prefix):  # there is nothing else
            kept = [name for name in names if name in reference or name not in COUNTERS]
            return kept, [family] if (family := ema_family(prefix)) else []
        second = set(second_weights(names)) - reference
        names = [name for name in names if name not in second]
        module, counter = AVERAGED_MODEL
        if prefix == module and counter not in reference:
            names = [name for name in names if name != counter]
        families = {
            name: ema_family(name) for name in names if name.removeprefix(prefix) not in reference
        }
        kept = [name for name in names if not families.get(name)]
        return kept, [family for family in families.values() if family]

    def _ema_names(
        self, names: list[str], prefix: str, reference: frozenset[str]
    ) -> tuple[list[str], list[str]]:
        """The names of the EMA under a prefix, and its family.

        A name that the ordinary weights do not have, such as the number of the EMA's steps, is left
        out.
        """
        ordinary = best_prefixes(names, reference)[0]
        averaged = reference.union(name.removeprefix(ordinary) for name in names)
        kept = [
            name
            for name in names
            if name.startswith(prefix) and name.removeprefix(prefix) in averaged
        ]
        return kept, [ema_family(prefix)]

    def _renamed(self, keys: Mapping[str, str], prefix: str) -> Checkpoint:
        """This checkpoint with other keys, and a record of what was removed from them.

        Args:
            keys: this checkpoint's own keys, by the new ones.
            prefix: that was found at the front of the keys.
        """
        view = self._select({key: self._stored_keys[own] for key, own in keys.items()})
        front = common_front(keys.items())
        view.prefix = self.prefix + (prefix if front is None else front)
        changed = any(key != own.removeprefix(prefix) for key, own in keys.items())
        view.wrappers = self.wrappers or (front is None and changed)
        new_names = {own: key for key, own in keys.items()}

        def rename(key: str) -> str:
            return new_names.get(key, key.removeprefix(prefix))

        view.aliases = {rename(alias): rename(key) for alias, key in self.aliases.items()}
        view._extra_keys = {rename(key): stored for key, stored in self._extra_keys.items()}
        return view

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
        return self._entry.of(open_file(Path(self._absolute_path)))


def open_checkpoint(path: str | Path, *, ema: bool = False) -> Checkpoint:
    """Open a state dict without reading its tensors.

    No code in a file is run (`radin.checkpoints.safe_pickles`).

    Args:
        path: a safetensors file; the `.safetensors.index.json` or `.bin.index.json` of shards, or
            a folder with just one of these; or a file that `torch.save` wrote, which may hold the
            state dict as its `state_dict`, `model`, `model_state_dict`, `module`, `net` or `params`
            (where these are missing, as an EMA: an entry such as `ema` or `state_dict_ema`).
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
    entry = Entry((), ())
    if isinstance(content, dict):  # of torch
        if not is_state_dict(content):
            entry = find_entry(path, content, ema=ema)
        check_plain(path, entry.of(content))
    checkpoint = Checkpoint(
        path,
        entry.of(content),
        entry=entry,
        ema=ema,
        file_states={file: state for file, state in file_states.items() if state},
    )
    if isinstance(content, SafetensorsFile):
        checkpoint.aliases = content.aliases
    return checkpoint.under(entry.prefix) if entry.prefix else checkpoint


def _file_state(file: str | Path) -> _FileState | None:
    """What changes when a file is written to; None when there is no such file."""
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_size, status.st_mtime_ns

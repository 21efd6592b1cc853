"""Which entry of a training checkpoint is the state dict, and which is an EMA of the weights."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from radin.checkpoints.contents import is_state_dict, state_dict_error
from radin.errors import CheckpointError, list_names

# Where training programs (Lightning, timm, torch's own tutorials) put the state dict beside epochs
# and optimisers. An entry with "ema" in its name holds its exponential moving average over the
# training steps.
ORDINARY_ENTRIES = ("state_dict", "model", "model_state_dict")
OTHER_ENTRIES = ("module", "net", "params")  # where these are missing, as in DeepSpeed, BasicSR
# Where some programs put the state dict inside such an entry, beside counters
INNER_ENTRIES = ("state_dict", "model", "module")
# While Lightning's WeightAveraging runs, the average is where the weights usually are, and the
# weights are here.
LIGHTNING_WEIGHTS = "current_model_state"
# mmengine's EMAHook swaps the two when it saves: the average is the "state_dict", and the weights
# are here, under the prefix of the averaged model, with a counter of its steps.
MMENGINE_WEIGHTS = "ema_state_dict"
MMENGINE_PREFIX = "module."


class Entry(NamedTuple):
    """The place of a state dict in a checkpoint.

    Attributes:
        names: of the entries that lead to it; empty where the whole file is the state dict.
        emas: names of the entries that hold an EMA.
        prefix: of its keys, which is not the network's; other keys are not weights.
    """

    names: tuple[str, ...]
    emas: tuple[str, ...]
    prefix: str = ""

    def of(self, content: Mapping[Any, Any]) -> Mapping[str, Any]:
        """The state dict in the content of a file."""
        for name in self.names:
            content = content[name]
        return content


def find_entry(path: Path, content: Mapping[Any, Any], *, ema: bool) -> Entry:
    """The entry of a training checkpoint to read.

    It looks two levels deep and no deeper, because a dict may hold itself.

    Args:
        ema: choose an EMA, where there is one.

    Raises:
        CheckpointError: no entry is a state dict, or several are.
    """
    places = {name: place for name in content if (place := _place(content, name))}
    ordinary = _ordinary(places)
    emas = [name for name in places if _is_ema(name)]
    prefix = ""
    for displaced in _displaced(content):
        if displaced in places and "state_dict" in ordinary:
            ordinary[ordinary.index("state_dict")] = displaced
            emas = [*(name for name in emas if name != displaced), "state_dict"]
            prefix = MMENGINE_PREFIX if displaced == MMENGINE_WEIGHTS else ""
    entries = emas if ema and emas else ordinary or emas
    if len(entries) == 1:
        read = entries[0]
        return Entry(
            places[read],
            tuple(".".join(places[name]) for name in emas),
            prefix if read not in emas else "",
        )
    if entries:
        raise CheckpointError(
            f"{path}: holds several state dicts, {list_names(map(repr, entries))}; save the one "
            f"you mean, such as torch.save(checkpoint[{entries[0]!r}], path)."
        )
    raise state_dict_error(path, content)


def _ordinary(places: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The entries that may hold the weights: state dicts themselves, else entries with one."""
    for names in (ORDINARY_ENTRIES, OTHER_ENTRIES):
        if direct := [name for name in names if len(places.get(name, ())) == 1]:
            return direct
    return [name for name in ORDINARY_ENTRIES if name in places]


def _place(content: Mapping[Any, Any], name: object) -> tuple[str, ...]:
    """The names that lead to the state dict in an entry; () where it holds none."""
    entry = content[name]
    if not isinstance(name, str):
        return ()
    if is_state_dict(entry):
        return (name,)
    if isinstance(entry, Mapping):
        for inner in INNER_ENTRIES:
            if is_state_dict(entry.get(inner)):
                return (name, inner)
    return ()


def _is_ema(name: str) -> bool:
    return "ema" in re.split(r"\W|_", name.lower())


def _displaced(content: Mapping[Any, Any]) -> list[str]:
    """The entry in which a program keeps the weights while their average is the "state_dict"."""
    meta = content.get("meta")
    names = [LIGHTNING_WEIGHTS]
    if isinstance(meta, Mapping) and "mmengine_version" in meta:
        names.append(MMENGINE_WEIGHTS)
    return names

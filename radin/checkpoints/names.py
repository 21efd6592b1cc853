"""The names of tensors: prefixes, the names that wrappers add, and families of an EMA."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Collection, Iterable
from itertools import accumulate

# No training program wraps a network more often; a key made to do harm may have any number of dots.
MAX_PREFIX_NAMES = 8
# What torch.compile, FSDP, activation checkpointing and DeepSpeed put into the keys of what they
# wrap. No network has these names of its own.
WRAPPERS = frozenset(
    (
        *("_orig_mod", "_fsdp_wrapped_module", "_fpw_module", "_checkpoint_wrapped_module"),
        *("_forward_module", "_wrapped_module"),
    )
)
# DataParallel and Lightning use names that a network may have, too.
POSSIBLE_WRAPPERS = WRAPPERS | {"module"}
WEAK_WRAPPERS = POSSIBLE_WRAPPERS | {"model"}
# The last names of keys that count what training has done
COUNTERS = frozenset(
    (
        *("num_batches_tracked", "n_averaged", "num_updates", "num_samples", "num_steps"),
        *("step", "steps", "global_step", "iteration", "iterations", "iter", "epoch", "epochs"),
        *("count", "counter", "num_calls", "updates", "initted"),
    )
)
AVERAGED_MODEL = ("module.", "n_averaged")  # the prefix and the counter of torch's AveragedModel


def without_wrappers(key: str, wrappers: Collection[str] = WRAPPERS) -> str:
    """A key without the names that wrappers put into it; its last name stays.

    >>> without_wrappers("layers.0._checkpoint_wrapped_module.attn.weight")
    'layers.0.attn.weight'
    """
    *modules, last = key.split(".")
    return ".".join([*(name for name in modules if name not in wrappers), last])


def count_wrappers(keys: Iterable[str]) -> int:
    """How many names in the keys may be of a wrapper."""
    return sum(name in WEAK_WRAPPERS for key in keys for name in key.split(".")[:-1])


def unwrapped(keys: Iterable[str], wrappers: Collection[str] = WRAPPERS) -> dict[str, str]:
    """The keys by their names without wrappers; by themselves where two would have one name."""
    own = list(keys)
    short = {without_wrappers(key, wrappers): key for key in own}
    return short if len(short) == len(own) else dict(zip(own, own, strict=True))


def match_wrapped(keys: Iterable[str], reference: Iterable[str]) -> dict[str, str]:
    """Pairs of a key and the reference's key that differ only in the names of wrappers.

    A name such as "module" may be of the network itself. So only keys that one side lacks are
    compared, and only where each fits exactly one of the other side.
    """
    own = set(keys)
    wanted = set(reference)
    pairs: dict[str, tuple[list[str], list[str]]] = {}
    for side, names in enumerate((own - wanted, wanted - own)):
        for name in sorted(names):
            pairs.setdefault(without_wrappers(name, WEAK_WRAPPERS), ([], []))[side].append(name)
    return {mine[0]: theirs[0] for mine, theirs in pairs.values() if len(mine) == len(theirs) == 1}


def second_weights(keys: Iterable[str]) -> list[str]:
    """The keys under which the EMA hook of mmcv keeps a second set of weights.

    `ema_layer_weight` belongs to `layer.weight`.
    """
    own = list(keys)
    flat = {f"ema_{key.replace('.', '_')}" for key in own}
    return [key for key in own if key in flat]


def common_front(renamed: Iterable[tuple[str, str]]) -> str | None:
    """What precedes every new name in its old one, such as "module."; None if they differ.

    Args:
        renamed: pairs of new and old names.
    """
    fronts = {
        old.removesuffix(new) if old.endswith(new) else None for new, old in renamed if new != old
    }
    return fronts.pop() if len(fronts) == 1 else None


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

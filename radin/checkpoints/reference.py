"""Under which names tensors are read: those of the model, or those that the files have in common.

What the `load_state_dict` of a model takes is taken here: tied weights of which a file keeps one,
older names, batch norm without its counters.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from radin.checkpoints.checkpoint import Checkpoint
from radin.checkpoints.contents import is_extra_state
from radin.checkpoints.formats import RUNNING_STATISTICS
from radin.checkpoints.names import (
    POSSIBLE_WRAPPERS,
    WEAK_WRAPPERS,
    WRAPPERS,
    best_prefixes,
    count_wrappers,
    unwrapped,
)

BATCH_COUNTER = "num_batches_tracked"

Build = Callable[[], nn.Module]


class Fitted(NamedTuple):
    """Checkpoints under common names.

    Attributes:
        checkpoints: in the order given.
        reference: what all of them must have the keys and shapes of.
        reference_name: for messages.
        extra_keys: of the extra state that the model of `build` has.
    """

    checkpoints: list[Checkpoint]
    reference: Mapping[str, Tensor]
    reference_name: str
    extra_keys: frozenset[str] = frozenset()


def fit_all(checkpoints: Sequence[Checkpoint], build: Build | None) -> Fitted:
    """Rename the tensors of all checkpoints to the keys of the model.

    Without `build` the reference is the checkpoint whose keys have the shortest prefix, then the
    fewest names of wrappers, and among these the first.

    Raises:
        CheckpointError: several prefixes fit a file equally well, or it has no EMA where one is
            asked for.
    """
    if build is None:
        return _fit_each_other(checkpoints)
    model = build()
    own = model.state_dict()
    reference = {key: tensor for key, tensor in own.items() if not is_extra_state(key)}
    ties = _ties(model)
    fitted = [
        _complete_by_model(each.fit(reference).with_aliases(reference), reference, build, ties)
        for each in checkpoints
    ]
    extra_keys = frozenset(own.keys() - reference.keys())
    return Fitted(fitted, reference, "the model that build() returns", extra_keys)


# Without a model ---------------------------------------------------------------------------------


def _fit_each_other(checkpoints: Sequence[Checkpoint]) -> Fitted:
    chosen = max(
        checkpoints,
        key=lambda each: (len(best_prefixes(checkpoints[0], each)[0]), -count_wrappers(each)),
    )
    differ = len({frozenset(each) for each in checkpoints}) > 1
    fitted = (
        (differ and _fit_plain_names(checkpoints, chosen, (WRAPPERS,)))
        or _united(checkpoints, chosen, exactly=True)
        or _fit_plain_names(checkpoints, chosen, (POSSIBLE_WRAPPERS,))
        or _united(checkpoints, chosen)
        or _fit_plain_names(checkpoints, chosen, (WEAK_WRAPPERS,))
        or _complete_by_others([each.fit(chosen) for each in checkpoints])
    )
    place = next(k for k, each in enumerate(checkpoints) if each is chosen)
    return Fitted(fitted, fitted[place], str(chosen.path))


def _united(
    checkpoints: Sequence[Checkpoint], reference: Collection[str], *, exactly: bool = False
) -> list[Checkpoint]:
    """All checkpoints under the names of a reference; none where one of them does not have them."""
    fitted = [each.fit(reference, exactly=exactly) for each in checkpoints]
    return fitted if all(set(each) == set(reference) for each in fitted) else []


def _fit_plain_names(
    checkpoints: Sequence[Checkpoint], chosen: Checkpoint, wrappers: Iterable[Collection[str]]
) -> list[Checkpoint]:
    """All checkpoints under names without any wrapper; none where that does not unite them."""
    for names in wrappers:
        reference = unwrapped(chosen, names).keys()
        if reference != set(chosen) and (fitted := _united(checkpoints, reference)):
            return fitted
    return []


def _complete_by_others(fitted: Sequence[Checkpoint]) -> list[Checkpoint]:
    """Checkpoints with the tied tensors and the counters of batch norm that others of them have."""
    wanted = {key for each in fitted for key in each}
    named = [each.with_aliases(wanted) for each in fitted]
    ties = _ties_in_files([each for each in named if wanted == set(each)])
    completed = []
    for each in named:
        missing = wanted - set(each)
        same = {key: tied for key in missing for tied in ties.get(key, ()) if tied in each}
        counters = {
            key: torch.tensor(0)
            for key in missing
            if key.endswith(f".{BATCH_COUNTER}") and _has_statistics(each, key)
        }
        completed.append(each.complete(same, counters, ()) if same or counters else each)
    return completed


def _has_statistics(checkpoint: Checkpoint, counter: str) -> bool:
    return counter.replace(BATCH_COUNTER, RUNNING_STATISTICS[0]) in checkpoint


def _ties_in_files(checkpoints: Sequence[Checkpoint]) -> dict[str, list[str]]:
    """For each key the others that share its memory in one of the files."""
    ties: dict[str, list[str]] = {}
    for checkpoint in checkpoints:
        keys_of: dict[object, list[str]] = {}
        for key, tensor in checkpoint.items():
            if tensor.numel():
                memory = (tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
                keys_of.setdefault(memory, []).append(key)
        for keys in keys_of.values():
            for key in keys if len(keys) > 1 else ():
                ties.setdefault(key, []).extend(other for other in keys if other != key)
    return ties


# With a model ------------------------------------------------------------------------------------


def _ties(model: nn.Module) -> dict[str, list[str]]:
    """For each key of tied parameters or buffers the other keys of the same tensor."""
    keys_of: dict[int, list[str]] = {}
    for named in (model.named_parameters, model.named_buffers):
        for key, tensor in named(remove_duplicate=False):
            keys_of.setdefault(id(tensor), []).append(key)
    return {
        key: [other for other in keys if other != key]
        for keys in keys_of.values()
        for key in keys
        if len(keys) > 1
    }


def _complete_by_model(
    checkpoint: Checkpoint,
    reference: Mapping[str, Tensor],
    build: Build,
    ties: Mapping[str, Sequence[str]],
) -> Checkpoint:
    """A checkpoint with the keys of the model, as far as its `load_state_dict` finds them."""
    if not reference.keys() - set(checkpoint):
        return checkpoint
    read = _load_without_copy(checkpoint, build)
    if read is None:
        return checkpoint
    missing, unexpected, own = read
    key_of = {_identity(tensor): key for key, tensor in checkpoint.items() if tensor.numel()}
    same: dict[str, str] = {}
    supplied: dict[str, Tensor] = {}
    for key in reference:
        if key in checkpoint:
            continue
        if key in missing:
            same.update((key, tied) for tied in ties.get(key, ()) if tied in checkpoint)
        elif (origin := key_of.get(_identity(own[key]))) is not None:
            same[key] = origin
        elif not own[key].is_meta:
            supplied[key] = own[key].detach().clone()
    # What was renamed is no key of its own any more.
    dropped = set(checkpoint) - reference.keys() - set(unexpected)
    return checkpoint.complete(same, supplied, dropped)


def _identity(tensor: Tensor) -> tuple[int, torch.Size, torch.dtype]:
    return tensor.data_ptr(), tensor.shape, tensor.dtype


def _load_without_copy(
    checkpoint: Checkpoint, build: Build
) -> tuple[Collection[str], Collection[str], Mapping[str, Tensor]] | None:
    """The missing and unexpected keys, and the model's tensors after `load_state_dict`.

    The tensors of the checkpoint themselves become the model's. None where torch refuses them.
    """
    try:
        with torch.device("meta"):
            model = build()
    except Exception:  # the user's code, on a device that it may not support
        model = build()
    try:
        result = model.load_state_dict(dict(checkpoint), strict=False, assign=True)
    except RuntimeError:  # shapes that do not fit, which the check of the architecture lists
        return None
    return result.missing_keys, result.unexpected_keys, model.state_dict()

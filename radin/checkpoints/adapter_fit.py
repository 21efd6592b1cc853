"""Which weights of its base an adapter changes: by name, by shape, and stored which way round."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence

import torch
from torch import Tensor

from radin.checkpoints.adapted import Change, FittedAdapter
from radin.checkpoints.adapter_config import MERGE
from radin.checkpoints.adapters import Adapter, name_in_base
from radin.checkpoints.checkpoint import Checkpoint
from radin.checkpoints.dtypes import is_averaged
from radin.checkpoints.factors import find_products
from radin.errors import CheckpointError, list_names

Rename = Callable[[str], str]


def fit_to_base(
    adapters: Sequence[Adapter], base: Checkpoint, *, transposed: Collection[str] | None
) -> list[FittedAdapter]:
    """Find the weights of the base that each adapter changes.

    Args:
        adapters: of one base model.
        base: its checkpoint.
        transposed: the modules whose weights are stored as (in, out), where the network is known.

    Raises:
        CheckpointError: the base lacks such a weight, holds it in another shape, quantised or tied
            to another one.
    """
    rename = _find_names(adapters, base)
    tied = _tied_keys(base)
    scaled = {key for product in find_products(base) for key in product.keys}
    fitted = []
    for adapter in adapters:
        keys = {module: f"{rename(module)}.weight" for module in adapter.factors}
        for module, key in keys.items():
            _check_weight(adapter, module, key, base[key], is_scaled=key in scaled)
            if key in tied:
                raise CheckpointError(
                    f"{adapter.path}: changes {key}, which is tied to {tied[key]} in {base.path}; "
                    "merged into the base the change would be in both. Untie them in the base "
                    f"(save a copy of each), or {MERGE}."
                )
        turned = _find_transposed(adapter, keys, base, transposed)
        changes = {key: Change(module, module in turned) for module, key in keys.items()}
        whole = {rename(name): key for name, key in adapter.whole.items()}
        fitted.append(FittedAdapter(adapter, changes, _check_whole(adapter, whole, changes, base)))
    return fitted


def _check_whole(
    adapter: Adapter, whole: Mapping[str, str], changes: Collection[str], base: Checkpoint
) -> dict[str, str]:
    """The tensors that are saved whole, without those of the base, which peft may save along."""
    kept = {}
    for name, key in whole.items():
        tensor = adapter.tensors[key]
        if name in base and tensor.shape != base[name].shape:
            raise CheckpointError(
                f"{adapter.path}: {key} has shape {tuple(tensor.shape)}, and in the base "
                f"{tuple(base[name].shape)}; give the base that the adapter was trained on."
            )
        if name in base and torch.equal(tensor, base[name].to(tensor.dtype)):
            continue
        if name in changes:
            raise CheckpointError(
                f"{adapter.path}: {key} is not the weight of the base, {name}, to which B A is "
                "added; give the base that the adapter was trained on."
            )
        kept[name] = key
    return kept


def _find_names(adapters: Sequence[Adapter], base: Checkpoint) -> Rename:
    """How a module of peft's is named in the base, which may be a part of the model or hold it.

    Raises:
        CheckpointError: the base lacks modules.
    """
    modules = sorted({module for adapter in adapters for module in adapter.factors})
    names = [name_in_base(f"{module}.").removesuffix(".") for module in modules]
    fronts = {
        key.removesuffix(f"{names[0]}.weight")
        for key in base
        if key.endswith(f".{names[0]}.weight")
    }
    depth = min(name.count(".") for name in names)
    choices = [("", 0), *((front, 0) for front in sorted(fronts))]
    choices += [("", cut) for cut in range(1, min(depth, 3) + 1)]
    fitting = [
        (front, cut)
        for front, cut in choices
        if len({_cut(name, cut)[0] for name in names}) == 1
        and all(f"{front}{_cut(name, cut)[1]}.weight" in base for name in names)
    ]
    if fitting:
        front, cut = fitting[0]
        return lambda name: front + _cut(name_in_base(f"{name}.").removesuffix("."), cut)[1]
    missing = [name for name in names if f"{name}.weight" not in base]
    named = sorted({adapter.config.base_name for adapter in adapters} - {""})
    of_whom = f" of {list_names(named)}" if named else ""
    raise CheckpointError(
        f"{base.path}: lacks {len(missing)} of the {len(names)} modules that the adapters change: "
        f"{list_names(missing)}; give the checkpoint{of_whom} that they were trained on as base."
    )


def _cut(name: str, count: int) -> tuple[str, str]:
    """The first names of a dotted name, and the rest."""
    parts = name.split(".")
    return ".".join(parts[:count]), ".".join(parts[count:])


def _check_weight(
    adapter: Adapter, module: str, key: str, weight: Tensor, *, is_scaled: bool
) -> None:
    if not is_averaged(weight.dtype) or weight.is_complex() or is_scaled:
        raise CheckpointError(
            f"{key}: quantised in the base ({weight.dtype}), so that {adapter.path} cannot be "
            "added to it; give a base in single or half precision."
        )
    if not _fits(adapter, module, weight, False) and not _fits(adapter, module, weight, True):
        down, up = _shapes(adapter, module)
        raise CheckpointError(
            f"{adapter.path}: the factors of {module} have shapes {down} and {up}, which do not "
            f"fit {key} of the base, {tuple(weight.shape)}; give the base that it was trained on "
            f"(peft also makes such factors for convolutions in groups: then {MERGE})."
        )


def _shapes(adapter: Adapter, module: str) -> tuple[tuple[int, ...], tuple[int, ...]]:
    keys = adapter.factors[module]
    return tuple(adapter.tensors[keys.down].shape), tuple(adapter.tensors[keys.up].shape)


def _fits(adapter: Adapter, module: str, weight: Tensor, transposed: bool) -> bool:
    """Whether B A, or its transpose, has the shape of a weight."""
    down, up = _shapes(adapter, module)
    if not transposed:
        return not adapter.factors[module].is_embedding and weight.shape == (up[0], *down[1:])
    return len(down) == 2 and weight.shape == (down[1], up[0])


def _find_transposed(
    adapter: Adapter,
    keys: Mapping[str, str],
    base: Mapping[str, Tensor],
    known: Collection[str] | None,
) -> set[str]:
    """The modules whose weight is stored as (in, out): embeddings, and layers as of GPT-2.

    Shapes say it, but for square weights. These are as the network or the settings say; peft
    stores one setting for all layers, so settings that disagree with a shape do not help.
    """
    fits = {
        module: {turned for turned in (False, True) if _fits(adapter, module, base[key], turned)}
        for module, key in keys.items()
    }
    seen = {
        next(iter(ways))
        for module, ways in fits.items()
        if len(ways) == 1 and not adapter.factors[module].is_embedding
    }
    found = {module for module, ways in fits.items() if ways == {True}}
    unclear = [module for module, ways in fits.items() if len(ways) == 2]
    if known is not None:
        return found.union(
            module for module in unclear if keys[module].removesuffix(".weight") in known
        )
    if unclear and seen - {adapter.config.is_transposed}:
        raise CheckpointError(
            f"{adapter.config.path}: says fan_in_fan_out={adapter.config.is_transposed}, but other "
            "weights are stored the other way round, so it is not clear how the square ones of "
            f"{list_names(unclear)} are; open the adapters with build, or {MERGE}."
        )
    return found.union(unclear) if adapter.config.is_transposed else found


def _tied_keys(base: Checkpoint) -> dict[str, str]:
    """For each key of the base another one that is the same tensor."""
    tied: dict[str, str] = {}
    first: dict[object, str] = {}
    for key, tensor in base.items():
        if tensor.numel():
            memory = (tensor.data_ptr(), tensor.shape, tensor.dtype)
            other = first.setdefault(memory, key)
            if other != key:
                tied |= {key: other, other: key}
    for alias, key in base.aliases.items():
        tied |= {alias: key, key: alias} if alias != key else {}
    return tied

"""The soup of LoRA adapters as one adapter, whose rank is the sum of theirs.

sum_k p_k s_k B_k A_k is [p_1 s_1 B_1, p_2 s_2 B_2, ...] times A_1, A_2, ... stacked, exactly. With
alpha = r, peft multiplies it by 1.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from radin.checkpoints.adapted import average_whole
from radin.checkpoints.adapter_config import CONFIG_NAME, pattern_value
from radin.checkpoints.adapter_zoo import adapters_of
from radin.checkpoints.adapters import (
    WEIGHTS_NAME,
    Adapter,
    FactorKeys,
    names_of,
)
from radin.checkpoints.dtypes import is_averaged, widest
from radin.checkpoints.origin import SOUP_ENTRY
from radin.checkpoints.zoo import Zoo
from radin.errors import CheckpointError, ParameterError, RadinError, list_names
from radin.files import atomic_path, expand_path
from radin.ranking.candidates import check_weights

Weighted = Sequence[tuple[Adapter, float]]


def save_adapter(
    adapters: Zoo | Sequence[Adapter],
    weights: Tensor | Sequence[float],
    folder: str | Path,
    *,
    provenance: Mapping[str, object] | None = None,
) -> Path:
    """Write the soup of adapters as one adapter in peft's layout, without its base.

    Its change of the base is sum_k p_k s_k B_k A_k, the average of the products. Its rank is the
    sum of the ranks of the adapters with a weight above zero, in each module. It is written in
    single precision or wider.

    Args:
        adapters: a zoo of `radin.open_adapters`, or what
            `radin.checkpoints.adapters.open_adapter` returns, N of them.
        weights: (N,) mixing weights.
        folder: is created; the two files of an adapter that it may hold are replaced.
        provenance: more entries for the header of the file (recipe, budget, accuracy, ...).

    Returns:
        The folder.

    Raises:
        ParameterError: the zoo is not of adapters, or impossible weights.
        CheckpointError: adapters that cannot be one: for other tasks, with other tensors saved
            whole, or a layer as an embedding in one of them and not in another.

    >>> import json, pathlib, tempfile, radin, torch
    >>> from radin.checkpoints.adapters import open_adapter
    >>> from safetensors.torch import load_file, save_file
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["fc"]}
    >>> for k in (1.0, 3.0):
    ...     adapter = folder / f"run_{k:.0f}"
    ...     adapter.mkdir()
    ...     _ = (adapter / "adapter_config.json").write_text(json.dumps(settings))
    ...     save_file(
    ...         {
    ...             "base_model.model.fc.lora_A.weight": torch.tensor([[k, 0.0]]),
    ...             "base_model.model.fc.lora_B.weight": torch.tensor([[k], [1.0]]),
    ...         },
    ...         adapter / "adapter_model.safetensors",
    ...     )
    >>> adapters = [open_adapter(folder / "run_1"), open_adapter(folder / "run_3")]
    >>> soup = radin.save_adapter(adapters, [0.5, 0.5], folder / "soup")
    >>> tensors = load_file(soup / "adapter_model.safetensors")
    >>> tensors["base_model.model.fc.lora_B.weight"] @ tensors["base_model.model.fc.lora_A.weight"]
    tensor([[10.,  0.],
            [ 4.,  0.]])
    """
    chosen = adapters_of(adapters) if isinstance(adapters, Zoo) else list(adapters)
    if not chosen:
        raise ParameterError(
            "This zoo is not of adapters, so its soup is no adapter; open it with "
            "radin.open_adapters, or save it with radin.save_soup."
        )
    p = check_weights(weights, len(chosen))
    shares = (p / p.sum()).tolist()
    weighted = [(each, share) for each, share in zip(chosen, shares, strict=True) if share > 0]
    _check_alike([adapter for adapter, _ in weighted])
    tensors, ranks = _sum_products(weighted)
    tensors |= _average_whole(weighted)
    target = expand_path(folder)
    settings = _settings([adapter for adapter, _ in weighted], ranks)
    _write(target, tensors, settings, _header(chosen, shares, provenance))
    return target


def _check_alike(adapters: Sequence[Adapter]) -> None:
    """Refuse adapters that cannot be one adapter."""
    first = adapters[0]
    for adapter in adapters[1:]:
        for name in ("task_type", "modules_to_save"):
            own, other = (_comparable(each, name) for each in (adapter, first))
            if own != other:
                raise CheckpointError(
                    f"{adapter.config.path}: {name} is {own!r}, and {other!r} in "
                    f"{first.config.path}; average adapters of one kind."
                )
        if different := sorted(set(adapter.whole) ^ set(first.whole)):
            raise CheckpointError(
                f"{adapter.path}: not the same tensors are saved whole as in {first.path}: "
                f"{list_names(different)}; leave out the adapters of another kind."
            )


def _comparable(adapter: Adapter, name: str) -> Any:
    value = adapter.config.content.get(name)
    return sorted(value) if isinstance(value, list) else value


def _sum_products(weighted: Weighted) -> tuple[dict[str, Tensor], dict[str, int]]:
    """The factors of the soup, and their ranks by module."""
    modules = sorted({module for adapter, _ in weighted for module in adapter.factors})
    tensors: dict[str, Tensor] = {}
    ranks: dict[str, int] = {}
    for module in modules:
        having = [(adapter, share) for adapter, share in weighted if module in adapter.factors]
        keys = having[0][0].factors[module]
        for adapter, _ in having:
            _check_layer(module, adapter, having[0][0])
        tensors[keys.down], tensors[keys.up] = _stacked(module, keys, having)
        ranks[module] = len(tensors[keys.down])
    return tensors, ranks


def _check_layer(module: str, adapter: Adapter, first: Adapter) -> None:
    """Refuse factors of one module that do not belong to one layer."""
    own, other = adapter.factors[module], first.factors[module]
    shapes = [
        (each.tensors[keys.down].shape[1:], each.tensors[keys.up].shape[:1])
        for each, keys in ((adapter, own), (first, other))
    ]
    if own != other or shapes[0] != shapes[1]:
        raise CheckpointError(
            f"{adapter.path}: the factors of {module} are of another layer than those in "
            f"{first.path}; average adapters of one base."
        )


def _stacked(module: str, keys: FactorKeys, weighted: Weighted) -> tuple[Tensor, Tensor]:
    """A (sum of ranks, in) and B (out, sum of ranks) of one module."""
    downs = [adapter.tensors[keys.down] for adapter, _ in weighted]
    ups = [adapter.tensors[keys.up] for adapter, _ in weighted]
    dtype = widest([*(tensor.dtype for tensor in (*downs, *ups)), torch.float32])
    scaled = [
        up.double() * (share * adapter.scale(module))
        for up, (adapter, share) in zip(ups, weighted, strict=True)
    ]
    return torch.cat([down.to(dtype) for down in downs]), torch.cat(scaled, dim=1).to(dtype)


def _average_whole(weighted: Weighted) -> dict[str, Tensor]:
    """The average of the tensors that are saved whole; whole numbers come from the heaviest."""
    averaged = {}
    for name, key in weighted[0][0].whole.items():
        tensors = [adapter.tensors[adapter.whole[name]] for adapter, _ in weighted]
        if len({tensor.shape for tensor in tensors}) > 1:
            raise CheckpointError(
                f"{name}: saved whole in several shapes, {[tuple(t.shape) for t in tensors]}; "
                "average adapters of one kind."
            )
        shares = [share for _, share in weighted]
        dtype = tensors[0].dtype
        if is_averaged(dtype):
            dtype = widest(tensor.dtype for tensor in tensors)
        averaged[key] = average_whole(list(zip(tensors, shares, strict=True)), dtype)
    return averaged


def _settings(adapters: Sequence[Adapter], ranks: Mapping[str, int]) -> dict[str, Any]:
    """The `adapter_config.json` of the soup, with alpha = r in every module."""
    rank = Counter(ranks.values()).most_common(1)[0][0]
    # peft takes the first pattern that the end of a name matches, so longer names come first.
    longest_first = sorted(ranks, key=len, reverse=True)
    pattern = {name: ranks[name] for name in longest_first}
    if set(ranks.values()) == {rank}:
        pattern = {}
    for name, own in ranks.items():
        if pattern_value(pattern, name, rank) != own:
            raise CheckpointError(
                f"{name}: its rank cannot be told apart from another module's in {CONFIG_NAME}; "
                "give a base, and save the soup merged into it."
            )
    content = dict(adapters[0].config.content)
    changed = {
        "r": rank,
        "lora_alpha": rank,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
        "use_rslora": False,
        "target_modules": sorted(ranks),
        "fan_in_fan_out": any(adapter.config.is_transposed for adapter in adapters),
        "init_lora_weights": True,
        "inference_mode": True,
    }
    same_start = dict.fromkeys(("exclude_modules", "layers_to_transform", "layers_pattern"))
    return content | changed | same_start


def _header(
    adapters: Sequence[Adapter], shares: Sequence[float], provenance: Mapping[str, object] | None
) -> dict[str, str]:
    names = names_of(adapter.folder for adapter in adapters)
    ingredients = [
        {"name": name, "sha256": adapter.fingerprint, "weight": share}
        for name, adapter, share in zip(names, adapters, shares, strict=True)
    ]
    content = json.dumps(
        {**(provenance or {}), "ingredients": ingredients}, sort_keys=True, default=str
    )
    return {"format": "pt", SOUP_ENTRY: content}


def _write(
    folder: Path, tensors: dict[str, Tensor], settings: dict[str, Any], header: dict[str, str]
) -> None:
    """Write the two files of an adapter; the settings come last, as they make it one."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RadinError(f"{folder}: cannot be created ({error.strerror}).") from error
    for name in (CONFIG_NAME, "adapter_model.bin"):
        if os.path.lexists(folder / name):
            os.remove(folder / name)
    with atomic_path(folder / WEIGHTS_NAME) as temporary:
        save_file({key: each.contiguous() for key, each in tensors.items()}, temporary, header)
    with atomic_path(folder / CONFIG_NAME) as temporary:
        text = json.dumps(settings, indent=2)  # not sorted: the order of patterns has a meaning
        temporary.write_text(text + "\n", encoding="utf-8")

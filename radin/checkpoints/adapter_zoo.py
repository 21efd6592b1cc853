"""LoRA adapters and their base as a zoo: each ingredient is the base with one adapter merged in."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from radin.checkpoints.adapted import AdaptedCheckpoint, FittedAdapter
from radin.checkpoints.adapter_config import CONFIG_NAME
from radin.checkpoints.adapter_fit import fit_to_base
from radin.checkpoints.adapters import (
    Adapter,
    find_adapters,
    is_adapter,
    names_of,
    open_adapter,
)
from radin.checkpoints.checkpoint import Checkpoint, open_checkpoint
from radin.checkpoints.dtypes import real_numbers
from radin.checkpoints.formats import RUNNING_STATISTICS, is_parameter
from radin.checkpoints.huggingface import builder_beside
from radin.checkpoints.inspection import (
    Inspection,
    check_architecture,
    describe_duplicates,
    describe_files,
    describe_unchanged,
    inspect_all,
)
from radin.checkpoints.paths import describe_soups
from radin.checkpoints.reference import Fitted, fit_all
from radin.checkpoints.zoo import Zoo, check_options
from radin.errors import CheckpointError, list_names
from radin.files import expand_path, hash_text

Build = Callable[[], nn.Module]
_ELEMENTS_PER_PIECE = 1 << 16  # added at once: in double precision they fit a core's cache


def open_adapters(
    paths: str | Path | Iterable[str | Path],
    base: str | Path,
    build: Build | None = None,
    *,
    progress: bool = True,
    unused: str = "error",
) -> Zoo:
    """Open LoRA adapters of one base, in peft's layout, as a zoo.

    Ingredient k is the base with adapter k merged in, W + s_k B_k A_k, computed when it is used;
    ranks, scales and modules may differ between the adapters. A soup is the average of these
    networks, W + sum_k p_k s_k B_k A_k: the products are averaged, and never the factors. All that
    takes a zoo takes this one, and `radin.save_adapter` writes a soup as an adapter.

    Modules that were trained as a whole (`modules_to_save`, such as a head) are averaged as in any
    other zoo; all adapters must have the same ones.

    Args:
        paths: a folder of adapters, a glob of them, or a list. An adapter is a folder with
            `adapter_config.json` and `adapter_model.safetensors` or `.bin`.
        base: the checkpoint that all of them were trained on, as `radin.Zoo.open` takes one. It is
            the `init` of the zoo, if it has all tensors of the ingredients.
        build: a function that returns one empty model, which base and adapters must fit.
        progress: whether to show a bar.
        unused: "error", or "skip" to leave out keys of the base that the model does not have.

    Raises:
        CheckpointError: a file is missing or damaged; an adapter does not fit the base, or changes
            it by more than s B A, as DoRA does; the message names it and the way out.
        ParameterError: `build` is a model, or `unused` another word or "skip" without `build`.

    >>> import json, pathlib, tempfile, radin, torch
    >>> from safetensors.torch import save_file
    >>> folder = pathlib.Path(tempfile.mkdtemp())
    >>> save_file({"fc.weight": torch.zeros(2, 2)}, folder / "base.safetensors")
    >>> settings = {"peft_type": "LORA", "r": 1, "lora_alpha": 2, "target_modules": ["fc"]}
    >>> for k in (1.0, 3.0):
    ...     adapter = folder / "adapters" / f"run_{k:.0f}"
    ...     adapter.mkdir(parents=True)
    ...     _ = (adapter / "adapter_config.json").write_text(json.dumps(settings))
    ...     save_file(
    ...         {
    ...             "base_model.model.fc.lora_A.weight": torch.tensor([[k, 0.0]]),
    ...             "base_model.model.fc.lora_B.weight": torch.tensor([[k], [1.0]]),
    ...         },
    ...         adapter / "adapter_model.safetensors",
    ...     )
    >>> zoo = radin.open_adapters(
    ...     folder / "adapters", folder / "base.safetensors", progress=False
    ... )
    >>> zoo[1]["fc.weight"]  # 2 B A
    tensor([[18.,  0.],
            [ 6.,  0.]])
    >>> radin.average(zoo, [0.5, 0.5])["fc.weight"]
    tensor([[10.,  0.],
            [ 4.,  0.]])
    """
    check_options(build, unused, ema=False)
    found = find_adapters(paths)
    adapters = [open_adapter(folder) for folder in found.paths]
    fitted = _fit_base(_open_base(base), adapters, build)
    extra = set(fitted.checkpoints[0]) - set(fitted.reference) if unused == "skip" else set()
    start = fitted.checkpoints[0].without(extra)
    transposed = None if build is None else _transposed_modules(build)
    parts = fit_to_base(adapters, start, transposed=transposed)
    _check_same_modules(parts)
    _check_base(start, parts[0], fitted, unused="" if build is None else unused)
    inspected = inspect_all([start], unused=(), init=None, progress=progress)[0]
    inspections = _inspect(parts, start, inspected.fingerprint)
    files = [adapter.path for adapter in adapters]
    notes = [*found.notes, *describe_files([start], [start.path], extra), *_describe(parts, start)]
    problems = [
        describe_duplicates(files, [each.fingerprint for each in inspections]),
        describe_soups(files, [adapter.fingerprint for adapter in adapters]),
        describe_bases(adapters),
        describe_unknown_base(adapters, start.path),
    ]
    for problem in filter(None, problems):
        warnings.warn(problem, stacklevel=2)
        notes.append(problem)
    notes += filter(None, [describe_unchanged(files, inspections, start.path)])
    is_whole = all(key in start for key in parts[0].whole)
    zoo = Zoo(
        files,
        [AdaptedCheckpoint(start, [(part, 1.0)]) for part in parts],
        [each.fingerprint for each in inspections],
        build=build,
        init=AdaptedCheckpoint(start, []) if is_whole else None,
        notes=notes,
        distances=_column(inspections, "distance") if is_whole else None,
        cosines=_column(inspections, "cosine") if is_whole else None,
    )
    zoo.names = names_of(adapter.folder for adapter in adapters)
    return zoo


def adapters_of(zoo: Zoo) -> list[Adapter]:
    """The adapters of a zoo that `open_adapters` made; empty for any other."""
    states = [zoo[k] for k in range(len(zoo))]
    if not all(isinstance(state, AdaptedCheckpoint) for state in states):
        return []
    return [fitted.adapter for state in states for fitted, _ in state.parts]  # type: ignore[attr-defined]


def _open_base(path: str | Path) -> Checkpoint:
    given = expand_path(path)
    if is_adapter(given):
        raise CheckpointError(
            f"{given}: an adapter, not a base; give the checkpoint that the adapters were trained "
            "on."
        )
    return open_checkpoint(given)


def _fit_base(base: Checkpoint, adapters: Sequence[Adapter], build: Build | None) -> Fitted:
    """The base under the names that the adapters have for its modules.

    Without `build` these are the names in its file; or, where the adapters have others, those of
    the model of transformers whose config.json lies beside it.
    """
    fitted = fit_all([base], build)
    if build is not None:
        return fitted
    try:
        fit_to_base(adapters, fitted.checkpoints[0], transposed=None)
    except CheckpointError:
        if names := builder_beside(base.path):
            return fit_all([base], names)
    return fitted


def _transposed_modules(build: Build) -> set[str]:
    """The modules of the network whose weights are stored as (in, out): transformers' Conv1D."""
    try:
        with torch.device("meta"):
            model = build()
    except Exception:  # the user's code, on a device that it may not support
        model = build()
    return {name for name, module in model.named_modules() if type(module).__name__ == "Conv1D"}


def _check_same_modules(parts: Sequence[FittedAdapter]) -> None:
    """Refuse adapters of which some saved other whole tensors, or other shapes of them."""
    first = parts[0]
    for part in parts[1:]:
        different = sorted(set(first.whole) ^ set(part.whole)) or [
            key for key in first.whole if _whole_shape(first, key) != _whole_shape(part, key)
        ]
        if different:
            raise CheckpointError(
                f"{part.adapter.path}: not the same modules are saved whole as in "
                f"{first.adapter.path} (modules_to_save), or not in the same shapes: "
                f"{list_names(different)}; leave out the adapters of another kind, or train all "
                "with the same modules_to_save."
            )


def _whole_shape(part: FittedAdapter, key: str) -> tuple[int, ...]:
    return tuple(part.adapter.tensors[part.whole[key]].shape)


def _check_base(base: Checkpoint, part: FittedAdapter, fitted: Fitted, *, unused: str) -> None:
    """Compare the base, with the whole tensors of an adapter, with the model of `build`."""
    if not unused:
        return
    whole = {key: part.adapter.tensors[own] for key, own in part.whole.items()}
    completed = base.complete({}, whole, dropped=whole)
    check_architecture([completed], fitted.reference, fitted.reference_name, unused=unused)


# Messages and numbers ----------------------------------------------------------------------------


def _describe(parts: Sequence[FittedAdapter], base: Checkpoint) -> list[str]:
    """Notes on what the adapters hold besides the factors of layers."""
    notes = []
    if whole := sorted(parts[0].whole):
        notes.append(f"trained as a whole and averaged as such: {list_names(whole, most=4)}")
    embeddings = {
        key
        for part in parts
        for key, change in part.changes.items()
        if part.adapter.factors[change.module].is_embedding
    }
    if embeddings:
        notes.append(
            f"the adapters change {list_names(sorted(embeddings))}, an embedding: where the model "
            "ties its output layer to it, the change merged into the base is in both, as with "
            "peft's merge_and_unload"
        )
    counters = [key for key in parts[0].whole if key.endswith(RUNNING_STATISTICS)]
    if counters and not all(key in base for key in counters):
        notes.append(f"running statistics that the base lacks: {list_names(counters)}")
    return notes


def describe_bases(adapters: Sequence[Adapter]) -> str:
    """A message where the adapters name different base models; "" where they do not."""
    named: dict[str, list[Path]] = {}
    for adapter in adapters:
        if adapter.config.base_name:
            named.setdefault(adapter.config.base_name, []).append(adapter.folder)
    if len(named) < 2:
        return ""
    groups = "; ".join(
        f"{name!r}: {list_names(folders, most=3)}" for name, folders in named.items()
    )
    return (
        f"the adapters name different base models ({groups}); only adapters of one base can be "
        "averaged, so leave out the others unless these are copies of one model"
    )


def describe_unknown_base(adapters: Sequence[Adapter], base: Path | None) -> str:
    """A message where nothing says that the adapters belong to a base; "" where names agree.

    Tensors of one shape are in many models, so a wrong base gives no error.

    Args:
        base: the checkpoint that is taken for their base, or None where none is needed.
    """
    silent = [adapter.folder for adapter in adapters if not adapter.config.base_name]
    names = {adapter.config.base_name for adapter in adapters} - {""}
    others = sorted(repr(name) for name in names if base and not _is_named(base, name))
    if (base is None and len(adapters) == 1) or not (silent or others):
        return ""
    found = [f"{CONFIG_NAME} of {list_names(silent, most=3)} names no base"] if silent else []
    found += [f"the adapters name {list_names(others, most=3)}"] if others else []
    unchecked = (
        "all of them were trained on one base"
        if base is None
        else f"{base} is what they were trained on, since on another base the soup is wrong"
    )
    return (
        f"base not checked: {' and '.join(found)} (base_model_name_or_path); make sure that "
        f"{unchecked}"
    )


def _is_named(base: Path, name: str) -> bool:
    """Whether a checkpoint is what a name means: a path, or a model whose name is in its path."""
    own = os.path.realpath(base)
    if os.path.exists(name):
        return os.path.commonpath([own, os.path.realpath(name)]) == os.path.realpath(name)
    return Path(name).name.lower() in own.lower()


def _column(inspections: Sequence[Inspection], name: str) -> Tensor:
    return torch.tensor([getattr(each, name) for each in inspections], dtype=torch.float64)


def _inspect(
    parts: Sequence[FittedAdapter], base: Checkpoint, base_fingerprint: str
) -> list[Inspection]:
    """The hash of each ingredient, its distance to the base and its cosine with it.

    NaN and infinity are looked for in the factors. No product is formed for the lengths: with
    D = B A, <D, D> is the sum of the elements of (B^T B) * (A A^T), and <W, D> that of (B^T W) * A.
    """
    fingerprints = [
        hash_text("adapter", base_fingerprint, part.adapter.fingerprint) for part in parts
    ]
    squared = 0.0
    along = [0.0] * len(parts)  # <W, D>
    lengths = [0.0] * len(parts)  # <D, D>
    for key in base:
        weight = base[key]
        if not is_parameter(key, weight):
            continue
        squared += _square(weight)
        pairs = {k: part.matrices(key) for k, part in enumerate(parts) if key in part.changes}
        for k, inner in _inner_products(weight, pairs).items():
            left, right = pairs[k]
            along[k] += inner
            lengths[k] += _dot(left.T @ left, right @ right.T)
        for k, part in enumerate(parts):
            if key in part.whole:
                step = _real(part.adapter.tensors[part.whole[key]]) - _real(weight)
                along[k] += _dot(step, _real(weight))
                lengths[k] += _square(step)
    return [
        Inspection(fingerprint, {}, {}, *_distance_and_cosine(squared, inner, length))
        for fingerprint, inner, length in zip(fingerprints, along, lengths, strict=True)
    ]


def _inner_products(weight: Tensor, pairs: Mapping[int, tuple[Tensor, Tensor]]) -> dict[int, float]:
    """<W, B A> of several adapters, in one product of all B^T with W.

    Single precision is enough beside W: an error here changes no distance, and cosines little.
    """
    if not pairs:
        return {}
    dtype = torch.float64 if weight.dtype == torch.float64 else torch.float32
    stacked = torch.cat([left for left, _ in pairs.values()], dim=1).to(dtype)
    rows = stacked.T @ weight.reshape(len(stacked), -1).to(dtype)
    ranks = [left.shape[1] for left, _ in pairs.values()]
    return {
        k: _dot(part.double(), right)
        for (k, (_, right)), part in zip(pairs.items(), rows.split(ranks), strict=True)
    }


def _square(tensor: Tensor) -> float:
    """The squared length of a tensor, added in double precision some elements at a time."""
    pieces = real_numbers(tensor).split(_ELEMENTS_PER_PIECE)
    return sum(_dot(piece.double(), piece.double()) for piece in pieces)


def _real(tensor: Tensor) -> Tensor:
    """The flat tensor in double precision; of complex numbers both parts."""
    return real_numbers(tensor).double()


def _dot(a: Tensor, b: Tensor) -> float:
    return float(a.flatten() @ b.flatten())


def _distance_and_cosine(squared: float, along: float, length: float) -> tuple[float, float, float]:
    """The distance, the cosine and, in the place of its median, the cosine again."""
    end = squared + 2 * along + length
    distance = (max(0.0, length) / squared) ** 0.5 if squared else 0.0
    cosine = (squared + along) / (squared * end) ** 0.5 if squared and end > 0 else 1.0
    return distance, cosine, cosine

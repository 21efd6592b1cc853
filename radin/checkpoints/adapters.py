"""LoRA adapters in peft's layout: folders with `adapter_config.json` and `adapter_model.*`.

`radin.checkpoints.adapted` adds them to their base, and `radin.checkpoints.adapter_zoo` opens
several of them as one zoo.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

from radin.checkpoints.adapter_config import CONFIG_NAME, MERGE, AdapterConfig, read_config
from radin.checkpoints.checkpoint import Checkpoint, open_checkpoint
from radin.checkpoints.dtypes import is_averaged
from radin.checkpoints.origin import is_soup
from radin.checkpoints.paths import Found
from radin.errors import CheckpointError, counted, list_names
from radin.files import describe_unreadable, expand_path, natural_order, update_hash

WEIGHTS_NAME = "adapter_model.safetensors"
_WEIGHT_NAMES = (WEIGHTS_NAME, "adapter_model.bin")
PREFIX = "base_model.model."  # of peft's own wrapper
_FACTOR = re.compile(r"(?P<module>.+)\.(?P<kind>lora|lora_embedding)_(?P<which>A|B)(\.weight)?$")
# What peft calls a layer inside its adapter, and a module that is saved whole
_WRAPPERS = re.compile(r"\.(base_layer|modules_to_save(\.default)?)(?=\.)")


class FactorKeys(NamedTuple):
    """The keys of the two factors of one module.

    Attributes:
        down: of A, (r, in).
        up: of B, (out, r).
        is_embedding: whether they change an embedding, whose weight is (B A) transposed.
    """

    down: str
    up: str
    is_embedding: bool


class Adapter:
    """A LoRA adapter: the change s B A of some weights of its base, and modules saved whole.

    Attributes:
        folder: that it lies in.
        path: of its tensors.
        config: its settings.
        tensors: as the file has them, mapped when they are asked for.
        factors: the keys of its factors, by the names that peft gives to the modules.
        whole: the keys of the tensors that are saved whole, by their names in the base.
    """

    def __init__(self, folder: Path, config: AdapterConfig, tensors: Checkpoint) -> None:
        self.folder = folder
        self.path = tensors.path
        self.config = config
        self.tensors = tensors
        self.factors, self.whole = _sort_keys(tensors)
        for module, keys in self.factors.items():
            self._check_shapes(module, keys)

    def __repr__(self) -> str:
        return f"Adapter({str(self.folder)!r}, {len(self.factors)} modules)"

    def scale(self, module: str) -> float:
        """The scale s of a module's product."""
        return self.config.scale(module)

    @cached_property
    def fingerprint(self) -> str:
        """A hash of all tensors and scales, which is the same for the same change of the base.

        Raises:
            CheckpointError: a tensor holds NaN or infinite weights.
        """
        digest = hashlib.sha256(str(self.config.is_transposed).encode())
        for key in sorted(self.tensors):
            tensor = self.tensors[key]
            if is_averaged(tensor.dtype) and not tensor.double().isfinite().all():
                raise CheckpointError(
                    f"{self.path}: {key} holds NaN or infinite weights; the training run diverged, "
                    "leave this adapter out."
                )
            update_hash(digest, key, tensor)
        scales = [(module, self.scale(module)) for module in sorted(self.factors)]
        digest.update(repr(scales).encode())
        return digest.hexdigest()

    def _check_shapes(self, module: str, keys: FactorKeys) -> None:
        """Refuse factors that cannot be multiplied, or have another rank than the settings say."""
        down = self.tensors[keys.down]
        up = self.tensors[keys.up]
        for key, tensor in ((keys.down, down), (keys.up, up)):
            if not is_averaged(tensor.dtype) or tensor.is_complex():
                raise CheckpointError(
                    f"{self.path}: {key} is {tensor.dtype}; save the adapter in single precision."
                )
            if tensor.ndim < 2:
                raise CheckpointError(
                    f"{self.path}: {key} has shape {tuple(tensor.shape)}, which is no factor; it "
                    "may be a part that a parallel training run did not gather. Save the whole "
                    "adapter."
                )
        rank = self.config.rank(module)
        if up.shape[1] != len(down) or any(side != 1 for side in up.shape[2:]):
            raise CheckpointError(
                f"{self.path}: the factors of {module} have shapes {tuple(down.shape)} and "
                f"{tuple(up.shape)}, which are no B A (peft makes such ones for a convolution in "
                f"groups); {MERGE}."
            )
        if len(down) != rank:
            raise CheckpointError(
                f"{self.path}: the factors of {module} have rank {len(down)}, but {CONFIG_NAME} "
                f"says {rank}; copy both files of one run again."
            )


def _sort_keys(tensors: Checkpoint) -> tuple[dict[str, FactorKeys], dict[str, str]]:
    """The keys of the factors by module, and those of whole tensors by their names in the base."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    whole: dict[str, str] = {}
    for key in tensors:
        name = key.removeprefix(PREFIX)
        if ".base_layer.out_proj.lora_" in name:
            raise CheckpointError(
                f"{tensors.path}: {key} is of an adapter of torch's MultiheadAttention, whose "
                "out_proj some versions of peft change by s B A and others by twice that, so the "
                f"file does not say by how much. With the version that trained it, {MERGE}."
            )
        match = _FACTOR.fullmatch(name) if name != key else None
        if match:
            found.setdefault((match["module"], match["kind"]), {})[match["which"]] = key
        elif name == key or "lora_" in name or "trainable_tokens" in name:
            raise CheckpointError(
                f"{tensors.path}: {key} is no factor of LoRA as peft saves it (its keys begin with "
                f"{PREFIX!r} and end with lora_A.weight or lora_B.weight); save the adapter with "
                f"peft's save_pretrained, or {MERGE}."
            )
        else:
            whole[name_in_base(name)] = key
    factors = {}
    for (module, kind), pair in found.items():
        if len(pair) != 2 or module in factors:
            raise CheckpointError(
                f"{tensors.path}: {module} has {'no B' if 'A' in pair else 'no A'}; save the whole "
                "adapter again."
            )
        factors[module] = FactorKeys(pair["A"], pair["B"], kind == "lora_embedding")
    if not factors:
        raise CheckpointError(f"{tensors.path}: holds no factor of LoRA; leave this folder out.")
    return factors, whole


def name_in_base(name: str) -> str:
    """A name of peft as the base model has it: without what peft wraps around its layers.

    >>> name_in_base("embed.base_layer.weight")
    'embed.weight'
    """
    return _WRAPPERS.sub("", name)


# Opening -----------------------------------------------------------------------------------------


def is_adapter(folder: Path) -> bool:
    """Whether a folder is an adapter of peft: it holds an `adapter_config.json`."""
    return os.path.isfile(folder / CONFIG_NAME)


def open_adapter(folder: str | Path) -> Adapter:
    """Open a LoRA adapter in peft's layout; its factors are read when they are used.

    Args:
        folder: with `adapter_config.json` and `adapter_model.safetensors` or `.bin`.

    Raises:
        CheckpointError: a file is missing or damaged, or the adapter changes its base by more than
            s B A: DoRA, trained biases, another type of adapter, and whatever else peft offers;
            the message names it and the way out.
    """
    folder = _adapter_folder(expand_path(folder))
    if not is_adapter(folder):
        raise CheckpointError(
            f"{folder}: no adapter of peft, which is a folder with {CONFIG_NAME}; give such "
            "folders."
        )
    config = read_config(folder)
    names = [name for name in _WEIGHT_NAMES if os.path.isfile(folder / name)]
    if not names:
        raise CheckpointError(
            f"{folder}: {CONFIG_NAME} without {' or '.join(_WEIGHT_NAMES)}; copy the adapter again."
        )
    return Adapter(folder, config, open_checkpoint(folder / names[0]))


def find_adapters(paths: str | Path | Iterable[str | Path]) -> Found:
    """The folders of adapters that an argument means, in natural order; a list keeps its own order.

    Args:
        paths: a folder of adapters (or an adapter), a glob of them, or a list.

    Raises:
        CheckpointError: none is found, or one of a list is no adapter.
    """
    if not isinstance(paths, str | Path):
        found = [_find(path) for path in paths]
        if not found:
            raise CheckpointError("No adapters given: a zoo needs at least one.")
        folders = [folder for each in found for folder in each.paths]
        return Found(folders, [note for each in found for note in each.notes])
    return _find(paths)


def _find(given: str | Path) -> Found:
    path = _adapter_folder(expand_path(given))
    if is_adapter(path):
        return Found([path], [])
    if os.path.isdir(path):
        candidates = _folders_in(path)
        matches = candidates
    else:
        matches = [Path(match) for match in glob.glob(str(path), recursive=True)]
        candidates = list(dict.fromkeys(map(_adapter_folder, matches)))
    adapters = sorted(filter(is_adapter, candidates), key=natural_order)
    soups = [each for each in adapters if is_soup(each / WEIGHTS_NAME)]
    kept = [each for each in adapters if each not in soups] or adapters
    if not kept:
        raise CheckpointError(
            f"{path}: no adapter of peft found there; give folders with {CONFIG_NAME}, a folder of "
            "them or a glob."
        )
    others = [each.name for each in candidates if os.path.isdir(each) and each not in adapters]
    notes = []
    if others:
        folders = counted(len(others), "folder")
        notes.append(f"left aside, {folders} without an adapter: {_some(others)}")
    if len(kept) < len(adapters):
        aside = [each.name for each in soups]
        number = counted(len(aside), "adapter")
        notes.append(f"left aside, {number} that radin wrote itself: {_some(aside)}")
    return Found(kept, notes)


def _some(names: Iterable[str]) -> str:
    return list_names(sorted(names), most=4)


def _folders_in(folder: Path) -> list[Path]:
    if reason := describe_unreadable(folder):
        raise CheckpointError(f"{folder}: could not be read ({reason}).")
    return [each for each in folder.iterdir() if each.is_dir() and not each.name.startswith(".")]


def _adapter_folder(path: Path) -> Path:
    """The folder of an adapter where one of its own files is given."""
    return path.parent if path.name in (CONFIG_NAME, *_WEIGHT_NAMES) else path


def holds_adapters(paths: str | Path | Iterable[str | Path]) -> bool:
    """Whether `find_adapters` finds something."""
    try:
        return bool(find_adapters(paths).paths)
    except CheckpointError:
        return False


def names_of(folders: Iterable[Path]) -> list[str]:
    """The shortest of name, parent/name and whole path that tells folders apart."""
    paths = list(folders)
    for num_parts in (1, 2):
        names = ["/".join(path.parts[-num_parts:]) for path in paths]
        if len(set(names)) == len(paths):
            return names
    return [str(path) for path in paths]


def is_adapter_file(path: Path) -> bool:
    """Whether a file is the weights of an adapter of peft."""
    return path.name in _WEIGHT_NAMES and is_adapter(path.parent)


def refuse_adapters(files: Iterable[Path]) -> None:
    """Raise CheckpointError where a checkpoint file is the weights of an adapter.

    Its factors alone do not say how large their product is; the settings beside them do.
    """
    if found := [*filter(is_adapter_file, files)]:
        raise CheckpointError(
            f"{list_names(found)}: LoRA adapters, which change another checkpoint, their base; "
            "give it with radin.open_adapters(..., base), or --base on the command line (radin "
            "average needs none where --out is a folder, for an adapter)."
        )

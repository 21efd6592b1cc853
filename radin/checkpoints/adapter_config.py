"""The settings of a LoRA adapter as peft writes them, and which of them radin can average.

An adapter changes a weight W of its base to W + s B A, and its `adapter_config.json` says how large
the scale s is. Settings under which the change is anything else are refused by name.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from radin.checkpoints.formats import read_json
from radin.errors import CheckpointError

CONFIG_NAME = "adapter_config.json"

MERGE = (
    "merge each adapter into its base model (with peft: model.merge_and_unload()), save that "
    "model's state dict, and average those files"
)
# What an adapter is, how it was trained and where its layers are: nothing that changes B A.
_HARMLESS = frozenset(
    (
        *("peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path"),
        *("revision", "inference_mode", "runtime_config", "target_modules", "exclude_modules"),
        *("layers_to_transform", "layers_pattern", "lora_dropout", "megatron_core"),
        *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size"),
        *("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora", "fan_in_fan_out"),
        *("init_lora_weights", "bias", "modules_to_save"),
    )
)
# The starts of B and A that leave the weights of the base as they are.
_PLAIN_STARTS = (True, False, None, "gaussian", "orthogonal", "eva", "mica")
# Of other settings peft's name, where one is known to the reader under another.
_FULL_NAMES = {
    "use_dora": "use_dora (DoRA)",
    "trainable_token_indices": "trainable_token_indices (trained rows of an embedding)",
    "target_parameters": "target_parameters (adapters of single parameters, as of experts)",
    "lora_bias": "lora_bias (biases of the factors)",
    "alora_invocation_tokens": "alora_invocation_tokens (activated LoRA)",
}


class AdapterConfig(NamedTuple):
    """The settings of one adapter.

    Attributes:
        path: of its `adapter_config.json`.
        content: all settings, as peft names them.
    """

    path: Path
    content: Mapping[str, Any]

    @property
    def is_transposed(self) -> bool:
        """Whether the weights of the base are stored as (in, out), as GPT-2's are."""
        return bool(self.content.get("fan_in_fan_out"))

    @property
    def whole_modules(self) -> list[str]:
        """The modules that were trained as a whole and are saved beside the factors."""
        return sorted(self.content.get("modules_to_save") or ())

    @property
    def base_name(self) -> str:
        """What peft calls the base model: a path or a name of a hub; "" where it does not say."""
        return str(self.content.get("base_model_name_or_path") or "")

    def rank(self, module: str) -> int:
        """The rank r of the factors of a module."""
        rank = self._of("rank_pattern", module, self.content.get("r"))
        if isinstance(rank, bool) or not isinstance(rank, int) or rank < 1:
            raise CheckpointError(
                f"{self.path}: the rank r of {module} is {rank!r}, not a whole number of at least "
                "1; save the adapter again."
            )
        return rank

    def scale(self, module: str) -> float:
        """The scale s of the product B A of a module: alpha / r, or alpha / sqrt(r) of rslora."""
        alpha = self._of("alpha_pattern", module, self.content.get("lora_alpha"))
        if (
            isinstance(alpha, bool)
            or not isinstance(alpha, int | float)
            or not math.isfinite(alpha)
        ):
            raise CheckpointError(
                f"{self.path}: the lora_alpha of {module} is {alpha!r}, not a number; save the "
                "adapter again."
            )
        rank = self.rank(module)
        return alpha / (math.sqrt(rank) if self.content.get("use_rslora") else rank)

    def _of(self, name: str, module: str, default: Any) -> Any:
        try:
            return pattern_value(self.content.get(name) or {}, module, default)
        except (re.error, TypeError) as error:
            raise CheckpointError(
                f"{self.path}: {name} holds no valid pattern ({error}); save the adapter again."
            ) from error


def pattern_value(patterns: Mapping[str, Any], module: str, default: Any) -> Any:
    """The value of the first pattern that a module's name, or the end of it, matches.

    This is how peft reads `rank_pattern` and `alpha_pattern`.

    >>> pattern_value({"attn.q": 16, "q": 2}, "layers.0.attn.q", 8)
    16
    """
    for pattern, value in patterns.items():
        if re.match(rf"(.*\.)?({pattern})$", module):
            return value
    return default


def read_config(folder: Path) -> AdapterConfig:
    """The settings of the adapter in a folder.

    Raises:
        CheckpointError: the file is damaged, or the adapter is no LoRA adapter whose change of the
            base is s B A and nothing else.
    """
    path = folder / CONFIG_NAME
    content = read_json(path)
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: not the settings of an adapter; copy or make it again.")
    _check_kind(path, content)
    for name, value in content.items():
        if name not in _HARMLESS and value:
            raise _refusal(path, f"{_FULL_NAMES.get(name, name)}, which changes more than B A")
    _check_collections(path, content)
    return AdapterConfig(path, content)


def _check_kind(path: Path, content: Mapping[str, Any]) -> None:
    kind = content.get("peft_type")
    if kind != "LORA":
        raise _refusal(path, f"peft_type {kind!r}, and radin averages LORA alone")
    if (content.get("bias") or "none") != "none":
        raise _refusal(path, f"bias={content['bias']!r}: the biases of the base were trained, too")
    start = content.get("init_lora_weights", True)
    if start not in _PLAIN_STARTS:
        raise CheckpointError(
            f"{path}: the adapter began with init_lora_weights={start!r}, which changes the "
            "weights of the base; convert it to plain LoRA (with peft: save_pretrained(..., "
            f"path_initial_model_for_weight_conversion=...)), or {MERGE}."
        )


def _check_collections(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse patterns that are no dicts and modules that are no list of names."""
    for name in ("rank_pattern", "alpha_pattern"):
        if not isinstance(content.get(name) or {}, dict):
            raise CheckpointError(f"{path}: {name} is no dict of modules; save the adapter again.")
    modules = content.get("modules_to_save") or []
    if not isinstance(modules, list) or not all(isinstance(each, str) for each in modules):
        raise CheckpointError(
            f"{path}: modules_to_save is no list of names; save the adapter again."
        )


def _refusal(path: Path, reason: str) -> CheckpointError:
    return CheckpointError(f"{path}: the adapter has {reason}; {MERGE}.")

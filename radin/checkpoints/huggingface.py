"""Classifiers of the library transformers, built from the config.json beside a checkpoint.

Code that such a folder may bring is never run, and without a word from the user nothing is
downloaded.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor, nn

from radin.checkpoints.libraries import import_library, reason_of
from radin.errors import CheckpointError, ParameterError, list_names
from radin.files import expand_path

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"
_CLASSIFIER = re.compile(r"\w+For(Image|Sequence)Classification\w*")


class Preprocessing(NamedTuple):
    """What a preprocessor_config.json says about images.

    Attributes:
        mean, std: of each channel, for pixels from 0 to 1.
        size: edge of the square that the network sees; None where the file does not say it.
    """

    mean: list[float]
    std: list[float]
    size: int | None


def hf_builder(
    folder: str, num_classes: int | None, *, online: bool = False
) -> Callable[[], nn.Module]:
    """A function that builds one empty classifier of transformers, in single precision.

    Its state dict has the keys of the checkpoint. It takes a batch of tensors, or a mapping from
    the names of the model's arguments to tensors, and returns logits, where the library's own model
    returns an object that holds them. Nothing is downloaded.

    Args:
        folder: with a config.json, as `save_pretrained` writes it. Its entry `architectures` names
            a model for the classification of images or sequences, or its model type has one.
        num_classes: C, which the config.json must have too; None for what it has.
        online: whether `folder` may be a name on the Hugging Face hub, whose config.json is then
            downloaded.

    Raises:
        ParameterError: no such folder or config.json, a model that is no classifier or has another
            number of classes, or transformers is missing.

    >>> from radin.checkpoints.huggingface import hf_builder
    >>> try:
    ...     hf_builder("no/such/folder", num_classes=10)
    ... except ParameterError as error:
    ...     print(str(error).partition(";")[0])
    hf:no/such/folder: there is no folder no/such/folder
    """
    spec = f"hf:{folder}"
    local = _local_folder(folder, online=online)
    _import_transformers()
    config = _load_config(spec, local or folder, online=local is None)
    class_name = _class_name(spec, config)
    if num_classes not in (None, config.num_labels):
        raise ParameterError(
            f"{spec}: its {CONFIG_FILE} has {config.num_labels} classes (num_labels), the data "
            f"{num_classes}; give the folder of a model that was trained for these classes."
        )
    config.return_dict = True
    if hasattr(config, "use_cache"):  # of decoders; it would only hold memory
        config.use_cache = False

    def build() -> nn.Module:
        try:
            # The model may change its config, and two models must not share one.
            return _logits_class(class_name)(copy.deepcopy(config)).float()
        except Exception as error:  # a config.json may hold anything
            raise ParameterError(
                f"{spec}: transformers cannot build {class_name} from its {CONFIG_FILE} "
                f"({reason_of(error)}); repair that file."
            ) from error

    return build


def builder_beside(checkpoint: Path) -> Callable[[], nn.Module] | None:
    """What builds the classifier of the config.json beside a checkpoint; None where nothing does.

    transformers saves some models under other names than those of their modules.
    """
    if not os.path.isfile(checkpoint.parent / CONFIG_FILE):
        return None
    try:
        return hf_builder(str(checkpoint.parent), None)
    except ParameterError:
        return None


def label_names(folder: str) -> list[str]:
    """The classes of a config.json, in the order of the logits; none where it does not name them.

    Raises:
        ParameterError: the file cannot be read.
    """
    local = _local_folder(folder, online=True)
    if local is None:
        return []
    names = _read_json(local / CONFIG_FILE).get("id2label") or {}
    if not isinstance(names, Mapping) or not all(str(key).isdecimal() for key in names):
        return []
    in_order = [str(names[key]) for key in sorted(names, key=int)]
    own = all(re.fullmatch(r"LABEL_\d+", name) for name in in_order)
    return [] if own else in_order


def preprocessing(folder: str) -> Preprocessing | None:
    """The colours in a folder's preprocessor_config.json; None without the file.

    Raises:
        ParameterError: the file cannot be read, or its pixels have another range than 0 to 1.
    """
    local = _local_folder(folder, online=True)
    if local is None or not os.path.isfile(path := local / PROCESSOR_FILE):
        return None
    options = _read_json(path)
    factor = options.get("rescale_factor", 1 / 255)
    usual = isinstance(factor, int | float) and abs(factor - 1 / 255) < 1e-9
    if not (options.get("do_rescale", True) and usual):
        raise ParameterError(
            f"{path}: its pixels do not run from 0 to 1 (do_rescale, rescale_factor); give --mean "
            "and --std, for pixels from 0 to 1."
        )
    if not options.get("do_normalize", True):
        return Preprocessing([0.0] * 3, [1.0] * 3, _edge(options))
    mean, std = (options.get(name) for name in ("image_mean", "image_std"))
    if not (isinstance(mean, list) and isinstance(std, list)):
        return None
    return Preprocessing(mean, std, _edge(options))


def _edge(options: Mapping[str, Any]) -> int | None:
    """The edge of the images in a preprocessor_config.json; None where they are not square."""
    crop = options.get("crop_size") if options.get("do_center_crop", True) else None
    sizes = crop or options.get("size")
    if isinstance(sizes, Mapping):
        edges = {sizes.get(name) for name in ("height", "width", "shortest_edge")} - {None}
    else:
        edges = {sizes}
    edge = edges.pop() if len(edges) == 1 else None
    return edge if isinstance(edge, int) and edge > 0 else None


def check_same_classes(paths: Sequence[Path]) -> None:
    """Refuse checkpoints whose config.json files give the logits other classes.

    Args:
        paths: of checkpoint files; those without a config.json beside them are passed over.

    Raises:
        CheckpointError: two of them name other classes, or the same in another order.
    """
    folders = [path.parent for path in paths if os.path.isfile(path.parent / CONFIG_FILE)]
    named = [(folder, names) for folder in folders if (names := label_names(str(folder)))]
    for folder, names in named[1:]:
        first, expected = named[0]
        if names != expected:
            differing = [pair for pair in zip(names, expected, strict=False) if len({*pair}) > 1]
            own, other = differing[0] if differing else (len(names), len(expected))
            raise CheckpointError(
                f"{folder / CONFIG_FILE} and {first / CONFIG_FILE} give the logits other classes, "
                f"{own!r} in the place of {other!r}; such networks cannot be averaged."
            )


# Reading -----------------------------------------------------------------------------------------


def _local_folder(folder: str, *, online: bool) -> Path | None:
    """The folder with the config.json; None for a name on the hub, where that is allowed."""
    path = expand_path(folder)
    if path.name == CONFIG_FILE and os.path.isfile(path):
        path = path.parent
    if os.path.isfile(path / CONFIG_FILE):
        return path
    if online and not os.path.exists(path):
        return None
    found = f"no {CONFIG_FILE} in" if os.path.isdir(path) else "no folder"
    raise ParameterError(
        f"hf:{folder}: there is {found} {path}; give a folder that save_pretrained of transformers "
        "wrote, or allow --online for a name on the Hugging Face hub."
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ParameterError(
            f"{path}: could not be read ({reason_of(error)}); write it again with save_pretrained."
        ) from error
    if not isinstance(content, dict):
        raise ParameterError(f"{path}: holds no object; write it again with save_pretrained.")
    return content


def _import_transformers() -> Any:
    return import_library("transformers", "transformers")


def _load_config(spec: str, folder: str | Path, *, online: bool) -> Any:
    if not online:
        _read_json(Path(folder) / CONFIG_FILE)
    try:
        return _import_transformers().AutoConfig.from_pretrained(
            folder, local_files_only=not online, trust_remote_code=False
        )
    except Exception as error:  # transformers and its hub raise many kinds
        reason = reason_of(error)
        if not online and "auto_map" in _read_json(Path(folder) / CONFIG_FILE):
            reason = "it needs code that comes with the model, and radin does not run that"
        raise ParameterError(
            f"{spec}: transformers knows no model for its {CONFIG_FILE} ({reason}); write a "
            "function that builds the model, and give package.module:function."
        ) from error


def _class_name(spec: str, config: Any) -> str:
    """The classifier that a config is of."""
    by_type = _classifiers()
    known = {name for names in by_type.values() for name in names}
    wanted = list(config.architectures or ())
    if found := [name for name in wanted if name in known]:
        return found[0]
    of_type = by_type.get(config.model_type, [])
    if wanted or len(of_type) != 1:
        what = f"a {wanted[0]}" if wanted else f"a model of type {config.model_type!r}"
        choice = f" (those of its type are {list_names(of_type)})" if of_type else ""
        raise ParameterError(
            f"{spec}: its {CONFIG_FILE} is of {what}, which classifies neither images nor "
            f"sequences{choice}; give the folder of a classifier, or write its class into "
            '"architectures".'
        )
    return of_type[0]


def _classifiers() -> dict[str, list[str]]:
    """The names of the classes for images and sequences by the type of the model."""
    auto = import_library("transformers.models.auto.modeling_auto", "transformers")
    found: dict[str, list[str]] = {}
    for names in (
        auto.MODEL_FOR_IMAGE_CLASSIFICATION_MAPPING_NAMES,
        auto.MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING_NAMES,
    ):
        for model_type, classes in names.items():
            found.setdefault(model_type, []).extend(
                [classes] if isinstance(classes, str) else classes
            )
    return found


# Logits ------------------------------------------------------------------------------------------


class _Logits:
    """A model of transformers that returns logits alone."""

    main_input_name: str

    def __init__(self, config: Any) -> None:
        super().__init__(config)  # type: ignore[call-arg]
        self.register_load_state_dict_pre_hook(_rename_stored_keys)  # type: ignore[attr-defined]

    def forward(
        self, inputs: Tensor | Mapping[str, Tensor] | None = None, **named: Tensor
    ) -> Tensor:
        if isinstance(inputs, Mapping):
            named = {**inputs, **named}
        elif inputs is not None:
            named = {self.main_input_name: inputs, **named}
        return super().forward(**named).logits  # type: ignore[misc]


@cache
def _logits_class(name: str) -> type[nn.Module]:
    """The class of transformers with this name, whose models return logits."""
    own = getattr(_import_transformers(), name)
    return type(name, (_Logits, own), {"__module__": __name__, "__doc__": own.__doc__})


def _rename_stored_keys(model: nn.Module, tensors: dict[str, Tensor], *_: Any) -> None:
    """Give the tensors of a file the names that they have in the model.

    `from_pretrained` does this too: `save_pretrained` writes the names of an older version.
    """
    own = model.state_dict().keys()
    unknown = [key for key in tensors if key not in own]
    renamed = _rename(model, unknown) if unknown else {}
    for key, name in renamed.items():
        if name in own and name not in tensors:
            tensors[name] = tensors.pop(key)


def _rename(model: nn.Module, keys: Sequence[str]) -> dict[str, str]:
    """The keys of a file, and those that transformers gives them in the model."""
    try:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightRenaming, apply_renamings
    except ImportError:  # before version 5, the model has the names of the file
        return {}
    steps = [
        step for step in get_model_conversion_mapping(model) if isinstance(step, WeightRenaming)
    ]
    return {key: apply_renamings(key, steps) for key in keys}


def __getattr__(name: str) -> Any:
    """The classes of `_logits_class`: pickle looks for them in this module."""
    if _CLASSIFIER.fullmatch(name):
        return _logits_class(name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

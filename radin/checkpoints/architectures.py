"""Networks by name: of open_clip, timm, torchvision or transformers, or of a user's function.

A library is imported when a network of it is asked for. Nothing is downloaded: weights are random.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from radin.checkpoints.huggingface import hf_builder
from radin.checkpoints.libraries import SPEC_FORMS, check_name, import_library, reason_of, suggest
from radin.errors import ParameterError, check_integer


def builder(spec: str, num_classes: int, *, online: bool = False) -> Callable[[], nn.Module]:
    """A function that builds one empty classifier, as `Zoo.open(..., build=...)` takes it.

    Args:
        spec: "open_clip:NAME", the image tower with a linear head (see `ClipClassifier`);
            "timm:NAME"; "torchvision:NAME"; "hf:FOLDER", the model of transformers that the
            folder's config.json describes (see `hf_builder`); or "package.module:function", a
            function that takes no argument, or `num_classes`.
        num_classes: C.
        online: whether "hf:NAME" may ask the Hugging Face hub for the config.json of a NAME that
            is no folder here.

    Raises:
        ParameterError: another spec, an unknown name or function, a library that is missing, or
            a model of transformers that does not have C classes.

    >>> import torch
    >>> from radin.checkpoints.architectures import builder
    >>> build = builder("torchvision:squeezenet1_1", num_classes=10)
    >>> build()(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 10])
    """
    num_classes = check_integer("num_classes", num_classes, minimum=1)
    source, colon, name = spec.partition(":")
    if not colon or not source or not name:
        raise ParameterError(f"{spec!r} names no model; write {SPEC_FORMS}.")
    libraries = {
        "open_clip": _open_clip_builder,
        "timm": _timm_builder,
        "torchvision": _torchvision_builder,
    }
    if source == "hf":
        return hf_builder(name, num_classes, online=online)
    if source in libraries:
        return libraries[source](name, num_classes)
    similar = get_close_matches(source.lower().replace("-", "_"), libraries, n=1)
    return _function_builder(source, name, num_classes, similar)


class ClipClassifier(nn.Module):
    """The image tower of a CLIP model, its features scaled to length 1, and a linear head.

    The head has a bias; there is no logit scale. Parameters have the names of the published
    ingredients of Model soups (Wortsman et al. 2022): `model.visual.*` and
    `classification_head.*`.

    Args:
        visual: from images (n, 3, height, width) to features (n, width).
        width: of the features.
        num_classes: C.

    Returns:
        Logits (n, C) for images (n, 3, height, width).
    """

    def __init__(self, visual: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"visual": visual})
        self.classification_head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classification_head(F.normalize(self.model["visual"](images), dim=-1))


# Libraries ---------------------------------------------------------------------------------------


def _open_clip_builder(name: str, num_classes: int) -> Callable[[], nn.Module]:
    open_clip = import_library("open_clip", "open_clip_torch")
    check_name("open_clip", name, open_clip.list_models())

    def build() -> nn.Module:
        config = open_clip.get_model_config(name)
        # open_clip.create_model would build the text tower too, and some of those need a download.
        vision = {**config["vision_cfg"], "timm_model_pretrained": False, "output_tokens": False}
        visual = open_clip.model._build_vision_tower(
            config["embed_dim"], vision, config.get("quick_gelu", False)
        )
        return ClipClassifier(visual, config["embed_dim"], num_classes)

    return build


def _timm_builder(name: str, num_classes: int) -> Callable[[], nn.Module]:
    timm = import_library("timm", "timm")
    if not timm.is_model(name):
        check_name("timm", name, timm.list_models())
    return lambda: timm.create_model(name, pretrained=False, num_classes=num_classes)


def _torchvision_builder(name: str, num_classes: int) -> Callable[[], nn.Module]:
    models = import_library("torchvision.models", "torchvision")
    # With `module=models`, only classifiers are listed, and no detectors.
    check_name("torchvision", name, models.list_models(module=models))
    # A checkpoint replaces the weights anyway, and initialising Inception takes half a minute.
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda: models.get_model(name, weights=None, num_classes=num_classes, **options)


# Functions of the user's own ---------------------------------------------------------------------


def _function_builder(
    module_name: str, name: str, num_classes: int, similar: list[str]
) -> Callable[[], nn.Module]:
    """The user's function as a builder.

    Args:
        similar: the library whose name is like the module's, for a message.
    """
    spec = f"{module_name}:{name}"
    function = find_function(module_name, name, similar)
    parameters = _check_signature(spec, function)
    arguments = {"num_classes": num_classes} if "num_classes" in parameters else {}

    def build() -> nn.Module:
        try:
            model = function(**arguments)
        except Exception as error:
            raise ParameterError(
                f"{spec} failed ({reason_of(error)}); fix that function."
            ) from error
        if not isinstance(model, nn.Module):
            raise ParameterError(
                f"{spec} returned a {type(model).__name__}; it must return a torch.nn.Module."
            )
        return model

    return build


def find_function(
    module_name: str, name: str, similar: Sequence[str] = (), *, forms: str = SPEC_FORMS
) -> Callable[..., Any]:
    """A function of the user's own.

    Args:
        module_name: where it is, on Python's path.
        name: of the function.
        similar: the library whose name is like the module's, for a message.
        forms: what the option takes, for a message.

    Raises:
        ParameterError: there is no such module or function, or the module cannot be imported.
    """
    module = _import_user_module(module_name, name, similar, forms)
    return _find_function(f"{module_name}:{name}", module, name)


def _import_user_module(
    module_name: str, name: str, similar: Sequence[str], forms: str
) -> ModuleType:
    spec = f"{module_name}:{name}"
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_error(spec, module_name, error) from error
        hint = (
            f"did you mean {similar[0]}:{name}?"
            if similar
            else f"write {forms}, the module on Python's path."
        )
        raise ParameterError(f"{spec}: there is no module {error.name!r}; {hint}") from error
    except Exception as error:  # this runs the user's own code
        raise _import_error(spec, module_name, error) from error


def _import_error(spec: str, module_name: str, error: Exception) -> ParameterError:
    return ParameterError(
        f"{spec}: importing {module_name} failed ({reason_of(error)}); fix that module."
    )


def _find_function(spec: str, module: ModuleType, name: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        names = [
            each
            for each, value in vars(module).items()
            if callable(value) and not each.startswith("_")
        ]
        raise ParameterError(
            f"{spec}: {module.__name__} has no function {name!r}; {suggest(name, names)}."
        )
    return function


def _check_signature(spec: str, function: Callable[..., Any]) -> list[str]:
    """The parameters of a function that needs no argument but `num_classes`."""
    try:
        parameters = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some built-in functions have no signature
        return []
    variable = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    required = [
        each.name
        for each in parameters.values()
        if each.default is each.empty and each.kind not in variable
    ]
    if set(required) - {"num_classes"}:
        raise ParameterError(
            f"{spec} asks for {', '.join(required)}; a build function takes no argument, or "
            "num_classes alone."
        )
    return list(parameters)

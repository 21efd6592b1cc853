"""Networks by name: models of open_clip, timm or torchvision, or what a user's function builds.

A library is imported when a network of it is asked for. Nothing is downloaded: weights are random.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection
from difflib import get_close_matches
from types import ModuleType
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

from radin.errors import ParameterError, check_integer

SPEC_FORMS = "open_clip:NAME, timm:NAME, torchvision:NAME or package.module:function"


def builder(spec: str, num_classes: int) -> Callable[[], nn.Module]:
    """A function that builds one empty classifier, as `Zoo.open(..., build=...)` takes it.

    Args:
        spec: "open_clip:NAME", the image tower with a linear head (see `ClipClassifier`);
            "timm:NAME"; "torchvision:NAME"; or "package.module:function", a function that takes no
            argument, or `num_classes`.
        num_classes: C.

    Raises:
        ParameterError: another spec, an unknown name or function, or a library that is missing.
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
    open_clip = _import_library("open_clip", "open_clip_torch")
    _check_name("open_clip", name, open_clip.list_models())

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
    timm = _import_library("timm", "timm")
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    return lambda: timm.create_model(name, pretrained=False, num_classes=num_classes)


def _torchvision_builder(name: str, num_classes: int) -> Callable[[], nn.Module]:
    models = _import_library("torchvision.models", "torchvision")
    # With `module=models`, only classifiers are listed, and no detectors.
    _check_name("torchvision", name, models.list_models(module=models))
    # A checkpoint replaces the weights anyway, and initialising Inception takes half a minute.
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda: models.get_model(name, weights=None, num_classes=num_classes, **options)


def _import_library(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another torch
        raise ParameterError(
            f"{module} cannot be imported ({_reason(error)}); install it: pip install {package}."
        ) from error


def _check_name(library: str, name: str, names: Collection[str]) -> None:
    if name not in names:
        raise ParameterError(f"{library} has no model {name!r}; {_suggest(name, names)}.")


def _suggest(name: str, names: Collection[str]) -> str:
    """The names that are most like a wrong one, as the second half of a sentence."""
    by_lower = {each.lower(): each for each in names}
    if near := get_close_matches(name.lower(), by_lower, n=3):
        verb = "is" if len(near) == 1 else "are"
        return f"nearest {verb} {', '.join(by_lower[each] for each in near)}"
    return (
        f"it has {len(names)}, such as {', '.join(sorted(names)[:3])}" if names else "it has none"
    )


# Functions of the user's own ---------------------------------------------------------------------


def _function_builder(
    module_name: str, name: str, num_classes: int, similar: list[str]
) -> Callable[[], nn.Module]:
    """The user's function as a builder.

    Args:
        similar: the library whose name is like the module's, for a message.
    """
    spec = f"{module_name}:{name}"
    function = _find_function(spec, _import_user_module(module_name, name, similar), name)
    parameters = _check_signature(spec, function)
    arguments = {"num_classes": num_classes} if "num_classes" in parameters else {}

    def build() -> nn.Module:
        try:
            model = function(**arguments)
        except Exception as error:
            raise ParameterError(f"{spec} failed ({_reason(error)}); fix that function.") from error
        if not isinstance(model, nn.Module):
            raise ParameterError(
                f"{spec} returned a {type(model).__name__}; it must return a torch.nn.Module."
            )
        return model

    return build


def _import_user_module(module_name: str, name: str, similar: list[str]) -> ModuleType:
    spec = f"{module_name}:{name}"
    try:
        return importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if not error.name or not f"{module_name}.".startswith(f"{error.name}."):
            raise _import_error(spec, module_name, error) from error
        hint = (
            f"did you mean {similar[0]}:{name}?"
            if similar
            else f"write {SPEC_FORMS}, the module on Python's path."
        )
        raise ParameterError(f"{spec}: there is no module {error.name!r}; {hint}") from error
    except Exception as error:  # this runs the user's own code
        raise _import_error(spec, module_name, error) from error


def _import_error(spec: str, module_name: str, error: Exception) -> ParameterError:
    return ParameterError(
        f"{spec}: importing {module_name} failed ({_reason(error)}); fix that module."
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
            f"{spec}: {module.__name__} has no function {name!r}; {_suggest(name, names)}."
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


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

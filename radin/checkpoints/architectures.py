"""Networks by name: any model of open_clip, timm or torchvision, or what a function of the user's own builds.

The libraries are imported when a network of theirs is asked for. Nothing is downloaded: weights are random.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection
from difflib import get_close_matches
from types import ModuleType

import torch.nn.functional as F
from torch import Tensor, nn

from radin.errors import ParameterError, check_integer

FORMS = "open_clip:NAME, timm:NAME, torchvision:NAME or package.module:function"


def builder(spec: str, num_classes: int) -> Callable[[], nn.Module]:
    """A function that builds one empty classifier, as `Zoo.open(..., build=...)` takes it.

    Args:
        spec: "open_clip:NAME", the image tower with a linear head (see `ClipClassifier`); "timm:NAME";
            "torchvision:NAME"; or "package.module:function", a function that takes no argument, or `num_classes`.
        num_classes: C.

    Raises ParameterError for another spec, a name or function that is not there, or a library that is missing.
    """
    num_classes = check_integer("num_classes", num_classes, minimum=1)
    kind, colon, name = spec.partition(":")
    if not colon or not kind or not name:
        raise ParameterError(f"{spec!r} names no model; write {FORMS}.")
    known = {"open_clip": _open_clip, "timm": _timm, "torchvision": _torchvision}
    if kind in known:
        return known[kind](name, num_classes)
    return _of_the_user(kind, name, num_classes, [each for each in known if _is_like(kind, each)])


class ClipClassifier(nn.Module):
    """The image tower of a CLIP model, its features scaled to length 1, and a linear head with bias; no logit scale.

    Parameters are named as in the published ingredients of Model soups (Wortsman et al. 2022): `model.visual.*`
    and `classification_head.*`.

    Args:
        visual: from images (n, 3, height, width) to features (n, width).
        width: of the features.
        num_classes: C.

    Output logits (n, C).
    """

    def __init__(self, visual: nn.Module, width: int, num_classes: int) -> None:
        super().__init__()
        self.model = nn.ModuleDict({"visual": visual})
        self.classification_head = nn.Linear(width, num_classes)

    def forward(self, images: Tensor) -> Tensor:
        return self.classification_head(F.normalize(self.model["visual"](images), dim=-1))


def _open_clip(name: str, num_classes: int) -> Callable[[], nn.Module]:
    open_clip = _library("open_clip", "open_clip_torch")
    _check_name("open_clip", name, open_clip.list_models())

    def build() -> nn.Module:
        config = open_clip.get_model_config(name)
        # The tower alone: open_clip.create_model would build the text tower with it, some of which need a download.
        vision = {**config["vision_cfg"], "timm_model_pretrained": False, "output_tokens": False}
        visual = open_clip.model._build_vision_tower(
            config["embed_dim"], vision, config.get("quick_gelu", False)
        )
        return ClipClassifier(visual, config["embed_dim"], num_classes)

    return build


def _timm(name: str, num_classes: int) -> Callable[[], nn.Module]:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    return lambda: timm.create_model(name, pretrained=False, num_classes=num_classes)


def _torchvision(name: str, num_classes: int) -> Callable[[], nn.Module]:
    models = _library("torchvision.models", "torchvision")
    _check_name(
        "torchvision", name, models.list_models(module=models)
    )  # classifiers, none of those that find boxes
    # Weights that a checkpoint will replace need no careful start, and Inception's takes half a minute.
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda: models.get_model(name, weights=None, num_classes=num_classes, **more)


def _of_the_user(
    module: str, name: str, num_classes: int, meant: list[str]
) -> Callable[[], nn.Module]:
    spec = f"{module}:{name}"
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's own code runs here
        if (
            isinstance(error, ModuleNotFoundError)
            and error.name
            and f"{module}.".startswith(f"{error.name}.")
        ):
            mend = (
                f"did you mean {meant[0]}:{name}?"
                if meant
                else f"write {FORMS}, the module on Python's path."
            )
            raise ParameterError(f"{spec}: there is no module {error.name!r}; {mend}") from error
        raise ParameterError(
            f"{spec}: importing {module} failed ({_reason(error)}); mend that module."
        ) from error
    function = getattr(found, name, None)
    if not callable(function):
        there = [
            each
            for each, value in vars(found).items()
            if callable(value) and not each.startswith("_")
        ]
        raise ParameterError(f"{spec}: {module} has no function {name!r}; {_nearest(name, there)}.")
    try:
        wants = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some built-in ones have none
        wants = {}
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [
        each.name for each in wants.values() if each.default is each.empty and each.kind not in rest
    ]
    if set(needed) - {"num_classes"}:
        raise ParameterError(
            f"{spec} asks for {', '.join(needed)}; a build function takes no argument, or num_classes alone."
        )
    arguments = {"num_classes": num_classes} if "num_classes" in wants else {}

    def build() -> nn.Module:
        try:
            model = function(**arguments)
        except Exception as error:
            raise ParameterError(
                f"{spec} failed ({_reason(error)}); mend that function."
            ) from error
        if not isinstance(model, nn.Module):
            raise ParameterError(
                f"{spec} returned a {type(model).__name__}; it must return a torch.nn.Module."
            )
        return model

    return build


def _library(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (
        ImportError,
        RuntimeError,
    ) as error:  # torchvision beside another build of torch raises the latter
        raise ParameterError(
            f"{module} cannot be imported ({_reason(error)}); install it: pip install {package}."
        ) from error


def _check_name(library: str, name: str, known: Collection[str]) -> None:
    if name not in known:
        raise ParameterError(f"{library} has no model {name!r}; {_nearest(name, known)}.")


def _nearest(name: str, known: Collection[str]) -> str:
    """What may have been meant, as the second half of a sentence."""
    by_lower = {each.lower(): each for each in known}
    if near := get_close_matches(name.lower(), by_lower, n=3):
        return f"nearest {'is' if len(near) == 1 else 'are'} {', '.join(by_lower[each] for each in near)}"
    return (
        f"it has {len(known)}, such as {', '.join(sorted(known)[:3])}" if known else "it has none"
    )


def _is_like(kind: str, known: str) -> bool:
    return bool(get_close_matches(kind.lower().replace("-", "_"), [known]))


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]

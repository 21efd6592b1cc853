"""Networks by name: any model of open_clip, timm or torchvision, or what a function of the user's own builds.

The libraries are imported when a network of theirs is asked for. Nothing is downloaded: weights are random.
"""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Callable, Collection, Sequence
from difflib import get_close_matches
from types import ModuleType
from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from radin.data import Split
from radin.errors import DataError, ParameterError, check_whole
from radin.files import hash_text

# Mean and standard deviation of the colours, red, green, blue, that networks were trained with; pixels from 0 to 1.
CLIP = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

FORMS = "open_clip:NAME, timm:NAME, torchvision:NAME or package.module:function"


def builder(spec: str, num_classes: int) -> Callable[[], nn.Module]:
    """A function that builds one empty classifier, as `Zoo.open(..., build=...)` takes it.

    Args:
        spec: "open_clip:NAME", the image tower with a linear head (see `ClipClassifier`); "timm:NAME";
            "torchvision:NAME"; or "package.module:function", a function that takes no argument, or `num_classes`.
        num_classes: C.

    Raises ParameterError for another spec, a name or function that is not there, or a library that is missing.
    """
    num_classes = check_whole("num_classes", num_classes, least=1)
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
        visual = open_clip.model._build_vision_tower(config["embed_dim"], vision, config.get("quick_gelu", False))
        return ClipClassifier(visual, config["embed_dim"], num_classes)

    return build


def _timm(name: str, num_classes: int) -> Callable[[], nn.Module]:
    timm = _library("timm", "timm")
    if not timm.is_model(name):
        _check_name("timm", name, timm.list_models())
    return lambda: timm.create_model(name, pretrained=False, num_classes=num_classes)


def _torchvision(name: str, num_classes: int) -> Callable[[], nn.Module]:
    models = _library("torchvision.models", "torchvision")
    _check_name("torchvision", name, models.list_models(module=models))  # classifiers, none of those that find boxes
    # Weights that a checkpoint will replace need no careful start, and Inception's takes half a minute.
    more = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    return lambda: models.get_model(name, weights=None, num_classes=num_classes, **more)


def _of_the_user(module: str, name: str, num_classes: int, meant: list[str]) -> Callable[[], nn.Module]:
    spec = f"{module}:{name}"
    try:
        found = importlib.import_module(module)
    except Exception as error:  # the user's own code runs here
        if isinstance(error, ModuleNotFoundError) and error.name and f"{module}.".startswith(f"{error.name}."):
            mend = f"did you mean {meant[0]}:{name}?" if meant else f"write {FORMS}, the module on Python's path."
            raise ParameterError(f"{spec}: there is no module {error.name!r}; {mend}") from error
        raise ParameterError(f"{spec}: importing {module} failed ({_reason(error)}); mend that module.") from error
    function = getattr(found, name, None)
    if not callable(function):
        there = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
        raise ParameterError(f"{spec}: {module} has no function {name!r}; {_nearest(name, there)}.")
    try:
        wants = dict(inspect.signature(function).parameters)
    except (TypeError, ValueError):  # some built-in ones have none
        wants = {}
    rest = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    needed = [each.name for each in wants.values() if each.default is each.empty and each.kind not in rest]
    if set(needed) - {"num_classes"}:
        raise ParameterError(
            f"{spec} asks for {', '.join(needed)}; a build function takes no argument, or num_classes alone."
        )
    arguments = {"num_classes": num_classes} if "num_classes" in wants else {}

    def build() -> nn.Module:
        try:
            model = function(**arguments)
        except Exception as error:
            raise ParameterError(f"{spec} failed ({_reason(error)}); mend that function.") from error
        if not isinstance(model, nn.Module):
            raise ParameterError(f"{spec} returned a {type(model).__name__}; it must return a torch.nn.Module.")
        return model

    return build


def _library(module: str, package: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # torchvision beside another build of torch raises the latter
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
    return f"it has {len(known)}, such as {', '.join(sorted(known)[:3])}" if known else "it has none"


def _is_like(kind: str, known: str) -> bool:
    return bool(get_close_matches(kind.lower().replace("-", "_"), [known]))


def _reason(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


class Normalised(Split):
    """A split with other colours: each channel less its mean, over its standard deviation.

    Args:
        split: whose images run from -1 to 1, as `radin.load_split` gives them.
        mean, std: one number for each channel, of pixels from 0 to 1, as they are usually quoted (`CLIP`, `IMAGENET`).

    Raises ParameterError for numbers that are no mean or standard deviation, DataError (when an image is read) for
    another number of channels.
    """

    def __init__(self, split: Split, mean: Sequence[float], std: Sequence[float]) -> None:
        self._mean, self._std = torch.tensor(mean, dtype=torch.float32), torch.tensor(std, dtype=torch.float32)
        if self._mean.shape != self._std.shape or self._mean.ndim != 1 or not len(self._mean):
            raise ParameterError(f"mean and std need one number for each channel, not {list(mean)} and {list(std)}.")
        if not (self._mean.isfinite().all() and self._std.isfinite().all() and (self._std > 0).all()):
            raise ParameterError(f"mean and std must be finite and std above 0, not {list(mean)} and {list(std)}.")
        self.split = split
        self.name, self.part, self.class_names, self.labels = split.name, split.part, split.class_names, split.labels
        self.projection, self.note = split.projection, split.note

    @property
    def fingerprint(self) -> str:  # type: ignore[override]
        """Hash of what the split holds and of the colours."""
        return hash_text(self.split.fingerprint, repr(self._mean.tolist()), repr(self._std.tolist()))

    def only(self, chosen: list[int]) -> Self:
        return type(self)(self.split.only(chosen), self._mean.tolist(), self._std.tolist())

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        image, label = self.split[index]
        if len(image) != len(self._mean):
            raise DataError(
                f"{self.split!r}: images have {len(image)} channels, but mean and std {len(self._mean)} numbers; "
                "give one for each channel."
            )
        return (image.add(1).div(2) - self._mean[:, None, None]) / self._std[:, None, None], label

"""Libraries of networks, imported when they are asked for, and the names that they know."""

from __future__ import annotations

import importlib
from collections.abc import Collection
from difflib import get_close_matches
from types import ModuleType

from radin.errors import ParameterError

SPEC_FORMS = "open_clip:NAME, timm:NAME, torchvision:NAME, hf:FOLDER or package.module:function"


def import_library(module: str, package: str) -> ModuleType:
    """A module that radin does not need by itself.

    Args:
        package: what installs it.

    Raises:
        ParameterError: it is missing.
    """
    try:
        return importlib.import_module(module)
    except (ImportError, RuntimeError) as error:  # RuntimeError: torchvision for another torch
        raise ParameterError(
            f"{module} cannot be imported ({reason_of(error)}); install it: pip install {package}."
        ) from error


def check_name(library: str, name: str, names: Collection[str]) -> None:
    """ParameterError, with the nearest names, unless a library has a model of this name."""
    if name not in names:
        raise ParameterError(f"{library} has no model {name!r}; {suggest(name, names)}.")


def suggest(name: str, names: Collection[str]) -> str:
    """The names that are most like a wrong one, as the second half of a sentence."""
    by_lower = {each.lower(): each for each in names}
    if near := get_close_matches(name.lower(), by_lower, n=3):
        verb = "is" if len(near) == 1 else "are"
        return f"nearest {verb} {', '.join(by_lower[each] for each in near)}"
    return (
        f"it has {len(names)}, such as {', '.join(sorted(names)[:3])}" if names else "it has none"
    )


def reason_of(error: Exception) -> str:
    """The first line of an error, for a message."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]

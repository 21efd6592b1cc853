"""What the book's notebooks share: parameters checked in one place, and numbers handed to the prose."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from radin.bench import SoupBench
from radin.data import load_split
from radin.devices import pick_device
from radin.errors import ParameterError, check_seed, check_whole
from radin.finetune import digits_zoo
from radin.model_soups import ingredient_ids
from radin.rank import check_prior
from radin.shipped import shipped
from radin.zoo import Zoo

ZOOS = ("digits",)
SOURCES = ("bench", "live")


def check_parameters(zoos: Sequence[str] = ZOOS, **given: Any) -> None:
    """Check a notebook's parameters before any work starts; one sentence says what is wrong and what is allowed.

    Known are budget, prior, num_candidates, seed, seeds, zoo, source, ingredients, data_root, device and quick; a
    notebook passes those it has.

    Args:
        zoos: what `zoo` may be in this notebook.

    Raises ParameterError.
    """
    try:
        for name, value in given.items():
            _check_parameter(name, value, zoos)
    except ParameterError as error:
        # In a notebook a user's typing error needs one sentence, not forty lines of ours.
        message = f"ParameterError: {error}"
        error._render_traceback_ = lambda: [message]  # type: ignore[attr-defined]  # IPython asks for this
        raise


def _check_parameter(name: str, value: Any, zoos: Sequence[str]) -> None:
    match name:
        case "prior":
            check_prior(value)
        case "budget" | "num_candidates" | "seeds":
            check_whole(name, value, least=1)
        case "seed":
            check_seed(value)
        case "zoo":
            if value not in zoos:
                raise ParameterError(f"zoo must be one of {', '.join(map(repr, zoos))} here, not {value!r}.")
        case "source":
            if value not in SOURCES:
                raise ParameterError(f"source must be one of {', '.join(map(repr, SOURCES))}, not {value!r}.")
        case "ingredients":
            if not isinstance(value, str):
                raise ParameterError(f'ingredients must be "all" or numbers such as "0-12,43", not {value!r}.')
            ingredient_ids(value)
        case "data_root":
            if not isinstance(value, str) or (value and not Path(value).expanduser().is_dir()):
                raise ParameterError(f'data_root must be a folder, or "" for a stand-in, not {value!r}.')
        case "device":
            pick_device(value)
        case "quick":
            if not isinstance(value, bool):
                raise ParameterError(f"quick must be true or false, not {value!r}.")
        case _:
            raise ParameterError(f"Unknown parameter {name!r}.")


def open_zoo(name: str, quick: bool = False, device: str = "auto") -> Zoo:
    """The zoo that a notebook's `zoo` parameter names; `quick` makes a small, poor one for tests."""
    check_parameters(zoo=name, quick=quick)
    return digits_zoo(num_models=5 if quick else 10, quick=quick, device=device)


def benches() -> tuple[str, ...]:
    """What `open_bench` knows: the digits and the CIFAR-10 benches that are shipped."""
    return ("digits", *(name for name in shipped() if name.startswith("cifar10")))


def open_bench(name: str, quick: bool = False, device: str = "auto") -> SoupBench:
    """The soup bench that a notebook's `zoo` parameter names; `quick` keeps five of its ingredients, for tests."""
    check_parameters(benches(), zoo=name, quick=quick)
    if name == "digits":
        zoo = open_zoo(name, quick, device)
        return SoupBench.build(zoo, load_split("digits", "val"), load_split("digits", "test"), device=device)
    bench = SoupBench.load(name)
    return bench.sub(range(5)) if quick else bench


def measured(name: str) -> Any:
    """What a benchmark of this repository measured, as it was last kept with the module: "stage_one"."""
    return json.loads(resources.files("radin").joinpath("results", f"{name}.json").read_text("utf-8"))


def glue(name: str, value: Any, show: bool = False) -> None:
    """Give a number, text or figure a name under which any page of the book can show it.

    Numbers become plain Python numbers first: a numpy or torch scalar would render as nothing once a
    page asks for it with a format. Without the book's tools installed this does nothing.
    """
    try:
        from myst_nb import glue as myst_glue
    except ImportError:
        return
    if hasattr(value, "item"):
        value = value.item()
    myst_glue(name, value, display=show)

"""What the book's notebooks share: checked parameters, zoos by name, numbers for the prose."""

from __future__ import annotations

import ast
import base64
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.checkpoints.zoo import Zoo
from radin.data.load import load_split
from radin.errors import MAX_SEED, ParameterError, check_integer, check_seed, did_you_mean
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.shipped import shipped_benches
from radin.experiments.intervals import Interval, in_words, write_interval
from radin.experiments.model_soups.ingredients import ingredient_ids
from radin.experiments.zoos.digits import digits_zoo
from radin.files import expand_path, update_hash
from radin.inference.devices import pick_device
from radin.ranking.rank import check_prior

ZOOS = ("digits",)
SOURCES = ("bench", "live")
RECORD_PREFIX = "record "  # begins the names under which `record` keeps answers


def check_parameters(zoos: Sequence[str] = ZOOS, **given: Any) -> None:
    """Check a notebook's parameters before any work starts.

    Args:
        zoos: what `zoo` may be in this notebook.
        given: the notebook's parameters. They can be budget, prior, num_candidates, seed, seeds,
            zoo, source, ingredients, data_root, device and quick.

    Raises:
        ParameterError: one sentence that says what is wrong and what is allowed. Also for a
            parameter that is none of these: papermill puts it into the notebook all the same.
    """
    with _errors_in_one_sentence():
        check_names(injected_names(_cells_so_far()), given)
        _check_values(given, zoos)


@contextmanager
def _errors_in_one_sentence() -> Iterator[None]:
    """In a notebook a user's typing error needs one sentence, not forty lines of traceback."""
    try:
        yield
    except ParameterError as error:
        # IPython calls this method of an error.
        message = f"ParameterError: {error}"
        error._render_traceback_ = lambda: [message]  # type: ignore[attr-defined]
        raise


def _check_values(given: Mapping[str, Any], zoos: Sequence[str]) -> None:
    for name, value in given.items():
        _check_parameter(name, value, zoos)


def check_names(names: Iterable[str], known: Collection[str], chapter: str = "") -> None:
    """Refuse a parameter that a notebook does not have.

    Args:
        names: what was given.
        known: the parameters that it has.
        chapter: the notebook's name, for the message.

    Raises:
        ParameterError: it names the parameter, and the one that may be meant.
    """
    for name in names:
        if name not in known:
            hint = did_you_mean(name.lower(), known)
            raise ParameterError(
                f"{chapter or 'This notebook'} has no parameter {name!r}; {hint}"
                f"{'It' if hint else 'it'} has {', '.join(known) or 'none'}."
            )


def injected_names(cells: Iterable[str]) -> list[str]:
    """The names that papermill has set: those assigned in cells that begin as it writes them."""
    return [
        target.id
        for cell in cells
        if cell.startswith("# Parameters\n")
        for statement in ast.parse(cell).body
        if isinstance(statement, ast.Assign)
        for target in statement.targets
        if isinstance(target, ast.Name)
    ]


def _cells_so_far() -> list[str]:
    """The cells that this kernel has run; none outside IPython."""
    if "IPython" not in sys.modules:
        return []
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    return [] if shell is None else [str(cell) for cell in shell.user_ns.get("In", [])]


def describe_allowed(name: str, zoos: Sequence[str] = ZOOS) -> str:
    """The values that a notebook's parameter may have, for a table or the end of a sentence.

    Raises:
        ParameterError: no notebook has a parameter of this name.
    """
    descriptions = {
        "budget": "a whole number of at least 1",
        "prior": "a finite number of at least 0",
        "num_candidates": "a whole number of at least 1",
        "seed": f"a whole number from 0 to {MAX_SEED}",
        "seeds": "a whole number of at least 1",
        "zoo": f"one of {', '.join(map(repr, zoos))}",
        "source": f"one of {', '.join(map(repr, SOURCES))}",
        "ingredients": '"all", or numbers and ranges such as "0-12,43"',
        "data_root": 'a folder, or "" for none',
        "device": "'auto', 'cpu' or 'cuda'",
        "quick": "true or false",
    }
    if name not in descriptions:
        raise ParameterError(
            f"Unknown parameter {name!r}; the notebooks have {', '.join(descriptions)}."
        )
    return descriptions[name]


def _check_parameter(name: str, value: Any, zoos: Sequence[str]) -> None:
    allowed = describe_allowed(name, zoos)
    fits = True
    match name:
        case "prior":
            check_prior(value)
        case "budget" | "num_candidates" | "seeds":
            check_integer(name, value, minimum=1)
        case "seed":
            check_seed(value)
        case "zoo":
            allowed += " here"
            fits = value in zoos
        case "source":
            fits = value in SOURCES
        case "ingredients":
            fits = isinstance(value, str)
            if fits:
                ingredient_ids(value)
        case "data_root":
            fits = isinstance(value, str) and (not value or os.path.isdir(expand_path(value)))
        case "device":
            pick_device(value)
        case "quick":
            fits = isinstance(value, bool)
    if not fits:
        raise ParameterError(f"{name} must be {allowed}, not {value!r}.")


def open_zoo(name: str, *, quick: bool = False, device: str = "auto") -> Zoo:
    """The zoo that a notebook's `zoo` parameter names.

    Args:
        name: one of `ZOOS`.
        quick: whether to train a small and poor one, for tests.
        device: "auto", "cpu" or "cuda".
    """
    with _errors_in_one_sentence():
        _check_values({"zoo": name, "quick": quick}, ZOOS)
    return digits_zoo(num_models=5 if quick else 10, quick=quick, device=device)


def bench_names() -> tuple[str, ...]:
    """The names that `open_bench` takes: the digits and the shipped CIFAR-10 benches."""
    return ("digits", *(name for name in shipped_benches() if name.startswith("cifar10")))


def open_bench(name: str, *, quick: bool = False, device: str = "auto") -> SoupBench:
    """The soup bench that a notebook's `zoo` parameter names.

    Args:
        name: one of `bench_names()`.
        quick: whether to keep only five of its ingredients, for tests.
        device: "auto", "cpu" or "cuda", where a bench has to be evaluated first.
    """
    with _errors_in_one_sentence():
        _check_values({"zoo": name, "quick": quick}, bench_names())
    if name == "digits":
        zoo = open_zoo(name, quick=quick, device=device)
        val = load_split("digits", "val")
        test = load_split("digits", "test")
        return SoupBench.build(zoo, val, test, device=device)
    bench = SoupBench.load(name)
    return bench.subset(range(5)) if quick else bench


def write_kernel(folder: Path) -> dict[str, str]:
    """Write a Jupyter kernel called python3 that is this very interpreter.

    A kernel of that name in the user's own folder may belong to another Python. In the environment
    that this returns, the user's start-up files do not run, and no progress bars are drawn.

    Args:
        folder: to write below.

    Returns:
        The environment variables with which Jupyter finds the kernel.
    """
    from ipykernel.kernelspec import write_kernel_spec

    kernel = folder / "jupyter" / "kernels" / "python3"
    shutil.rmtree(kernel, ignore_errors=True)
    write_kernel_spec(kernel, extra_arguments=["--IPKernelApp.log_level=ERROR"])
    return {
        "JUPYTER_PATH": str(folder / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "TQDM_DISABLE": "1",
    }


def load_benchmark(name: str) -> Any:
    """The numbers that a benchmark of this repository measured, as stored with the module.

    Args:
        name: such as "stage_one".
    """
    path = resources.files("radin.experiments").joinpath("results", f"{name}.json")
    return json.loads(path.read_text("utf-8"))


def glue(name: str, value: Any, *, show: bool = False) -> None:
    """Give a number, text or figure a name under which any page of the book can show it.

    Without the book's tools installed this does nothing.

    Args:
        name: for the pages.
        value: numpy and torch scalars become plain Python numbers, because a page that asks for
            them with a format would show nothing.
        show: whether to show the value here too.
    """
    try:
        from myst_nb import glue as myst_glue
    except ImportError:
        return
    if hasattr(value, "item"):
        value = value.item()
    myst_glue(name, value, display=show)


def glue_interval(name: str, interval: Interval) -> None:
    """Give a difference and its interval names under which any page of the book can show them.

    Args:
        name: of the difference. Its interval has the names NAME_low and NAME_high, and what it says
            (see `radin.experiments.intervals.in_words`) has the name NAME_verdict.
        interval: (difference, low, high).
    """
    _glue_numbers(name, interval)
    glue(f"{name}_verdict", in_words(interval))


def glue_interval_text(name: str, interval: Interval) -> None:
    """Give a difference and its interval names, each number alone and all as one text.

    Args:
        name: of the difference. Its interval has the names NAME_low and NAME_high, and the text
            (see `radin.experiments.intervals.write_interval`) has the name NAME_text.
        interval: (difference, low, high).
    """
    _glue_numbers(name, interval)
    glue(f"{name}_text", write_interval(interval))


def _glue_numbers(name: str, interval: Interval) -> None:
    for suffix, value in zip(("", "_low", "_high"), interval, strict=True):
        glue(f"{name}{suffix}", value)


def record(right: Mapping[str, Tensor], labels: Tensor, part: str = "test") -> None:
    """Store in the executed notebook which images each recipe's soup classifies correctly.

    Two runs can then be compared, image by image.

    Args:
        right: recipe to (n,) boolean, whether the soup that it returned is right.
        labels: (n,) of these images. Two runs are paired only if part and labels are the same.
        part: of the data, such as "test".

    Raises:
        ParameterError: the answers are not boolean, or there is not one for each label.
    """
    for recipe, answers in right.items():
        if answers.dtype != torch.bool or answers.shape != labels.shape or labels.ndim != 1:
            raise ParameterError(
                f"{recipe}: record needs right or wrong for each of the {len(labels)} images."
            )
    digest = hashlib.sha256()
    update_hash(digest, "labels", labels.long())
    packed = {
        recipe: np.packbits(answers.cpu().numpy()).tobytes() for recipe, answers in right.items()
    }
    stored = {
        "images": len(labels),
        "labels": digest.hexdigest()[:16],
        "right": {recipe: base64.b64encode(bits).decode() for recipe, bits in packed.items()},
    }
    glue(f"{RECORD_PREFIX}{part}", json.dumps(stored))


def read_record(text: str) -> tuple[str, dict[str, Tensor]]:
    """What `record` stored: the fingerprint of the labels, and recipe to (n,) boolean answers."""
    stored = json.loads(text)
    right = {}
    for recipe, encoded in stored["right"].items():
        packed = np.frombuffer(base64.b64decode(encoded), np.uint8)
        bits = np.unpackbits(packed, count=stored["images"])
        right[recipe] = torch.from_numpy(bits.astype(bool))
    return stored["labels"], right

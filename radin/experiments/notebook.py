"""What the book's notebooks share: parameters checked in one place, and numbers handed to the prose."""

from __future__ import annotations

import base64
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from radin.checkpoints.zoo import Zoo
from radin.data.load import load_split
from radin.errors import MAX_SEED, ParameterError, check_integer, check_seed
from radin.experiments.bench.bench import SoupBench
from radin.experiments.bench.shipped import shipped_benches
from radin.experiments.model_soups.ingredients import ingredient_ids
from radin.experiments.zoos.digits import digits_zoo
from radin.files import update_hash
from radin.inference.devices import pick_device
from radin.ranking.rank import check_prior

ZOOS = ("digits",)
SOURCES = ("bench", "live")
RECORD = "record "  # how the names of what `record` glues begin


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


def allowed(name: str, zoos: Sequence[str] = ZOOS) -> str:
    """What a notebook's parameter may be, in words for a table or the end of a sentence.

    Raises ParameterError for a name that no notebook knows.
    """
    words = {
        "budget": "a whole number of at least 1",
        "prior": "a finite number of at least 0",
        "num_candidates": "a whole number of at least 1",
        "seed": f"a whole number from 0 to {MAX_SEED}",
        "seeds": "a whole number of at least 1",
        "zoo": f"one of {', '.join(map(repr, zoos))}",
        "source": f"one of {', '.join(map(repr, SOURCES))}",
        "ingredients": '"all", or numbers and ranges such as "0-12,43"',
        "data_root": 'a folder, or "" for a stand-in',
        "device": "'auto', 'cpu' or 'cuda'",
        "quick": "true or false",
    }
    if name not in words:
        raise ParameterError(f"Unknown parameter {name!r}; the notebooks have {', '.join(words)}.")
    return words[name]


def _check_parameter(name: str, value: Any, zoos: Sequence[str]) -> None:
    words = allowed(name, zoos)
    fits = True
    match name:
        case "prior":
            check_prior(value)
        case "budget" | "num_candidates" | "seeds":
            check_integer(name, value, minimum=1)
        case "seed":
            check_seed(value)
        case "zoo":
            words += " here"
            fits = value in zoos
        case "source":
            fits = value in SOURCES
        case "ingredients":
            fits = isinstance(value, str)
            if fits:
                ingredient_ids(value)
        case "data_root":
            fits = isinstance(value, str) and (not value or Path(value).expanduser().is_dir())
        case "device":
            pick_device(value)
        case "quick":
            fits = isinstance(value, bool)
    if not fits:
        raise ParameterError(f"{name} must be {words}, not {value!r}.")


def open_zoo(name: str, quick: bool = False, device: str = "auto") -> Zoo:
    """The zoo that a notebook's `zoo` parameter names; `quick` makes a small, poor one for tests."""
    check_parameters(zoo=name, quick=quick)
    return digits_zoo(num_models=5 if quick else 10, quick=quick, device=device)


def benches() -> tuple[str, ...]:
    """What `open_bench` knows: the digits and the CIFAR-10 benches that are shipped."""
    return ("digits", *(name for name in shipped_benches() if name.startswith("cifar10")))


def open_bench(name: str, quick: bool = False, device: str = "auto") -> SoupBench:
    """The soup bench that a notebook's `zoo` parameter names; `quick` keeps five of its ingredients, for tests."""
    check_parameters(benches(), zoo=name, quick=quick)
    if name == "digits":
        zoo = open_zoo(name, quick, device)
        return SoupBench.build(
            zoo, load_split("digits", "val"), load_split("digits", "test"), device=device
        )
    bench = SoupBench.load(name)
    return bench.subset(range(5)) if quick else bench


def own_kernel(folder: Path) -> dict[str, str]:
    """A Jupyter kernel called python3 that is this very interpreter, below `folder`, and the environment that finds it.

    A kernel of that name in the user's own folder may belong to another Python; nor do the user's start-up files run,
    nor are progress bars drawn.
    """
    from ipykernel.kernelspec import write_kernel_spec

    place = folder / "jupyter" / "kernels" / "python3"
    shutil.rmtree(place, ignore_errors=True)
    write_kernel_spec(place, extra_arguments=["--IPKernelApp.log_level=ERROR"])
    return {
        "JUPYTER_PATH": str(folder / "jupyter"),
        "IPYTHONDIR": str(folder / "ipython"),
        "TQDM_DISABLE": "1",
    }


def measured(name: str) -> Any:
    """What a benchmark of this repository measured, as it was last kept with the module: "stage_one"."""
    return json.loads(
        resources.files("radin.experiments").joinpath("results", f"{name}.json").read_text("utf-8")
    )


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


def record(right: Mapping[str, Tensor], labels: Tensor, part: str = "test") -> None:
    """Keep with an executed notebook which images each recipe's soup has right, so that runs can be compared.

    Args:
        right: from the name of a recipe to (n,) boolean, whether the soup it returned is right.
        labels: (n,) of these images; two runs are paired only where part and labels are the same.
        part: what the images are, such as "test".

    Raises ParameterError when answers and labels do not have one length.
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
    kept = {
        "images": len(labels),
        "labels": digest.hexdigest()[:16],
        "right": {recipe: base64.b64encode(bits).decode() for recipe, bits in packed.items()},
    }
    glue(f"{RECORD}{part}", json.dumps(kept))


def recorded(text: str) -> tuple[str, dict[str, Tensor]]:
    """What `record` kept: the fingerprint of the labels, and (n,) boolean answers by recipe."""
    kept = json.loads(text)
    n = kept["images"]
    bits = {
        recipe: np.frombuffer(base64.b64decode(packed), np.uint8)
        for recipe, packed in kept["right"].items()
    }
    right = {
        recipe: torch.from_numpy(np.unpackbits(each, count=n).astype(bool))
        for recipe, each in bits.items()
    }
    return kept["labels"], right

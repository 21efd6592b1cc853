"""`import radin` costs torch and nothing more."""

from __future__ import annotations

import json

import radin
from helpers import finish, run_python

HEAVY = {
    "IPython",
    "PIL",
    "joblib",
    "matplotlib",
    "numba",
    "open_clip",
    "pandas",
    "ray",
    "scipy",
    "seaborn",
    "sklearn",
    "sympy",
    "torchvision",
    "transformers",
}
COST = """
import json, time
start = time.perf_counter()
import MODULE
seconds = time.perf_counter() - start
print(json.dumps([seconds, sorted({name.split(".")[0] for name in sys.modules})]))
"""


def cost(module: str) -> tuple[float, set[str]]:
    seconds, modules = json.loads(finish(run_python(COST.replace("MODULE", module))))
    return seconds, set(modules)


def test_import_brings_no_heavy_module(capsys):
    torch_seconds, with_torch = cost("torch")
    radin_seconds, with_radin = cost("radin")
    with capsys.disabled():
        print(f" import torch {torch_seconds:.2f} s, import radin {radin_seconds:.2f} s ", end="")
    assert not (with_radin - with_torch) & HEAVY
    assert "radin" in with_radin


def test_every_public_name_is_there():
    assert all(hasattr(radin, name) for name in radin.__all__)
    assert all(getattr(radin, name).__doc__ for name in radin.__all__ if name != "RECIPES")


def test_everything_refused_is_one_family():
    found = [
        kind
        for kind in vars(radin.errors).values()
        if isinstance(kind, type) and issubclass(kind, Exception)
    ]
    assert len(found) > 3
    assert all(issubclass(kind, radin.RadinError) for kind in found)
    assert issubclass(radin.errors.ParameterError, ValueError)

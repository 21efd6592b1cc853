"""The notebook that proves the theory symbolically, and independent checks of T1, T3 and T4."""

from __future__ import annotations

import re
from collections.abc import Callable
from math import log2
from typing import Any

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pytest
import sympy

from conftest import ROOT

NOTEBOOK = ROOT / "notebooks" / "11_taylor_sympy.ipynb"
LABEL = re.compile(r"^\$\$ \((eq-[\w-]+)\)$", re.MULTILINE)

# A network of two parameters and three classes with curvature of second and third order.
CENTRE = np.array([0.3, -0.2])
STEPS = np.array([[0.9, 0.4], [-0.5, 0.8], [0.2, -1.1]])
P = np.array([0.5, 0.3, 0.2])
TARGET = np.array([0.0, 1.0, 0.0])

Vector = np.ndarray


def logits(theta: Vector) -> Vector:
    x, y = theta
    return np.array([np.tanh(2 * x - y), np.sin(x + 2 * y) + x * y, np.exp(0.5 * x) - y**3])


def loss(z: Vector) -> float:
    return float(np.log(np.exp(z).sum()) - TARGET @ z)


def softmax(z: Vector) -> Vector:
    return np.exp(z) / np.exp(z).sum()


def variance(q: Vector, v: Vector) -> float:
    return float(q @ v**2 - (q @ v) ** 2)


def first(function: Callable[[Vector], Any], theta: Vector, d: Vector, h: float = 1e-3) -> Any:
    """First derivative along d, by central differences of fourth order."""
    at = [function(theta + k * h * d) for k in (-2, -1, 1, 2)]
    return (at[0] - 8 * at[1] + 8 * at[2] - at[3]) / (12 * h)


def second(function: Callable[[Vector], Any], theta: Vector, d: Vector, h: float = 1e-2) -> Any:
    """Second derivative along d, by central differences of fourth order."""
    at = [function(theta + k * h * d) for k in (-2, -1, 0, 1, 2)]
    return (-at[0] + 16 * at[1] - 30 * at[2] + 16 * at[3] - at[4]) / (12 * h**2)


def order_of(residual: Callable[[float], float], scale: float = 0.1) -> float:
    """The power with which a residual falls when the scale is halved."""
    return log2(abs(residual(scale)) / abs(residual(scale / 2)))


def mixture(scale: float) -> tuple[Vector, Vector, Vector]:
    """Parameters of the soup and of the ingredients, and the logits of the ensemble."""
    thetas = CENTRE + scale * STEPS
    return P @ thetas, thetas, P @ np.array([logits(theta) for theta in thetas])


def cells() -> list[Any]:
    return nbformat.read(NOTEBOOK, as_version=4).cells


@pytest.mark.parametrize("quick", [True, pytest.param(False, marks=pytest.mark.whole)])
def test_the_notebook_runs_and_its_proofs_hold(quick, monkeypatch):
    monkeypatch.setattr(plt, "show", lambda: None)
    with plt.ioff():
        names: dict[str, Any] = {}
        for cell in cells():
            if cell.cell_type == "code":
                source = (
                    f"quick = {quick}"
                    if "parameters" in cell.metadata.get("tags", [])
                    else cell.source
                )
                exec(compile(source, f"{NOTEBOOK.name}, {cell.id}", "exec"), names)
        plt.close("all")
    assert names["quick"] is quick
    assert ((3, 3) in names["cases"]) is not quick


def test_every_equation_has_its_proof_in_the_next_code_cell():
    found = []
    every = cells()
    for index, cell in enumerate(every):
        if cell.cell_type != "markdown":
            continue
        for label in LABEL.findall(cell.source):
            proof = next(other.source for other in every[index:] if other.cell_type == "code")
            comments = re.findall(r"#.*", proof)
            assert any(re.search(rf"{label}(?![\w-])", comment) for comment in comments), label
            assert re.search(r"^\s*assert ", proof, re.MULTILINE), label
            found.append(label)
    assert len(found) == len(set(found)) >= 15
    assert all(label.startswith("eq-sym-") for label in found)
    text = "\n".join(cell.source for cell in every if cell.cell_type == "markdown")
    assert text.count("(eq-") == len(found), "an equation has a label that this test does not see"


@pytest.mark.parametrize("what", ["soup", "ensemble", "mean", "gap in logits"])
def test_first_order_leaves_second_order(what):
    slope = softmax(logits(CENTRE)) - TARGET
    change = first(logits, CENTRE, P @ STEPS)

    def residual(scale: float) -> float:
        soup, thetas, ensemble = mixture(scale)
        if what == "gap in logits":
            return float(np.abs(logits(soup) - ensemble).max())
        mean = float(P @ [loss(logits(theta)) for theta in thetas])
        value = {"soup": loss(logits(soup)), "ensemble": loss(ensemble), "mean": mean}[what]
        return value - loss(logits(CENTRE)) - scale * float(slope @ change)

    assert order_of(residual, 1e-2) == pytest.approx(2, abs=0.1)


def test_mean_minus_ensemble_is_half_the_mean_variance_to_second_order():
    def residual(scale: float) -> float:
        _, thetas, ensemble = mixture(scale)
        mean = P @ [loss(logits(theta)) for theta in thetas]
        spread = P @ [variance(softmax(ensemble), logits(theta) - ensemble) for theta in thetas]
        return mean - loss(ensemble) - spread / 2

    assert order_of(residual, 1e-2) == pytest.approx(3, abs=0.2)


@pytest.mark.parametrize("form", ["logits", "loss", "hessian"])
def test_second_order_gap_leaves_third_order(form):
    def residual(scale: float) -> float:
        soup, thetas, ensemble = mixture(scale)
        z = logits(soup)
        bend = P @ np.array([second(logits, soup, theta - soup) for theta in thetas])
        if form == "logits":
            return float((z - ensemble + bend / 2)[2])
        gap = loss(z) - loss(ensemble)
        if form == "loss":
            return gap + float((softmax(z) - TARGET) @ bend) / 2
        curvatures = [second(lambda t: loss(logits(t)), soup, theta - soup) for theta in thetas]
        variances = [variance(softmax(z), first(logits, soup, theta - soup)) for theta in thetas]
        return gap - float(P @ variances - P @ curvatures) / 2

    assert order_of(residual, 0.05) == pytest.approx(3, abs=0.25)


@pytest.mark.parametrize("beta", [0.5, 1.0, 3.0])
@pytest.mark.parametrize(("power", "order"), [(2, 3), (1, 2), (3, 2)])
def test_two_ingredients_with_a_logit_scale(beta, power, order):
    """The remainder is of third order with beta squared before the variance, else of second."""
    if beta == 1:
        order = 3  # all powers are the same
    a = 0.3

    def residual(scale: float) -> float:
        start, step = CENTRE, scale * STEPS[0]
        soup = logits(start + a * step)
        change = logits(start + step) - logits(start)
        ensemble = logits(start) + a * change
        curvature = second(lambda t: loss(beta * logits(t)), start + a * step, step)
        disagreement = beta**power * variance(softmax(beta * soup), change)
        return (
            loss(beta * soup) - loss(beta * ensemble) - a * (1 - a) / 2 * (disagreement - curvature)
        )

    assert order_of(residual, 0.02) == pytest.approx(order, abs=0.25)


def test_half_half_soups_give_the_gap_of_any_soup():
    def residual(scale: float) -> float:
        soup, thetas, ensemble = mixture(scale)
        predicted = 0.0
        for k in range(3):
            for j in range(k):
                both = (logits(thetas[k]) + logits(thetas[j])) / 2
                middle = logits((thetas[k] + thetas[j]) / 2)
                predicted += 4 * P[k] * P[j] * (loss(middle) - loss(both))
        return loss(logits(soup)) - loss(ensemble) - predicted

    assert order_of(residual, 0.01) == pytest.approx(3, abs=0.25)


def test_at_the_midpoint_of_two_the_third_order_vanishes():
    """The first exercise: f is any function of one variable, given by its Taylor coefficients."""
    s, a, r = sympy.symbols("s a r")
    coefficients = sympy.symbols("c_0:4")
    f = sum(c * s**k for k, c in enumerate(coefficients))
    gap = sympy.expand(f.subs(s, 0) - (1 - a) * f.subs(s, -a * r) - a * f.subs(s, (1 - a) * r))
    assert sympy.simplify(gap.coeff(r, 2) + a * (1 - a) * coefficients[2]) == 0
    assert sympy.simplify(gap.coeff(r, 3) + a * (1 - a) * (1 - 2 * a) * coefficients[3]) == 0
    assert gap.coeff(r, 3).subs(a, sympy.Rational(1, 2)) == 0


def test_gauss_newton_identity_for_a_network_with_a_formula():
    s = sympy.Symbol("s", real=True)
    z = [sympy.sin(s), s**3 - s, sympy.exp(-s)]
    total = sum(sympy.exp(c) for c in z)
    q = [sympy.exp(c) / total for c in z]
    drawn = sum(w * c.diff(s) ** 2 for w, c in zip(q, z, strict=True))
    mean = sum(w * c.diff(s) for w, c in zip(q, z, strict=True))
    network = sum(w * c.diff(s, 2) for w, c in zip(q, z, strict=True)) - z[1].diff(s, 2)
    left = (sympy.log(total) - z[1]).diff(s, 2)
    for value in (-1, sympy.Rational(1, 3), 2):
        assert abs(sympy.N((left - network - drawn + mean**2).subs(s, value), 30)) < 1e-25
        assert abs(sympy.N((left - network).subs(s, value))) > 1e-3, "the variance is needed"

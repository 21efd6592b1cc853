"""Figures of the ImageNet chapter, from what the authors of Model soups published and what a rerun logged.

Each takes None in the place of published results that are not at hand, and then says so where they belong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radin.experiments.intervals import standard_error
from radin.experiments.model_soups.analysis import SHIFTS, VALIDATION, greedy_order
from radin.experiments.model_soups.results import TEST_SETS, Published
from radin.experiments.plots.style import RECIPE_STYLES

if TYPE_CHECKING:
    from pandas import DataFrame

_GREY, _BLUE = RECIPE_STYLES["random"]["color"], RECIPE_STYLES["greedy"]["color"]
_ABSENT = "The published results are not at hand;\nthe page says how to get them."
_MIDDLE: dict[str, Any] = {
    "ha": "center",
    "va": "center",
    "color": "#555555",
    "fontsize": 11,
    "backgroundcolor": "white",
}


def against_shifts(results: Published | None) -> Figure:
    """ImageNet against the mean of the five shifted test sets: 72 ingredients, two soups and an ensemble.

    After Model soups (Wortsman et al. 2022), figure 1.
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    axes.set(xlabel="ImageNet (%)", ylabel="mean of five shifted test sets (%)")
    if results is None:
        return _absent(figure, axes)
    single, soups = results.ingredients, results.soups
    first, fine_tuned = single.index[0], single.index[1:]
    best = greedy_order(single)[0]
    shifts = single[list(SHIFTS)].mean(axis=1)
    axes.scatter(
        single.loc[fine_tuned, "ImageNet"],
        shifts[fine_tuned],
        s=26,
        color="#999999",
        label="fine-tuned ingredients",
    )
    for name, label, recipe, marker in (
        (first, "initialisation", "oracle", "X"),
        (best, "best single by validation", "best_single", "D"),
    ):
        color = RECIPE_STYLES[recipe]["color"]
        axes.scatter(
            single.loc[name, "ImageNet"],
            shifts[name],
            s=90,
            color=color,
            marker=marker,
            label=label,
        )
    for name, label, marker in (
        ("uniform", "uniform soup", "P"),
        ("greedy", "greedy soup, 71 evaluations", "s"),
        ("ensemble", "ensemble of all, 72 networks", "*"),
    ):
        row, size = soups.loc[name], 230 if marker == "*" else 120
        style = {
            "color": RECIPE_STYLES[name]["color"],
            "edgecolor": "#222222",
            "linewidth": 0.8,
            "zorder": 3,
        }
        axes.scatter(
            row["ImageNet"], row[list(SHIFTS)].mean(), s=size, marker=marker, label=label, **style
        )
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2, frameon=False, fontsize=10)
    figure.tight_layout()
    return figure


def greedy_tests(log: DataFrame, results: Published | None) -> Figure:
    """What greedy tries, and what comes of it: each ingredient's own accuracy, and that of the soup with it.

    Args:
        log: as `radin.experiments.model_soups.analysis.greedy_log` gives it.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.5, 6.8), sharex=True)
    accepted = log.index[log["accepted"]]
    last = accepted[-1]
    above.set(ylabel="ingredient alone,\nvalidation (%)")
    if results is None:
        above.text(0.5, 0.5, _ABSENT, **_MIDDLE, transform=above.transAxes)
        above.set(yticks=[])
    else:
        accuracy = results.ingredients.loc[greedy_order(results.ingredients), VALIDATION].to_numpy()
        error = standard_error(accuracy, TEST_SETS[VALIDATION])
        in_soup = np.isin(np.arange(len(accuracy)), [0, *accepted])
        for chosen, color, label in (
            (~in_soup, _GREY, "left out"),
            (in_soup, _BLUE, "in the soup"),
        ):
            places = np.flatnonzero(chosen)
            above.errorbar(
                places,
                accuracy[chosen],
                error[chosen],
                fmt="o",
                markersize=4,
                color=color,
                elinewidth=1,
                label=label,
            )
        above.legend(loc="upper right")
    running = [log["best_before"].iloc[0], *np.maximum(log["best_before"], log["accuracy"])]
    places = np.arange(len(running))
    error = standard_error(running, TEST_SETS[VALIDATION])
    below.fill_between(
        places,
        running - error,
        running + error,
        step="post",
        color=_BLUE,
        alpha=0.15,
        linewidth=0,
        label="its standard error",
    )
    below.step(places, running, where="post", color=_BLUE, label="best soup so far")
    for chosen, color, label in (
        (~log["accepted"], _GREY, "tried, left out"),
        (log["accepted"], _BLUE, "accepted"),
    ):
        below.scatter(
            log.index[chosen], log.loc[chosen, "accuracy"], s=18, color=color, label=label, zorder=3
        )
    for axes in (above, below):
        axes.axvline(last + 0.5, color="#D55E00", linewidth=1.4, linestyle="--")
    below.annotate(
        f"{len(log) - last} evaluations for nothing",
        (last + 1.3, running[-1]),
        xytext=(0, 12),
        textcoords="offset points",
        color="#D55E00",
        fontsize=10,
    )
    below.set(xlabel="test of greedy (0: the best single)", ylabel="soup with it,\nvalidation (%)")
    below.set_ylim(log["accuracy"].min() - 0.15, max(running) + 0.5)
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=4, frameon=False, fontsize=10)
    figure.tight_layout()
    return figure


def against_rate(results: Published | None) -> Figure:
    """Accuracy of each fine-tuned ingredient on ImageNet, and on the shifted sets, against its learning rate."""
    figure, pair = plt.subplots(1, 2, figsize=(8.6, 3.9), sharex=True)
    titles = ("ImageNet", "mean of five shifted test sets")
    for axes, title in zip(pair, titles, strict=True):
        axes.set(title=title, xlabel="learning rate", ylabel="accuracy (%)", xscale="log")
        if results is None:
            _absent(figure, axes)
    if results is None:
        return figure
    single, table = results.ingredients, results.hyperparameters
    named = table.index[table["lr"].notna()]
    shifts = single[list(SHIFTS)].mean(axis=1)
    for axes, values, start in (
        (pair[0], single["ImageNet"], single["ImageNet"].iloc[0]),
        (pair[1], shifts, shifts.iloc[0]),
    ):
        dots = axes.scatter(
            table.loc[named, "lr"].astype(float),
            values[named],
            c=table.loc[named, "epochs"].astype(float),
            cmap="viridis",
            s=26,
        )
        axes.axhline(start, color="#222222", linewidth=1, linestyle=":", label="initialisation")
        axes.legend(loc="lower left", fontsize=10)
    figure.tight_layout()
    figure.colorbar(dots, ax=list(pair), label="epochs")
    return figure


def trials(
    tried: Mapping[str, list[tuple[float, float]]], single: list[float], title: str
) -> Figure:
    """Fast estimate against accuracy of every soup that the recipes evaluated, with the ingredients for comparison.

    Args:
        tried: recipe to (estimate, accuracy) of each of its evaluations, in percent.
        single: (N,) accuracies of the ingredients alone, which estimate and accuracy share.
    """
    figure, axes = plt.subplots(figsize=(6.2, 4.6))
    axes.scatter(
        single, single, s=60, color="#999999", marker="x", label="ingredients alone (free)"
    )
    for place, (recipe, pairs) in enumerate(tried.items()):
        style = RECIPE_STYLES[recipe]
        estimates, accuracies = np.array(pairs).reshape(-1, 2).T
        axes.scatter(
            estimates,
            accuracies,
            s=150 - 45 * place,  # equal soups of two recipes stay visible, one inside the other
            facecolor="none",
            edgecolor=style["color"],
            linewidth=2,
            marker=style.get("marker", "P"),
            label=recipe.replace("_", " "),
        )
    axes.axline((0, 0), slope=1, color="#999999", linewidth=1, linestyle="--", zorder=0)
    values = [*single, *(value for pairs in tried.values() for pair in pairs for value in pair)]
    margin = 0.08 * (max(values) - min(values)) + 0.5
    limits = min(values) - margin, max(values) + margin
    axes.set(xlim=limits, ylim=limits, title=title)
    axes.set(
        xlabel="fast estimate: the ensemble on validation (%)", ylabel="the soup on validation (%)"
    )
    axes.legend(fontsize=10)
    figure.tight_layout()
    return figure


def _absent(figure: Figure, axes: Axes) -> Figure:
    axes.text(0.5, 0.5, _ABSENT, **_MIDDLE, transform=axes.transAxes)
    axes.set(xticks=[], yticks=[])
    axes.tick_params(which="both", bottom=False, labelbottom=False)
    figure.tight_layout()
    return figure

"""Figures of the ImageNet chapter: the published results of Model soups, and what runs logged."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from radin.experiments.intervals import standard_error
from radin.experiments.model_soups.analysis import SHIFTED_SETS, VALIDATION, greedy_order
from radin.experiments.model_soups.results import TEST_SETS, PublishedResults
from radin.experiments.plots.style import RECIPE_STYLES

if TYPE_CHECKING:
    from pandas import DataFrame, Series

_GREY = RECIPE_STYLES["random"]["color"]
_BLUE = RECIPE_STYLES["greedy"]["color"]


def against_shifts(results: PublishedResults) -> Figure:
    """Model soups, figure 1: ImageNet against the mean of the five shifted test sets.

    It shows 72 ingredients, two soups and an ensemble.

    Source: Wortsman et al. 2022, figure 1.
    """
    figure, axes = plt.subplots(figsize=(7.5, 4.8))
    axes.set(xlabel="ImageNet (%)", ylabel="mean of five shifted test sets (%)")
    _draw_ingredients(axes, results.ingredients)
    for name, label, marker, size in (
        ("uniform", "uniform soup", "P", 120),
        ("greedy", "greedy soup, 71 evaluations", "s", 120),
        ("ensemble", "ensemble of all, 72 networks", "*", 230),
    ):
        row = results.soups.loc[name]
        style: dict[str, Any] = {
            "marker": marker,
            "color": RECIPE_STYLES[name]["color"],
            "edgecolor": "#222222",
        }
        x, y = row["ImageNet"], row[list(SHIFTED_SETS)].mean()
        axes.scatter(x, y, s=size, label=label, linewidth=0.8, zorder=3, **style)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.16), ncol=2, frameon=False, fontsize=10)
    figure.tight_layout()
    return figure


def _draw_ingredients(axes: Axes, ingredients: DataFrame) -> None:
    accuracies = ingredients["ImageNet"]
    shifts = ingredients[list(SHIFTED_SETS)].mean(axis=1)
    first = ingredients.index[0]
    fine_tuned = ingredients.index[1:]
    grey: dict[str, Any] = {"s": 26, "color": "#999999", "label": "fine-tuned ingredients"}
    axes.scatter(accuracies[fine_tuned], shifts[fine_tuned], **grey)
    for name, label, recipe, marker in (
        (first, "initialisation", "oracle", "X"),
        (greedy_order(ingredients)[0], "best single by validation", "best_single", "D"),
    ):
        style: dict[str, Any] = {
            "color": RECIPE_STYLES[recipe]["color"],
            "marker": marker,
            "label": label,
        }
        axes.scatter(accuracies[name], shifts[name], s=90, **style)


def greedy_tests(log: DataFrame, results: PublishedResults) -> Figure:
    """What greedy tries: each ingredient's own accuracy, and the accuracy of the soup with it.

    Args:
        log: as `radin.experiments.model_soups.analysis.greedy_log` gives it.
        results: for the ingredients' own accuracies.
    """
    figure, (above, below) = plt.subplots(2, 1, figsize=(7.5, 6.8), sharex=True)
    accepted = log.index[log["accepted"]]
    last = accepted[-1]
    above.set(ylabel="ingredient alone,\nvalidation (%)")
    order = greedy_order(results.ingredients)
    _draw_own_accuracies(above, results.ingredients.loc[order, VALIDATION], accepted)
    best_so_far = [log["best_before"].iloc[0], *np.maximum(log["best_before"], log["accuracy"])]
    _draw_best_so_far(below, np.array(best_so_far))
    for chosen, color, label in (
        (~log["accepted"], _GREY, "tried, left out"),
        (log["accepted"], _BLUE, "accepted"),
    ):
        style: dict[str, Any] = {"s": 18, "color": color, "label": label, "zorder": 3}
        below.scatter(log.index[chosen], log.loc[chosen, "accuracy"], **style)
    for axes in (above, below):
        axes.axvline(last + 0.5, color="#D55E00", linewidth=1.4, linestyle="--")
    below.annotate(
        f"{len(log) - last} evaluations for nothing",
        (last + 1.3, best_so_far[-1]),
        xytext=(0, 12),
        textcoords="offset points",
        color="#D55E00",
        fontsize=10,
    )
    below.set(xlabel="test of greedy (0: the best single)", ylabel="soup with it,\nvalidation (%)")
    below.set_ylim(log["accuracy"].min() - 0.15, max(best_so_far) + 0.5)
    below.legend(loc="upper center", bbox_to_anchor=(0.5, -0.2), ncol=4, frameon=False, fontsize=10)
    figure.tight_layout()
    return figure


def _draw_own_accuracies(axes: Axes, in_order: Series, accepted: Any) -> None:
    """The ingredients in greedy's order, with their standard errors."""
    accuracy = in_order.to_numpy()
    error = standard_error(accuracy, TEST_SETS[VALIDATION])
    in_soup = np.isin(np.arange(len(accuracy)), [0, *accepted])
    dots: dict[str, Any] = {"fmt": "o", "markersize": 4, "elinewidth": 1}
    for chosen, color, label in (
        (~in_soup, _GREY, "left out"),
        (in_soup, _BLUE, "in the soup"),
    ):
        tests = np.flatnonzero(chosen)
        axes.errorbar(tests, accuracy[chosen], error[chosen], color=color, label=label, **dots)
    axes.legend(loc="upper right")


def _draw_best_so_far(axes: Axes, accuracy: np.ndarray) -> None:
    """The accuracy of greedy's soup after each test, with its standard error."""
    tests = np.arange(len(accuracy))
    error = standard_error(accuracy, TEST_SETS[VALIDATION])
    shade: dict[str, Any] = {
        "color": _BLUE,
        "alpha": 0.15,
        "linewidth": 0,
        "label": "its standard error",
    }
    axes.fill_between(tests, accuracy - error, accuracy + error, step="post", **shade)
    axes.step(tests, accuracy, where="post", color=_BLUE, label="best soup so far")


def against_rate(results: PublishedResults) -> Figure:
    """Accuracy of each fine-tuned ingredient against its learning rate.

    One panel is for ImageNet, the other for the mean of the shifted sets.
    """
    figure, pair = plt.subplots(1, 2, figsize=(8.6, 3.9), sharex=True)
    for axes, title in zip(pair, ("ImageNet", "mean of five shifted test sets"), strict=True):
        axes.set(title=title, xlabel="learning rate", ylabel="accuracy (%)", xscale="log")
    table = results.hyperparameters
    fine_tuned = table.index[table["lr"].notna()]
    shifts = results.ingredients[list(SHIFTED_SETS)].mean(axis=1)
    for axes, accuracy in zip(pair, (results.ingredients["ImageNet"], shifts), strict=True):
        dots = axes.scatter(
            table.loc[fine_tuned, "lr"].astype(float),
            accuracy[fine_tuned],
            c=table.loc[fine_tuned, "epochs"].astype(float),
            cmap="viridis",
            s=26,
        )
        line: dict[str, Any] = {"color": "#222222", "linewidth": 1, "linestyle": ":"}
        axes.axhline(accuracy.iloc[0], label="initialisation", **line)
        axes.legend(loc="lower left", fontsize=10)
    figure.tight_layout()
    figure.colorbar(dots, ax=list(pair), label="epochs")
    return figure


def trials(
    tried: Mapping[str, list[tuple[float, float]]], single: list[float], title: str
) -> Figure:
    """Fast estimate against accuracy of every soup that the recipes evaluated.

    Args:
        tried: recipe to (estimate, accuracy) of each of its evaluations, in percent.
        single: (N,) accuracies of the ingredients alone, for which estimate and accuracy are equal.
        title: of the figure.
    """
    figure, axes = plt.subplots(figsize=(6.2, 4.6))
    grey: dict[str, Any] = {"s": 60, "color": "#999999", "marker": "x"}
    axes.scatter(single, single, label="ingredients alone (free)", **grey)
    for k, (recipe, pairs) in enumerate(tried.items()):
        style = RECIPE_STYLES[recipe]
        estimates, accuracies = np.array(pairs).reshape(-1, 2).T
        axes.scatter(
            estimates,
            accuracies,
            s=150 - 45 * k,  # equal soups of two recipes stay visible, one inside the other
            facecolor="none",
            edgecolor=style["color"],
            linewidth=2,
            marker=style.get("marker", "P"),
            label=recipe.replace("_", " "),
        )
    axes.axline((0, 0), slope=1, color="#999999", linewidth=1, linestyle="--", zorder=0)
    values = [*single, *(value for pairs in tried.values() for pair in pairs for value in pair)]
    margin = 0.08 * (max(values) - min(values)) + 0.5
    limits = (min(values) - margin, max(values) + margin)
    axes.set(xlim=limits, ylim=limits, title=title)
    axes.set(
        xlabel="fast estimate: the ensemble on validation (%)", ylabel="the soup on validation (%)"
    )
    axes.legend(fontsize=10)
    figure.tight_layout()
    return figure

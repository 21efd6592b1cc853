"""Compare the kept runs of one chapter: tables, a figure, paired differences, and commands."""

from __future__ import annotations

import csv
import itertools
import math
from pathlib import Path

from kept_runs import Run
from notebook_page import papermill_command
from parameters import Parameters, declared_parameters

Interval = tuple[float, float, float]
ALONE = """\
In percent, each with its own 95% interval (Wilson's). Two runs on the same images share their luck,
so do not compare these intervals with each other: the paired differences below are for that. Nor
choose a parameter because it does best here: that would be a choice by the test images."""
PAIRED = """\
Accuracy minus that of the run with {baseline}, in percentage points, with a
{{term}}`paired interval`. Bold: the interval leaves out zero. Each holds alone: among twenty such
intervals, expect one to miss."""
NUMBERS = "Those that are not the same in all runs, by the name that the chapter gives them."


# ---------------------------------------------------------------- what differs


def varying(runs: list[Run]) -> list[str]:
    """The parameters that are not the same in all runs; the first of all where every one is."""
    names = list(runs[0].parameters)
    return [
        name for name in names if len({repr(run.parameters[name]) for run in runs}) > 1
    ] or names[:1]


def title(run: Run, names: list[str]) -> str:
    return ", ".join(f"{name}={run.parameters[name]}" for name in names)


def find_baseline(runs: list[Run], declared: Parameters) -> int:
    """The run with most of the chapter's own parameters; the first of these."""
    alike = [
        sum(run.parameters.get(name) == value for name, value in declared.items()) for run in runs
    ]
    return alike.index(max(alike))


def parts(runs: list[Run]) -> list[str]:
    return list(dict.fromkeys(part for run in runs for part in run.answers))


def recipes(runs: list[Run], part: str) -> list[str]:
    return list(
        dict.fromkeys(
            recipe for run in runs if part in run.answers for recipe in run.answers[part][1]
        )
    )


def accuracy(run: Run, part: str, recipe: str) -> Interval | None:
    """Accuracy of a recipe's soup in percent with Wilson's 95% interval, or None."""
    from radin.experiments.intervals import accuracy_interval

    _, right = run.answers.get(part, ("", {}))
    return accuracy_interval(right[recipe]) if recipe in right else None


def difference(a: Run, b: Run, part: str, recipe: str, other: str = "") -> Interval | None:
    """A recipe's soup in run a minus the same (or another) one's in run b, paired.

    None if the two runs saw different images.
    """
    from radin.experiments.intervals import paired_interval

    here, there = a.answers.get(part), b.answers.get(part)
    if (
        not here
        or not there
        or here[0] != there[0]
        or recipe not in here[1]
        or (other or recipe) not in there[1]
    ):
        return None
    return paired_interval(here[1][recipe], there[1][other or recipe])


# ---------------------------------------------------------------- tables


def percent(found: Interval | None) -> str:
    return "–" if found is None else "{:.2f} [{:.2f}, {:.2f}]".format(*found)


def points(found: Interval | None, mark: str = "**") -> str:
    """A difference with its sign; bold, or in other marks, where its interval leaves zero out."""
    if found is None:
        return "other images"
    middle, low, high = found
    text = f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"
    return f"{mark}{text}{mark}" if low > 0 or high < 0 else text


def pipe_table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(
        f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines
    )


def values(run: Run, names: list[str]) -> list[str]:
    return [str(run.parameters[name]) for name in names]


def accuracy_table(runs: list[Run], part: str) -> str:
    names, columns = varying(runs), recipes(runs, part)
    rows = [
        [*values(run, names), *(percent(accuracy(run, part, recipe)) for recipe in columns)]
        for run in runs
    ]
    return pipe_table([*names, *columns], rows)


def baseline_table(runs: list[Run], part: str, baseline: Run) -> str:
    names, columns = varying(runs), recipes(runs, part)
    rows = [
        [
            *values(run, names),
            *(points(difference(run, baseline, part, recipe)) for recipe in columns),
        ]
        for run in runs
        if run is not baseline
    ]
    return pipe_table([*names, *columns], rows)


def recipe_table(runs: list[Run], part: str) -> str:
    """In each run, the first recipe minus each other one."""
    names, (first, *others) = varying(runs), recipes(runs, part)
    rows = [
        [*values(run, names), *(points(difference(run, run, part, first, o)) for o in others)]
        for run in runs
    ]
    return pipe_table([*names, *(f"{first} − {other}" for other in others)], rows)


def number_table(runs: list[Run]) -> str:
    """The glued numbers that are not the same in all runs; empty when all are."""
    names = varying(runs)
    glued_names = list(dict.fromkeys(name for run in runs for name in run.numbers))
    rows = [
        [f"`{name}`", *(f"{run.numbers[name]:.5g}" if name in run.numbers else "–" for run in runs)]
        for name in glued_names
        if len({run.numbers.get(name) for run in runs}) > 1
    ]
    return pipe_table(["number", *(title(run, names) for run in runs)], rows) if rows else ""


def short_table(runs: list[Run]) -> str:
    """The first table for a terminal: accuracies with half an interval, and the seconds."""
    names = varying(runs)
    rows = [
        [
            *names,
            *(f"{recipe} ({part}, %)" for part in parts(runs) for recipe in recipes(runs, part)),
            "seconds",
        ]
    ]
    for run in runs:
        found = [
            accuracy(run, part, recipe) for part in parts(runs) for recipe in recipes(runs, part)
        ]
        cells = [
            "–" if each is None else f"{each[0]:.2f} ± {(each[2] - each[1]) / 2:.2f}"
            for each in found
        ]
        rows.append([*values(run, names), *cells, f"{run.seconds:.0f}"])
    return aligned(rows)


def short_differences(runs: list[Run], declared: Parameters) -> str:
    """The paired differences for a terminal; empty where there is nothing to compare.

    Each run less the baseline, and in each run the first recipe less each other one.
    """
    baseline = runs[find_baseline(runs, declared)]
    blocks = []
    for part in parts(runs):
        columns = recipes(runs, part)
        if len(runs) > 1:
            rows = [
                [points(difference(run, baseline, part, recipe), "*") for recipe in columns]
                for run in runs
            ]
            against = f"{part}: less the run with {title(baseline, varying(runs))}"
            named = [
                [*values(run, varying(runs)), *row] for run, row in zip(runs, rows, strict=True)
            ]
            keep = [row for run, row in zip(runs, named, strict=True) if run is not baseline]
            blocks.append(f"{against}\n{aligned([[*varying(runs), *columns], *keep])}")
        first, *others = columns
        if others:
            rows = [
                [
                    *values(run, varying(runs)),
                    *(points(difference(run, run, part, first, other), "*") for other in others),
                ]
                for run in runs
            ]
            blocks.append(f"{part}: {first} less\n{aligned([[*varying(runs), *others], *rows])}")
    if not blocks:
        return ""
    note = "In points, with paired 95% intervals; * where one leaves zero out."
    return "\n\n".join([*blocks, note])


def aligned(rows: list[list[str]]) -> str:
    """A table for a terminal, its cells aligned to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True))
        for row in rows
    )


# ---------------------------------------------------------------- figure


def axis_of(runs: list[Run]) -> str:
    """The parameter to put across: the first number that varies, else the first that varies."""
    names = varying(runs)
    numbers = [name for name in names if type(runs[0].parameters[name]) in (int, float)]
    return (numbers or names)[0]


def draw(runs: list[Run], part: str, path: Path) -> list[str]:
    """Accuracy against a parameter, a panel for each that it changes; returns those recipes."""
    import matplotlib

    matplotlib.use("Agg")

    from radin.experiments.plots import style

    with matplotlib.rc_context():  # what the build draws after this keeps its own style
        style.set_style()
        return draw_panels(runs, part, path)


def draw_panels(runs: list[Run], part: str, path: Path) -> list[str]:
    import matplotlib.pyplot as plt

    across = axis_of(runs)
    rest = [name for name in varying(runs) if name != across]
    columns = recipes(runs, part)
    changed = [
        recipe for recipe in columns if len({accuracy(run, part, recipe) for run in runs}) > 1
    ] or columns
    ticks = list(dict.fromkeys(run.parameters[across] for run in runs))
    lines = list(dict.fromkeys(title(run, rest) for run in runs))
    wide = min(2, len(changed))
    high = math.ceil(len(changed) / wide)
    figure, grid = plt.subplots(
        high, wide, figsize=(7, 3.4 * high), sharey=True, squeeze=False, layout="constrained"
    )
    for axes, recipe in itertools.zip_longest(grid.flat, changed):
        if recipe is None:
            axes.remove()
            continue
        for k, line in enumerate(lines):
            found = [
                (r.parameters[across], accuracy(r, part, recipe))
                for r in runs
                if title(r, rest) == line
            ]
            there = [
                (ticks.index(x) + 0.08 * (k - (len(lines) - 1) / 2), y)
                for x, y in found
                if y is not None
            ]
            middle = [y[0] for _, y in there]
            bars = [[y[0] - y[1] for _, y in there], [y[2] - y[0] for _, y in there]]
            marker = "osD^vP*X<>"[k % 10]
            axes.errorbar(
                [x for x, _ in there], middle, bars, marker=marker, capsize=3, label=line or None
            )
        axes.set(title=recipe, xlabel=across, ylabel=f"{part} accuracy (%)")
        axes.set_xticks(range(len(ticks)), [str(tick) for tick in ticks])
    if rest:
        grid.flat[0].legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=150, metadata={"Software": None})
    plt.close(figure)
    return changed


# ---------------------------------------------------------------- the page


def write(source: Path, runs: list[Run], page: Path, left_out: int = 0) -> list[str]:
    """Write the comparison as a page of the book, with its figures and the numbers as .csv.

    Returns the blocks of the page.
    """
    page.parent.mkdir(parents=True, exist_ok=True)
    text = page_blocks(source, runs, page, left_out)
    page.write_text("\n\n".join(text) + "\n", "utf-8")
    baseline = runs[find_baseline(runs, declared_parameters(source))]
    write_csv(runs, baseline, page.with_suffix(".csv"))
    return text


def page_blocks(source: Path, runs: list[Run], page: Path, left_out: int) -> list[str]:
    """The blocks of the page, as Markdown; its figures are drawn beside it."""
    name = f"notebooks/{source.name}"
    baseline = runs[find_baseline(runs, declared_parameters(source))]
    names = varying(runs)
    text = [f"# Reruns of {source.stem}", introduction(runs, names, name, left_out)]
    for number, part in enumerate(parts(runs)):
        picture = page.with_name(f"{page.stem}-{number}.png")
        drawn = draw(runs, part, picture)
        text += part_section(
            runs, part, baseline, picture.name, drawn, f"fig-rerun-{source.stem}-{number}"
        )
    if table := number_table(runs):
        text += ["## Other numbers of the chapter", NUMBERS, table]
    elif not parts(runs):
        text.append("No number that this chapter gives a name differs between the runs.")
    commands = [papermill_command(name, run.parameters) for run in runs]
    return [*text, "## The command of each run", "```bash\n" + "\n".join(commands) + "\n```"]


def introduction(runs: list[Run], names: list[str], name: str, left_out: int) -> str:
    same = [
        f"`{key} = {value!r}`"
        for key, value in runs[0].parameters.items()
        if key not in names or len(runs) == 1
    ]
    many = f" {len(runs)} times" if len(runs) > 1 else ""
    text = f"[This chapter](../{name}) was run{many} with `make rerun`"
    text += (
        f", with other values of {' and '.join(f'`{each}`' for each in names)}." if many else "."
    )
    if same:
        text += f"{' The same in all runs' if many else ' Its parameters'}: {', '.join(same)}."
    if left_out:
        text += (
            f" Left out: {left_out} made from other sources than today's; "
            "`make rerun` makes them again."
        )
    return text


def part_section(
    runs: list[Run], part: str, baseline: Run, picture: str, drawn: list[str], label: str
) -> list[str]:
    """Figure and tables of one set of images."""
    names, columns = varying(runs), recipes(runs, part)
    counts = sorted(
        {
            len(right)
            for run in runs
            if part in run.answers
            for right in run.answers[part][1].values()
        }
    )
    text = [
        f"## Accuracy on {part}",
        figure_directive(runs, part, " or ".join(f"{n:,}" for n in counts), picture, drawn, label),
        ALONE,
        accuracy_table(runs, part),
    ]
    if len(runs) > 1:
        against = PAIRED.format(baseline=title(baseline, names))
        text += ["### Against one run", against, baseline_table(runs, part, baseline)]
    if len(columns) > 1:
        first = f"In each run, {columns[0]} minus each other recipe, in the same manner."
        text += ["### Against the other recipes", first, recipe_table(runs, part)]
    return text


def figure_directive(
    runs: list[Run], part: str, images: str, picture: str, drawn: list[str], label: str
) -> str:
    names, across = varying(runs), axis_of(runs)
    rest = [name for name in names if name != across]
    lines = f", with a line for each {' and '.join(rest)}" if rest else ""
    fixed = [recipe for recipe in recipes(runs, part) if recipe not in drawn]
    level = f" The same in every run, and not drawn: {', '.join(fixed)}." if fixed else ""
    return (
        f"```{{figure}} {picture}\n:name: {label}\n"
        f":alt: Accuracy in percent on {part} against {across}, "
        f"one panel for each of {', '.join(drawn)}{lines}.\n\n"
        f"Accuracy of the soup that each recipe returns on the {images} images of {part}, "
        f"against `{across}`, with 95% intervals.{level}\n```"
    )


def write_csv(runs: list[Run], baseline: Run, path: Path) -> None:
    """One line for each run, part and recipe, with unrounded numbers."""
    names = list(runs[0].parameters)
    with path.open("w", encoding="utf-8", newline="") as file:
        table = csv.writer(file)
        bounds = ["", "_low", "_high"]
        head = [
            "part",
            "recipe",
            "images",
            *(f"accuracy{b}" for b in bounds),
            *(f"minus_baseline{b}" for b in bounds),
        ]
        table.writerow([*names, *head])
        for run in runs:
            for part, (_, right) in run.answers.items():
                for recipe in right:
                    alone, paired = (
                        accuracy(run, part, recipe),
                        difference(run, baseline, part, recipe),
                    )
                    numbers = [*(alone or [""] * 3), *(paired or [""] * 3)]
                    table.writerow(
                        [*values(run, names), part, recipe, len(right[recipe]), *numbers]
                    )

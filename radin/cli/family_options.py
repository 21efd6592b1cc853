"""What `radin families` and the option --family do: files that share a start."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable

from radin.checkpoints.zoo import Zoo
from radin.cli.inputs import checkpoint_paths
from radin.cli.notes import print_notes, show_progress
from radin.cli.tables import print_table, wrap
from radin.errors import CheckpointError, ParameterError, RadinError, counted, list_names
from radin.recipes.families import Families, count_architectures, families, families_of_zoo

NAME_COLUMNS = 36  # of a file's name, its end, in a table


def families_command(options: argparse.Namespace) -> None:
    """The families of some files as a table, and as a tree."""
    found = families(checkpoint_paths(options), progress=show_progress())
    rows = [_row(found, k, n) for n, each in enumerate(found.families, start=1) for k in each]
    print_table(["file", "family", "nearest", "cosine", "distance"], rows)
    print("\n" + wrap(str(found)))
    print(_proposal(found))
    if options.plot is not None:
        from radin.experiments.plots.dendrogram import save_dendrogram  # brings matplotlib

        print(f"wrote {save_dendrogram(found, options.plot)}")


def _row(found: Families, k: int, number: int) -> list[str]:
    """A file beside the one that is nearest to it."""
    cosines = found.cosines[k].clone()
    cosines[k] = math.nan
    name = found.names[k][-NAME_COLUMNS:]
    if cosines.isnan().all():
        return [name, str(number), "", "", ""]
    nearest = int(cosines.nan_to_num(-math.inf).argmax())
    return [
        name,
        str(number),
        found.names[nearest][-NAME_COLUMNS:],
        f"{cosines[nearest]:.3f}",
        f"{found.distances[k, nearest]:.4g}",
    ]


def _proposal(found: Families) -> str:
    largest = found.largest
    if len(largest) < 2:
        return "No two different files share a start, so there is nothing to average."
    if len(largest) == len(found.paths) and not found.unreadable:
        return "All files share a start: they can be averaged."
    return (
        f"The largest family has {len(largest)} different files; craft, rank and average take it "
        "with --family largest."
    )


def open_family(options: argparse.Namespace, open_files: Callable[[str | list[str]], Zoo]) -> Zoo:
    """Open the checkpoints of a command, or the family of --family among them.

    Without --family all files are taken, and a note says where they are of several families.

    Args:
        open_files: opens the zoo of some paths.

    Raises:
        CheckpointError: as `Zoo.open`, with the way out where architectures differ.
    """
    paths = checkpoint_paths(options)
    if options.base is not None:  # all adapters start from it
        if options.family is not None:
            raise ParameterError("--family is for files of several starts; adapters have --base.")
        return open_files(paths)
    if options.family not in (None, "all"):
        paths = _choose(paths, options.family)
    try:
        zoo = open_files(paths)
    except CheckpointError as error:
        raise CheckpointError(f"{error}{_way_out(paths)}") from error
    if options.family is None and len(zoo) > 1:
        print_notes(*_describe_mixture(zoo))
    return zoo


def _choose(paths: str | list[str], family: str) -> list[str]:
    """The files of a family, after a note that says which were taken and which were not."""
    found = families(paths, progress=show_progress())
    chosen = found.choose(family)
    if len(chosen) < 2:
        raise CheckpointError(
            f"--family {family}: it holds no weights but those of {chosen[0]}, so there is nothing "
            "to average; radin families shows which files belong together."
        )
    names = dict(zip(found.paths, found.names, strict=True))
    taken = list_names(names[path] for path in chosen)
    print_notes(f"--family {family}: took {counted(len(chosen), 'file')}, {taken}.")
    if aside := [name for path, name in names.items() if path not in chosen]:
        print_notes(f"left aside: {list_names(aside)} (of other families, or duplicates).")
    print_notes(*(f"left aside: {reason}" for reason in found.unreadable.values()), *found.notes)
    return [str(path) for path in chosen]


def _describe_mixture(zoo: Zoo) -> list[str]:
    """A note on a zoo of several families; none where all share a start."""
    members = families_of_zoo(zoo)
    if len(members) == 1:
        return []
    parts = "; ".join(list_names((zoo.names[k] for k in each), most=3) for each in members)
    advice = (
        "--family largest takes the first of them"
        if len(members[0]) > 1
        else "leave out those with another start"
    )
    note = (
        f"note: these files are of {len(members)} families that share no start: {parts}. An "
        f"average across families is of no use; {advice}, --family all says nothing, and radin "
        "families tells more."
    )
    return [note]


def _way_out(paths: str | list[str]) -> str:
    """What to do where the files are of several architectures; "" where that is not it."""
    try:
        several = count_architectures(paths) > 1
    except RadinError:
        return ""
    if not several:
        return ""
    return (
        "\n  These are files of several architectures: --family largest takes the largest family, "
        "and radin families tells which belong together."
    )

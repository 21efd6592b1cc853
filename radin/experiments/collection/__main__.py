"""`python -m radin.experiments.collection`: make the zoos of the plan, ship their tables."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from radin.errors import RadinError
from radin.experiments.collection.make import make_zoo
from radin.experiments.collection.measure import measure
from radin.experiments.collection.plan import NUM_ROUNDS, planned_zoos
from radin.experiments.collection.run import collect, run
from radin.experiments.collection.table import tables_root, write_tables
from radin.files import cache_root


def main(arguments: list[str] | None = None) -> int:
    """Run a command; returns the exit status."""
    parser = _parser()
    options = parser.parse_args(arguments)
    try:
        options.command(options)
    except RadinError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m radin.experiments.collection", description=__doc__
    )
    commands = parser.add_subparsers(required=True)
    folder = argparse.ArgumentParser(add_help=False)
    folder.add_argument(
        "--folder",
        type=Path,
        default=cache_root() / "collection",
        help="one file of rows for each zoo (default: in the cache)",
    )
    make = commands.add_parser("run", parents=[folder], help="make the zoos that are missing")
    make.add_argument("--rounds", type=int, default=NUM_ROUNDS, help="zoos of each design")
    make.add_argument("--workers", type=int, default=2, help="processes")
    make.set_defaults(command=_run)
    ship = commands.add_parser("ship", parents=[folder], help="write the tables of the module")
    ship.add_argument("--out", type=Path, default=tables_root(), help="a folder")
    ship.set_defaults(command=_ship)
    again = commands.add_parser("again", help="make one zoo again and print its rows")
    again.add_argument("zoo", help="its name, such as digits-mlp-000")
    again.set_defaults(command=_again)
    return parser


def _run(options: argparse.Namespace) -> None:
    run(options.folder, names=planned_zoos(options.rounds), workers=options.workers)


def _ship(options: argparse.Namespace) -> None:
    tables, notes = collect(options.folder)
    write_tables(tables, options.out)
    print("\n".join(notes))


def _again(options: argparse.Namespace) -> None:
    import pandas as pd

    rows = measure(make_zoo(options.zoo))["recipes"]
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())

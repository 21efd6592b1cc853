"""`python -m radin.experiments.collection`: make the zoos of the plan, ship their tables."""

from __future__ import annotations

import argparse
import sys
from itertools import islice
from pathlib import Path

from radin.errors import RadinError
from radin.experiments.collection.keep import keep_zoos
from radin.experiments.collection.make import make_zoo
from radin.experiments.collection.run import (
    STUDIES,
    VERDICTS,
    collect,
    rounds,
    run,
    unpack,
    with_new_benches,
)
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
    study = argparse.ArgumentParser(add_help=False)
    study.add_argument(
        "--study",
        choices=list(STUDIES),
        default=VERDICTS.name,
        help="what is asked of the zoos (%(default)s)",
    )
    folder = argparse.ArgumentParser(add_help=False, parents=[study])
    folder.add_argument(
        "--folder",
        type=Path,
        help="one file of rows for each zoo (default: in the cache)",
    )
    make = commands.add_parser("run", parents=[folder], help="make the zoos that are missing")
    make.add_argument("--rounds", type=int, help="zoos of each design (all planned)")
    make.add_argument("--workers", type=int, default=2, help="processes")
    make.set_defaults(command=_run)
    unpacked = commands.add_parser(
        "unpack",
        parents=[folder],
        help="write the rows of the module's tables as `run` does, to make only further zoos",
    )
    unpacked.add_argument(
        "--tables", type=Path, default=tables_root(), help="their folder (default: in the module)"
    )
    unpacked.set_defaults(command=_unpack)
    ship = commands.add_parser("ship", parents=[folder], help="write the tables of the module")
    ship.add_argument("--out", type=Path, default=tables_root(), help="a folder")
    ship.set_defaults(command=_ship)
    add = commands.add_parser(
        "add", parents=[study], help="add the shipped benches that the module's tables lack"
    )
    add.add_argument("--out", type=Path, default=tables_root(), help="a folder")
    add.set_defaults(command=_add)
    keep = commands.add_parser("keep", help="write some zoos as whole benches")
    keep.add_argument("--out", type=Path, help="a folder (default: that of the module)")
    keep.set_defaults(command=_keep)
    again = commands.add_parser(
        "again", parents=[study], help="make one zoo again and print its rows"
    )
    again.add_argument("zoo", help="its name, such as digits-mlp-000")
    again.set_defaults(command=_again)
    return parser


def _run(options: argparse.Namespace) -> None:
    study = STUDIES[options.study]
    names = [name for names in islice(rounds(study), options.rounds) for name in names]
    run(_folder(options), study, names=names, workers=options.workers)


def _unpack(options: argparse.Namespace) -> None:
    new = unpack(_folder(options), options.tables, STUDIES[options.study])
    print(f"{len(new)} zoos written to {_folder(options)}")


def _ship(options: argparse.Namespace) -> None:
    tables, notes = collect(_folder(options), STUDIES[options.study])
    write_tables(tables, options.out)
    print("\n".join(notes))


def _add(options: argparse.Namespace) -> None:
    tables, added = with_new_benches(tables_root(), STUDIES[options.study])
    write_tables(tables, options.out)
    print(f"added {', '.join(added)}" if added else "the tables have all shipped benches")


def _keep(options: argparse.Namespace) -> None:
    keep_zoos(options.out)


def _folder(options: argparse.Namespace) -> Path:
    default = "collection" if options.study == VERDICTS.name else f"collection-{options.study}"
    return options.folder or cache_root() / default


def _again(options: argparse.Namespace) -> None:
    import pandas as pd

    study = STUDIES[options.study]
    rows = study.measure(make_zoo(options.zoo))[study.tables[0]]
    print(pd.DataFrame(rows).to_string(index=False))


if __name__ == "__main__":
    sys.exit(main())

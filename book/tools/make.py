"""Build the book: stage a copy, run its notebooks, let Jupyter Book make the pages.

    python book/tools/make.py --budget 8 --seed 3

Every parameter that a notebook declares in its `parameters` cell is an option here. A notebook runs
only where no execution of the same code with the same parameters, radin, packages and data is kept
under RADIN_CACHE; `--fresh 1` runs all of them. The pages are made anew unless nothing has changed:
Sphinx's own way to update some of them would not repeat the warnings of the others.

The source tree is never written to: the work happens under `_build/stage`, the finished book is put
into `_build/html`, and a build that fails leaves the former book there. `make book` does the set-up
and then calls this.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import nbformat

from architecture import write_architecture
from chapters import execute_chapters, finish_chapters, read_chapters
from execution import parse_jobs, prepare_environment
from fingerprint import digest, folder_digest, surroundings
from generated import add_reruns, fill
from kept_pages import surplus
from kept_runs import glued
from notebook_page import git
from numbers_in_text import with_numbers
from parameters import (
    BuildError,
    Parameters,
    all_parameters,
    check_given,
    parse_value,
)
from radin.files import cache_root
from times import times_page

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("_config.yml", "_toc.yml", "book", "notebooks", "CHANGELOG.md")
ASSIGNMENTS = Path("notebooks") / "assignments"  # shown as students get them, never run
TOOLS = Path(__file__).resolve().parent  # these scripts, which are no pages
# Scripts here that write what pages do without a kernel.
LIVE_PARTS = ("explorer", "forest_plot", "recipe_page")
RELEASE = "release"  # what students get; beside it lie solutions, a class's work and its marks
TEXT_SUFFIXES = {".md", ".ipynb", ".yml"}
REPOSITORY = "radin-companion/radin-companion"  # owner/name as the sources write it
OWNER_AND_NAME = re.compile(r"[\w.-]+/[\w.-]+")
GITHUB_REMOTE = re.compile(r"(?:^|[/@])github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$")
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
NEGATIVE_FROM_A_CELL = re.compile(r'(<span class="pasted-text">)-(?=[\d.])')
ZERO_FROM_A_CELL = re.compile(r'(<span class="pasted-text">)-(0(?:\.0+)?</span>)')
SPHINX_COMPLAINT = re.compile(r"WARNING|ERROR|CRITICAL|[Ee]xception|[a-z] error:")
WHAT = "Run the notebooks and build the book."


class OptionParser(argparse.ArgumentParser):
    """An argparse parser whose complaints are one sentence, without the usage text."""

    def error(self, message: str) -> NoReturn:
        raise BuildError(f"{message}; {self.prog} --help lists the options")


# ---------------------------------------------------------------- what the notebooks declare


def pages_in_toc(root: Path) -> list[Path]:
    """The files that `_toc.yml` names, in order; each must exist."""
    from sphinx_external_toc.parsing import MalformedError, parse_toc_yaml

    try:
        names = list(parse_toc_yaml(root / "_toc.yml"))
    except (MalformedError, OSError) as error:
        raise BuildError(f"_toc.yml cannot be read: {error}") from error
    return [find_page(root, name) for name in names]


def notebooks_in_toc(root: Path) -> list[Path]:
    """The notebooks among these pages that are run, below the root."""
    pages = [page.relative_to(root) for page in pages_in_toc(root)]
    return [
        page for page in pages if page.suffix == ".ipynb" and not page.is_relative_to(ASSIGNMENTS)
    ]


def find_page(root: Path, name: str) -> Path:
    for candidate in (root / name, root / f"{name}.md", root / f"{name}.ipynb"):
        if candidate.is_file():
            return candidate
    raise BuildError(f"_toc.yml names {name}, but there is no {name}.md and no {name}.ipynb")


@dataclass(frozen=True)
class Options:
    """What the command line says beside the notebooks' parameters."""

    out: Path
    fresh: bool
    jobs: int | None


def parse_options(argv: list[str] | None, defaults: Parameters) -> tuple[Options, Parameters]:
    """The options of the build, and the notebook parameters given on the command line."""
    parser = OptionParser(prog="book/tools/make.py", allow_abbrev=False, description=WHAT)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_build", help="where to build (default: _build)"
    )
    parser.add_argument("--fresh", default="0", help="1: run every notebook, also those kept")
    parser.add_argument("--jobs", default="", help="notebooks at a time (default: one per core)")
    group = parser.add_argument_group("notebook parameters")
    for name, default in defaults.items():
        option = "--" + name.replace("_", "-")
        group.add_argument(
            option, dest=f"parameter {name}", metavar="VALUE", help=f"default {default!r}"
        )
    given, unknown = parser.parse_known_args(argv)
    if unknown:
        raise BuildError(
            f"no notebook declares {unknown[0]}; they declare {', '.join(defaults) or 'nothing'}"
        )
    texts = {name: getattr(given, f"parameter {name}") for name in defaults}
    parameters = {
        name: parse_value(name, text, defaults[name])
        for name, text in texts.items()
        if text is not None
    }
    fresh = parse_value("fresh", given.fresh, False)
    return Options(given.out.resolve(), fresh, parse_jobs(given.jobs)), parameters


# ---------------------------------------------------------------- staging


@contextlib.contextmanager
def only_build_in(out: Path) -> Iterator[None]:
    """Keep a second build out of the same folder: it would pull the stage from under this one."""
    try:
        import fcntl
    except ImportError:  # Windows has no flock; two builds at once are then the user's own affair
        yield
        return
    out.mkdir(parents=True, exist_ok=True)
    with (out / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise BuildError(
                f"another build is at work in {out}; give this one its own --out"
            ) from error
        yield


def make_stage(stage: Path, repository: str) -> None:
    """Copy the book's sources to `stage`, with links that lead to this clone's own repository."""
    shutil.rmtree(stage, ignore_errors=True)
    stage.mkdir(parents=True)
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, stage / name, ignore=left_behind)
        elif (ROOT / name).is_file():
            shutil.copy2(ROOT / name, stage / name)
    if repository == REPOSITORY:
        return
    for path in stage.rglob("*"):
        if path.suffix in TEXT_SUFFIXES:
            path.write_text(path.read_text("utf-8").replace(REPOSITORY, repository), "utf-8")


def left_behind(folder: str, names: list[str]) -> set[str]:
    """What is not copied: hidden files, and all of the assignments but what students get."""
    if Path(folder) == ROOT / ASSIGNMENTS:
        return set(names) - {RELEASE}
    if Path(folder) == ROOT / "book":
        return shutil.ignore_patterns(".*", TOOLS.name)(folder, names)
    return shutil.ignore_patterns(".*", "__pycache__")(folder, names)


def known_repository() -> str:
    """owner/name on GitHub: REPOSITORY, else of the workflow, else of `origin`; empty if unknown.

    Raises:
        BuildError: REPOSITORY is not of this form.
    """
    if name := os.environ.get("REPOSITORY"):
        if not OWNER_AND_NAME.fullmatch(name):
            raise BuildError(f"REPOSITORY must be owner/name on GitHub, not {name!r}")
        return name
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return name
    remote = GITHUB_REMOTE.search(git(ROOT, "remote", "get-url", "origin"))
    return remote[1] if remote else ""


def repository_name() -> str:
    """owner/name on GitHub: the known one, else the sources' own."""
    return known_repository() or REPOSITORY


def leave_out_issues(stage: Path) -> None:
    """Take the links to issues off the pages: nobody knows whether anybody reads them."""
    config = stage / "_config.yml"
    text = config.read_text("utf-8")
    config.write_text(text.replace("use_issues_button: true", "use_issues_button: false"), "utf-8")


# ---------------------------------------------------------------- pages


def build_pages(stage: Path, log: Path) -> Path:
    """Run Jupyter Book on the stage, any warning an error, and return the folder of pages."""
    jupyter_book = [sys.executable, "-c", "from jupyter_book.cli.main import main; main()"]
    command = [*jupyter_book, "build", str(stage), "-W", "-n", "--keep-going"]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    output = TERMINAL_COLOUR.sub("", done.stdout.decode("utf-8", "replace")).replace(
        f"{stage}{os.sep}", ""
    )
    log.write_text(output, "utf-8")
    if done.returncode != 0:
        lines = output.splitlines()
        complaints = [line for line in lines if SPHINX_COMPLAINT.search(line)] or lines[-20:]
        print("\n".join(dict.fromkeys(complaints)), file=sys.stderr)
        raise BuildError(
            f"the pages have the warnings above, and each is an error here (whole log: {log})"
        )
    pages = stage / "_build" / "html"
    for page in pages.rglob("*.html"):
        page.write_text(with_minus_signs(page.read_text("utf-8")), "utf-8")
    return pages


def with_minus_signs(html: str) -> str:
    """A page whose numbers from cells have the sign that print has; zero has none."""
    html = ZERO_FROM_A_CELL.sub(r"\1\2", html)
    return NEGATIVE_FROM_A_CELL.sub(r"\1−", html)


def replace_folder(new: Path, target: Path) -> None:
    """Put `new` where `target` is, which is removed only when the new one is ready beside it."""
    former = target.with_name(target.name + ".former")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.rename(former)
    new.rename(target)
    shutil.rmtree(former, ignore_errors=True)


def add_live_part(stage: Path, name: str, *, fresh: bool) -> None:
    """Add what the script `name` writes to the stage; it is kept as the executed notebooks are."""
    paths = [*sorted(TOOLS.glob(f"{name}*.py")), TOOLS / "controls.py"]
    sources = [path.read_text("utf-8") for path in paths]
    key = digest(*sources, *surroundings())
    kept = cache_root() / name / key
    if fresh or not kept.is_dir():
        script = importlib.import_module(name)  # its libraries take seconds
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".", dir=kept.parent) as folder:
            getattr(script, f"write_{name}")(Path(folder) / "new")
            shutil.rmtree(kept, ignore_errors=True)
            with contextlib.suppress(OSError):  # another build was faster
                (Path(folder) / "new").rename(kept)
        for old in surplus(kept.parent.glob("[!.]*")):
            shutil.rmtree(old, ignore_errors=True)
    shutil.copytree(kept, stage, dirs_exist_ok=True)


def add_editor(stage: Path) -> str:
    """Add the editor of recipes where its page is; returns why it could not be added, or ""."""
    if not (stage / "book" / "write.md").is_file():
        return ""
    missing: str = importlib.import_module("recipe_editor").add_recipe_editor(stage)
    return missing


@contextlib.contextmanager
def progress(step: str) -> Iterator[None]:
    """One line for one step of the build: its name at once, its time when it is done."""
    print(f"{step} ...", end=" ", flush=True)
    started = time.monotonic()
    try:
        yield
    except BaseException:
        print(flush=True)
        raise
    print(f"{time.monotonic() - started:.0f} s", flush=True)


def build(argv: list[str] | None) -> Path:
    """The whole way from sources to `index.html`, whose path it returns."""
    chapters = read_chapters(ROOT, notebooks_in_toc(ROOT))
    defaults = {name: value for chapter in chapters for name, value in chapter.declared.items()}
    options, parameters = parse_options(argv, defaults)
    chapters = [
        replace(chapter, given={k: v for k, v in parameters.items() if k in chapter.declared})
        for chapter in chapters
    ]
    for chapter in chapters:
        check_given(chapter.path, chapter.name, chapter.given)
    out = options.out
    stage = out / "stage"
    with only_build_in(out):
        make_stage(stage, repository_name())
        if not known_repository():
            leave_out_issues(stage)
        log = out / "kernels.log"
        log.unlink(missing_ok=True)
        prepare_environment(out)
        add_reruns(stage, [chapter.path for chapter in chapters], out / "reruns")
        fill(
            stage / "book" / "rerun.md",
            "parameters of the notebooks",
            all_parameters([(c.path, c.name) for c in chapters], "tab-parameters"),
        )
        executed = execute_chapters(
            chapters, stage, log, root=ROOT, fresh=options.fresh, jobs=options.jobs
        )
        executions = finish_chapters(chapters, stage, executed)
        fill(stage / "book" / "times.md", "execution times", times_page(executions))
        write_architecture(stage, ROOT / "radin")
        with progress("live parts of the pages"):
            for name in LIVE_PARTS:
                add_live_part(stage, name, fresh=options.fresh)
            missing = add_editor(stage)
        if missing:
            print(f"no editor on the page on writing recipes: {missing}", file=sys.stderr)
        with progress("pages"):
            update_pages(stage, out, fresh=options.fresh)
    return out / "html" / "index.html"


def put_numbers_into_downloads(folder: Path) -> None:
    """The notebooks that a page offers show their numbers in Jupyter, too."""
    paths = sorted(folder.glob("*.ipynb"))
    notebooks = [nbformat.read(path, as_version=4) for path in paths]
    values = {name: value for notebook in notebooks for name, value in glued(notebook).items()}
    for path, notebook in zip(paths, notebooks, strict=True):
        nbformat.write(with_numbers(notebook, values), path)


def update_pages(stage: Path, out: Path, *, fresh: bool) -> None:
    """Make the pages anew, unless those that are there were made of the very same."""
    html = out / "html"
    record = out / "pages.key"
    key = digest(folder_digest(stage), folder_digest(TOOLS), *surroundings())
    there = (html / "index.html").is_file() and record.is_file()
    if there and not fresh and record.read_text("utf-8") == key:
        return
    new = build_pages(stage, out / "sphinx.log")
    put_numbers_into_downloads(new / "_sources" / "notebooks")
    record.unlink(missing_ok=True)
    replace_folder(new, html)
    record.write_text(key, "utf-8")


def main(argv: list[str] | None = None) -> int:
    try:
        index = build(argv)
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; the former book, if there was one, is as it was", file=sys.stderr)
        return 130
    print(index)
    return 0


if __name__ == "__main__":
    sys.exit(main())

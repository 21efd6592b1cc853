"""Build the book: stage a copy, run its notebooks, let Jupyter Book make the pages.

    python book/tools/make.py --budget 8 --seed 3

Every parameter that a notebook declares in its `parameters` cell is an option here. The source tree is
never written to: the work happens under `_build/stage`, the finished book lands in `_build/html`, and a
build that fails leaves the former book where it was. `make book` does the set-up and then calls this.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

from explorer import write_explorer
from generated import add_reruns, fill, way_to_times
from notebook_page import finish_notebook, git
from parameters import (
    BuildError,
    Parameters,
    all_parameters,
    check_given,
    declared_parameters,
    parse_value,
)
from pictures import save_glued_pictures
from radin.experiments.notebook import own_kernel
from times import Times

ROOT = Path(__file__).resolve().parent.parent.parent
SOURCES = ("_config.yml", "_toc.yml", "book", "notebooks", "CHANGELOG.md")
ASSIGNMENTS = Path("notebooks") / "assignments"  # shown as students get them, never run
TOOLS = Path(__file__).resolve().parent  # these scripts, which are no pages
RELEASE = "release"  # what students get; beside it lie solutions, a class's work and its marks
TEXT_SUFFIXES = {".md", ".ipynb", ".yml"}
REPOSITORY = "radin-companion/radin-companion"  # owner/name as the sources write it
GITHUB_REMOTE = re.compile(r"(?:^|[/@])github\.com[:/]([\w.-]+/[\w.-]+?)(?:\.git)?/?$")
TERMINAL_COLOUR = re.compile(r"\x1b\[[0-9;]*m")
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


def find_page(root: Path, name: str) -> Path:
    for candidate in (root / name, root / f"{name}.md", root / f"{name}.ipynb"):
        if candidate.is_file():
            return candidate
    raise BuildError(f"_toc.yml names {name}, but there is no {name}.md and no {name}.ipynb")


def parse_options(argv: list[str] | None, defaults: Parameters) -> tuple[Path, Parameters]:
    """The output folder, and the notebook parameters given on the command line."""
    parser = OptionParser(prog="book/tools/make.py", allow_abbrev=False, description=WHAT)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "_build", help="where to build (default: _build)"
    )
    given = parser.add_argument_group("notebook parameters")
    for name, default in defaults.items():
        option = "--" + name.replace("_", "-")
        given.add_argument(
            option, dest=f"parameter {name}", metavar="VALUE", help=f"default {default!r}"
        )
    options, unknown = parser.parse_known_args(argv)
    if unknown:
        raise BuildError(
            f"no notebook declares {unknown[0]}; they declare {', '.join(defaults) or 'nothing'}"
        )
    texts = {name: getattr(options, f"parameter {name}") for name in defaults}
    given_texts = {name: text for name, text in texts.items() if text is not None}
    parameters = {
        name: parse_value(name, text, defaults[name]) for name, text in given_texts.items()
    }
    return options.out.resolve(), parameters


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
    """What of a folder has no business in a book: hidden files, and all of the assignments but what students get."""
    if Path(folder) == ROOT / ASSIGNMENTS:
        return set(names) - {RELEASE}
    if Path(folder) == ROOT / "book":
        return shutil.ignore_patterns(".*", TOOLS.name)(folder, names)
    return shutil.ignore_patterns(".*", "__pycache__")(folder, names)


def repository_name() -> str:
    """owner/name on GitHub: of the running workflow, else of the `origin` remote, else the sources' own."""
    if name := os.environ.get("GITHUB_REPOSITORY"):
        return name
    remote = GITHUB_REMOTE.search(git(ROOT, "remote", "get-url", "origin"))
    return remote[1] if remote else REPOSITORY


# ---------------------------------------------------------------- running the notebooks


def prepare_environment(out: Path) -> None:
    """What the kernels inherit: this interpreter, no progress bars, paths that hold in any folder."""
    os.environ |= own_kernel(out)
    # Libraries' notes to their own developers are not for readers of the book.
    os.environ.setdefault("PYTHONWARNINGS", "ignore::FutureWarning,ignore:IProgress not found")
    os.environ.setdefault("RADIN_CACHE", str(out / "cache"))
    for name in ("RADIN_CACHE", "RADIN_DATA"):
        if name in os.environ:
            os.environ[name] = os.path.abspath(os.environ[name])


@contextlib.contextmanager
def kernels_speak_to(log: Path) -> Iterator[None]:
    """Send to `log` what kernels write to the terminal themselves, such as tracebacks when they are stopped."""
    sys.stderr.flush()
    terminal = os.dup(2)
    with log.open("ab") as stream:
        os.dup2(stream.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(terminal, 2)
        os.close(terminal)


def run_notebook(path: Path, name: str, parameters: Parameters, target: Path | None = None) -> Any:
    """Execute the notebook, into `target` or in place; a failed cell becomes one sentence and the notebook stays."""
    import papermill

    target = target or path
    try:
        return papermill.execute_notebook(
            path,
            target,
            parameters=parameters,
            cwd=path.parent,
            kernel_name="python3",
            language="python",
            progress_bar=False,
        )
    except papermill.PapermillExecutionError as error:
        reason = f"{error.ename}: {error.evalue}".strip().splitlines()[-1].rstrip(".")
        raise BuildError(
            f"{name}, cell [{error.exec_count}]: {reason} (as it failed: {target})"
        ) from error
    except Exception as error:  # a kernel that died or never came up has many classes
        reason = (str(error).strip() or type(error).__name__).splitlines()[-1]
        raise BuildError(
            f"{name} did not run to its end: {reason} (the notebook so far: {target})"
        ) from error


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
    return stage / "_build" / "html"


def replace_folder(new: Path, target: Path) -> None:
    """Put `new` where `target` is; the former one goes only when the new one stands ready beside it."""
    former = target.with_name(target.name + ".former")
    shutil.rmtree(former, ignore_errors=True)
    if target.exists():
        target.rename(former)
    new.rename(target)
    shutil.rmtree(former, ignore_errors=True)


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
    """The whole road from sources to `index.html`, whose path it returns."""
    pages = [page.relative_to(ROOT) for page in pages_in_toc(ROOT)]
    notebooks = [
        page for page in pages if page.suffix == ".ipynb" and not page.is_relative_to(ASSIGNMENTS)
    ]
    declared = {path: declared_parameters(ROOT / path) for path in notebooks}
    defaults = {
        name: value for parameters in declared.values() for name, value in parameters.items()
    }
    out, parameters = parse_options(argv, defaults)
    given = {
        path: {name: parameters[name] for name in declared[path] if name in parameters}
        for path in notebooks
    }
    for path in notebooks:
        check_given(ROOT / path, path.as_posix(), given[path])
    stage = out / "stage"
    with only_build_in(out):
        make_stage(stage, repository_name())
        (out / "kernels.log").unlink(missing_ok=True)
        prepare_environment(out)
        times = Times(Path(os.environ["RADIN_CACHE"]))
        add_reruns(stage, [ROOT / path for path in notebooks], out / "reruns")
        sources = [(stage / path, path.as_posix()) for path in notebooks]
        fill(
            stage / "book" / "rerun.md",
            "parameters of the notebooks",
            all_parameters(sources, "tab-parameters"),
        )
        for path in notebooks:
            with progress(path.as_posix()):
                with kernels_speak_to(out / "kernels.log"), times.of(path.as_posix()):
                    run_notebook(stage / path, path.as_posix(), given[path])
                times_page = way_to_times(stage, path)
                finish_notebook(
                    stage / path, path.as_posix(), declared[path], given[path], ROOT, times_page
                )
                save_glued_pictures(stage / path, stage / "book" / "figures")
        fill(stage / "book" / "times.md", "execution times", times.page())
        with progress("explorer"):
            write_explorer(stage)
        with progress("pages"):
            replace_folder(build_pages(stage, out / "sphinx.log"), out / "html")
    return out / "html" / "index.html"


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

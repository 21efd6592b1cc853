"""What the `parameters` cells of the notebooks declare: defaults, meanings, allowed values."""

from __future__ import annotations

import ast
import io
import os
import re
import tokenize
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat

Parameters = dict[str, Any]
KINDS = {bool: "true or false", int: "a whole number", float: "a number"}
QUOTED = re.compile(r"""(?<!\w)(?:"[^"]*"|'[^' ]*')(?!\w)""")


class BuildError(Exception):
    """What stops a build, as one sentence that says what to do."""


# ---------------------------------------------------------------- what a notebook says


def parameters_cell(notebook: Path) -> str:
    """The source of the cell tagged `parameters`; empty when there is none."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if "parameters" in cell.metadata.get("tags", []):
            return cell.source
    return ""


def declared_parameters(notebook: Path) -> Parameters:
    """Names and default values in the cell tagged `parameters`; empty when there is none."""
    try:
        return dict(literal_assignments(parameters_cell(notebook)))
    except (ValueError, SyntaxError, nbformat.ValidationError) as error:
        reason = str(error).splitlines()[0]
        raise BuildError(
            f"{notebook} is no notebook with a cell of plain parameters: {reason}"
        ) from error


def literal_assignments(source: str) -> Iterator[tuple[str, Any]]:
    for name, value, _ in assignments_in(source):
        yield name, ast.literal_eval(value)


def assignments_in(source: str) -> Iterator[tuple[str, ast.expr, int]]:
    """Name, value and last line of each assignment."""
    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            target: ast.expr = statement.targets[0]
        elif isinstance(statement, ast.AnnAssign) and statement.value:
            target = statement.target
        else:
            continue
        if isinstance(target, ast.Name) and statement.value:
            yield target.id, statement.value, statement.end_lineno or 0


def meanings(notebook: Path) -> dict[str, str]:
    """What the comment behind each parameter says; empty where there is none."""
    source = parameters_cell(notebook)
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    comments = {t.start[0]: t.string.lstrip("# ") for t in tokens if t.type == tokenize.COMMENT}
    return {name: comments.get(line, "") for name, _, line in assignments_in(source)}


def own_check(notebook: Path) -> ast.Call | None:
    """The call of `check_parameters` in a notebook, the one statement of what it allows."""
    for cell in nbformat.read(notebook, as_version=4).cells:
        if cell.cell_type != "code" or "check_parameters(" not in cell.source:
            continue
        try:
            tree = ast.parse(cell.source)
        except SyntaxError as error:
            raise BuildError(
                f"{notebook.name}: the cell that calls check_parameters must be plain Python, "
                f"without magics; its line {error.lineno} is none"
            ) from error
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check_parameters":
                return node
    return None


def call(check: ast.Call, name: str, values: Parameters, **instead: Callable[..., Any]) -> Any:
    """Do what a notebook's call of `check_parameters` does, before the notebook runs."""
    from radin.experiments import notebook as shared

    code = compile(ast.Expression(check), name, "eval")
    try:
        return eval(code, vars(shared) | values | instead)
    except NameError as error:
        raise BuildError(
            f"{name} checks its parameters with what radin.experiments.notebook "
            f"does not have: {error}"
        ) from error
    except (AttributeError, TypeError) as error:
        raise BuildError(f"{name} calls check_parameters in a way that fails: {error}") from error


# ---------------------------------------------------------------- values


def parse_value(name: str, text: str, default: Any) -> Any:
    """The value that `text` means, of the type of the notebooks' own default."""
    if name == "data_root" and text:
        return os.path.abspath(os.path.expanduser(text))  # a notebook runs in a folder of its own
    if isinstance(default, str):
        return text
    if isinstance(default, bool) and text.lower() in {"1", "0", "true", "false"}:
        return text.lower() in {"1", "true"}
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = text
    if isinstance(default, float) and type(value) is int:
        return float(value)
    if default is not None and type(value) is not type(default):
        kind = KINDS.get(type(default), type(default).__name__)
        raise BuildError(
            f"{name} must be {kind}, as in the notebooks' {name} = {default!r}; it is {text!r}"
        )
    return value


def check_given(notebook: Path, name: str, values: Parameters) -> None:
    """Check values by the notebook's own call of `check_parameters`, before any notebook runs.

    Raises BuildError, one sentence that lists what is allowed. Without the call nothing is checked.
    """
    from radin.errors import RadinError

    check = own_check(notebook)
    if check is None:
        return
    try:
        call(check, name, declared_parameters(notebook) | values)
    except RadinError as error:
        raise BuildError(f"{name}: {str(error).rstrip('.')}") from error


def allowed_values(notebook: Path, name: str) -> dict[str, str]:
    """What each parameter may be, in words; empty for a notebook that checks nothing."""
    from radin.experiments.notebook import ZOOS, describe_allowed

    check = own_check(notebook)
    if check is None:
        return {}

    def zoos(here: Sequence[str] = ZOOS, **_: Any) -> Sequence[str]:
        return here

    declared = declared_parameters(notebook)
    known = call(check, name, declared, check_parameters=zoos)
    return {parameter: describe_allowed(parameter, known) for parameter in declared}


# ---------------------------------------------------------------- tables for the book


def as_code(text: str) -> str:
    """Quoted words as code: a page would curl their quotes."""
    return QUOTED.sub(r"`\g<0>`", text)


def parameter_table(notebook: Path, name: str) -> str:
    """One chapter's parameters as a folded table; empty when it has none."""
    allowed, meaning = allowed_values(notebook, name), meanings(notebook)
    rows = [
        [
            f"`{parameter} = {default!r}`",
            as_code(allowed.get(parameter, "")),
            as_code(meaning[parameter]),
        ]
        for parameter, default in declared_parameters(notebook).items()
    ]
    if not rows:
        return ""
    table = list_table([["Parameter and default", "Allowed", "Meaning"], *rows])
    title = "The parameters, and what they may be"
    return f"::::{{admonition}} {title}\n:class: dropdown\n\n{table}\n::::"


def all_parameters(notebooks: Iterable[tuple[Path, str]], label: str) -> str:
    """The parameters of all chapters as one table with a label; equal ones share a line."""
    found: dict[
        str, dict[str, dict[str, list[str]]]
    ] = {}  # parameter, allowed, meaning and default: chapters
    for path, name in notebooks:
        allowed, meaning = allowed_values(path, name), meanings(path)
        for parameter, default in declared_parameters(path).items():
            uses = found.setdefault(parameter, {}).setdefault(allowed.get(parameter, ""), {})
            words = f"{as_code(meaning[parameter])}; `{default!r}` in"
            uses.setdefault(words, []).append(f"[{Path(name).stem.split('_')[0]}](../{name})")
    rows = []
    for parameter, kinds in found.items():
        for allowed_here, uses in kinds.items():
            lines = [f"{words} {', '.join(chapters)}" for words, chapters in uses.items()]
            rows.append([f"`{parameter}`", as_code(allowed_here), "\n\n    ".join(lines)])
    head = ["Parameter", "Allowed", "Meaning, and default by chapter"]
    return list_table([head, *rows], title="Parameters of the notebooks", label=label)


def list_table(rows: list[list[str]], title: str = "", label: str = "") -> str:
    """Rows of Markdown as a MyST table, the first of them its head."""
    options = [f":name: {label}"] * bool(label) + [":header-rows: 1"]
    lines = [
        ("* - " if column == 0 else "  - ") + cell
        for row in rows
        for column, cell in enumerate(row)
    ]
    return "\n".join([f":::{{list-table}} {title}".rstrip(), *options, "", *lines, ":::"])

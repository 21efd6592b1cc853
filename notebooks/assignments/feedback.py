"""The page of feedback for a student: one file of HTML without hidden tests or outside requests."""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from typing import Any

from submissions import grade_id, graded_cells

NOT_MARKED = "not yet marked"
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; vertical-align: top; padding: .3rem .6rem; border-bottom: 1px solid #8888; }
td p { margin: 0; font-style: italic; overflow-wrap: anywhere; }
td.points { min-width: 5rem; }
pre { overflow-x: auto; padding: .6rem; border: 1px solid #8888; font-size: 14px; }
pre.text { white-space: pre-wrap; font-family: inherit; }
"""  # noqa: E501


def page(row: Mapping[str, Any], notebook: Any, release: Any) -> str:
    """What a student earned for each part and why, then the answers that were graded.

    Args:
        row: of the submission: student, assignment, parts and problems.
        notebook: the student's cells, as they were graded; None when the file was no notebook.
        release: the student version, whose headings name the parts.
    """
    headings = part_headings(release)
    title = f"{row['assignment']}: feedback for {row['student']}"
    lines = [
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style>\n</head>\n<body>\n<main>",
        f"<h1>{escape(title)}</h1>",
        f"<p>{escape(_describe_total(row['parts']))}</p>",
        *_problem_list(row["problems"]),
        "<table>\n<thead><tr><th>Part</th><th>Points</th></tr></thead>\n<tbody>",
    ]
    for part in row["parts"]:
        name, points = escape(part_title(part["part"], headings)), escape(points_text(part))
        message = f"<p>{escape(part['message'])}</p>" if part["message"] else ""
        lines.append(f'<tr><td>{name}{message}</td><td class="points">{points}</td></tr>')
    lines.append("</tbody>\n</table>")
    if notebook is not None:
        lines += ["<h2>Your answers</h2>", *_answers(notebook, headings)]
    return "\n".join([*lines, "</main>\n</body>\n</html>\n"])


def part_headings(release: Any) -> dict[str, str]:
    """The heading above each cell that has a name, such as "Part 1: a soup"."""
    heading = ""
    found = {}
    for cell in release.cells:
        if cell.cell_type == "markdown" and (match := re.search(r"^##+ (.+)$", cell.source, re.M)):
            heading = match[1].strip()
        if grade_id(cell):
            found[grade_id(cell)] = heading
    return found


def part_title(part: str, headings: Mapping[str, str]) -> str:
    """A part in words: its heading, and what its name adds."""
    words = part.removeprefix("test_").replace("_", " ")
    return f"{headings[part]} ({words})" if headings.get(part) else words


def points_text(part: Mapping[str, Any]) -> str:
    """The points of a part, or that a person has not marked it yet."""
    if part["points"] is None:
        return f"{NOT_MARKED} (of {part['of']:g})"
    return f"{part['points']:g} of {part['of']:g}"


def _describe_total(parts: list[dict[str, Any]]) -> str:
    marked = [part for part in parts if part["points"] is not None]
    waiting = sum(part["of"] for part in parts if part["points"] is None)
    earned, most = (sum(part[key] for part in marked) for key in ("points", "of"))
    rest = f"; the parts that are {NOT_MARKED} give up to {waiting:g} more" if waiting else ""
    return f"{earned:g} of {most:g} points{rest}."


def _problem_list(problems: list[str]) -> list[str]:
    if not problems:
        return []
    return ["<ul>", *(f"<li>{escape(problem)}</li>" for problem in problems), "</ul>"]


def _answers(notebook: Any, headings: Mapping[str, str]) -> list[str]:
    """The cells that a student wrote. Tests and set-up cells are the teacher's."""
    lines = []
    for name, cell in graded_cells(notebook).items():
        if cell.metadata.nbgrader.solution:
            kind = "" if cell.cell_type == "code" else ' class="text"'
            lines += [
                f"<h3>{escape(part_title(name, headings))}</h3>",
                f"<pre{kind}>{escape(cell.source)}</pre>",
            ]
    return lines

"""Readers write a recipe in the page: it gives what `radin.craft` gives, and errors name the line.

The recipes to begin with work in the page, in the module and in assignment 3. The tests in Chromium
need Python for the browser (`browser_python`), and are skipped where it cannot be fetched.
"""

from __future__ import annotations

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
import torch

import page_bench
import radin
import radin_lite
import recipe_editor
import run_recipe
from browser import DESK, PHONE, Visit, serve_folder, write_live_page
from radin.experiments.intervals import write_interval
from recipe_editor import STARTS
from recipe_page import BENCHES, START_BUDGET, write_bench, write_recipe_page

ROOT = Path(__file__).resolve().parents[2]
BOOK = ROOT / "book"
STATIC = BOOK / "_static" / "recipes"
LOADED = "[data-state=ready]"
PATIENCE_MS = 600_000  # loading takes seconds, on a busy machine minutes
LOOP = "def recipe(bank, ledger):\n    while True:\n        pass\n"
SPENDER = """import radin
def recipe(bank, ledger):
    for p in radin.exhaustive(6):
        ledger.spend(p)
"""
IN_A_HELPER = """def recipe(bank, ledger):
    return help_me(bank)

def help_me(bank):
    return bank.nothing
"""


def start_text(name: str) -> str:
    return (STATIC / "starts" / f"{name}.py").read_text("utf-8")


def function_of(text: str) -> Any:
    names: dict[str, Any] = {}
    exec(compile(text, "start", "exec"), names)
    return names["recipe"]


# ---------------------------------------------------------------- without a browser


@pytest.fixture(scope="module")
def small(tmp_path_factory) -> page_bench.SoupBench:
    """The smallest bench of the page."""
    path = tmp_path_factory.mktemp("bench") / "bench.npz"
    write_bench(radin.SoupBench.load("pacs-sketch"), path)
    with path.open("rb") as file:
        return page_bench.SoupBench.read(file)


@pytest.mark.parametrize("bench", BENCHES)
@pytest.mark.parametrize("name", ["greedy", "radin", "top_k"])
def test_a_start_is_the_recipe_of_its_name_in_the_module(name, bench):
    module = radin.SoupBench.load(bench)
    for budget in (1, 3, 9, 50):
        soups = [
            radin.craft(module.val, module.evaluator(), budget, recipe)
            for recipe in (name, function_of(start_text(name)))
        ]
        assert soups[0].members == soups[1].members
        assert soups[0].evaluations == soups[1].evaluations


@pytest.mark.parametrize("name", STARTS)
def test_a_start_runs_in_the_page_with_the_same_result(name, small):
    module = radin.SoupBench.load("pacs-sketch")
    for budget in (1, 4):
        found = run_recipe.run(start_text(name), small, budget)
        yours, by_radin, greedy = found["rows"]
        recipe = function_of(start_text(name))
        if name == "assignment":
            recipe = run_recipe.of_assignment(recipe)
        for row, chosen in ((yours, recipe), (by_radin, "radin"), (greedy, "greedy")):
            soup = radin.craft(module.val, module.evaluator(), budget, chosen)
            assert row["members"] == soup.members
            assert row["evaluations"] == soup.evaluations
            assert row["val"] == soup.accuracy
            assert row["test"] == module.soups("test")[module.row(soup.weights)].item()
            assert row["regret"] == pytest.approx(module.regret(soup.weights), abs=1e-9)
        table = radin.compare(module, {"yours": recipe, "greedy": "greedy"}, budgets=budget)
        for row, name_there in ((yours, "yours"), (greedy, "greedy")):
            (line,) = table[table.recipe == name_there].to_dict("records")
            expected = line["minus radin"], line["low"], line["high"]
            assert row["minus_radin"] == pytest.approx(expected, abs=1e-9)


def test_the_module_keeps_its_name_outside_a_run(small):
    run_recipe.run("import radin\nassert radin.__name__ == 'radin_lite'\n", small, 1)
    assert sys.modules["radin"] is radin


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("def recipe(bank, ledger)\n    return 1", "Line 1: SyntaxError: expected ':'", 1),
        ("\n\nx = 1 / 0\n", "Line 3: ZeroDivisionError: division by zero\n    x = 1 / 0", 3),
        ("x = 1\n", "ParameterError: There is no function recipe", None),
        ("def recipe(bank): ...", "ParameterError: recipe must take (bank, ledger)", None),
        ("def recipe(bank, ledger): ...", "must return mixing weights, one for each", None),
        (
            "def recipe(bank, ledger):\n    return [0.7] + [0.3 / 5] * 5",
            "OffGridError: This soup is not in the bench",
            None,
        ),
        (
            SPENDER,
            "Line 4: BudgetError: The budget of 2 evaluations is spent; raise the budget or stop",
            4,
        ),
        (
            IN_A_HELPER,
            "Line 5: AttributeError: 'LogitBank' object has no attribute 'nothing'",
            5,
        ),
        ("import tourch", "Line 1: ModuleNotFoundError: No module named 'tourch'; this page", 1),
        ("import sys\nsys.exit(3)", "Line 2: SystemExit: 3", 2),
        ("def recipe(b, l):\n    return recipe(b, l)", "Line 2: RecursionError", 2),
        ("def recipe(b, l):\n    b.logits[0] = 0\n    return 1", "recipe must return mixing", None),
        ("raise KeyboardInterrupt", "Line 1: KeyboardInterrupt", 1),
    ],
)
def test_an_error_is_one_message_with_its_line(text, message, line, small):
    found = run_recipe.run(text, small, 2)
    assert message in found["error"]
    assert found["line"] == line
    assert "rows" not in found


def test_a_recipe_may_change_its_bank_but_not_the_next_ones(small):
    before = small.val.logits.copy()
    text = "def recipe(bank, ledger):\n    bank.logits[:] = 0\n    return [1, 0, 0, 0, 0, 0]\n"
    assert "rows" in run_recipe.run(text, small, 1)
    assert np.array_equal(small.val.logits, before)


def test_what_a_recipe_prints_is_shown_up_to_a_length(small):
    text = "import sys\ndef recipe(bank, ledger):\n    print('x' * 10**6)\n    return 1\n"
    printed = run_recipe.run(text, small, 1)["printed"]
    assert len(printed) < run_recipe.MOST_CHARACTERS + 100
    assert printed.endswith("and 990,001 more characters")
    text = "import sys\nprint('there')\nprint('beside', file=sys.stderr)\n"
    assert run_recipe.run(text, small, 1)["printed"] == "there\nbeside\n"


@pytest.fixture(scope="module")
def assignment() -> dict[str, Any]:
    """The names of assignment 3 after its first cell, as students get it."""
    folder = ROOT / "notebooks" / "assignments" / "release" / "budget"
    cells = nbformat.read(folder / "budget.ipynb", as_version=4).cells
    texts = {cell.metadata.get("nbgrader", {}).get("grade_id"): cell.source for cell in cells}
    names: dict[str, Any] = {"__name__": "__main__", "texts": texts}
    exec(compile(texts["setup"], "setup", "exec"), names)
    return names


def line_for_assignment() -> str:
    """The lines that the page shows below a recipe of assignment 3."""
    script = (STATIC / "recipes.js").read_text("utf-8")
    lines = re.search(r"OF_ASSIGNMENT\.test.*?\? \[(.*?)\]\n", script, re.S)
    assert lines
    return "\n".join(re.findall(r'"(.*?)"', lines[1]))


def test_assignment_3_can_be_begun_in_the_page(assignment, small):
    text = start_text("assignment")
    assert "rows" in run_recipe.run(text, small, 3)
    names = assignment
    exec(compile(f"{text}\n\n{line_for_assignment()}\n", "answer", "exec"), names)
    exec(compile(names["texts"]["test_recipe_fair"], "fair", "exec"), names)
    zoos = tuple(names["practice"].values())
    best_single = names["baseline"]("best_single", zoos)
    assert names["mean_regret"](names["yours"], zoos) < best_single + 1


# ---------------------------------------------------------------- the stage


def stage_with_scripts(stage: Path) -> Path:
    shutil.copytree(BOOK / "_static", stage / "book" / "_static")
    write_recipe_page(stage)
    return stage


@pytest.fixture(scope="module")
def stage(tmp_path_factory) -> Path:
    return stage_with_scripts(tmp_path_factory.mktemp("stage"))


def test_without_python_one_sentence_says_so(stage, monkeypatch, tmp_path):
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path))  # an empty cache
    monkeypatch.setenv("RADIN_OFFLINE", "1")
    copy = tmp_path / "stage"
    shutil.copytree(stage, copy)
    reason = recipe_editor.add_recipe_editor(copy)
    assert reason == "RADIN_OFFLINE forbids downloads"
    text = (copy / "book" / "recipe_editor.md").read_text("utf-8")
    assert (
        f"built without the editor, because Python for the browser could not be fetched ({reason})"
        in text
    )
    assert "raw} html" not in text
    assert not (copy / "book" / "_static" / "pyodide").exists()
    assert_stand_in(text)


def assert_stand_in(text: str) -> None:
    """The recipes and their table, for paper and for readers without scripts."""
    for name in ("greedy", "radin", "top_k"):
        assert start_text(name) in text
    table = radin.compare("cifar10", ["radin", "greedy", "top_k"], budgets=START_BUDGET)
    for line in table.to_dict("records"):
        assert f"| {line['val (%)']:.2f} | {line['test (%)']:.2f} | {line['regret']:.2f} |" in text


def test_the_same_benches_give_the_same_files(stage, tmp_path):
    write_recipe_page(tmp_path)
    for name in BENCHES:
        path = Path("book", "_static", "recipes", f"{name}.npz")
        assert (tmp_path / path).read_bytes() == (stage / path).read_bytes()


# ---------------------------------------------------------------- in Chromium


@pytest.fixture(scope="module")
def page(stage, missing_python) -> Path:
    """The editor on a page of its own: the folder that holds page.html."""
    if missing_python:
        pytest.skip(f"Python for the browser cannot be fetched here: {missing_python}")
    assert recipe_editor.add_recipe_editor(stage) == ""
    text = (stage / "book" / "recipe_editor.md").read_text("utf-8")
    assert_stand_in(text)
    write_live_page(stage / "book", text, "recipe-static")
    return stage / "book"


@pytest.fixture(scope="module")
def address(page) -> Iterator[str]:
    with serve_folder(page) as found:
        yield found


@pytest.fixture
def reader(visit, address):
    """The page as it opens."""
    reader = visit(address, viewport=DESK)
    reader.read("page.html")
    yield reader
    assert not reader.troubles


@pytest.fixture(scope="module")
def loaded(browser, address) -> Iterator[Any]:
    """One page with Python for several tests: loading takes a while."""
    visit = Visit(browser, address, viewport=DESK)
    visit.read("page.html")
    load(visit)
    yield visit
    visit.context.close()


@pytest.fixture
def with_python(loaded) -> Iterator[Any]:
    """The page with Python, its controls as they were at first."""
    loaded.tab.set_viewport_size(DESK)
    loaded.tab.get_by_label("soup bench").select_option("cifar10")
    loaded.tab.get_by_label("budget B").fill(str(START_BUDGET))
    for name in reversed(list(STARTS)):
        loaded.tab.get_by_label("begin with").select_option(name)
        press(loaded, "reset")
    yield loaded
    assert not loaded.troubles


def press(reader: Any, name: str) -> None:
    reader.tab.locator(f'.recipe-buttons [value="{name}"]').click()


def load(reader: Any) -> None:
    press(reader, "load")
    reader.tab.wait_for_selector(LOADED, timeout=PATIENCE_MS)


def run(reader: Any) -> None:
    press(reader, "run")
    reader.tab.wait_for_selector(LOADED, timeout=PATIENCE_MS)


def rows(reader: Any) -> list[list[str]]:
    found: list[list[str]] = reader.tab.evaluate(
        "() => [...document.querySelectorAll('.recipe-table tbody tr')]"
        ".map(r => [...r.cells].map(c => c.textContent))"
    )
    return found


def expected_row(bench: radin.SoupBench, title: str, recipe: Any, budget: int) -> list[str]:
    soup = radin.craft(bench.val, bench.evaluator(), budget, recipe)
    table = radin.compare(bench, {title: recipe}, budgets=budget)
    line = table.to_dict("records")[-1]
    interval = line["minus radin"], line["low"], line["high"]
    return [
        title,
        " ".join(map(str, soup.members)),
        str(soup.evaluations),
        f"{soup.accuracy:.2f}",
        f"{line['test (%)']:.2f}",
        f"{line['regret']:.2f}",
        write_interval(interval) if title != "RADIN" else "",
    ]


def test_python_is_loaded_after_a_click_and_from_the_book_alone(visit, address):
    reader = visit(address, viewport=DESK)
    asked: list[str] = []
    reader.tab.on("request", lambda request: asked.append(request.url))
    reader.read("page.html")
    assert reader.tab.locator('[value="load"]').inner_text() == "Load Python (17 MB)"
    assert reader.tab.locator('[value="run"]').is_disabled()
    assert not [url for url in asked if "pyodide" in url or url.endswith((".npz", ".py"))]
    load(reader)
    assert [url for url in asked if url.endswith("pyodide.asm.wasm")]
    assert all(url.startswith((address, "data:")) for url in asked)
    assert not reader.troubles


def test_a_recipe_from_end_to_end(with_python):
    """Each start on a bench and at a budget: the rows are what the module returns."""
    reader = with_python
    tab = reader.tab
    for name, bench_name, budget in (
        ("greedy", "cifar10", 4),
        ("radin", "cifar10-wild", 2),
        ("top_k", "banking77", 3),
        ("assignment", "pacs-sketch", 5),
    ):
        tab.get_by_label("begin with").select_option(name)
        tab.get_by_label("soup bench").select_option(bench_name)
        tab.get_by_label("budget B").fill(str(budget))
        run(reader)
        bench = radin.SoupBench.load(bench_name)
        recipe = function_of(start_text(name))
        if name == "assignment":
            recipe = run_recipe.of_assignment(recipe)
            assert "the best one" in tab.locator(".recipe-printed pre").text_content()
        found = rows(reader)
        assert [row[0] for row in found] == ["yours", "RADIN", "greedy"]
        for row, (title, chosen) in zip(
            found, {"yours": recipe, "RADIN": "radin", "greedy": "greedy"}.items(), strict=True
        ):
            assert row == expected_row(bench, title, chosen, budget)
        said = tab.locator(".recipe-status").inner_text()
        assert f"paid {found[0][2]} of {budget} evaluations on {bench_name}" in said
    tab.get_by_label("your recipe").fill(
        "import radin\n\ndef recipe(bank, ledger):\n"
        "    rows = radin.monte_carlo(bank.num_models, 20, seed=3)\n"
        "    order = radin.rank(bank, rows, prior=1.0, metric='accuracy').order\n"
        "    return rows[order[0]]\n"
    )
    run(reader)
    bench = radin.SoupBench.load("pacs-sketch")
    drawn = radin.monte_carlo(bench.num_models, 20, seed=3)
    best = drawn[radin.rank(bench.val, drawn, prior=1.0).order[0]]
    assert rows(reader)[0][1] == " ".join(map(str, torch.where(best > 0)[0].tolist()))


@pytest.mark.whole  # Python starts twice
def test_a_loop_without_an_end_can_be_stopped(with_python):
    reader = with_python
    reader.tab.get_by_label("your recipe").fill(LOOP)
    press(reader, "run")
    assert reader.tab.locator('[value="run"]').is_disabled()
    press(reader, "stop")
    reader.tab.wait_for_selector(LOADED, timeout=PATIENCE_MS)
    assert "Stopped" in reader.tab.locator(".recipe-status").inner_text()
    assert reader.tab.get_by_label("your recipe").input_value() == LOOP, "the text is kept"
    press(reader, "reset")
    run(reader)
    assert rows(reader)[0][0] == "yours"


def test_errors_are_readable_and_the_next_run_is_clean(with_python):
    reader = with_python
    editor = reader.tab.get_by_label("your recipe")
    good = editor.input_value()
    editor.fill("def recipe(bank, ledger):\n    x = 1\n    return x / 0\n")
    run(reader)
    box = reader.tab.locator(".recipe-error")
    assert box.inner_text() == "Line 3: ZeroDivisionError: division by zero\n    return x / 0"
    chosen = editor.evaluate("e => e.value.slice(e.selectionStart, e.selectionEnd)")
    assert chosen == "    return x / 0"
    assert not reader.tab.locator(".recipe-table").is_visible()
    editor.fill(good)
    run(reader)
    assert not box.is_visible()
    assert reader.tab.locator(".recipe-table").is_visible()
    for budget in ("0", "2.5", "", "1000"):
        reader.tab.get_by_label("budget B").fill(budget)
        press(reader, "run")
        assert box.inner_text() == "The budget must be a whole number from 1 to 50."
        assert not reader.tab.locator(".recipe-status").inner_text(), "of the run before"
        assert f"budget={budget or 'NaN'}," not in reader.tab.locator(".recipe-code").inner_text()


def test_by_keyboard(with_python):
    """Tab leaves the editor, Enter keeps the indentation, Ctrl+Enter runs."""
    tab = with_python.tab
    editor = tab.get_by_label("your recipe")
    editor.fill("")
    editor.press_sequentially("def recipe(bank, ledger):")
    editor.press("Enter")
    editor.press_sequentially("if True:")
    editor.press("Enter")
    editor.press_sequentially("return 1")
    assert editor.input_value() == "def recipe(bank, ledger):\n    if True:\n        return 1"
    editor.press("Tab")
    assert tab.evaluate("document.activeElement.value") == "run"
    tab.keyboard.press("Shift+Tab")
    tab.keyboard.press("Control+Enter")
    tab.wait_for_selector(".recipe-error:not([hidden])", timeout=PATIENCE_MS)
    assert "must return mixing weights" in tab.locator(".recipe-error").inner_text()


def test_what_is_written_stays_until_it_is_reset(reader):
    editor = reader.tab.get_by_label("your recipe")
    start = editor.input_value()
    assert start == start_text(next(iter(STARTS)))
    editor.fill("# mine\n")
    reader.tab.get_by_label("begin with").select_option("top_k")
    assert editor.input_value() == start_text("top_k")
    reader.read("page.html")
    assert reader.tab.get_by_label("your recipe").input_value() == "# mine\n"
    press(reader, "reset")
    assert editor.input_value() == start


def test_the_code_below_the_editor_runs_outside_the_page(reader, capsys):
    reader.tab.get_by_label("budget B").fill("2")
    reader.tab.get_by_label("soup bench").select_option("pacs-sketch")
    code = reader.tab.locator(".recipe-code").inner_text()
    exec(compile(f"{start_text('greedy')}\n\n{code}", "code", "exec"), {})
    assert "2 of 2 evaluations spent" in capsys.readouterr().out
    reader.tab.get_by_label("begin with").select_option("assignment")
    assert reader.tab.locator(".recipe-code").inner_text().strip() == line_for_assignment().strip()


def test_axe_finds_nothing_and_a_phone_shows_it_whole(with_python):
    reader = with_python
    reader.tab.set_viewport_size(PHONE)
    run(reader)
    assert reader.tab.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    reader.load_axe()
    for state in ("table", "error"):
        assert reader.tab.locator(f".recipe-{state}").is_visible()
        assert reader.axe_findings([], None) == []
        reader.tab.get_by_label("your recipe").fill("def recipe(bank, ledger): return 1 / 0")
        run(reader)


def test_a_page_opened_as_a_file_says_the_way_out(visit, page):
    reader = visit(f"{page.as_uri()}/", viewport=DESK)
    reader.read("page.html")
    assert "make serve" in reader.tab.locator(".recipe-note").inner_text()
    assert not reader.tab.locator(".recipe-live").is_visible()
    assert reader.tab.locator(".recipe-static").is_visible()
    assert not reader.troubles


def test_without_scripts_and_on_paper_the_stand_in_is_there(visit, address):
    reader = visit(address, viewport=DESK, java_script_enabled=False)
    reader.tab.goto(f"{reader.home}page.html")
    paper = visit(address, viewport=DESK)
    paper.read("page.html")
    assert not paper.tab.locator(".recipe-static").is_visible()
    paper.tab.emulate_media(media="print")
    for each in (reader, paper):
        assert each.tab.locator(".recipe-static").is_visible()
        assert not each.tab.locator(".recipe-live").is_visible()


@pytest.mark.whole  # Python starts once more
def test_a_page_without_its_files_says_what_is_missing(visit, page, tmp_path):
    """A host that left files out: the message names one, and the button is there again."""
    copy = tmp_path / "book"
    shutil.copytree(page, copy)
    (copy / "_static" / "recipes" / "radin_lite.py").unlink()
    with serve_folder(copy) as home:
        reader = visit(home, viewport=DESK)
        reader.read("page.html")
        press(reader, "load")
        reader.tab.wait_for_selector(".recipe-error:not([hidden])", timeout=PATIENCE_MS)
        said = reader.tab.locator(".recipe-error").inner_text()
        assert said == "This page failed, not your recipe: radin_lite.py could not be loaded (404)"
        assert reader.tab.locator('[value="load"]').is_enabled()


def test_the_names_of_the_page_are_there():
    """The list of names on the page, in the small module."""
    text = (BOOK / "write.md").read_text("utf-8")
    table = re.search(r":name: tab-recipe-names\n(.*?)```", text, re.S)
    assert table
    used = set(re.findall(r"`(radin|bank|ledger)\.(\w+)", table[1]))
    assert len(used) > 12
    bank = radin_lite.LogitBank(np.zeros((2, 3, 2)), np.zeros(3))
    ledger = radin_lite.Ledger(bank, lambda weights: 50.0, 1)
    there = {"radin": (radin_lite, radin), "bank": (bank, None), "ledger": (ledger, None)}
    module = radin.SoupBench.load("pacs-sketch")
    there["bank"] = (bank, module.val)
    theirs: list[Any] = []
    radin.craft(
        module.val, module.evaluator(), 1, lambda b, one: theirs.append(one) or [1] + [0] * 5
    )
    there["ledger"] = (ledger, theirs[0])
    for owner, name in used:
        for each in there[owner]:
            assert hasattr(each, name), (owner, name)

"""The budget explorer gives what `radin.craft` gives; by keyboard, on a phone, without scripts."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup

import explorer
import radin
from browser import DESK, PHONE

PAGES = ("book/index.html", "notebooks/04_cifar10.html")
LAST = {name: len(choices) - 1 for name, choices in explorer.CANDIDATES.items()}


@pytest.fixture(scope="module")
def benches() -> dict[str, radin.SoupBench]:
    return {name: radin.SoupBench.load(name) for name in explorer.CANDIDATES}


def crafted(
    bench: radin.SoupBench, recipe: str, budget: int, prior: float, candidates: int, seed: int
) -> tuple[int, int]:
    """What the module returns: the soup's row, and how many evaluations it spent."""
    drawn = radin.monte_carlo(bench.num_models, candidates, seed)
    soup = radin.craft(
        bench.val, bench.evaluator("val"), budget, recipe, candidates=drawn, prior=prior, seed=seed
    )
    return bench.row(soup.weights), soup.evaluations


@pytest.fixture(params=PAGES)
def reader(request, visit, server):
    reader = visit(server, viewport=DESK)
    reader.read(request.param)
    yield reader
    assert not reader.troubles


def shown(reader: Any) -> dict[str, list[str]]:
    """The explorer's table: recipe to the texts of its row, the soup's row of the bench first."""
    rows = "[...document.querySelectorAll('.explorer-table tbody tr')]"
    found = reader.tab.evaluate(
        f"() => {rows}.map(r => [r.dataset.recipe, r.dataset.row, "
        "...[...r.cells].map(c => c.textContent)])"
    )
    return {recipe: texts for recipe, *texts in found}


def move(reader: Any, name: str, value: Any) -> None:
    """Put a slider or a list where it should be, as a hand would."""
    control = reader.tab.locator(f'.radin-explorer [name="{name}"]')
    if control.evaluate("e => e.tagName") == "SELECT":
        control.select_option(value)
    else:
        control.fill(str(value))


def check_table(reader: Any, bench: radin.SoupBench, **settings: Any) -> None:
    """Every row of the table is what the module returns at these settings."""
    table = shown(reader)
    assert list(table) == [*explorer.RECIPES, "oracle"]
    for recipe in explorer.RECIPES:
        row, spent = crafted(bench, recipe, **settings)
        members = " ".join(str(k) for k in bench.candidates[row].nonzero().flatten().tolist())
        assert table[recipe] == [
            str(row),
            recipe.replace("_", " "),
            members,
            str(spent),
            f"{bench.soups('val')[row]:.2f}",
            f"{bench.soups('test')[row]:.2f}",
            f"{bench.regret(bench.candidates[row]):.2f}",
        ]
    assert table["oracle"][0] == str(bench.row(bench.oracle[0]))


def test_the_controls_lead_to_what_the_module_returns(reader, benches):
    check_table(reader, benches["cifar10"], budget=4, prior=1.0, candidates=200, seed=0)
    for zoo, budget, prior, at, seed in (
        ("cifar10", 1, 0.0, LAST["cifar10"], 3),
        ("cifar10", 30, 2.5, 0, 9),
        ("cifar10-wild", 6, 0.5, 2, 1),
    ):
        for name, value in (
            ("zoo", zoo),
            ("budget", budget),
            ("prior", prior),
            ("candidates", at),
            ("seed", seed),
        ):
            move(reader, name, value)
        candidates = explorer.CANDIDATES[zoo][at]
        check_table(
            reader, benches[zoo], budget=budget, prior=prior, candidates=candidates, seed=seed
        )
        said = reader.tab.locator(".explorer-summary").inner_text()
        assert f"of {candidates} candidates" in said
        regret = benches[zoo].regret(benches[zoo].candidates[int(shown(reader)["radin"][0])])
        assert f"regret {regret:.2f} points" in said


def test_the_arithmetic_of_the_page_is_that_of_the_module(visit, server, benches):
    """radin/recipes/rules.py and book/_static/explorer/explorer.js hold the same rules.

    Random settings, every recipe, three budgets each, without the page's controls.
    """
    reader = visit(server, viewport=DESK)
    reader.read(PAGES[0])
    rng = random.Random(0)
    for _ in range(20):
        zoo = rng.choice(list(explorer.CANDIDATES))
        settings = {
            "prior": rng.randrange(51) / 10,
            "candidates": rng.choice(explorer.CANDIDATES[zoo]),
            "seed": rng.randrange(explorer.NUM_SEEDS),
        }
        found = reader.tab.evaluate(
            "([zoo, settings, limit]) => "
            "radinExplorer.replay(radinExplorerData.zoos[zoo], settings, limit)",
            [zoo, settings, explorer.MAX_BUDGET],
        )
        for recipe in explorer.RECIPES:
            for budget in (1, rng.randrange(2, 10), explorer.MAX_BUDGET):
                row, spent = crafted(benches[zoo], recipe, budget, **settings)
                assert found[recipe]["answers"][budget - 1] == row, (zoo, settings, recipe, budget)
                assert min(budget, len(found[recipe]["tried"])) == spent, (
                    zoo,
                    settings,
                    recipe,
                    budget,
                )


def test_ties_go_to_more_ingredients_then_to_the_lower_bitmask(visit, server):
    """A zoo in which every estimate is the same, and one in which scores differ by rounding."""
    reader = visit(server, viewport=DESK)
    reader.read(PAGES[0])
    rank = "([zoo, rows, prior]) => radinExplorer.rank(zoo, rows, prior)"
    flat = {"N": 3, "val": 10, "fast": [5] * 7}
    assert reader.tab.evaluate(rank, [flat, list(range(7)), 0]) == [6, 2, 4, 5, 0, 1, 3]
    assert reader.tab.evaluate(rank, [flat, [0, 3, 5], 1]) == [5, 0, 3]
    # 100/3 + 0 against 0 + prior * 1: equal but for the last bit of a float
    close = {"N": 2, "val": 3, "fast": [1, 1, 0]}
    assert reader.tab.evaluate(rank, [close, [0, 2], 200 / 3])[0] == 2


def test_recipes_can_be_left_out(reader):
    reader.tab.get_by_label("random", exact=True).uncheck()
    reader.tab.get_by_label("uniform", exact=True).press("Space")
    assert list(shown(reader)) == ["radin", "greedy", "best_single", "oracle"]
    assert "random" not in reader.tab.evaluate(
        "() => [...new Set(radinExplorer.explorers[0]"
        ".views.curve.data('lines').map(row => row.recipe))]"
    )


def test_the_charts_show_what_the_table_says(reader, benches):
    bench = benches["cifar10"]
    for budget in (4, 9):
        move(reader, "budget", budget)
        reader.tab.wait_for_function(
            f"radinExplorer.explorers[0].views.curve.data('now')[0].budget === {budget}"
            " && radinExplorer.explorers[0].views.plane.data('soups')"
            f".filter(d => d.turn !== null).length === {budget}"
        )
        soups = reader.tab.evaluate("() => radinExplorer.explorers[0].views.plane.data('soups')")
        assert len(soups) == 2**bench.num_models - 1
        (row,) = [row for row, soup in enumerate(soups) if soup["state"] == "returned by radin"]
        assert str(row) == shown(reader)["radin"][0]
        assert soups[row]["fast"] == pytest.approx(bench.ensembles("val")[row].item())
        assert soups[row]["truth"] == pytest.approx(bench.soups("val")[row].item())
        drawn = [soup for soup in soups if soup["state"] not in ("not drawn", "oracle")]
        assert abs(len(drawn) - 200) <= 1  # the oracle may be among them
    marks = reader.tab.locator(".explorer-plane svg path[transform]")
    assert marks.count() > 1000


def test_it_works_by_keyboard(reader):
    budget = reader.tab.locator("#explorer-budget")
    budget.focus()
    before = int(budget.input_value())
    reader.tab.keyboard.press("ArrowRight")
    reader.tab.keyboard.press("ArrowRight")
    assert int(budget.input_value()) == before + 2
    assert budget.get_attribute("aria-valuetext") == str(before + 2)
    assert f"budget={before + 2}" in reader.tab.locator(".explorer-code").inner_text()
    reader.tab.keyboard.press("Tab")
    assert reader.tab.evaluate("() => document.activeElement.name") == "prior"


def test_the_code_that_it_shows_gives_the_same(reader, capsys):
    move(reader, "seed", 2)
    code = reader.tab.locator(".explorer-code").inner_text()
    exec(code, {"radin": radin})
    members, regret = capsys.readouterr().out.splitlines()
    row = shown(reader)["radin"]
    assert members == "[" + ", ".join(row[2].split()) + "]"
    assert f"{float(regret):.2f}" == row[-1]


@pytest.mark.parametrize("page", PAGES)
def test_a_phone_shows_it_whole(visit, server, page):
    reader = visit(server, viewport=PHONE, has_touch=True, is_mobile=True)
    reader.read(page)
    width = PHONE["width"]
    for chart in ("plane", "curve"):
        box = reader.tab.locator(f".explorer-{chart} svg").bounding_box()
        assert 200 < box["width"] <= width
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    for slider in reader.tab.locator(".radin-explorer input[type=range]").all():
        box = slider.bounding_box()
        assert box["width"] > 150
        assert box["x"] + box["width"] <= width
    assert not reader.troubles


@pytest.mark.parametrize("page", PAGES)
def test_a_figure_and_a_table_stand_in_without_scripts(visit, server, benches, page):
    reader = visit(server, viewport=DESK, java_script_enabled=False)
    reader.tab.goto(server + page)
    assert not reader.tab.locator(".explorer-live").is_visible()
    still = reader.tab.locator(".explorer-static")
    assert still.locator("figure img").is_visible()
    start = {name: value for name, value in explorer.START.items() if name != "zoo"}
    texts = still.locator("table").inner_text()
    bench = benches[explorer.START["zoo"]]
    for recipe in explorer.RECIPES:
        row, _ = crafted(bench, recipe, **start)
        assert f"{bench.soups('test')[row]:.2f}" in texts


def test_with_scripts_the_stand_in_is_gone(reader):
    assert not reader.tab.locator(".explorer-static").is_visible()
    assert reader.tab.locator(".explorer-live").is_visible()


def test_it_opens_without_a_server(visit, book):
    reader = visit(f"{book.as_uri()}/", viewport=DESK)
    reader.read(PAGES[0])
    assert reader.tab.locator(".explorer-summary").inner_text().startswith("RADIN evaluates")
    assert not reader.troubles


@pytest.mark.parametrize("page", PAGES)
def test_it_loads_nothing_from_elsewhere(book, page):
    html = BeautifulSoup((book / page).read_text("utf-8"), "html.parser")
    scripts = [str(script["src"]) for script in html.select("article script[src]")]
    assert len(scripts) == 3
    assert all((book / page).parent.joinpath(script).resolve().is_file() for script in scripts)


def test_numbers_of_right_answers_are_whole(benches):
    """Nothing is lost by keeping right answers instead of percentages."""
    for name, bench in benches.items():
        data = explorer.zoo_data(name)
        for key, accuracies, part in (
            ("fast", bench.ensembles("val"), "val"),
            ("soup_val", bench.soups("val"), "val"),
            ("soup_test", bench.soups("test"), "test"),
        ):
            back = 100 * np.array(data[key]) / data[part]
            assert np.allclose(back, accuracies.numpy(), atol=1e-9)

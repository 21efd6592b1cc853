"""The budget explorer gives what `radin.craft` gives; by keyboard, on a phone, without scripts."""

from __future__ import annotations

import random
import re
import shutil
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from bs4 import BeautifulSoup

import explorer
import explorer_charts
import explorer_replay
import radin
from browser import DESK, PHONE, serve_folder
from explorer_replay import ALL_DRAWS, CANDIDATES, LABELS, MAX_BUDGET, NUM_SEEDS, RECIPES, START
from radin.experiments.bench import replay

PAGES = ("book/index.html", "notebooks/04_cifar10.html")
BARE = "book/page.html"
LAST = {name: len(choices) - 1 for name, choices in CANDIDATES.items()}
OUTSIDE = """chart => {
    const svg = document.querySelector(`.explorer-${chart} svg`);
    const room = svg.getBoundingClientRect();
    return [...svg.querySelectorAll("text")].filter(text => {
        const box = text.getBoundingClientRect();
        return box.left < room.left || box.right > room.right
            || box.top < room.top || box.bottom > room.bottom;
    }).map(text => text.textContent);
}"""


@pytest.fixture(scope="module")
def benches() -> dict[str, radin.SoupBench]:
    return {name: radin.SoupBench.load(name) for name in CANDIDATES}


@pytest.fixture(scope="module")
def bare_page(root, tmp_path_factory) -> Iterator[str]:
    """The explorer on a page of its own, without the book: an address that ends in a slash."""
    folder = tmp_path_factory.mktemp("explorer")
    shutil.copytree(root / "book" / "_static", folder / "book" / "_static")
    explorer.write_explorer(folder)
    page = f"""<!doctype html><html lang="en"><head><title>explorer</title>
        <meta name="viewport" content="width=device-width"><meta charset="utf-8">
        <link rel="stylesheet" href="_static/book.css"><link rel="icon" href="data:,"></head>
        <body><article>{explorer.live_html()}</article></body></html>"""
    page = page.replace("../_static", "_static")
    (folder / BARE).write_text(page, "utf-8")
    with serve_folder(folder) as address:
        yield address


def crafted(
    bench: radin.SoupBench, recipe: str, budget: int, prior: float, candidates: int, seed: int
) -> tuple[int, int]:
    """What the module returns: the soup's row, and how many evaluations it spent."""
    if recipe == "radin_nll":  # ranked by likelihood, chosen by accuracy: a replay alone can do it
        among = replay.monte_carlo_rows(bench, candidates, seed)
        scores = -bench.ensembles("val", "nll").numpy()
        row = replay.radin(bench, budget, scores=scores, among=among)[-1]
        return row, min(budget, len(among))
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


def show_all_recipes(reader: Any) -> None:
    for box in reader.tab.locator('.radin-explorer [name="recipe"]').all():
        box.check()


def shown(reader: Any) -> dict[str, list[str]]:
    """The explorer's table: recipe to the texts of its row, the soups' rows of the bench first."""
    rows = "[...document.querySelectorAll('.explorer-table tbody tr')]"
    found = reader.tab.evaluate(
        f"() => {rows}.map(r => [r.dataset.recipe, r.dataset.rows, "
        "...[...r.cells].map(c => c.innerText.trim().replace(/\\s+/g, ' '))])"
    )
    return {recipe: texts for recipe, *texts in found}


def move(reader: Any, name: str, value: Any) -> None:
    """Put a slider or a list where it should be, as a hand would."""
    control = reader.tab.locator(f'.radin-explorer [name="{name}"]')
    if control.evaluate("e => e.tagName") == "SELECT":
        control.select_option(str(value))
    else:
        control.fill(str(value))


def expected_line(
    bench: radin.SoupBench, recipe: str, *, seed: int | str, **settings: Any
) -> list[str]:
    """The texts of one row of the table, from what the module returns."""
    seeds = range(NUM_SEEDS) if seed == ALL_DRAWS else [seed]
    found = [crafted(bench, recipe, seed=seed, **settings) for seed in seeds]
    rows = [row for row, _ in found]
    members = bench.candidates[rows[0]].nonzero().flatten().tolist()
    several = len(set(rows)) > 1
    test = bench.soups("test")[rows]
    prior = settings["prior"]
    return [
        " ".join(map(str, rows)),
        LABELS[recipe] + (f" λ={prior:.1f}" if recipe == "radin" and prior else ""),
        f"{len(set(rows))} soups" if several else " ".join(map(str, members)),
        str(found[0][1]),
        f"{bench.soups('val')[rows].mean():.2f}",
        f"{test.mean():.2f}" + (f" {test.min():.2f} to {test.max():.2f}" if several else ""),
        f"{bench.oracle[1] - test.mean():.2f}",
    ]


def check_table(reader: Any, bench: radin.SoupBench, **settings: Any) -> None:
    """Every row of the table is what the module returns at these settings."""
    table = shown(reader)
    assert list(table) == [*RECIPES, "oracle"]
    for recipe in RECIPES:
        assert table[recipe] == expected_line(bench, recipe, **settings)
    assert table["oracle"][0] == str(bench.row(bench.oracle[0]))


def test_the_controls_lead_to_what_the_module_returns(reader, benches):
    show_all_recipes(reader)
    start = {name: START[name] for name in ("budget", "prior", "candidates", "seed")}
    check_table(reader, benches[START["zoo"]], **start)
    for zoo, budget, prior, at, seed in (
        ("cifar10", 1, 0.0, LAST["cifar10"], 3),
        ("cifar10", 30, 2.5, 0, 9),
        ("cifar10-wild", 6, 0.5, 2, 1),
        ("cifar10-wild", 3, 1.0, 1, ALL_DRAWS),
    ):
        for name, value in (
            ("zoo", zoo),
            ("budget", budget),
            ("prior", prior),
            ("candidates", at),
            ("seed", seed),
        ):
            move(reader, name, value)
        candidates = CANDIDATES[zoo][at]
        check_table(
            reader, benches[zoo], budget=budget, prior=prior, candidates=candidates, seed=seed
        )
        summary = reader.tab.locator(".explorer-summary").inner_text()
        assert f"of {candidates} candidates" in summary
        assert f"regret {shown(reader)['radin'][-1]} points" in summary


def test_the_arithmetic_of_the_page_is_that_of_the_module(visit, bare_page, benches):
    """radin/recipes/rules.py and book/_static/explorer/explorer.js hold the same rules.

    Random settings, every recipe, three budgets each, without the page's controls.
    """
    reader = visit(bare_page, viewport=DESK)
    reader.read(BARE)
    rng = random.Random(0)
    for _ in range(20):
        zoo = rng.choice(list(CANDIDATES))
        settings = {
            "prior": rng.randrange(51) / 10,
            "candidates": rng.choice(CANDIDATES[zoo]),
            "seed": rng.randrange(NUM_SEEDS),
        }
        found = reader.tab.evaluate(
            "([zoo, settings, limit]) => "
            "radinExplorer.replay(radinExplorerData.zoos[zoo], settings, limit)",
            [zoo, settings, MAX_BUDGET],
        )
        for recipe in RECIPES:
            for budget in (1, rng.randrange(2, 10), MAX_BUDGET):
                row, spent = crafted(benches[zoo], recipe, budget, **settings)
                where = (zoo, settings, recipe, budget)
                assert found[recipe]["answers"][budget - 1] == row, where
                if recipe != "radin_nll":
                    assert min(budget, len(found[recipe]["tried"])) == spent, where


def test_ties_go_to_more_ingredients_then_to_the_lower_bitmask(visit, bare_page):
    """A zoo in which every estimate is the same, and one in which scores differ by rounding."""
    reader = visit(bare_page, viewport=DESK)
    reader.read(BARE)
    rank = "([zoo, rows, prior]) => radinExplorer.rank(zoo, rows, prior)"
    flat = {"N": 3, "val": 10, "fast": [5] * 7}
    assert reader.tab.evaluate(rank, [flat, list(range(7)), 0]) == [6, 2, 4, 5, 0, 1, 3]
    assert reader.tab.evaluate(rank, [flat, [0, 3, 5], 1]) == [5, 0, 3]
    # 100/3 + 0 against 0 + prior * 1: equal but for the last bit of a float
    close = {"N": 2, "val": 3, "fast": [1, 1, 0]}
    assert reader.tab.evaluate(rank, [close, [0, 2], 200 / 3])[0] == 2


def test_recipes_can_be_left_out(reader):
    show_all_recipes(reader)
    reader.tab.get_by_label("random", exact=True).uncheck()
    reader.tab.get_by_label("uniform", exact=True).press("Space")
    left = [recipe for recipe in RECIPES if recipe not in ("random", "uniform")]
    assert list(shown(reader)) == [*left, "oracle"]
    assert "random" not in reader.tab.evaluate(
        "() => [...new Set(radinExplorer.explorers[0]"
        ".views.curve.data('lines').map(row => row.recipe))]"
    )


def test_the_charts_show_what_the_table_says(visit, bare_page, benches):
    bench = benches["cifar10"]
    reader = visit(bare_page, viewport=DESK)
    reader.read(BARE)
    for seed, budget in ((0, 4), (0, 9), (ALL_DRAWS, 2)):
        move(reader, "seed", seed)
        move(reader, "budget", budget)
        reader.tab.wait_for_function(
            "radinExplorer.explorers[0].views.curve.data('now')[0].budget === "
            f"{budget} && radinExplorer.explorers[0].views.plane.data('soups')"
            f".some(d => d.turn.endsWith('draws')) === {str(seed == ALL_DRAWS).lower()}"
        )
        soups = reader.tab.evaluate("() => radinExplorer.explorers[0].views.plane.data('soups')")
        winners = {str(s["row"]) for s in soups if s["state"] == "returned by radin"}
        assert winners == set(shown(reader)["radin"][0].split())
        for soup in soups:
            assert soup["fast"] == pytest.approx(bench.ensembles("val")[soup["row"]].item())
            assert soup["truth"] == pytest.approx(bench.soups("val")[soup["row"]].item())
        evaluated = [soup for soup in soups if soup["turn"] != "no"]
        assert len(evaluated) == budget if seed == 0 else len(evaluated) > budget
        (line,) = reader.tab.evaluate(
            "budget => radinExplorer.explorers[0].views.curve.data('lines')"
            ".filter(d => d.budget === budget && d.recipe === 'radin')",
            budget,
        )
        test = bench.soups("test")[[int(row) for row in shown(reader)["radin"][0].split()]]
        assert [line[key] for key in ("test", "low", "high")] == pytest.approx(
            [test.mean().item(), test.min().item(), test.max().item()]
        )


def test_the_upper_chart_shows_where_the_candidates_are(visit, bare_page, benches):
    bench = benches["cifar10"]
    reader = visit(bare_page, viewport=DESK)
    reader.read(BARE)
    soups = reader.tab.evaluate("() => radinExplorer.explorers[0].views.plane.data('soups')")
    hidden = bench.num_soups - len(soups)
    assert 0 < hidden < 0.1 * bench.num_soups
    outside = reader.tab.locator(".explorer-outside").inner_text()
    assert outside.startswith(f"{hidden} of {bench.num_soups} soups lie outside")
    drawn = {row for s in range(NUM_SEEDS) for row in replay.monte_carlo_rows(bench, 200, s)}
    fast = np.quantile(bench.ensembles("val").numpy()[sorted(drawn)], explorer.EDGE)
    assert min(soup["fast"] for soup in soups) == pytest.approx(fast, abs=0.05)
    states = {soup["state"] for soup in soups}
    assert {"oracle", "evaluated", "returned by radin"} <= states


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
    code = reader.tab.locator(".explorer-code").inner_text()
    exec(code, {"radin": radin})
    assert f"{float(capsys.readouterr().out):.2f}" == shown(reader)["radin"][-1]
    move(reader, "seed", 2)
    code = reader.tab.locator(".explorer-code").inner_text()
    exec(code, {"radin": radin})
    members, regret = capsys.readouterr().out.splitlines()
    row = shown(reader)["radin"]
    assert members == "[" + ", ".join(row[2].split()) + "]"
    assert f"{float(regret):.2f}" == row[-1]


# ---------------------------------------------------------------- at load, before any resize


def check_labels(reader: Any) -> None:
    """Every word that the charts should show is drawn, and drawn inside its chart."""
    words = {
        "plane": {
            "candidates and evaluations",
            "fast estimate: accuracy of the ensemble (%)",
            "accuracy on validation (%)",
            *explorer_charts.LAYERS,
        },
        "curve": {
            "accuracy against budget",
            "budget (evaluations)",
            "test accuracy (%)",
            "your budget",
            "oracle",
            *LABELS.values(),
        },
    }
    for chart, expected in words.items():
        drawn = reader.tab.locator(f".explorer-{chart} svg text").all_text_contents()
        numbers = {text for text in drawn if re.fullmatch(r"\d+(\.\d)?", text)}
        assert set(drawn) - numbers == expected
        assert len(numbers) > 3
        assert reader.tab.evaluate(OUTSIDE, chart) == []


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
def test_no_label_is_clipped_at_load(visit, bare_page, viewport):
    reader = visit(bare_page, viewport=viewport)
    reader.read(BARE)
    check_labels(reader)
    assert not reader.troubles


@pytest.mark.parametrize("viewport", [DESK, PHONE], ids=["desk", "phone"])
@pytest.mark.parametrize("page", PAGES)
def test_no_label_is_clipped_when_a_page_of_the_book_loads(visit, server, page, viewport):
    reader = visit(server, viewport=viewport)
    reader.read(page)
    check_labels(reader)


def test_a_label_outside_its_chart_would_be_found(visit, bare_page):
    reader = visit(bare_page, viewport=DESK)
    reader.read(BARE)
    chart = reader.tab.locator(".explorer-curve svg")
    chart.evaluate("svg => svg.setAttribute('viewBox', '40 0 600 300')")
    with pytest.raises(AssertionError):
        check_labels(reader)


def test_the_charts_follow_their_boxes(visit, bare_page):
    """From a desk to a phone and back: the charts are as wide as before."""
    reader = visit(bare_page, viewport=DESK)
    reader.read(BARE)
    for viewport in (PHONE, DESK):
        reader.tab.set_viewport_size(viewport)
        reader.tab.wait_for_function(
            "[...document.querySelectorAll('.explorer-charts > div')].every(box => Math.abs("
            "box.querySelector('svg').getBoundingClientRect().width - box.clientWidth) < 2)"
        )
        assert reader.tab.evaluate("document.documentElement.scrollWidth") <= viewport["width"]
        check_labels(reader)


# ---------------------------------------------------------------- guided tasks


def test_a_task_sets_the_controls_and_asks_before_it_tells(visit, bare_page):
    reader = visit(bare_page, viewport=DESK)
    reader.read(BARE)
    found = explorer_replay.tasks()
    assert len(found) == 3
    for at, task in enumerate(found):
        move(reader, "budget", 17)
        reader.tab.locator(".explorer-task > summary").nth(at).click()
        reader.tab.wait_for_function(
            "budget => radinExplorer.explorers[0].settings().budget === budget",
            arg=task.settings["budget"],
        )
        fold = reader.tab.locator(".explorer-task").nth(at)
        assert fold.locator("p").first.is_visible()
        answer = fold.locator("details div")
        assert not answer.is_visible()
        fold.locator("details summary").click()
        assert answer.is_visible()
        settings = reader.tab.evaluate("() => radinExplorer.explorers[0].settings()")
        for name in ("zoo", "budget", "prior", "candidates", "recipes"):
            expected = task.settings[name]
            assert settings[name] == (list(expected) if name == "recipes" else expected)
        assert len(settings["seeds"]) == NUM_SEEDS
        assert list(shown(reader)) == [*task.settings["recipes"], "oracle"]


def test_the_answers_say_what_the_benches_hold():
    """The words of the answers, which are written by hand, follow from the numbers."""
    returned = explorer_replay.returned
    wild = explorer_replay.WILD
    for budget in range(1, MAX_BUDGET + 1):
        radin_there = returned("radin", **wild | {"budget": budget}).mean
        assert radin_there < returned("best_single", **wild).mean
    assert returned("safe", **wild).mean == returned("best_single", **wild).mean
    bench = explorer_replay.load("cifar10-wild")
    single = replay.best_single(bench)
    assert int(bench.soups("val").argmax()) == single
    assert replay.order(bench).tolist().index(single) >= MAX_BUDGET
    less, more = explorer_replay.LESS_BUDGET, explorer_replay.MORE_BUDGET
    assert returned("radin", "val", **more).mean > returned("radin", "val", **less).mean
    assert returned("radin", **more).mean < returned("radin", **less).mean
    for recipe in set(RECIPES) - {"best_single"}:
        assert returned(recipe).mean > returned("best_single").mean
        keeps = recipe in ("safe", "greedy")
        there = returned(recipe, **explorer_replay.SWITCHED).mean
        assert (there == returned("best_single", **wild).mean) == keeps


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
    texts = still.locator("table").inner_text()
    bench = benches[START["zoo"]]
    start = {name: START[name] for name in ("budget", "prior", "candidates", "seed")}
    for recipe in RECIPES:
        *_, val, test, regret = expected_line(bench, recipe, **start)
        assert {val, test.split()[0], regret} <= set(texts.split())


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

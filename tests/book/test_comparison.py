"""comparison.py and comparison_page.py of book/tools: runs of the same images are paired."""

from __future__ import annotations

import matplotlib
import pytest
import torch

import comparison
from comparison_page import write_page
from kept_runs import Run
from radin.experiments.intervals import accuracy_interval, paired_interval

DECLARED = {"budget": 4, "prior": 1.0, "zoo": "a"}


def make_run(
    budget: int, prior: float = 1.0, labels: str = "same", n: int = 60, zoo: str = "a"
) -> Run:
    rng = torch.Generator().manual_seed(int(100 * budget + prior))
    right = {"radin": torch.rand(n, generator=rng) < 0.7, "uniform": torch.arange(n) < n // 2}
    return Run(
        {"budget": budget, "prior": prior, "zoo": zoo},
        {"test": (labels, right)},
        {"x": budget / 3, "same": 1},
        2.0,
    )


@pytest.fixture
def runs() -> list[Run]:
    return [make_run(budget, prior) for budget in (1, 4) for prior in (0.0, 1.0)]


@pytest.fixture
def source(tmp_path, monkeypatch):
    monkeypatch.setattr(comparison, "declared_parameters", lambda _: DECLARED)
    return tmp_path / "notebooks" / "04_a.ipynb"


def test_only_what_varies_names_a_run(runs):
    assert comparison.varying(runs) == ["budget", "prior"]
    assert comparison.varying(runs[:1]) == ["budget"]
    assert comparison.title(runs[0], ["budget", "prior"]) == "budget=1, prior=0.0"


def test_the_chapters_own_run_is_the_baseline(runs):
    assert comparison.find_baseline(runs, DECLARED) == 3
    assert comparison.find_baseline(runs[:2], DECLARED) == 1


def test_differences_are_paired_on_the_same_images(runs):
    a, b = runs[0], runs[3]
    expected = paired_interval(a.answers["test"][1]["radin"], b.answers["test"][1]["radin"])
    assert comparison.difference(a, b, "test", "radin") == expected
    assert comparison.difference(a, make_run(2, labels="other"), "test", "radin") is None
    assert comparison.difference(a, b, "no such part", "radin") is None
    assert comparison.difference(a, a, "test", "radin", "uniform") == paired_interval(
        a.answers["test"][1]["radin"], a.answers["test"][1]["uniform"]
    )


def test_tables_hold_the_numbers(runs):
    table = comparison.accuracy_table(runs, "test").splitlines()
    assert table[0] == "| budget | prior | radin | uniform |"
    assert len(table) == 2 + len(runs)
    alone = accuracy_interval(runs[0].answers["test"][1]["radin"])
    assert "{:.2f} [{:.2f}, {:.2f}]".format(*alone) in table[2]
    against = comparison.baseline_table([*runs, make_run(8, labels="other")], "test", runs[3])
    assert against.count("other images") == 2
    assert len(against.splitlines()) == 2 + len(runs)  # the baseline itself has no row
    assert "| `x` | 0.33333 | 0.33333 | 1.3333 | 1.3333 |" in comparison.number_table(runs)
    assert "same" not in comparison.number_table(runs)


@pytest.mark.parametrize(
    ("interval", "text"),
    [
        ((1.0, 0.5, 1.5), "**+1.00 [+0.50, +1.50]**"),
        ((-1.0, -1.5, -0.5), "**-1.00 [-1.50, -0.50]**"),
        ((1.0, -0.5, 2.5), "+1.00 [-0.50, +2.50]"),
        (None, "other images"),
    ],
)
def test_a_difference_is_bold_when_zero_is_out(interval, text):
    assert comparison.points(interval) == text


def test_the_page_is_the_same_each_time_and_its_figure_has_a_text(runs, source, tmp_path):
    for folder in ("a", "b"):
        comparison.write(source, runs, tmp_path / folder / "page.md", left_out=2)
    for name in ("page.md", "page-0.png", "page.csv"):
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    page = (tmp_path / "a" / "page.md").read_text("utf-8")
    assert ":alt: Accuracy in percent on test against budget, one panel for each of radin" in page
    assert "The same in every run, and not drawn: uniform." in page
    assert "Left out: 2 made from other sources" in page
    assert "that of the run with budget=4, prior=1.0" in page
    assert "papermill notebooks/04_a.ipynb out.ipynb -p budget 1 -p prior 0.0 -p zoo a" in page


@pytest.mark.parametrize(
    "few",
    [
        [make_run(1)],
        [make_run(1), make_run(1, zoo="b", n=30, labels="other")],
        [Run({"budget": 1}, {}, {"x": 1.0}, 1.0), Run({"budget": 2}, {}, {"x": 2.0}, 1.0)],
        [Run({"quick": False}, {}, {}, 1.0)],
        [Run({}, {}, {}, 1.0)],
        [make_run(1), Run(make_run(2).parameters, {}, {}, 1.0)],
    ],
    ids=[
        "one run",
        "other images",
        "only numbers",
        "nothing",
        "no parameters",
        "one without a record",
    ],
)
def test_little_to_compare_is_no_error(few, source, tmp_path):
    comparison.write(source, few, tmp_path / "page.md")
    assert "## The command of each run" in (tmp_path / "page.md").read_text("utf-8")
    table = comparison.short_table(few).splitlines()
    assert len(table) == 1 + len(few)
    assert len({len(line) for line in table}) == 1  # columns stand below each other
    names = comparison.varying(few)
    assert table[0].split()[: len(names)] == names
    assert table[0].endswith("seconds")
    assert [line.split()[-1] for line in table[1:]] == [f"{run.seconds:.0f}" for run in few]


def test_the_figure_leaves_no_style_behind(runs, tmp_path):
    before = dict(matplotlib.rcParams)
    drawn = comparison.draw(runs, "test", tmp_path / "a.png")
    assert drawn == ["radin"]
    assert {key for key, value in matplotlib.rcParams.items() if value != before[key]} <= {
        "backend"
    }


def test_the_terminal_shows_paired_differences(runs):
    text = comparison.short_differences(runs, DECLARED)
    assert "test: less the run with budget=4, prior=1.0" in text
    assert "test: radin less" in text
    wanted = comparison.difference(runs[0], runs[3], "test", "radin")
    assert "{:+.2f} [{:+.2f}, {:+.2f}]".format(*wanted) in text
    own = comparison.difference(runs[1], runs[1], "test", "radin", "uniform")
    assert "{:+.2f} [{:+.2f}, {:+.2f}]".format(*own) in text
    blocks = text.split("\n\n")
    assert [len(block.splitlines()) for block in blocks] == [2 + 3, 2 + 4, 1]
    alone = comparison.short_differences(runs[:1], DECLARED)
    assert "less the run with" not in alone
    assert "radin less" in alone


def test_a_difference_that_leaves_zero_out_is_marked():
    assert comparison.points((1.0, 0.5, 1.5), "*") == "*+1.00 [+0.50, +1.50]*"
    assert comparison.points((1.0, -0.5, 2.5), "*") == "+1.00 [-0.50, +2.50]"


def test_the_html_page_stands_on_its_own(runs, source, tmp_path):
    blocks = comparison.write(source, runs, tmp_path / "comparison.md")
    page = write_page("Reruns of 04_a", blocks, tmp_path / "comparison.html").read_text("utf-8")
    assert page.count("<h1>") == 1
    assert page.count("<img") == 1
    assert 'src="data:image/png;base64,' in page
    assert page.count("<table>") == 4  # alone, against one run, against recipes, other numbers
    assert "{" not in page.partition("</style>")[2].partition("papermill")[0]
    assert "http" not in page
    assert "src=" not in page.replace('src="data:image/png', "")
    found = comparison.accuracy(runs[0], "test", "radin")
    assert comparison.percent(found) in page

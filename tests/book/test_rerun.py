"""Impossible parameters stop the real build with one sentence and cost nobody a book."""

from __future__ import annotations

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

from conftest import QUICK_BOOK, jobs_of_a_build, run_make_book


@pytest.fixture
def former_book(tmp_path: Path) -> Path:
    """A folder that already holds a book."""
    (tmp_path / "html").mkdir()
    (tmp_path / "html" / "index.html").write_text("the former book")
    return tmp_path


@pytest.mark.parametrize(
    ("option", "value", "names"),
    [
        ("--budget", "0", "budget"),
        ("--budget", "2.5", "budget"),
        ("--zoo", "no-such-zoo", "no-such-zoo"),
        ("--prior", "strong", "prior"),
        ("--prior", "nan", "prior"),
        ("--bugdet", "8", "--bugdet"),
        ("--source", "nowhere", "one of 'bench', 'live'"),
        ("--quick", "perhaps", "true or false"),
    ],
)
def test_an_impossible_parameter_is_one_sentence(former_book, option, value, names):
    done = run_make_book(former_book, "--quick", "1", option, value)
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    sentence = done.stderr
    assert sentence.startswith("error: ")
    assert done.stdout == "", "a notebook was run before the values were checked"
    assert names in sentence
    assert (former_book / "html" / "index.html").read_text() == "the former book"


def test_the_page_shows_the_budget_it_was_run_with(book):
    page = (book / "notebooks" / "01_soup_on_digits.html").read_text("utf-8")
    text = BeautifulSoup(page, "html.parser").get_text()
    assert "This page was rerun with budget = 3" in text
    assert "papermill notebooks/01_soup_on_digits.ipynb out.ipynb -p budget 3 " in text


@pytest.mark.whole
def test_the_book_made_again_from_nothing_is_the_same(book, tmp_path, monkeypatch):
    """The zoo is trained anew, and every figure and number comes out the same."""
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    done = run_make_book(tmp_path, *QUICK_BOOK, "--jobs", str(jobs_of_a_build()))
    assert done.returncode == 0, done.stdout + done.stderr
    again = tmp_path / "html"
    pictures = sorted(path.relative_to(book) for path in book.glob("_images/*.png"))
    assert len(pictures) > 5
    for page in [*pictures, Path("notebooks/01_soup_on_digits.html"), Path("book/index.html")]:
        assert (again / page).read_bytes() == (book / page).read_bytes(), page

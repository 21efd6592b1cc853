"""Impossible parameters stop the real build with one sentence and cost nobody a book."""

from __future__ import annotations

from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import make
from conftest import QUICK_BOOK, jobs_of_a_build, read_without_time, run_make_book


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
def test_an_impossible_parameter_is_one_sentence(former_book, capfd, option, value, names):
    assert make.main(["--out", str(former_book), "--quick", "1", option, value]) == 1
    out, sentence = capfd.readouterr()
    assert len(sentence.splitlines()) == 1, sentence
    assert sentence.startswith("error: ")
    assert out == "", "a notebook was run before the values were checked"
    assert names in sentence
    assert (former_book / "html" / "index.html").read_text() == "the former book"


def test_the_command_ends_with_that_sentence_too(former_book):
    done = run_make_book(former_book, "--quick", "1", "--budget", "0")
    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert "budget must be" in done.stderr
    assert done.stdout == ""
    assert (former_book / "html" / "index.html").read_text() == "the former book"


def test_the_page_shows_the_budget_it_was_run_with(book):
    page = (book / "notebooks" / "02_soup_on_digits.html").read_text("utf-8")
    text = BeautifulSoup(page, "html.parser").get_text()
    assert "This page was rerun with budget = 3" in text
    assert "papermill notebooks/02_soup_on_digits.ipynb out.ipynb -p budget 3 " in text


@pytest.mark.whole
def test_the_book_made_again_from_nothing_is_the_same(book, tmp_path, monkeypatch):
    """The zoo is trained anew, and every figure and number comes out the same."""
    monkeypatch.setenv("RADIN_CACHE", str(tmp_path / "cache"))
    done = run_make_book(tmp_path, *QUICK_BOOK, "--jobs", str(jobs_of_a_build()))
    assert done.returncode == 0, done.stdout + done.stderr
    again = tmp_path / "html"
    pictures = sorted(path.relative_to(book) for path in book.glob("_images/*.png"))
    assert len(pictures) > 5
    for picture in pictures:
        assert (again / picture).read_bytes() == (book / picture).read_bytes(), picture
    for page in ("notebooks/02_soup_on_digits.html", "book/index.html"):
        assert read_without_time(again / page) == read_without_time(book / page), page

"""book/tools/book_pdf.py: one PDF of the whole book, with bookmarks, and a link to it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from bs4 import BeautifulSoup

import book_pdf
import make
from browser import pages
from parameters import BuildError

PAGE = """<html><head><title>{name} &#8212; A book</title>
<link rel="stylesheet" href="{up}_static/a.css"><script src="{up}_static/mathjax/tex.js"></script>
<script src="{up}_static/search.js"></script></head><body><nav><a href="x.html">menu</a></nav>
<article class="bd-article">{body}</article></body></html>"""
FIRST = """<section id="one"><h1>1. One<a class="headerlink" href="#one">#</a></h1>
<p><a href="b.html#two">to two</a> <a href="b.html">to b</a> <a href="#one">here</a>
<a href="../genindex.html">index</a> <a href="https://a.org/">out</a></p>
<div class="whole-book"></div>
<div class="explorer-static" hidden><img loading="lazy" src="../_images/a%201.png"></div>
<div class="explorer-live"><button>run</button></div><div class="recipe-live"></div>
<div class="radin-moving"></div><style>h1 {}</style>
<details class="hide above-input"><summary>Show code</summary>hidden = 1</details>
<details class="sd"><summary>More</summary>folded text</details></section>"""
SECOND = """<section id="two"><h1>2. Zwei, é</h1><h2>Two and a half</h2><p>text</p></section>"""
PARTS = [("", ["book/a.html"]), ("Part & parcel", ["book/b.html"])]


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A built book of two pages."""
    folder = tmp_path / "html"
    (folder / "book").mkdir(parents=True)
    for name, body in (("a", FIRST), ("b", SECOND)):
        text = PAGE.format(name=name, up="../", body=body)
        (folder / "book" / f"{name}.html").write_text(text, "utf-8")
    return folder


@pytest.fixture(scope="module")
def browser_path() -> str:
    try:
        return book_pdf.find_browser()
    except BuildError:
        pytest.skip("no Chromium is installed")


def bookmarks(pdf: Path) -> list[str]:
    """The titles of a PDF's outline, and its own, in the order in which Chromium writes them."""
    found = re.findall(rb"/Title (\((?:\\.|[^\\()])*\)|<[0-9A-Fa-f]+>)", pdf.read_bytes())
    return [
        bytes.fromhex(title[1:-1].decode()).decode("utf-16")
        if title.startswith(b"<")
        else re.sub(rb"\\(.)", rb"\1", title[1:-1]).decode("latin-1")
        for title in found
    ]


def squeeze(text: str) -> str:
    return re.sub(r"\s+", "", text)


def test_all_pages_become_one_with_links_within_it(small):
    joined = BeautifulSoup(book_pdf.join_pages(small, PARTS), "html.parser")
    links = {a.get_text(): a["href"] for a in joined.select(".page a[href]")}
    assert links == {
        "to two": "#book-b--two",
        "to b": "#book-b",
        "here": "#book-a--one",
        "out": "https://a.org/",
    }
    named = {element["id"] for element in joined.select("[id]")}
    for link in joined.select('a[href^="#"]'):
        assert link["href"][1:] in named
    assert [a.get_text() for a in joined.select("ul.contents a")] == [
        "1. One",
        "Part & parcel",
        "2. Zwei, é",
    ]
    assert [h.get_text() for h in joined.select("h1, h2, h3")] == [
        "Contents",
        "1. One",
        "Part & parcel",
        "2. Zwei, é",
        "Two and a half",
    ]
    assert joined.title.get_text() == "A book"


def test_what_is_for_a_screen_is_left_out_and_what_folds_is_open(small):
    text = book_pdf.join_pages(small, PARTS)
    for gone in (
        "explorer-live",
        "recipe-live",
        "radin-moving",
        "hidden = 1",
        "menu",
        "search.js",
        "headerlink",
        'class="whole-',
    ):
        assert gone not in text, gone
    joined = BeautifulSoup(text, "html.parser")
    assert joined.select_one(".explorer-static").get("hidden") is None
    assert joined.img["src"] == (small / "_images" / "a 1.png").resolve().as_uri()
    assert not joined.img.has_attr("loading")
    assert joined.select_one("details").has_attr("open")
    assert "folded text" in text
    assert f'href="{(small / "_static" / "a.css").resolve().as_uri()}"' in text
    assert "mathjax/tex.js" in text
    assert joined.html["data-theme"] == "light"


def test_a_missing_page_is_named(small):
    (small / "book" / "b.html").unlink()
    with pytest.raises(BuildError, match=r"b\.html is missing; run make book first"):
        book_pdf.join_pages(small, PARTS)


@pytest.mark.parametrize("wanted", ["", "no-such-browser"])
def test_without_a_browser_it_is_one_sentence(monkeypatch, capsys, small, wanted):
    monkeypatch.setenv("CHROMIUM", wanted)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    assert book_pdf.main(["--html", str(small)]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: the PDF is printed by Chromium or Chrome, and ")
    assert "make pdf CHROMIUM=" in line
    assert (wanted or "none was found") in line


def test_a_browser_that_prints_nothing_is_an_error(tmp_path):
    broken = tmp_path / "chromium"
    broken.write_text("#!/bin/sh\necho 'no display' >&2\nexit 3\n")
    broken.chmod(0o755)
    with pytest.raises(BuildError, match="printed no PDF: no display"):
        book_pdf.print_pdf("<p>a</p>", tmp_path / "book.pdf", str(broken))
    assert not (tmp_path / "book.pdf").exists()


def test_the_landing_page_links_to_what_is_there(small):
    landing = small / "book" / "a.html"
    pdf = small / book_pdf.PDF_NAME
    pdf.write_bytes(b"%PDF" + bytes(2_000_000))
    for _ in range(2):  # the second time it takes the place of the first
        book_pdf.add_link(landing, pdf)
        html = BeautifulSoup(landing.read_text("utf-8"), "html.parser")
        (link,) = html.select(".whole-book a")
        assert (landing.parent / str(link["href"])).resolve() == pdf.resolve()
        assert "(2 MB)" in link.parent.get_text()


def test_the_landing_page_has_a_place_for_the_link(root):
    assert (root / "book" / "index.md").read_text("utf-8").count(
        '<div class="whole-book"></div>'
    ) == 1


def test_the_parts_hold_every_page_of_the_contents_in_order(root):
    parts = book_pdf.parts_of_the_book(root)
    assert [page for _, names in parts for page in names] == pages()
    assert [title for title, _ in parts][:3] == ["", "The paper", "Experiments"]


def test_a_small_book_is_printed_with_bookmarks(small, browser_path, tmp_path):
    book_pdf.print_pdf(book_pdf.join_pages(small, PARTS), tmp_path / "a.pdf", browser_path)
    found = bookmarks(tmp_path / "a.pdf")
    for title in ("Contents", "1. One", "Part & parcel", "2. Zwei, é", "Two and a half"):
        assert title in found


@pytest.mark.whole
def test_the_whole_book_is_one_pdf_with_every_chapter(book, browser_path, tmp_path):
    parts = book_pdf.parts_of_the_book(make.ROOT)
    text = book_pdf.join_pages(book, parts)
    joined = BeautifulSoup(text, "html.parser")
    named = {element["id"] for element in joined.select("[id]")} | {
        element["name"] for element in joined.select("[name]")
    }
    dead = [a["href"] for a in joined.select('a[href^="#"]') if a["href"][1:] not in named]
    assert not dead
    pdf = tmp_path / book_pdf.PDF_NAME
    book_pdf.print_pdf(text, pdf, browser_path)
    found = {squeeze(title) for title in bookmarks(pdf)}
    titles = [h.get_text() for h in joined.select("h1.part, .page > section > h2")]
    assert len(titles) >= len(pages())
    missing = [title for title in titles if squeeze(title) not in found]
    assert not missing
    assert len(re.findall(rb"/Type /Page\b(?!s)", pdf.read_bytes())) > len(pages())

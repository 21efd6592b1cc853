"""The real book as readers meet it: all pages, whole without a network, on a phone, in the dark."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pytest
from bs4 import BeautifulSoup, Tag
from PIL import Image

from browser import DESK, PHONE, pages

BINDER = re.compile(r'"https://mybinder\.org/v2/gh/[\w.-]+/[\w.-]+/main\?urlpath=lab/tree/([^"]+)"')
COLAB = re.compile(
    r'"https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/([^"]+)"'
)
IMAGES_THAT_FAILED = (
    "[...document.images].filter(i => i.complete && i.naturalWidth === 0).map(i => i.src)"
)
WIDER_THAN_THE_SCREEN = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll("body *")]
        .filter(e => e.getBoundingClientRect().right > width + 1)
        .slice(0, 5).map(e => e.outerHTML.slice(0, 80));
}"""
UNREADABLE_IN_THE_DARK = """() => [...document.querySelectorAll("article figure img")]
    .filter(i => /[0-9a-f]{64}\\.png$/.test(i.src) ? !i.src.includes("/_static/night/")
        : getComputedStyle(i).backgroundColor !== "rgb(255, 255, 255)").map(i => i.src)"""
# Drawn at 110 dots an inch: 9 points are 14 pixels, of which a phone must show 10.
TOO_SMALL_ON_A_PHONE = """() => [...document.querySelectorAll("article figure img")]
    .filter(i => i.getClientRects().length && i.src.endsWith(".png"))
    .filter(i => i.getBoundingClientRect().width < 0.74 * i.naturalWidth)
    .map(i => i.src)"""


@pytest.fixture(params=pages())
def page(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[page for page in pages() if re.match(r"notebooks/\w+\.html", page)])
def notebook_page(request: pytest.FixtureRequest) -> str:
    return request.param


@cache  # reading a page takes longer than most questions about it
def article(book: Path, page: str) -> Tag:
    """What the page itself says, without navigation."""
    found = BeautifulSoup((book / page).read_text("utf-8"), "html.parser").find("article")
    assert isinstance(found, Tag)
    return found


def images(book: Path, page: str) -> list[Tag]:
    return [image for image in article(book, page).find_all("img") if isinstance(image, Tag)]


def test_the_front_door_leads_to_the_first_page(book):
    assert f'url={pages()[0]}"' in (book / "index.html").read_text("utf-8")


def test_every_page_is_there(book, page):
    assert (book / page).is_file()


def test_every_image_has_a_text_in_its_place(book, page):
    for image in images(book, page):
        alt = str(image.get("alt", "")).strip()
        assert len(alt) > 20, f"{image['src']} has the alt text {alt!r}"
        assert not re.search(r"\.(png|svg|jpe?g)\b|_images/", alt), (
            f"{image['src']} has a path for an alt text"
        )


def test_every_image_is_a_numbered_figure_with_a_caption(book, page):
    for image in images(book, page):
        figure = image.find_parent("figure")
        assert figure is not None, f"{image['src']} is in no figure"
        caption = figure.find("figcaption")
        assert caption is not None
        assert caption.find(class_="caption-number"), f"{image['src']} has no number"
        assert len(caption.get_text().strip()) > 20, f"{image['src']} has no caption to speak of"


def test_no_figure_is_empty(book, page):
    for image in images(book, page):
        path = (book / page).parent / str(image["src"])
        if path.suffix == ".svg":
            continue
        with Image.open(path) as picture:
            colours = picture.convert("RGB").getcolors(maxcolors=16)
        assert colours is None or len(colours) > 2, f"{path.name} is one flat colour"


def test_notebook_pages_say_how_they_were_made(book, notebook_page):
    (foot,) = article(book, notebook_page).select(".provenance")
    text = foot.get_text()
    assert "quick = True" in text
    assert f"papermill {notebook_page.removesuffix('.html')}.ipynb out.ipynb" in text
    for word in ("Commit", "Device", "torch", "radin"):
        assert word in text


def test_no_page_shows_a_warning_of_some_library(book, page):
    assert not [output.get_text() for output in article(book, page).select(".output.stderr")]


RAW_NUMBER = re.compile(r"(?i)^nan$|^-?\d+\.0$|\.\d{6}")


def test_tables_show_numbers_as_people_write_them(book, notebook_page):
    """No 252.0 in a column of whole numbers, no NaN, no -0.326496."""
    for table in article(book, notebook_page).select("table.dataframe"):
        rows = [
            [cell.get_text().strip() for cell in row.select("td")] for row in table.select("tr")
        ]
        for column in zip(*[row for row in rows if row], strict=False):
            raw = [text for text in column if RAW_NUMBER.search(text)]
            rounded = any(re.search(r"\.[1-9]$", text) for text in column)
            assert not raw or (rounded and all(text.endswith(".0") for text in raw)), column


def test_launch_buttons_are_there(book, notebook_page):
    html = (book / notebook_page).read_text("utf-8")
    assert BINDER.search(html)
    assert COLAB.search(html)


def test_launch_buttons_and_links_lead_to_files_that_exist(book, page, root):
    html = (book / page).read_text("utf-8")
    for path in BINDER.findall(html) + COLAB.findall(html):
        assert (root / path).is_file(), path


EXPLORER = re.compile(r'class="radin-explorer"')
MOST_BYTES = 2_000_000
MOST_BYTES_WITH_EXPLORER = 3_500_000  # its scripts and data counted


def addresses(html: BeautifulSoup) -> set[str]:
    """What a page links to and loads: of links, images, scripts and styles."""
    return {
        str(element[name])
        for name in ("href", "src")
        for element in html.find_all(attrs={name: True})
        if isinstance(element, Tag)
    }


def test_internal_links_and_anchors_resolve(book, page):
    here = book / page
    html = BeautifulSoup(here.read_text("utf-8"), "html.parser")
    for address in addresses(html):
        parts = urlsplit(address)
        if parts.scheme or parts.netloc:
            continue
        there = here if not parts.path else (here.parent / unquote(parts.path)).resolve()
        assert there.is_file(), f"{address} leads nowhere"
        if parts.fragment and there.suffix == ".html":
            assert unquote(parts.fragment) in anchors(there), (
                f"{address}: the page has no such anchor"
            )


@cache
def anchors(path: Path) -> frozenset[str]:
    """The names of all places on a page that a link can lead to."""
    html = BeautifulSoup(path.read_text("utf-8"), "html.parser")
    return frozenset(
        str(element[name])
        for name in ("id", "name")
        for element in html.find_all(attrs={name: True})
    )


def test_no_page_is_heavy(book, page):
    """A page with what belongs to it alone: text, pictures, and an explorer if it has one."""
    text = (book / page).read_text("utf-8")
    own = {(book / page).parent / str(image["src"]) for image in images(book, page)}
    own |= set((book / "_static" / "explorer").iterdir()) if EXPLORER.search(text) else set()
    size = len(text.encode()) + sum(path.stat().st_size for path in own)
    assert size <= (MOST_BYTES_WITH_EXPLORER if EXPLORER.search(text) else MOST_BYTES), (
        f"{size:,} bytes"
    )


def test_the_book_does_not_tell_where_it_was_built(book, page, root):
    assert str(root) not in (book / page).read_text("utf-8")


def test_the_front_door_opens_without_a_server(visit, book):
    reader = visit(f"{book.as_uri()}/", viewport=DESK)
    reader.tab.goto(f"{reader.home}index.html", wait_until="commit")
    reader.tab.wait_for_url(f"**/{pages()[0]}")
    reader.settle()
    assert not reader.troubles


def test_page_is_whole_without_a_network_and_fits_a_phone_by_day_and_by_night(visit, server, page):
    reader = visit(server, viewport=DESK, color_scheme="light")
    reader.read(page)
    assert reader.tab.evaluate(IMAGES_THAT_FAILED) == []
    assert reader.tab.locator("mjx-merror, .math-error").count() == 0, "a formula does not parse"
    reader.tab.set_viewport_size(PHONE)
    for scheme in ("light", "dark"):
        reader.use_scheme(scheme)
        assert reader.tab.evaluate(WIDER_THAN_THE_SCREEN) == []
    assert reader.tab.evaluate(UNREADABLE_IN_THE_DARK) == []
    reader.settle()
    assert reader.tab.evaluate(IMAGES_THAT_FAILED) == []
    assert reader.tab.evaluate(TOO_SMALL_ON_A_PHONE) == []
    assert not reader.troubles


def test_pages_lead_on_and_back(book):
    """Previous and next, in the order of the contents."""
    order = pages()
    for before, page, after in zip([None, *order[:-1]], order, [*order[1:], None], strict=True):
        html = BeautifulSoup((book / page).read_text("utf-8"), "html.parser")
        for rel, neighbour in (("prev", before), ("next", after)):
            link = html.select_one(
                f".prev-next-area a.{'left' if rel == 'prev' else 'right'}-{rel}"
            )
            assert (link is None) == (neighbour is None)
            if link is not None:
                assert (book / page).parent.joinpath(str(link["href"])).resolve() == (
                    book / str(neighbour)
                ).resolve()


def test_search_finds_a_word(visit, server):
    reader = visit(server, viewport=DESK)
    reader.read("search.html?q=soup")
    reader.tab.wait_for_selector("#search-results li")
    assert not reader.troubles

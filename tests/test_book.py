"""The real book as a reader meets it: all pages there, whole without a network, on a phone, in the dark."""

from __future__ import annotations

import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from bs4 import BeautifulSoup, Tag
from PIL import Image

import make

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
QUIET_BROWSER = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
BINDER = re.compile(r'"https://mybinder\.org/v2/gh/[\w.-]+/[\w.-]+/main\?urlpath=lab/tree/([^"]+)"')
COLAB = re.compile(r'"https://colab\.research\.google\.com/github/[\w.-]+/[\w.-]+/blob/main/([^"]+)"')
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}
IMAGES_THAT_FAILED = "[...document.images].filter(i => i.complete && i.naturalWidth === 0).map(i => i.src)"
WIDER_THAN_THE_SCREEN = """() => {
    const width = document.documentElement.clientWidth;
    if (document.documentElement.scrollWidth <= width) return [];
    return [...document.querySelectorAll("body *")]
        .filter(e => e.getBoundingClientRect().right > width + 1)
        .slice(0, 5).map(e => e.outerHTML.slice(0, 80));
}"""
UNREADABLE_IN_THE_DARK = """() => [...document.querySelectorAll("article figure img")]
    .filter(i => getComputedStyle(i).backgroundColor !== "rgb(255, 255, 255)").map(i => i.src)"""


def pages() -> list[str]:
    """Addresses of all pages in the table of contents, relative to the book."""
    return [page.relative_to(make.ROOT).with_suffix(".html").as_posix() for page in make.pages_in_toc(make.ROOT)]


@pytest.fixture(params=pages())
def page(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(params=[page for page in pages() if page.startswith("notebooks/")])
def notebook_page(request: pytest.FixtureRequest) -> str:
    return request.param


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
        assert not re.search(r"\.(png|svg|jpe?g)\b|_images/", alt), f"{image['src']} has a path for an alt text"


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


def test_launch_buttons_are_there(book, notebook_page):
    html = (book / notebook_page).read_text("utf-8")
    assert BINDER.search(html)
    assert COLAB.search(html)


def test_launch_buttons_and_links_lead_to_files_that_exist(book, page, root):
    html = (book / page).read_text("utf-8")
    for path in BINDER.findall(html) + COLAB.findall(html):
        assert (root / path).is_file(), path


def test_the_book_does_not_tell_where_it_was_built(book, page, root):
    assert str(root) not in (book / page).read_text("utf-8")


@pytest.fixture(scope="module")
def server(book: Path) -> Iterator[str]:
    """The book behind an address of this machine."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(book))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.skip("no Chromium is installed")
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=path, args=QUIET_BROWSER)
        yield chromium
        chromium.close()


class Visit:
    """A page in a browser that is cut off from everything but `home`, and what went wrong on it."""

    def __init__(self, browser: Any, home: str, **context: Any):
        self.troubles: list[str] = []
        self.home = home
        self.context = browser.new_context(**context)
        self.context.route("**/*", self._only_home)
        self.tab = self.context.new_page()
        self.tab.on("console", self._listen)
        self.tab.on("pageerror", lambda error: self.troubles.append(f"page error: {error}"))
        self.tab.on("requestfailed", lambda request: self.troubles.append(f"failed: {request.url}"))
        self.tab.on("response", self._check)

    def _only_home(self, route: Any) -> None:
        if route.request.url.startswith((self.home, "data:", "blob:")):
            route.continue_()
        else:
            self.troubles.append(f"asks the network for {route.request.url}")
            route.abort()

    def _listen(self, message: Any) -> None:
        if message.type == "error":
            self.troubles.append(f"console: {message.text}")

    def _check(self, response: Any) -> None:
        if response.status >= 400:
            self.troubles.append(f"{response.status}: {response.url}")

    def read(self, address: str) -> None:
        """Open a page and wait for it."""
        self.tab.goto(self.home + address, wait_until="load")
        self.settle()

    def settle(self) -> None:
        """Wait for the page's formulas and images, also those further down."""
        self.tab.evaluate("async () => { await window.MathJax?.startup?.promise }")
        self.tab.evaluate("() => [...document.images].forEach(i => { i.loading = 'eager' })")
        self.tab.wait_for_function("[...document.images].every(i => i.complete)")


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    visits: list[Visit] = []

    def start(home: str, **context: Any) -> Visit:
        visits.append(Visit(browser, home, **context))
        return visits[-1]

    yield start
    for each in visits:
        each.context.close()


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
        reader.tab.emulate_media(color_scheme=scheme)
        reader.tab.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        assert reader.tab.evaluate(WIDER_THAN_THE_SCREEN) == []
    assert reader.tab.evaluate(UNREADABLE_IN_THE_DARK) == []
    assert not reader.troubles


def test_search_finds_a_word(visit, server):
    reader = visit(server, viewport=DESK)
    reader.read("search.html?q=soup")
    reader.tab.wait_for_selector("#search-results li")
    assert not reader.troubles

"""Fixtures for tests that read the built book: a server, Chromium, a visit without a network."""

from __future__ import annotations

import contextlib
import re
import shutil
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

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
PHONE = {"width": 390, "height": 844}
DESK = {"width": 1280, "height": 800}
FINDINGS = """async ([hidden, rules]) => {
    const options = {resultTypes: ["violations"], ...(rules ? {runOnly: rules} : {})};
    const found = await axe.run({exclude: hidden}, options);
    return found.violations
        .filter(v => ["serious", "critical"].includes(v.impact))
        .flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 120)} (${n.failureSummary})`));
}"""


def pages() -> list[str]:
    """Addresses of all pages in the table of contents, relative to the book."""
    return [
        page.relative_to(make.ROOT).with_suffix(".html").as_posix()
        for page in make.pages_in_toc(make.ROOT)
    ]


def write_live_page(folder: Path, markdown: str, still: str) -> None:
    """Write page.html, which holds the live part of a page that the build writes, and no more.

    Args:
        folder: of the page; its `_static` is what the page loads.
        markdown: what the build writes into the chapter.
        still: class of what stands in its place without scripts.
    """
    live = re.search(r"```\{raw\} html\n(.*?)\n```", markdown, re.S)
    assert live
    (folder / "page.html").write_text(
        '<!doctype html><html lang="en" data-theme="light"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width"><title>a live part</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="_static/book.css"></head>'
        f'<body><main><h1>A live part</h1><div class="{still}">still</div>'
        + live[1].replace("../_static", "_static")
        + "</main></body></html>",
        "utf-8",
    )


@contextlib.contextmanager
def serve_folder(folder: Path) -> Iterator[str]:
    """A folder behind an address of this machine, which ends in a slash."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as httpd:
        threading.Thread(target=httpd.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{httpd.server_port}/"
        httpd.shutdown()


@pytest.fixture(scope="module")
def server(book: Path) -> Iterator[str]:
    """The book behind an address of this machine."""
    with serve_folder(book) as address:
        yield address


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
        """Wait for all formulas and images of the page, and for live charts."""
        self.tab.evaluate("async () => { await window.MathJax?.startup?.promise }")
        self.tab.evaluate("() => [...document.images].forEach(i => { i.loading = 'eager' })")
        self.tab.wait_for_function("[...document.images].every(i => i.complete)")
        self.tab.wait_for_function(
            "[...document.querySelectorAll('.radin-explorer, .radin-forest, .radin-moving')]"
            ".every(e => e.dataset.ready === 'yes')"
        )

    def load_axe(self) -> None:
        """Put axe-core into the page, for `axe_findings`."""
        import axe_playwright_python

        folder = Path(axe_playwright_python.__file__).parent
        self.tab.evaluate((folder / "axe.min.js").read_text("utf-8"))

    def axe_findings(self, hidden: list[str], rules: list[str] | None) -> list[str]:
        """What axe calls serious or critical outside `hidden`; by default it asks every rule."""
        found: list[str] = self.tab.evaluate(FINDINGS, [hidden, rules])
        return found

    def use_scheme(self, scheme: str) -> None:
        """Make it day ("light") or night ("dark"), and wait until every colour has changed."""
        self.tab.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        self.tab.wait_for_function(f"document.documentElement.dataset.theme === '{scheme}'")
        self.tab.wait_for_function("document.getAnimations().every(a => a.playState !== 'running')")


@pytest.fixture
def visit(browser: Any) -> Iterator[Any]:
    visits: list[Visit] = []

    def start(home: str, **context: Any) -> Visit:
        visits.append(Visit(browser, home, **context))
        return visits[-1]

    yield start
    for each in visits:
        each.context.close()

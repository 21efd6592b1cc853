"""Fixtures for tests that read the built book: a server, Chromium, a visit without a network."""

from __future__ import annotations

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


def pages() -> list[str]:
    """Addresses of all pages in the table of contents, relative to the book."""
    return [
        page.relative_to(make.ROOT).with_suffix(".html").as_posix()
        for page in make.pages_in_toc(make.ROOT)
    ]


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
        """Wait for all formulas and images of the page, and for the charts of an explorer."""
        self.tab.evaluate("async () => { await window.MathJax?.startup?.promise }")
        self.tab.evaluate("() => [...document.images].forEach(i => { i.loading = 'eager' })")
        self.tab.wait_for_function("[...document.images].every(i => i.complete)")
        self.tab.wait_for_function(
            "[...document.querySelectorAll('.radin-explorer')]"
            ".every(e => e.dataset.ready === 'yes')"
        )

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

"""Print the built book as one PDF: `make pdf`.

    python book/tools/book_pdf.py --html _build/html

The articles of all pages, in the order of the contents, become one page of HTML: links between
pages become links within it, live charts give way to their still pictures, solutions are open, and
cells whose code is folded in the book show what they print. Chromium prints that page. Its
bookmarks are the headings. The landing page of the book then links to the PDF.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

import yaml
from bs4 import BeautifulSoup, Tag

from make import ROOT, find_page
from parameters import BuildError

PDF_NAME = "radin-souping-on-a-budget.pdf"
BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
)
PRINT = (
    "--headless",
    "--no-sandbox",  # it opens files of this build alone, and a container often lets it have none
    "--disable-gpu",
    "--disable-background-networking",
    "--no-first-run",
    "--no-pdf-header-footer",  # the style sheet numbers the pages
    "--generate-pdf-document-outline",
    "--virtual-time-budget=600000",  # milliseconds of its own clock, which stands while it works
)
TIMEOUT_SECONDS = 1200
LINK_PLACE = "whole-book"  # the class of the element that will hold the link on the landing page
WRITTEN_FOR_A_SCREEN = ", ".join(
    (
        "script",
        "style",
        "template",
        "button",
        "a.headerlink",
        ".explorer-live",
        ".forest-live",
        ".recipe-live",
        ".radin-moving",
        ".provenance",
        ".prev-next-area",
        f".{LINK_PLACE}",
        "a.sd-stretched-link",  # over a card, with a name that is not shown
        "details.hide",  # the code of a cell that is folded
    )
)
STYLE = Path(__file__).with_suffix(".css")


# ---------------------------------------------------------------- one page of all


def parts_of_the_book(root: Path) -> list[tuple[str, list[str]]]:
    """Titles of the parts with the addresses of their pages, as `_toc.yml` has them."""
    contents = yaml.safe_load((root / "_toc.yml").read_text("utf-8"))
    parts = [("", [contents["root"]])]
    for part in contents.get("parts", [{"chapters": contents.get("chapters", [])}]):
        parts.append((part.get("caption", ""), list(_files(part.get("chapters", [])))))
    return [(title, [_address(root, name) for name in names]) for title, names in parts]


def _address(root: Path, name: str) -> str:
    """The address of a page of the contents, below the book's folder."""
    return find_page(root, name).relative_to(root).with_suffix(".html").as_posix()


def _files(entries: list[dict]) -> Iterator[str]:
    for entry in entries:
        yield entry["file"]
        yield from _files(entry.get("sections", []))


def join_pages(folder: Path, parts: list[tuple[str, list[str]]]) -> str:
    """All pages of the built book as one page of HTML.

    Args:
        folder: the built book, with its style sheets and pictures.
        parts: titles of the parts with the addresses of their pages below the folder.

    Raises:
        BuildError: a page is missing.
    """
    pages = [page for _, names in parts for page in names]
    slugs = {page: page.removesuffix(".html").replace("/", "-") for page in pages}
    body: list[str] = []
    contents: list[str] = []

    def add(slug: str, title: str, kind: str, text: str) -> None:
        body.append(text)
        contents.append(f'<li class="{kind}"><a href="#{slug}">{html.escape(title)}</a></li>')

    for title, names in parts:
        if title:
            slug = "part-" + re.sub(r"\W+", "-", title.lower())
            add(slug, title, "part", f'<h1 class="part" id="{slug}">{html.escape(title)}</h1>')
        for page in names:
            article = _article(folder, page, slugs)
            heading = article.find("h2")
            name = heading.get_text().strip() if heading else page
            text = f'<div class="page" id="{slugs[page]}">{article.decode_contents()}</div>'
            add(slugs[page], name, "chapter", text)
    return _document(_read(folder, pages[0]), folder / pages[0], contents, body)


def _document(landing: BeautifulSoup, path: Path, contents: list[str], body: list[str]) -> str:
    """The page that is printed: cover, contents, and everything in its order."""
    name = landing.title.get_text() if landing.title else ""
    title = html.escape(name.rpartition("\N{EM DASH}")[2].strip())
    head = "\n".join(_head(landing, path))
    listed = "\n".join(contents)
    return (
        '<!DOCTYPE html>\n<html lang="en" data-mode="light" data-theme="light">\n<head>\n'
        f'<meta charset="utf-8">\n<title>{title}</title>\n{head}\n'
        f"<style>\n{STYLE.read_text('utf-8')}\n</style>\n</head>\n<body>\n"
        '<div class="bd-content"><div class="bd-article-container"><article class="bd-article">\n'
        f'<div class="cover"><p class="title">{title}</p></div>\n'
        f'<h1 class="contents">Contents</h1>\n<ul class="contents">\n{listed}\n</ul>\n'
        f"{''.join(body)}\n</article></div></div>\n</body>\n</html>\n"
    )


def _read(folder: Path, page: str) -> BeautifulSoup:
    path = folder / page
    if not path.is_file():
        raise BuildError(f"{path} is missing; run make book first")
    return BeautifulSoup(path.read_text("utf-8"), "html.parser")


def _head(document: BeautifulSoup, page: Path) -> Iterator[str]:
    """The style sheets of a page and what sets its formulas, with full addresses."""
    for link in document.select('link[rel="stylesheet"]'):
        yield f'<link rel="stylesheet" href="{html.escape(_full(page, str(link["href"])))}">'
    for script in document.find_all("script"):
        source = str(script.get("src", ""))
        if "mathjax" in source.lower():
            yield f'<script src="{html.escape(_full(page, source))}"></script>'
        elif not source and "MathJax" in script.get_text():
            yield f"<script>{script.get_text()}</script>"


def _full(page: Path, address: str) -> str:
    """The address of a file of the book from everywhere."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not parts.path:
        return address
    return (page.parent / unquote(parts.path)).resolve().as_uri()


def _article(folder: Path, page: str, slugs: Mapping[str, str]) -> Tag:
    """What a page says, ready to stand among the others."""
    article = _read(folder, page).find("article")
    assert isinstance(article, Tag)
    for element in article.select(WRITTEN_FOR_A_SCREEN):
        element.decompose()
    for element in article.select("details"):
        element["open"] = ""
    for element in article.select("[hidden]"):
        del element["hidden"]
    for image in article.select("img"):
        image["src"] = _full(folder / page, str(image["src"]))
        del image["loading"]
    for link in article.select("a[href]"):
        link["href"] = _inside(str(link["href"]), folder, page, slugs)
        if not link["href"]:
            link.unwrap()
    for element in article.select("[id]"):
        if not element.find_parent("svg"):
            element["id"] = f"{slugs[page]}--{element['id']}"
    for level in range(5, 0, -1):  # a part is the first level, and a chapter the second
        for heading in article.select(f"h{level}"):
            heading.name = f"h{level + 1}"
    return article


def _inside(address: str, folder: Path, page: str, slugs: Mapping[str, str]) -> str:
    """A link as it is within the one page; empty if it leads to a file beside the book's pages."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc:
        return address
    target = page
    if parts.path:
        there = (folder / page).parent / unquote(parts.path)
        target = os.path.relpath(there, folder).replace(os.sep, "/")
    if target not in slugs:
        return ""
    return f"#{slugs[target]}--{parts.fragment}" if parts.fragment else f"#{slugs[target]}"


# ---------------------------------------------------------------- the browser


def find_browser() -> str:
    """Chromium or Chrome: what CHROMIUM names, else the first one on the path.

    Raises:
        BuildError: there is none.
    """
    wanted = os.environ.get("CHROMIUM")
    found = next(filter(None, map(shutil.which, [wanted] if wanted else BROWSERS)), None)
    if found is None:
        what = f"{wanted}, which CHROMIUM names, is no program" if wanted else "none was found"
        raise BuildError(
            f"the PDF is printed by Chromium or Chrome, and {what}; install one of them, or give "
            "its path, as in: make pdf CHROMIUM=/usr/bin/chromium"
        )
    return found


def print_pdf(text: str, target: Path, browser: str) -> None:
    """Print one page of HTML into a file.

    Raises:
        BuildError: the browser failed; the message has its last words.
    """
    with tempfile.TemporaryDirectory() as folder:
        page, printed = Path(folder) / "book.html", Path(folder) / "book.pdf"
        page.write_text(text, "utf-8")
        profile = f"--user-data-dir={folder}/profile"
        command = [browser, *PRINT, profile, f"--print-to-pdf={printed}", page.as_uri()]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
            )
        except subprocess.TimeoutExpired as error:
            raise BuildError(f"{browser} printed nothing in {TIMEOUT_SECONDS} s") from error
        if not printed.is_file():
            words = done.stderr.strip().splitlines()[-3:]
            raise BuildError(f"{browser} printed no PDF: {' '.join(words) or 'it says nothing'}")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(printed, target)


def add_link(landing: Path, pdf: Path) -> None:
    """Link to the PDF where the landing page has a place for it."""
    place = re.compile(rf'(<div class="{LINK_PLACE}">).*?(</div>)', re.DOTALL)
    size = f"{pdf.stat().st_size / 1e6:.0f} MB"
    way = os.path.relpath(pdf, landing.parent).replace(os.sep, "/")
    link = (
        f'<p><a class="reference external" href="{way}">The whole book as one PDF</a> ({size})</p>'
    )
    text = landing.read_text("utf-8")
    landing.write_text(place.sub(rf"\g<1>{link}\g<2>", text, count=1), "utf-8")


def build_pdf(folder: Path, root: Path = ROOT) -> Path:
    """The whole way from the built book to its PDF, whose path is returned."""
    browser = find_browser()
    parts = parts_of_the_book(root)
    target = folder / PDF_NAME
    print_pdf(join_pages(folder, parts), target, browser)
    add_link(folder / parts[0][1][0], target)
    return target


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="book/tools/book_pdf.py", description=__doc__)
    parser.add_argument(
        "--html", type=Path, default=ROOT / "_build" / "html", help="the built book (_build/html)"
    )
    try:
        print(build_pdf(parser.parse_args(argv).html.resolve()))
    except BuildError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

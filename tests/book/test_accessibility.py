"""axe-core finds nothing serious on any page: by day and by night, on a desk and on a phone."""

from __future__ import annotations

from typing import Any

import pytest

from browser import DESK, PHONE, pages

EVERY_PAGE = [*pages(), "search.html?q=soup", "genindex.html"]
LOOKS = [(viewport, scheme) for viewport in (DESK, PHONE) for scheme in ("light", "dark")]
# A formula's thousands of parts are MathJax's affair.
FORMULAS = ["mjx-container"]
# On every page each rule is asked once, in the first look. The other three looks ask again what
# they can change: colours at night, what must scroll or be touched on a phone. Code has the same
# colours on all pages, and is slow to check.
RULES: list[tuple[list[str], list[str] | None]] = [
    (FORMULAS, None),
    ([*FORMULAS, "pre"], ["color-contrast"]),
    (FORMULAS, ["scrollable-region-focusable", "target-size", "link-in-text-block"]),
    (FORMULAS, ["scrollable-region-focusable", "target-size", "link-in-text-block"]),
]


def findings(
    reader: Any, look: tuple[dict[str, int], str], hidden: list[str], rules: list[str] | None
) -> list[str]:
    """What axe calls serious or critical, at one width and by day or night."""
    viewport, scheme = look
    reader.tab.set_viewport_size(viewport)
    reader.use_scheme(scheme)
    return reader.axe_findings(hidden, rules)


def open_with_axe(visit: Any, server: str, page: str) -> Any:
    reader = visit(server, viewport=DESK)
    reader.read(page)
    reader.load_axe()
    return reader


@pytest.mark.parametrize("page", EVERY_PAGE)
def test_axe_finds_nothing_serious(visit, server, page):
    reader = open_with_axe(visit, server, page)
    (look, *_), ((hidden, rules), *_) = LOOKS, RULES
    assert findings(reader, look, hidden, rules) == []


@pytest.mark.whole
@pytest.mark.parametrize("page", EVERY_PAGE)
def test_axe_finds_nothing_serious_in_the_other_looks(visit, server, page):
    reader = open_with_axe(visit, server, page)
    for look, (hidden, rules) in list(zip(LOOKS, RULES, strict=True))[1:]:
        assert findings(reader, look, hidden, rules) == [], look


@pytest.mark.parametrize("page", ["book/index.html", "notebooks/02_soup_on_digits.html"])
def test_every_rule_holds_in_every_look(visit, server, page):
    reader = open_with_axe(visit, server, page)
    for look in LOOKS:
        assert findings(reader, look, FORMULAS, None) == [], look


def test_axe_would_find_something(visit, server):
    """The check itself works: a picture without a text and pale grey words on white are found."""
    reader = open_with_axe(visit, server, "book/01_paper.html")
    reader.tab.evaluate("document.querySelector('article p').style.color = '#ddd'")
    reader.tab.evaluate("document.querySelector('article img').removeAttribute('alt')")
    found = "\n".join(findings(reader, LOOKS[0], FORMULAS, None))
    assert "color-contrast" in found
    assert "image-alt" in found

"""axe-core finds nothing serious on any page: by day and by night, on a desk and on a phone."""

from __future__ import annotations

from pathlib import Path

import axe_playwright_python
import pytest
from browser import DESK, PHONE, pages

AXE = (Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text("utf-8")
FINDINGS = """async () => {
    const found = await axe.run(document, {resultTypes: ["violations"]});
    return found.violations
        .filter(v => ["serious", "critical"].includes(v.impact))
        .flatMap(v => v.nodes.map(n => `${v.id}: ${n.html.slice(0, 120)} (${n.failureSummary})`));
}"""


@pytest.mark.parametrize("page", [*pages(), "search.html?q=soup", "genindex.html"])
def test_axe_finds_nothing_serious(visit, server, page):
    reader = visit(server, viewport=DESK)
    reader.read(page)
    reader.tab.evaluate(AXE)
    for viewport in (DESK, PHONE):
        reader.tab.set_viewport_size(viewport)
        for scheme in ("light", "dark"):
            reader.use_scheme(scheme)
            assert reader.tab.evaluate(FINDINGS) == [], (viewport, scheme)


def test_axe_would_find_something(visit, server):
    """The check itself works: a picture without a text and pale grey words on white are found."""
    reader = visit(server, viewport=DESK)
    reader.read(pages()[0])
    reader.tab.evaluate(AXE)
    reader.tab.evaluate("document.querySelector('article p').style.color = '#ddd'")
    reader.tab.evaluate("document.querySelector('article img').removeAttribute('alt')")
    found = "\n".join(reader.tab.evaluate(FINDINGS))
    assert "color-contrast" in found
    assert "image-alt" in found

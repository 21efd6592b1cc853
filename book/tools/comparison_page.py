"""The comparison of reruns as one HTML file, for a browser, at once and without the book."""

from __future__ import annotations

import base64
import html
import re
from pathlib import Path

from numbers_in_text import plain_roles

FIGURE = re.compile(
    r"```\{figure\} (?P<file>\S+)\n:name: .*\n:alt: (?P<alt>.*)\n\n(?P<caption>.*)\n```"
)
LINK_TO_PAGE = re.compile(r"\[([^\]]+)\]\(\.\./notebooks/[^)]+\)")
STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; display: block; overflow-x: auto; }
th, td { padding: 0.2rem 0.7rem; text-align: right; border-bottom: 1px solid #8886; }
figure { margin: 1rem 0; }
img { max-width: 100%; background: white; }
pre { overflow-x: auto; }
"""


def write_page(title: str, blocks: list[str], page: Path) -> Path:
    """Write the blocks of a comparison as one file that asks for no other.

    Args:
        title: of the page.
        blocks: of Markdown, as `comparison.write` returns them; their figures are beside the page.
        page: the file to write.
    """
    from markdown_it import MarkdownIt  # comes with the book's tools

    markdown = MarkdownIt("commonmark").enable("table")
    body = []
    for block in blocks:
        if figure := FIGURE.fullmatch(block):
            picture = page.with_name(figure["file"])
            body.append(figure_html(picture, figure["alt"], figure["caption"]))
        else:
            body.append(markdown.render(plain_roles(LINK_TO_PAGE.sub(r"\1", block))))
    head = [
        '<!doctype html>\n<html lang="en">\n<meta charset="utf-8">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{html.escape(title)}</title>\n<style>{STYLE}</style>\n<main>",
    ]
    page.write_text("\n".join([*head, *body, "</main>\n</html>\n"]), "utf-8")
    return page


def figure_html(picture: Path, alt: str, caption: str) -> str:
    """A picture inside the page."""
    content = base64.b64encode(picture.read_bytes()).decode()
    return (
        f'<figure><img alt="{html.escape(alt)}" src="data:image/png;base64,{content}">'
        f"<figcaption>{html.escape(caption.replace('`', ''))}</figcaption></figure>\n"
    )

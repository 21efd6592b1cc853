"""Controls of what pages do without a kernel: sliders, lists, and the scripts behind them."""

from __future__ import annotations

import html
from collections.abc import Mapping


def slider(
    part: str, name: str, label: str, *, low: float, high: float, step: float, value: float
) -> str:
    """A labelled slider whose value stands beside its label, below the class PART-control."""
    return (
        f'<div class="{part}-control"><label for="{part}-{name}">{html.escape(label)} '
        f'<output for="{part}-{name}"></output></label>'
        f'<input type="range" id="{part}-{name}" name="{name}" '
        f'min="{low}" max="{high}" step="{step}" value="{value}"></div>'
    )


def choice(part: str, name: str, label: str, options: Mapping[str, str], *, value: str = "") -> str:
    """A labelled list of values, each with its text."""
    entries = "".join(
        f'<option value="{html.escape(each)}"{" selected" if each == value else ""}>'
        f"{html.escape(text)}</option>"
        for each, text in options.items()
    )
    return (
        f'<div class="{part}-control"><label for="{part}-{name}">{html.escape(label)}</label>'
        f'<select id="{part}-{name}" name="{name}">{entries}</select></div>'
    )


def scripts(*names: str) -> str:
    """Tags for scripts below `_static`; they run in this order when the page is there."""
    return "\n".join(f'<script defer src="../_static/{name}"></script>' for name in names)

"""The dark version of a figure: the same drawing in the colours of the book's dark theme.

White becomes the page's background, black the colour of its text; greys and pale tints follow. A
colour that means something, such as that of a recipe, stays. A notebook that has called
`set_style` shows both versions of each figure, the dark one under `MIME`, which only the build of
the book reads.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import numpy as np
from matplotlib.artist import Artist
from matplotlib.collections import Collection
from matplotlib.colors import to_rgba
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.text import Text

MIME = "application/x-radin-night+png"
# The dark theme's --pst-color-background and --pst-color-text-base.
BACKGROUND = to_rgba("#121212")
TEXT = to_rgba("#ced6dd")
MAX_CHROMA_OF_GREY = 0.12  # the largest minus the smallest of red, green and blue
MIN_WHITE_OF_TINT = 0.75  # the smallest of red, green and blue

_PARTS: dict[type[Artist], tuple[str, ...]] = {
    Text: ("color",),
    Line2D: ("color", "markerfacecolor", "markeredgecolor"),
    Patch: ("facecolor", "edgecolor"),
    Collection: ("facecolor", "edgecolor"),
}


def night_color(color: Any) -> Any:
    """A grey or a tint in the page's two colours and its own hue; any other colour as it is.

    A colour is a sum of white, black and a pure hue (the HWB model).
    """
    if isinstance(color, str) and color in ("none", "auto"):
        return color
    *rgb, alpha = to_rgba(color)
    white = min(rgb)
    black = 1 - max(rgb)
    if max(rgb) - white > MAX_CHROMA_OF_GREY and white < MIN_WHITE_OF_TINT:
        return (*rgb, alpha)
    ends = zip(rgb, BACKGROUND, TEXT, strict=False)
    mixed = [hue - white + white * paper + black * ink for hue, paper, ink in ends]
    return (*(min(1.0, max(0.0, part)) for part in mixed), alpha)


def night_png(figure: Figure) -> bytes:
    """The dark version of a figure as PNG; the figure is left as it was."""
    undo: list[Callable[[], Any]] = []
    for artist in figure.findobj():
        for each in (artist, getattr(artist, "get_bbox_patch", lambda: None)()):
            if each is not None and not _is_on_color(each):
                _recolor(each, undo)
    try:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", metadata={"Software": None}, facecolor="auto")
        return buffer.getvalue()
    finally:
        for step in reversed(undo):
            step()


def _recolor(artist: Any, undo: list[Callable[[], Any]]) -> None:
    for kind, parts in _PARTS.items():
        if not isinstance(artist, kind):
            continue
        for part in parts:
            if part == "facecolor" and _has_color_map(artist):
                continue  # the values of a colour map have the map's colours
            setter = getattr(artist, f"set_{part}")
            before = getattr(artist, f"get_{part}")()
            undo.append(partial(setter, before))
            if kind is Collection:
                setter([night_color(color) for color in before])
            else:
                setter(night_color(before))


def _has_color_map(artist: Any) -> bool:
    return isinstance(artist, Collection) and artist.get_array() is not None


def _is_on_color(artist: Artist) -> bool:
    """Whether a text stands on the cells of a heat map, whose colours stay."""
    axes = artist.axes
    return (
        isinstance(artist, Text)
        and axes is not None
        and artist in axes.texts
        and any(np.ndim(cast(Any, each.get_array())) == 2 for each in axes.collections)
    )


def show_both(ipython: Any) -> None:
    """Let a notebook give the dark version of a figure beside the light one."""

    def bundle(figure: Figure, include: Any = None, exclude: Any = None) -> dict[str, str]:
        return {MIME: base64.b64encode(night_png(figure)).decode()}

    ipython.display_formatter.mimebundle_formatter.for_type(Figure, bundle)

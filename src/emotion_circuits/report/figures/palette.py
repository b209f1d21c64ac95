"""Colours that colour-blind readers can tell apart, on white and on dark grounds alike.

Series colours are those of Okabe and Ito (2008), "Color Universal Design", in an order that keeps neighbours far apart;
black is replaced by grey because a page may be dark. Every series also has its own marker.
"""

from __future__ import annotations

from collections.abc import Sequence

SERIES_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#8C8C8C", "#A6761D")
VEGA_MARKERS = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right", "stroke")
PAPER_MARKERS = ("o", "s", "^", "D", "v", "P", ">", "_")
GREY = "#808080"
MISSING_FILL = "#B8B8B8"
SEQUENTIAL = "cividis"
DIVERGING = "RdBu_r"


def series_colours(names: Sequence[str]) -> dict[str, str]:
    """Series name → colour, in order of appearance, repeating after the eighth."""
    return {name: SERIES_COLOURS[index % len(SERIES_COLOURS)] for index, name in enumerate(names)}


def ink_on(fill: str) -> str:
    """Black or white, whichever contrasts more with the colour ``#rrggbb`` (WCAG relative luminance)."""
    channels = [int(fill[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "#000000" if (luminance + 0.05) / 0.05 >= 1.05 / (luminance + 0.05) else "#FFFFFF"

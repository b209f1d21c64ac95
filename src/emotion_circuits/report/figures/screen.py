"""What every Altair chart of a report shares: theme, series scales, the "no data" chart.

Text, axes and grid use ``currentColor``, so that the page's light and dark styles reach into the SVG without drawing it
twice. Field names are fixed by the code and never taken from data: Vega would parse dots and brackets in them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from emotion_circuits.report.figures.palette import GREY, SERIES_COLOURS, VEGA_MARKERS
from emotion_circuits.report.words import Words

PANEL_WIDTH = 230
"""Width in CSS pixels below which small multiples wrap to fewer columns."""

_TEXT_LIMIT = 250
"""Width in pixels of a legend's longest label; the page's script sets its columns by the width there is."""

_TEXT: dict[str, Any] = {"labelColor": "currentColor", "titleColor": "currentColor", "labelFontSize": 12}
_CONFIG: dict[str, Any] = {
    "background": "transparent",
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": _TEXT
    | {
        "titleFontSize": 12,
        "titleFontWeight": "normal",
        "titlePadding": 8,
        "domainColor": "currentColor",
        "domainOpacity": 0.5,
        "tickColor": "currentColor",
        "tickOpacity": 0.5,
        "gridColor": "currentColor",
        "gridOpacity": 0.12,
        "labelOverlap": True,
    },
    "legend": _TEXT
    | {
        "orient": "top",
        "direction": "horizontal",
        "title": None,
        "symbolOpacity": 1,
        "symbolSize": 90,
        "labelLimit": _TEXT_LIMIT,
        "symbolStrokeWidth": 2,
    },
    "header": _TEXT | {"labelFontSize": 13, "labelFontWeight": "bold", "title": None, "labelLimit": PANEL_WIDTH},
    "text": {"color": "currentColor", "fontSize": 12},
    "rule": {"color": "currentColor"},
}


def data(rows: Sequence[dict[str, Any]]) -> alt.InlineData:
    """Rows as inline data (nothing is fetched)."""
    return alt.InlineData(values=list(rows))


def finish(chart: alt.TopLevelMixin, **meta: Any) -> alt.TopLevelMixin:
    """Give a chart the theme; ``meta`` tells the page's script how to fit it (``panels``, ``min_width``)."""
    configured: Any = chart.configure(**_CONFIG)
    configured.usermeta = {"report": meta} if meta else alt.Undefined
    themed: alt.TopLevelMixin = configured
    return themed


def no_data(words: Words) -> alt.TopLevelMixin:
    """A chart that says there is nothing to draw."""
    text = alt.Chart(data([{"text": words["no_data"]}])).mark_text(fontSize=15, opacity=0.75).encode(text="text:N")
    return finish(text.properties(width="container", height=80))


def series_colour(names: Sequence[str], *, legend: bool) -> alt.Color:
    """Colour by the field ``series``; the legend is left out where panels carry the names."""
    scale = alt.Scale(domain=list(names), range=_repeated(SERIES_COLOURS, len(names)))
    return alt.Color("series:N", scale=scale, legend=alt.Legend() if legend else None)


def series_shape(names: Sequence[str], *, legend: bool) -> alt.Shape:
    """Marker by the field ``series``, so that colour is never the only difference."""
    scale = alt.Scale(domain=list(names), range=_repeated(VEGA_MARKERS, len(names)))
    return alt.Shape("series:N", scale=scale, legend=alt.Legend() if legend else None)


def reference_rule(value: float, *, vertical: bool) -> alt.Chart:
    """One dashed grey line at ``value`` across the panel, with data of its own so that it is drawn once."""
    chart = alt.Chart(data([{"reference": value}])).mark_rule(strokeDash=[5, 4], color=GREY, strokeWidth=1.5)
    placed: alt.Chart = chart.encode(x="reference:Q") if vertical else chart.encode(y="reference:Q")
    return placed


def _repeated(items: Sequence[str], count: int) -> list[str]:
    return [items[index % len(items)] for index in range(max(count, 1))]

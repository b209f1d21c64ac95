"""``circuit``: nodes of a circuit by layer, size by effect, colour by role, and lines for edges that were measured."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import altair as alt

from emotion_circuits.errors import UsageError
from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.palette import GREY, series_colours
from emotion_circuits.report.figures.registry import Drawing, figure_kind
from emotion_circuits.report.figures.rows import Row, distinct, has_values, missing_count, read_rows
from emotion_circuits.report.text import figure_label
from emotion_circuits.report.words import Words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure

ROW_PIXELS = 34
SMALLEST, LARGEST = 60.0, 700.0
"""Area of a node in square pixels, for no effect and for the strongest."""
BESIDE = 18
"""Pixels from a node's centre to its label, more than the largest radius."""
THINNEST, THICKEST = 0.8, 4.0
"""Width of a line in pixels."""
DASHES = [4, 3]
"""Lines of edges that work against the endpoint."""


@figure_kind("circuit")
class Circuit(Drawing):
    """Rows ``{layer, label, value, role, direct?}``: a node each, ``value`` is its effect.

    Options: ``edges`` (rows ``{source, target, value}`` that name nodes by label; a negative value supports the
    endpoint, as the change of a supporting node that is ablated is negative).
    """

    options = frozenset({"edges"})

    def vega(self, figure: Figure, words: Words) -> alt.TopLevelMixin:
        rows = _placed(figure)
        if not has_values(rows):
            return screen.no_data(words)
        roles = distinct(rows, "series")
        layers = sorted({int(r["layer"]) for r in rows}, reverse=True)
        y = alt.Y("layer:O", sort=layers, title=words.get("layer", "layer"))
        x = alt.X("x:Q", title=None, axis=None, scale=alt.Scale(domain=[-0.5, max(r["x"] for r in rows) + 0.5]))
        hover = [alt.Tooltip("label:N", title=words["label"]), alt.Tooltip("series:N", title=words["series"]),
                 alt.Tooltip("value:Q", title=words["value"], format="+.3f"),
                 alt.Tooltip("direct:Q", title="direct", format="+.3f")]  # fmt: skip
        base = alt.Chart(screen.data(rows)).encode(x=x, y=y)
        nodes = base.mark_circle(opacity=0.75).encode(
            size=alt.Size("area:Q", scale=None), color=screen.series_colour(roles, legend=True), tooltip=hover
        )
        names = base.mark_text(dx=BESIDE, dy=-8, align="left", fontSize=11).encode(text="label:N")
        height = max(80, ROW_PIXELS * len(layers) + 20)
        chart = alt.layer(*_vega_lines(_edges(figure, rows), x, y), nodes, names)
        return screen.finish(chart.properties(width="container", height=height))

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _placed(figure)
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        roles, layers = distinct(rows, "series"), sorted({int(r["layer"]) for r in rows})
        page = paper.new_figure(figure.title, 0.9 + 0.34 * len(layers))
        axes = page.add_subplot()
        for edge in _edges(figure, rows):
            ends = [layers.index(int(edge[key])) for key in ("layer", "layer2")]
            style = (0, tuple(DASHES)) if edge["against"] else "-"
            axes.plot([edge["x"], edge["x2"]], ends, color=GREY, linewidth=edge["width"] / 2, linestyle=style,
                      zorder=0.5)  # fmt: skip
        for role in roles:
            mine = [r for r in rows if r["series"] == role and r["value"] is not None]
            axes.scatter(
                [r["x"] for r in mine], [layers.index(int(r["layer"])) for r in mine], s=[r["area"] / 2 for r in mine],
                color=series_colours(roles)[role], alpha=0.75, label=paper.printable(role),
            )  # fmt: skip
            for r in mine:
                at = (r["x"], layers.index(int(r["layer"])))
                axes.annotate(paper.printable(r["label"]), at, (BESIDE / 2, 4), textcoords="offset points",
                              va="center", fontsize=7)  # fmt: skip
        axes.set_xlim(-0.5, max(r["x"] for r in rows) + 0.5)
        axes.set_ylim(-0.6, len(layers) - 0.2)
        axes.set_xticks([])
        axes.set_yticks(range(len(layers)), labels=[str(layer) for layer in layers])
        axes.set_ylabel(paper.printable(words.get("layer", "layer")))
        paper.legend_on_top(axes)
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        rows = _placed(figure)
        missing = missing_count(rows)
        said = [words["key_edges"]] if has_values(rows) and _edges(figure, rows) else []
        return [*said, words["key_missing"].format(count=missing)] if missing else said


def _vega_lines(edges: Sequence[Row], x: alt.X, y: alt.Y) -> list[alt.Chart]:
    if not edges:
        return []
    weight = alt.Tooltip("value:Q", title="→", format="+.3f")
    rules = alt.Chart(screen.data(edges)).encode(
        x=x, x2="x2:Q", y=y, y2="layer2:O", tooltip=[alt.Tooltip("label:N", title=" "), weight],
        strokeWidth=alt.StrokeWidth("width:Q", scale=None),
    )  # fmt: skip
    kinds = ((False, [1, 0]), (True, DASHES))
    drawn = [(against, dashes) for against, dashes in kinds if any(e["against"] is against for e in edges)]
    return [
        rules.transform_filter(alt.datum.against == against).mark_rule(color=GREY, strokeDash=dashes)
        for against, dashes in drawn
    ]


def _edges(figure: Figure, rows: Sequence[Row]) -> list[Row]:
    """The edges with both ends' places and a width that grows with |value|."""
    given = figure.options.get("edges", ())
    if not isinstance(given, list | tuple):
        raise UsageError(f"figure {figure.name!r} (circuit): edges must be a list", "give rows {source, target, value}")
    place, known = {r["label"]: r for r in rows}, {figure_label(r["label"]) for r in figure.data}
    largest = max((abs(e["value"]) for e in given), default=0.0) or 1.0
    found = []
    for edge in given:
        ends = [figure_label(edge[key]) for key in ("source", "target")]
        if not {*ends} <= known:
            raise UsageError(
                f"figure {figure.name!r} (circuit): an edge from {ends[0]} to {ends[1]}, which are not both nodes",
                "join nodes of the figure",
            )
        if not {*ends} <= {*place}:  # a node without a layer has no place
            continue
        a, b = (place[end] for end in ends)
        found.append({
            "x": a["x"], "layer": a["layer"], "x2": b["x"], "layer2": b["layer"], "label": " → ".join(ends),
            "value": edge["value"], "against": edge["value"] > 0,
            "width": THINNEST + (THICKEST - THINNEST) * abs(edge["value"]) / largest,
        })  # fmt: skip
    return found


def _placed(figure: Figure) -> list[Row]:
    """Rows with a place inside their layer and an area that grows with |value|.

    Every other layer stands half a place aside, so that a line from layer to layer to layer is seen in its parts.
    """
    rows = read_rows(figure, labels=("label", "role"), numbers=("layer", "value"), optional_numbers=("direct",))
    rows = [r for r in rows if r["layer"] is not None]
    largest = max((abs(r["value"]) for r in rows if r["value"] is not None), default=0.0) or 1.0
    layers = sorted({r["layer"] for r in rows})
    seen = {layer: 0.5 * (n % 2) for n, layer in enumerate(layers)}
    for row in rows:
        row["series"] = row.pop("role")
        row["x"] = seen[row["layer"]]
        seen[row["layer"]] += 1
        row["area"] = SMALLEST + (LARGEST - SMALLEST) * abs(row["value"] or 0.0) / largest
    return rows

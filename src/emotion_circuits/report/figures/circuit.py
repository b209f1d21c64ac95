"""``circuit``: nodes of a circuit by layer, size by effect, colour by role."""

from __future__ import annotations

from typing import TYPE_CHECKING

import altair as alt

from emotion_circuits.report.figures import paper, screen
from emotion_circuits.report.figures.palette import series_colours
from emotion_circuits.report.figures.registry import Drawing, figure_kind
from emotion_circuits.report.figures.rows import Row, distinct, has_values, missing_count, read_rows
from emotion_circuits.report.words import Words

if TYPE_CHECKING:
    from matplotlib.figure import Figure as PaperFigure

    from emotion_circuits.types import Figure

ROW_PIXELS = 34
SMALLEST, LARGEST = 60.0, 700.0
"""Area of a node in square pixels, for no effect and for the strongest."""


@figure_kind("circuit")
class Circuit(Drawing):
    """Rows ``{layer, label, value, role, direct?}``: a node each, ``value`` is its effect. No options."""

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
        base = alt.Chart().encode(x=x, y=y)
        nodes = base.mark_circle(opacity=0.75).encode(
            size=alt.Size("area:Q", scale=None), color=screen.series_colour(roles, legend=True), tooltip=hover
        )
        names = base.mark_text(dy=-15, fontSize=11).encode(text="label:N")
        height = max(80, ROW_PIXELS * len(layers) + 20)
        chart = alt.layer(nodes, names, data=screen.data(rows)).properties(width="container", height=height)
        return screen.finish(chart)

    def paper(self, figure: Figure, words: Words) -> PaperFigure:
        rows = _placed(figure)
        if not has_values(rows):
            return paper.no_data_figure(figure.title, words)
        roles, layers = distinct(rows, "series"), sorted({int(r["layer"]) for r in rows})
        page = paper.new_figure(figure.title, 0.9 + 0.34 * len(layers))
        axes = page.add_subplot()
        for role in roles:
            mine = [r for r in rows if r["series"] == role and r["value"] is not None]
            axes.scatter(
                [r["x"] for r in mine], [layers.index(int(r["layer"])) for r in mine], s=[r["area"] / 2 for r in mine],
                color=series_colours(roles)[role], alpha=0.75, label=paper.printable(role),
            )  # fmt: skip
            for r in mine:
                at = (r["x"], layers.index(int(r["layer"])))
                axes.annotate(paper.printable(r["label"]), at, (0, 8), textcoords="offset points", ha="center",
                              fontsize=7)  # fmt: skip
        axes.set_xlim(-0.5, max(r["x"] for r in rows) + 0.5)
        axes.set_ylim(-0.6, len(layers) - 0.2)
        axes.set_xticks([])
        axes.set_yticks(range(len(layers)), labels=[str(layer) for layer in layers])
        axes.set_ylabel(paper.printable(words.get("layer", "layer")))
        paper.legend_on_top(axes)
        return page

    def key(self, figure: Figure, words: Words) -> list[str]:
        missing = missing_count(_placed(figure))
        return [words["key_missing"].format(count=missing)] if missing else []


def _placed(figure: Figure) -> list[Row]:
    """Rows with a place inside their layer and an area that grows with |value|."""
    rows = read_rows(figure, labels=("label", "role"), numbers=("layer", "value"), optional_numbers=("direct",))
    rows = [r for r in rows if r["layer"] is not None]
    largest = max((abs(r["value"]) for r in rows if r["value"] is not None), default=0.0) or 1.0
    seen: dict[float, int] = {}
    for row in rows:
        row["series"] = row.pop("role")
        row["x"] = seen.get(row["layer"], 0)
        seen[row["layer"]] = row["x"] + 1
        row["area"] = SMALLEST + (LARGEST - SMALLEST) * abs(row["value"] or 0.0) / largest
    return rows

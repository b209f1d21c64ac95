"""Figures: every kind on screen and on paper, missing and empty data, errors, files."""

from __future__ import annotations

import ast
import dataclasses
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from report_samples import HOSTILE, every_figure, hostile_report, layer_rows, study_report

from emotion_circuits.errors import UsageError
from emotion_circuits.report import figure_kind, figure_kinds, save_figures
from emotion_circuits.report.figures import drawing_of, paper, registry
from emotion_circuits.report.figures.distributions import bin_edges, summarise
from emotion_circuits.report.figures.palette import SERIES_COLOURS, ink_on
from emotion_circuits.report.figures.registry import Drawing
from emotion_circuits.report.words import languages, load_words
from emotion_circuits.types import Figure, Report, Section

WORDS = load_words("en")
FIGURES = every_figure()


def specification(figure: Figure) -> dict[str, Any]:
    return drawing_of(figure).vega(figure, WORDS).to_dict()


def values_of(figure: Figure) -> list[dict[str, Any]]:
    return [row for rows in specification(figure)["datasets"].values() for row in rows]


def nodes(part: Any) -> Iterator[dict[str, Any]]:
    """Every mapping inside a specification."""
    if isinstance(part, dict):
        yield part
        for item in part.values():
            yield from nodes(item)
    elif isinstance(part, list):
        for item in part:
            yield from nodes(item)


def marks_of(figure: Figure) -> list[str]:
    return [node["mark"]["type"] for node in nodes(specification(figure)) if isinstance(node.get("mark"), dict)]


def drawn(figure: Figure) -> tuple[Any, str]:
    """The paper figure after a full draw, and all its text."""
    with paper.paper_style():
        page = drawing_of(figure).paper(figure, WORDS)
        page.draw_without_rendering()
    return page, " ".join(text.get_text() for text in page.findobj(matplotlib.text.Text))


def test_every_value_that_a_drawing_reads_has_a_heading_in_every_language() -> None:
    folder = Path(registry.__file__).parent
    calls = [
        call
        for file in folder.glob("*.py")
        for call in ast.walk(ast.parse(file.read_text("utf-8")))
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "read_rows"
    ]
    read = {
        n.value for call in calls for n in ast.walk(call) if isinstance(n, ast.Constant) and isinstance(n.value, str)
    }
    assert {"null_low", "hatched", "role", "first"} <= read
    for language in languages():
        # A place on an axis of numbers is named by its figure.
        assert read - {"x"} <= load_words(language).keys()


def test_the_data_under_a_figure_are_headed_by_words_not_by_keys() -> None:
    rows = [{"series": "joy", "x": 1.0, "value": 2.0, "null_low": 0.1}]
    figure = Figure("f", "scatter", "", "", "", rows, {"x": "strength"})
    columns, _ = drawing_of(figure).table(figure, load_words("ja"))
    assert columns == {"series": "系列", "x": "strength", "value": "値", "null_low": "帰無分布の範囲の下限"}


def test_the_kinds_a_study_needs_are_there() -> None:
    needed = {"layer-curves", "matrix", "intervals", "bars", "lines", "scatter", "violins", "histogram",
              "dendrogram", "circuit"}  # fmt: skip
    assert needed <= set(figure_kinds())
    assert {figure.kind for figure in FIGURES.values()} == needed


@pytest.mark.parametrize("name", FIGURES)
def test_every_kind_draws_on_screen_and_paper_with_title_and_key(name: str) -> None:
    figure = FIGURES[name]
    spec = specification(figure)
    assert spec["config"]["background"] == "transparent"
    page, text = drawn(figure)
    assert figure.title in text.replace("\n", " ")
    assert page.axes
    columns, rows = drawing_of(figure).table(figure, WORDS)
    assert rows and columns.keys() <= rows[0].keys()


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.parametrize("rows", ["none", "all missing"])
def test_without_any_value_a_figure_says_no_data(name: str, rows: str) -> None:
    figure = FIGURES[name]
    empty = [] if rows == "none" else [row | {"value": math.nan} for row in figure.data]
    bare = dataclasses.replace(figure, data=empty)
    assert any(row == {"text": "no data"} for row in values_of(bare))
    assert "no data" in drawn(bare)[1]
    drawing_of(bare).key(bare, WORDS)
    drawing_of(bare).table(bare, WORDS)


def test_missing_values_leave_a_gap_and_are_counted() -> None:
    figure = FIGURES["with-gaps"]
    assert [row["value"] for row in values_of(figure) if row.get("series") == "gratitude"][10:13] == [None] * 3
    (line,) = [ln for ln in drawn(figure)[0].axes[0].lines if len(ln.get_ydata()) == 30]
    assert np.isnan(line.get_ydata()[10:13]).all() and np.isfinite(line.get_ydata()[13:]).all()
    assert "Missing values: 3." in " ".join(drawing_of(figure).key(figure, WORDS))


def test_missing_bars_intervals_and_cells_are_named_and_not_drawn_as_zero() -> None:
    assert "missing" in drawn(FIGURES["heads"])[1]
    assert "missing" in drawn(FIGURES["sets"])[1]
    assert [row["shown"] for row in values_of(FIGURES["strengths"]) if row["value"] is None] == ["–"]
    # A bar of height NaN is no bar.
    widths = [patch.get_width() for patch in drawn(FIGURES["heads"])[0].axes[0].patches]
    assert sum(math.isnan(width) for width in widths) == 2 and 0.0 not in widths


def test_more_than_four_series_or_the_option_give_a_panel_each() -> None:
    assert len(drawn(FIGURES["own-vs-rest"])[0].axes) == 1
    assert "facet" not in specification(FIGURES["own-vs-rest"])
    assert len(drawn(FIGURES["atlas"])[0].axes) == 7
    assert specification(FIGURES["atlas"])["columns"] == 3
    assert len(drawn(FIGURES["with-gaps"])[0].axes) == 3


def test_chosen_layer_is_marked_and_equal_null_bands_are_drawn_once() -> None:
    figure = FIGURES["own-vs-rest"]
    page, text = drawn(figure)
    assert all(label in text for label in ("gratitude (L14)", "anger (L17)", "apology (L20)"))
    # One grey band and three ribbons.
    assert len(page.axes[0].collections) == 4
    assert len({row["series"] for row in values_of(figure) if row.get("band_drawn")}) == 1
    different = [row | {"null_low": 0.4 + 0.01 * len(row["series"])} for row in figure.data]
    assert len(drawn(dataclasses.replace(figure, data=different))[0].axes[0].collections) == 6


def test_layers_in_any_order_are_drawn_from_left_to_right() -> None:
    shuffled = dataclasses.replace(FIGURES["own-vs-rest"], data=FIGURES["own-vs-rest"].data[::-1])
    line = next(ln for ln in drawn(shuffled)[0].axes[0].lines if len(ln.get_xdata()) == 30)
    assert list(line.get_xdata()) == sorted(line.get_xdata())


def test_matrix_colours_are_the_same_on_screen_and_paper_and_symmetric_around_the_midpoint() -> None:
    figure = FIGURES["cosines"]
    scale = next(
        n["scale"] for n in nodes(specification(figure)) if isinstance(n.get("scale"), dict) and "clamp" in n["scale"]
    )
    assert scale["domain"][0] == -1 and scale["domain"][-1] == 1
    diagonal = next(row for row in values_of(figure) if row["row"] == row["column"])
    assert diagonal["fill"] == scale["range"][-1]
    lopsided = dataclasses.replace(FIGURES["strengths"], options={"midpoint": 0, "scale": [-1, 4]})
    fills = {round(row["value"], 2): row["fill"] for row in values_of(lopsided) if row["value"] is not None}
    assert fills[0.0] == "#f7f6f6"


def test_broken_cells_are_hatched_and_explained() -> None:
    figure = FIGURES["strengths"]
    hatched = sum(bool(row.get("hatched")) for row in figure.data)
    patches = [patch for patch in drawn(figure)[0].axes[0].patches if patch.get_hatch()]
    assert len(patches) == hatched == 3
    assert "rule" in marks_of(figure) and "rule" not in marks_of(FIGURES["cosines"])
    assert "Hatched cell: text is broken." in drawing_of(figure).key(figure, WORDS)


def test_a_row_reference_that_equals_the_shared_line_is_drawn_once() -> None:
    figure = FIGURES["sets"]
    assert "tick" in marks_of(figure)
    rows = [row | {"reference": 0.5} for row in figure.data]
    shared = dataclasses.replace(figure, data=rows, options={"reference": 0.5})
    assert "tick" not in marks_of(shared)
    assert drawing_of(shared).key(shared, WORDS)[-2] == "Dashed line: reference (0.5)."


def test_large_matrices_have_no_numbers_in_cells() -> None:
    assert "text" not in marks_of(FIGURES["layer-pairs"])
    assert "text" in marks_of(FIGURES["cosines-atlas"])


def test_log_axis_treats_zero_as_missing_and_prints_plain_numbers() -> None:
    rows = [{"x": x, "series": "a", "value": value} for x, value in enumerate([0.0, 10.0, 1000.0])]
    figure = Figure("f", "lines", "T", "", "alt", rows, {"log": True})
    assert [row["value"] for row in values_of(figure)] == [None, 10.0, 1000.0]
    text = drawn(figure)[1]
    assert "1,000" in text and "mathdefault" not in text


def test_a_dendrogram_has_every_leaf_once_and_joins_them_without_crossing() -> None:
    figure = FIGURES["tree"]
    page, text = drawn(figure)
    names = [label.get_text() for label in page.axes[0].get_yticklabels()]
    assert names == ["joy", "pride", "anger", "fear", "sadness"] and all(name in text for name in names)
    heights = {round(max(line.get_xdata()), 2) for line in page.axes[0].lines}
    assert heights == {1.0, 1.4, 2.0, 3.1} and len(page.axes[0].lines) == 3 * 4
    top = max(page.axes[0].lines, key=lambda line: min(line.get_xdata()))
    assert sorted(top.get_ydata()) == [0.5, 3.25], "the last join spans the middles of its two clusters"
    assert len([row for row in values_of(figure) if "x2" in row]) == 12
    cut = dataclasses.replace(figure, data=[*figure.data[:-1], {**figure.data[-1], "value": None}])
    assert len(drawn(cut)[0].axes[0].lines) == 9
    assert "Missing values: 1." in " ".join(drawing_of(cut).key(cut, WORDS))


def test_violins_embed_a_density_and_not_every_value() -> None:
    rows = [{"arm": arm, "value": float(v)} for arm in "ab" for v in np.random.default_rng(0).normal(size=50_000)]
    rows += [{"arm": "one", "value": 1.0}, {"arm": "none", "value": None}]
    figure = Figure("f", "violins", "T", "", "alt", rows)
    assert len(values_of(figure)) < 300
    table = {row["arm"]: row["n"] for row in drawing_of(figure).table(figure, WORDS)[1]}
    assert table == {"a": 50_000, "b": 50_000, "one": 1, "none": 0}
    assert "no data" in drawn(figure)[1]


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=200))
def test_summaries_of_any_values_are_finite_and_bins_hold_them_all(values: list[float]) -> None:
    summary = summarise(values)
    assert min(values) <= summary.first_quartile <= summary.median <= summary.third_quartile <= max(values)
    assert np.isfinite(summary.density).all()
    edges = bin_edges(values)
    assert len(edges) <= 61
    assert np.histogram(values, edges)[0].sum() == len(values)


def test_many_points_are_thinned_evenly_and_the_key_says_so() -> None:
    rows = [{"x": float(i), "value": float(i), "series": "a"} for i in range(100_000)]
    figure = dataclasses.replace(FIGURES["frontier"], data=rows, options={})
    shown = [row["x"] for row in values_of(figure)]
    assert len(shown) == 3000 and (shown[0], shown[-1]) == (0, 99_999)
    gaps = np.diff(shown)
    assert gaps.max() - gaps.min() <= 1
    assert "3,000 of 100,000 points are drawn" in " ".join(drawing_of(figure).key(figure, WORDS))


@pytest.mark.parametrize("name", ["heads", "sets"])
def test_without_intervals_no_empty_axis_is_drawn(name: str) -> None:
    bare = [{k: v for k, v in row.items() if k not in ("low", "high")} for row in FIGURES[name].data]
    assert "rule" in marks_of(FIGURES[name])
    spec = specification(dataclasses.replace(FIGURES[name], data=bare))
    assert not [n for n in nodes(spec) if n.get("field") == "low" and "aggregate" not in n and "title" not in n]


def test_histogram_counts_every_value_once() -> None:
    rows = drawing_of(FIGURES["null"]).table(FIGURES["null"], WORDS)[1]
    assert sum(row["count"] for row in rows) == 999


def test_series_colours_stand_out_on_light_and_dark_and_cell_text_contrasts() -> None:
    def luminance(colour: str) -> float:
        channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return float(np.dot([0.2126, 0.7152, 0.0722], linear))

    def contrast(one: str, other: str) -> float:
        low, high = sorted((luminance(one), luminance(other)))
        return (high + 0.05) / (low + 0.05)

    assert all(contrast(colour, "#ffffff") >= 2.2 and contrast(colour, "#15181c") >= 3 for colour in SERIES_COLOURS)
    for fill in ("#67001f", "#f7f6f6", "#3783bb", "#808080", "#fee838"):
        assert contrast(ink_on(fill), fill) >= 4.5


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"layer": 0, "series": "a"}, "row 0 has no 'value'"),
        ({"layer": "x", "series": "a", "value": 1}, "row 0, 'layer' is 'x', not a number"),
        ({"layer": 0, "series": "a", "value": True}, "not a number"),
    ],
)
def test_rows_that_cannot_be_read_name_figure_row_and_key(row: dict[str, Any], said: str) -> None:
    figure = Figure("curves", "layer-curves", "T", "", "", [row])
    with pytest.raises(UsageError) as caught:
        specification(figure)
    assert said in str(caught.value) and "'curves'" in str(caught.value)


def test_unknown_kinds_options_scales_and_formats_are_refused(tmp_path: Path) -> None:
    figure = FIGURES["cosines"]
    with pytest.raises(UsageError, match="'heatmap'"):
        drawing_of(dataclasses.replace(figure, kind="heatmap"))
    with pytest.raises(UsageError, match="'midpont'") as caught:
        drawing_of(dataclasses.replace(figure, options={"midpont": 0}))
    assert "did you mean midpoint" in str(caught.value)
    with pytest.raises(UsageError, match="scale"):
        specification(dataclasses.replace(figure, options={"scale": [1, 1]}))
    with pytest.raises(UsageError, match="'jpg'"):
        save_figures(study_report(), tmp_path, formats=("jpg",))


def test_edges_of_a_circuit_are_lines_between_its_nodes_thicker_where_they_carry_more() -> None:
    figure = FIGURES["circuit"]
    lines = [row for row in values_of(figure) if "layer2" in row]
    assert [(r["layer"], r["layer2"]) for r in lines[:3]] == [(3, 8), (8, 9), (3, 3)]
    assert [r["against"] for r in lines[:3]] == [False, True, False]
    assert lines[0]["width"] > lines[1]["width"] > lines[2]["width"]
    page, _ = drawn(figure)
    assert len(page.axes[0].lines) == 3
    assert "edge" in drawing_of(figure).key(figure, WORDS)[0]
    bare = dataclasses.replace(figure, options={"edges": []})
    assert "rule" in marks_of(figure) and "rule" not in marks_of(bare) and not drawing_of(bare).key(bare, WORDS)
    with pytest.raises(UsageError, match="3:5 to 9:9"):
        specification(dataclasses.replace(figure, options={"edges": [{"source": "3:5", "target": "9:9", "value": 1}]}))


def test_a_kind_can_be_registered_once_only() -> None:
    class Mine(Drawing):
        def vega(self, figure: Figure, words: Any) -> Any: ...

        def paper(self, figure: Figure, words: Any) -> Any: ...

    with pytest.raises(UsageError, match="'bars' is already drawn by Bars"):
        figure_kind("bars")(Mine)


def test_saved_figures_are_300_dpi_with_text_as_text_and_the_same_bytes_twice(tmp_path: Path) -> None:
    first = save_figures(study_report(), tmp_path / "a", formats=("png", "svg", "pdf"))
    second = save_figures(study_report(), tmp_path / "b", formats=("png", "svg", "pdf"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]
    png, svg = tmp_path / "a/where/own-vs-rest.png", tmp_path / "a/where/own-vs-rest.svg"
    with Image.open(png) as image:
        assert round(image.info["dpi"][0]) == 300
        assert 1.5 < image.width / 300 < 7 and len(set(image.convert("L").resize((200, 100)).tobytes())) > 20
    assert "own-vs-rest AUROC</text>" in svg.read_text("utf-8")


def test_figures_of_an_earlier_report_go_and_files_of_others_stay(tmp_path: Path) -> None:
    earlier = save_figures(study_report(), tmp_path)
    theirs = [tmp_path / "statistics/p_histogram.png", tmp_path / "where/mine.png"]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    drawn = save_figures(study_report(), tmp_path, formats=("svg",), language="ja")
    assert drawn == [path for path in earlier if path.suffix == ".svg"]
    assert {p for p in tmp_path.rglob("*.*") if p.name != "files.json"} == {*drawn, *theirs}


def test_drawing_leaves_the_users_matplotlib_as_it_was(tmp_path: Path) -> None:
    before = dict(matplotlib.rcParams)
    save_figures(study_report(), tmp_path, formats=("png",))
    assert dict(matplotlib.rcParams) == before
    assert plt.get_fignums() == []


def test_hostile_labels_and_file_names_are_harmless(tmp_path: Path) -> None:
    written = save_figures(hostile_report(), tmp_path / "plots")
    assert len(written) == 6
    assert all(path.is_file() and path.parent.parent == tmp_path / "plots" for path in written)
    assert "<script>" not in written[1].read_text("utf-8")


def test_names_that_collide_or_climb_stay_apart_and_inside(tmp_path: Path) -> None:
    figure = FIGURES["cosines"]
    names = ("../../etc/x", "..", "A b", "a-B", "...")
    figures = tuple(dataclasses.replace(figure, name=name) for name in names)
    report = dataclasses.replace(study_report(), sections=(Section("../up", "S", (), figures),))
    written = save_figures(report, tmp_path / "plots", formats=("svg",))
    assert len({str(path).casefold() for path in written}) == len(names)
    assert all(path.resolve().is_relative_to((tmp_path / "plots").resolve()) for path in written)


def test_letters_without_a_font_are_replaced_and_not_warned_about(tmp_path: Path) -> None:
    rows = layer_rows(("\U0010fffd $x^2$", HOSTILE), layers=3)
    figure = Figure("f", "layer-curves", "T $\\frac$", "", "", rows)
    report = Report("t", "p", (), (Section("s", "S", (), (figure,)),), (), "c", {})
    save_figures(report, tmp_path, formats=("svg",))
    text = (tmp_path / "s/f.svg").read_text("utf-8")
    assert "\ufffd $x^2$" in text and "T $\\frac$" in text


def test_japanese_words_fall_back_to_english_where_no_font_has_them(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(paper, "_letters", lambda: frozenset(range(0x20, 0x3000)))
    assert paper.paper_words(load_words("ja"))["layer"] == "Layer"
    assert "no font" in caplog.text and "日本語" in caplog.text
    monkeypatch.setattr(paper, "_letters", lambda: frozenset(range(0x20, 0x10000)))
    assert paper.paper_words(load_words("ja"))["layer"] == "層"

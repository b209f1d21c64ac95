"""Report as JSON and Markdown, as a folder, and the text rules behind all of them."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_samples import HOSTILE, hostile_report, study_report

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.report import render_markdown, report_from_json, report_to_json, write_report
from emotion_circuits.report.markdown import escape_markdown, fenced
from emotion_circuits.report.text import clean_text, figure_label, format_number, format_value, shorten
from emotion_circuits.report.words import load_words
from emotion_circuits.types import Report, Section, Table

WORDS = load_words("en")


def with_row(row: dict[str, object]) -> Report:
    table = Table("t", "T", "", {"a": "A"}, (row,))
    return dataclasses.replace(study_report(), sections=(Section("s", "S", ("x",), (), (table,)),))


def test_json_round_trip_keeps_everything_but_not_a_number() -> None:
    report = with_row({"a": 0.1 + 0.2, "b": [1, None], "c": "é🙏\x00\ud800", "d": True})
    assert report_from_json(report_to_json(report)) == report
    text = report_to_json(hostile_report())
    assert report_to_json(report_from_json(text)) == text


@given(st.floats(), st.text())
def test_json_is_strict_for_any_number_and_text(value: float, text: str) -> None:
    stored = report_to_json(with_row({"a": value, "t": text}))
    row = json.loads(stored, parse_constant=pytest.fail)["report"]["sections"][0]["tables"][0]["rows"][0]
    assert row == {"a": value if math.isfinite(value) else None, "t": text}


def test_numpy_values_are_stored_as_plain_numbers() -> None:
    row = {"a": np.float32(0.5), "b": np.int64(3), "c": np.array([1.0, np.nan]), "d": np.bool_(True)}
    again = report_from_json(report_to_json(with_row(row)))
    assert again.sections[0].tables[0].rows[0] == {"a": 0.5, "b": 3, "c": [1.0, None], "d": True}


def test_a_value_that_is_not_plain_is_refused_with_its_place() -> None:
    with pytest.raises(UsageError, match=r"sections\[0\].tables\[0\].rows\[0\].a holds a object"):
        report_to_json(with_row({"a": object()}))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "not a report"),
        ("[1]", "schema 'list'"),
        ('{"schema": 99}', "schema 99"),
        ('{"schema": 1, "report": {"title": 3}}', "malformed at title"),
    ],
)
def test_a_file_that_is_no_report_says_why(text: str, said: str) -> None:
    with pytest.raises(StoreError, match=said):
        report_from_json(text)


def test_markdown_has_verdicts_first_then_figures_tables_limits_and_command(tmp_path: Path) -> None:
    report = study_report()
    text = render_markdown(report, tmp_path / "report" / "r.md", plots=tmp_path / "plots").read_text("utf-8")
    order = [
        "# Where",
        "- **Question 1",
        "## Where is",
        "](../plots/where/own-vs-rest.png)",
        "| gratitude | 14 | 0.971 |",
    ]
    places = [text.index(part) for part in [*order, "### Limits", "## Methods", f"```\n{report.command}\n```"]]
    assert places == sorted(places)


def test_markdown_without_images_gives_description_and_data(tmp_path: Path) -> None:
    text = render_markdown(study_report(), tmp_path / "r.md").read_text("utf-8")
    assert "![" not in text
    assert "A figure of kind matrix" in text and "| gratitude | anger |" in text


def test_hostile_markdown_carries_no_markup_outside_code(tmp_path: Path) -> None:
    text = render_markdown(hostile_report(), tmp_path / "r.md").read_text("utf-8")
    fence_free = "".join(text.split("````")[::2])
    assert "<script" not in fence_free and "<img" not in fence_free
    assert "\\[link\\](http" in text


@given(st.text())
def test_escaped_markdown_is_one_line_without_live_bars_or_tags(text: str) -> None:
    escaped = str(escape_markdown(text))
    assert len(escaped.splitlines()) <= 1
    assert "<" not in escaped and "|" not in escaped.replace("\\|", "")


def test_numbers_in_markdown_stay_readable() -> None:
    assert escape_markdown("0.971 (n = 3). 1. b") == "0.971 (n = 3). 1. b"
    assert escape_markdown("1. first") == "1\\. first"


@given(st.text(alphabet="`a\n"))
def test_fence_is_longer_than_any_inside(text: str) -> None:
    block = str(fenced(text))
    fence = block.split("\n", 1)[0]
    assert fence not in text


def test_write_report_lays_out_pages_and_plots(tmp_path: Path) -> None:
    written = write_report(study_report(), tmp_path, formats=("png",))
    names = {path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()}
    figures = {"plots/where/own-vs-rest.png", "plots/where/cosines.png", "plots/norms/norms.png"}
    assert names == figures | {"plots/files.json"} | {f"report/report.{kind}" for kind in ("html", "md", "json")}
    assert {path.relative_to(tmp_path).as_posix() for path in written.figures} == figures
    assert report_from_json(written.json.read_text("utf-8")).title == study_report().title


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (0.97134, "0.971"),
        (3, "3"),
        (0.0002, "0.0002"),
        (3.1e-7, "3.1e-07"),
        (0.0042, "0.0042"),
        (-1.5, "−1.500"),
        (23578.2, "23,578"),
        (0.0, "0"),
        (math.inf, "∞"),
        (174.25, "174.2"),
    ],
)
def test_numbers_are_shown_as_a_reader_expects(value: float, shown: str) -> None:
    assert format_number(value) == shown


def test_values_of_a_cell() -> None:
    assert format_value(None, WORDS) == format_value(math.nan, WORDS) == "–"
    assert format_value(True, WORDS) == "yes"
    assert format_value([0.9, None], WORDS) == "[0.900, –]"
    assert format_value(["a", "b"], WORDS) == "a, b"


@given(st.text(alphabet=st.characters(exclude_categories=())))
def test_cleaned_text_can_be_written_and_cannot_reorder_its_surroundings(text: str) -> None:
    cleaned = clean_text(text)
    cleaned.encode("utf-8")
    assert not set(cleaned) & set("\x00\x07\x1b\u202a\u202d\u202e\u2066\u2069")
    assert clean_text(cleaned) == cleaned


def test_long_text_is_cut_with_its_length_and_labels_are_one_short_line() -> None:
    assert shorten("a" * 5000, WORDS, 10) == "aaaaaaaaaa… [shortened: 5,000 characters in all]"
    label = figure_label("line one\nline\ttwo " + "x" * 1_000_000)
    assert len(label) <= 68 and "\n" not in label and label.startswith("line one line two x")
    assert HOSTILE.startswith(figure_label(HOSTILE)[:-1])

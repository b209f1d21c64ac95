"""Pages of rows beside a report: every row is there, links lead somewhere, old pages go, nobody else's file does."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsed_page import Page
from report_samples import HOSTILE, study_report

from emotion_circuits.errors import StoreError
from emotion_circuits.report import details, render_html, render_markdown, save_tables, write_report
from emotion_circuits.report.files import unique_stems
from emotion_circuits.report.table_csv import csv_cell
from emotion_circuits.types import Figure, Report, Section, Table

COLUMNS = {"n": "n", "text": "Text"}


def rows_of(count: int) -> list[dict[str, Any]]:
    return [{"n": index, "text": f"row {index} of the table"} for index in range(count)]


def report_of(*sections: Section) -> Report:
    return dataclasses.replace(study_report(), sections=sections)


def section_of(count: int, name: str = "texts", section: str = "where") -> Section:
    return Section(section, "Where?", (), (), (Table(name, "All texts", "What was said.", COLUMNS, rows_of(count)),))


def written(report: Report, folder: Path, language: str = "en") -> Path:
    """The report's page, with its pages of rows beside it."""
    save_tables(report, folder / "tables", folder / "report.html", language)
    return render_html(report, folder / "report.html", language, tables=folder / "tables")


def parsed(path: Path) -> Page:
    return Page(path.read_text("utf-8"))


def table_rows(path: Path) -> list[list[str]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        return list(csv.reader(file))


def files_in(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_hundred_thousand_rows_are_all_there_and_no_file_is_large(tmp_path: Path) -> None:
    rows = [{"n": index, "text": f"{index} " + "word " * 30} for index in range(100_000)]
    table = Table("texts", "All texts", "", COLUMNS, rows)
    page = written(report_of(Section("where", "Where?", (), (), (table,))), tmp_path)
    assert page.stat().st_size < 10_000_000
    pages = [tmp_path / f"tables/where/texts/{number}.html" for number in range(1, 101)]
    texts = [path.read_text("utf-8") for path in pages]
    assert [text.count("<tr") - 1 for text in texts] == [1000] * 100
    assert ">0 word" in texts[0] and ">99999 word" in texts[-1]
    assert max(map(len, texts)) < 500_000
    lines = table_rows(tmp_path / "tables/where/texts/texts.csv")
    assert len(lines) == 1 + len(rows)
    assert lines[0] == ["n", "Text"] and lines[1] == ["0", rows[0]["text"]] and lines[-1][0] == "99999"


def test_pages_say_which_rows_they_show_and_link_to_their_neighbours(tmp_path: Path) -> None:
    written(report_of(section_of(2500)), tmp_path)
    first, middle, last = (parsed(tmp_path / f"tables/where/texts/{number}.html") for number in (1, 2, 3))
    assert "Table 1 All texts" in middle.shown and "What was said." in middle.shown
    assert "Rows 1,001 to 2,000 of 2,500" in middle.shown and "Rows 2,001 to 2,500 of 2,500" in last.shown
    assert "Previous: rows 1 to 1,000" in middle.shown and "Next: rows 2,001 to 2,500" in middle.shown
    assert "Previous" not in first.shown and "Next" not in last.shown
    assert len(last.all("tr")) == 501 and len(last.all("th")) == 2
    assert {a["scope"] for a in last.all("th")} == {"col"}
    (here,) = [a for a in middle.all("a") if a.get("aria-current") == "page"]
    assert here["aria-label"] == "Page 2: rows 1,001 to 2,000"


def test_every_link_of_page_and_report_leads_to_a_file_or_an_element(tmp_path: Path) -> None:
    points = [{"x": float(i), "value": float(i), "series": "a"} for i in range(1500)]
    figure = Figure("cells", "scatter", "Cells of a sweep", "", "alt", points)
    section = dataclasses.replace(section_of(2500), figures=(figure,))
    report = written(report_of(section), tmp_path)
    pages = {path: parsed(path) for path in tmp_path.rglob("*.html")}
    assert len(pages) == 1 + 2 + 3
    for path, page in pages.items():
        ids = [a["id"] for _, a in page.elements if "id" in a]
        assert len(ids) == len(set(ids))
        for link in page.all("a"):
            address, _, anchor = unquote(str(link["href"])).partition("#")
            target = (path.parent / address).resolve() if address else path
            assert target.is_file()
            if anchor:
                assert anchor in [a.get("id") for _, a in pages[target].elements]
    back = {str(a["href"]) for path, page in pages.items() if path != report for a in page.all("a") if "#" in a["href"]}
    assert back == {"#rows", "../../../report.html#figure-1", "../../../report.html#table-1"}


def test_the_data_of_a_figure_are_all_there_too(tmp_path: Path) -> None:
    points = [{"x": i / 7, "value": float(i), "series": "a"} for i in range(1500)]
    figure = Figure("cells", "scatter", "Cells of a sweep", "", "alt", points)
    page = written(report_of(Section("sweep", "S", (), (figure,))), tmp_path)
    assert "The first 400 of 1,500 rows are shown." in parsed(page).shown
    shown = parsed(tmp_path / "tables/sweep/cells/1.html").shown
    assert "Data and description of figure 1" in shown and "Cells of a sweep" in shown
    lines = table_rows(tmp_path / "tables/sweep/cells/cells.csv")
    assert len(lines) == 1501 and str(1499 / 7) in lines[-1]


def test_pages_stand_alone_run_nothing_and_show_hostile_text_as_text(tmp_path: Path) -> None:
    hostile = {"n": 0, "text": HOSTILE}
    broken = {"n": None, "text": "\u202eevil\u202c \x00 \ud83d"}
    table = Table(HOSTILE, HOSTILE, HOSTILE, {"n": HOSTILE, "text": "Text"}, [hostile, broken] * 300)
    report = dataclasses.replace(report_of(Section("../..", "S", (), (), (table,))), title=HOSTILE)
    written(report, tmp_path)
    (path,) = (tmp_path / "tables").rglob("1.html")
    text, page = path.read_text("utf-8"), parsed(path)
    assert page.scripts == [] and page.all("img") == [] and page.all("link") == []
    assert not [a for _, a in page.elements if any(name.startswith("on") or name in ("src", "style") for name in a)]
    (policy,) = [str(a["content"]) for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'; script-src 'none'; ") and "http" not in policy
    assert page.all("html") == [{"lang": "en"}] and "prefers-color-scheme: dark" in text
    assert page.shown.count(HOSTILE) >= 304
    assert not set(text) & set("\x00\u202e\u202c\ud83d")
    assert page.all("span")[-1]["aria-label"] == "missing"


def test_names_are_safe_and_unique_where_several_sections_share_one(tmp_path: Path) -> None:
    sections = [section_of(1200), section_of(1300), section_of(500, "TEXTS"), section_of(500, "../../etc")]
    report = report_of(*sections)
    page = parsed(written(report, tmp_path))
    assert files_in(tmp_path) == {
        "report.html", "tables/files.json",
        "tables/where/texts/1.html", "tables/where/texts/2.html", "tables/where/texts/texts.csv",
        "tables/where/texts-2/1.html", "tables/where/texts-2/2.html", "tables/where/texts-2/texts-2.csv",
        "tables/where/TEXTS-3/1.html", "tables/where/TEXTS-3/TEXTS-3.csv",
        "tables/where/etc/1.html", "tables/where/etc/etc.csv",
    }  # fmt: skip
    links = [str(a["href"]) for a in page.all("a")]
    assert [link for link in links if link.endswith("/1.html")] == [
        f"tables/{stem}/1.html" for stem in ("where/texts", "where/texts-2", "where/TEXTS-3", "where/etc")
    ]
    assert len(table_rows(tmp_path / "tables/where/texts-2/texts-2.csv")) == 1301


@given(st.lists(st.tuples(st.text(), st.text())))
def test_stems_are_two_plain_names_whatever_sections_and_tables_are_called(names: list[tuple[str, str]]) -> None:
    stems = list(unique_stems(names))
    assert len({stem.casefold() for stem in stems}) == len(names)
    for stem in stems:
        parts = stem.split("/")
        assert len(parts) == 2 and all(part and part[0].isalnum() and part.isascii() for part in parts)


def test_short_tables_leave_no_folder(tmp_path: Path) -> None:
    page = written(report_of(section_of(400)), tmp_path)
    assert files_in(tmp_path) == {"report.html"} and list(tmp_path.iterdir()) == [page]
    assert "rows are shown" not in parsed(page).shown


def test_pages_of_a_longer_report_go_and_files_of_others_stay(tmp_path: Path) -> None:
    tables = tmp_path / "tables"
    written(report_of(section_of(5000), section_of(500, "more", "second")), tmp_path)
    theirs = [tables / name for name in ("notes.txt", "where/texts/99.html", "where/texts/mine.csv", "second/a/1.html")]
    for path in theirs:
        path.parent.mkdir(exist_ok=True)
        path.write_text("mine")
    written(report_of(section_of(1500)), tmp_path)
    ours = {"files.json", "where/texts/1.html", "where/texts/2.html", "where/texts/texts.csv"}
    assert files_in(tables) == ours | {path.relative_to(tables).as_posix() for path in theirs}
    written(report_of(section_of(10)), tmp_path)
    assert files_in(tables) == {path.relative_to(tables).as_posix() for path in theirs}
    assert all(path.read_text() == "mine" for path in theirs)


def test_nothing_is_left_where_the_next_report_is_short(tmp_path: Path) -> None:
    written(report_of(section_of(2500)), tmp_path)
    written(report_of(section_of(10)), tmp_path)
    assert list(tmp_path.iterdir()) == [tmp_path / "report.html"]


def test_pages_of_a_report_that_was_cut_off_halfway_go_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(path: Path, *_: object) -> Path:
        raise StoreError(f"cannot write {path}", "free some space")

    with monkeypatch.context() as patched, pytest.raises(StoreError):
        patched.setattr(details, "write_csv", full)
        written(report_of(section_of(2500)), tmp_path)
    assert (tmp_path / "tables/where/texts/3.html").exists()
    written(report_of(section_of(10)), tmp_path)
    assert files_in(tmp_path) == {"report.html"}


@pytest.mark.parametrize(
    "listed",
    [
        '{"files": ["../../kept.html", "a/../../kept.html", "/etc/x/y.html", 3, "where/texts/.kept.html"]}',
        '{"files": 5}',
        "[]",
        "not JSON",
        "\udcff",
    ],
)
def test_a_list_that_names_files_elsewhere_or_is_damaged_removes_nothing(tmp_path: Path, listed: str) -> None:
    folder = tmp_path / "report"
    (folder / "tables").mkdir(parents=True)
    (folder / "tables/files.json").write_bytes(listed.encode("utf-8", "surrogateescape"))
    for path in (tmp_path / "kept.html", folder / "kept.html"):
        path.write_text("mine")
    written(report_of(section_of(10)), folder)
    assert (tmp_path / "kept.html").exists() and (folder / "kept.html").exists()
    written(report_of(section_of(500)), folder)
    names = json.loads((folder / "tables/files.json").read_text("utf-8"))["files"]
    assert names == ["where/texts/1.html", "where/texts/texts.csv"]


def test_the_whole_folder_in_japanese(tmp_path: Path) -> None:
    result = write_report(report_of(section_of(1500)), tmp_path, "ja", formats=())
    assert [path.relative_to(tmp_path).as_posix() for path in result.tables] == [
        f"report/tables/where/texts/{name}" for name in ("1.html", "2.html", "texts.csv")
    ]
    main, page = parsed(result.html), parsed(result.tables[1])
    assert "全 1,500 行のうち先頭の 400 行" in main.shown and "すべての行を読む" in main.shown
    assert page.all("html") == [{"lang": "ja"}]
    assert all(said in page.shown for said in ("表 1", "1,001～1,500 行目（全 1,500 行）", "レポートに戻る", "前へ"))
    text = result.markdown.read_text("utf-8")
    assert "[すべての行の CSV](tables/where/texts/texts.csv)" in text


def test_markdown_links_the_csv_file(tmp_path: Path) -> None:
    report = report_of(section_of(1500))
    text = render_markdown(report, tmp_path / "md" / "r.md", tables=tmp_path / "a b" / "tables").read_text("utf-8")
    assert "\n\nThe first 400 of 1,500 rows are shown. [All rows as CSV](../a%20b/tables/where/texts/texts.csv)" in text
    assert "All of them are in report.json" in render_markdown(report, tmp_path / "r.md").read_text("utf-8")


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (0.1 + 0.2, "0.30000000000000004"),
        (-1.5, "-1.5"),
        (np.float64(-2.5e-300), "-2.5e-300"),
        (np.int64(7), "7"),
        (math.inf, "inf"),
        (True, "True"),
        (None, ""),
        (math.nan, ""),
        ([0.94, None], "[0.94, ]"),
        (["=a", "b"], "'=a, b"),
        ("=1+1", "'=1+1"),
        ("+gratitude", "'+gratitude"),
        ("-0.3", "'-0.3"),
        ("@SUM(A1)", "'@SUM(A1)"),
        (" \r\n=1+1", "' \n=1+1"),
        ("\t=1+1", "'\t=1+1"),
        ("＝1+1", "'＝1+1"),
        ("a=b", "a=b"),
        ("", ""),
        ("\ud83d\x00", "\ufffd\u2400"),
    ],
)
def test_cells_of_a_csv_file_are_exact_numbers_and_texts_that_are_no_formula(value: object, cell: str) -> None:
    assert csv_cell(value) == cell


def test_texts_in_csv_are_whole_with_their_line_breaks(tmp_path: Path) -> None:
    long = 'He said "no",\nthen nothing. 🙏 ' * 500
    table = Table("t", "T", "", {"text": "=Text"}, [{"text": long}] * 401)
    written(report_of(Section("s", "S", (), (), (table,))), tmp_path)
    lines = table_rows(tmp_path / "tables/s/t/t.csv")
    assert lines[0] == ["'=Text"] and lines[1:] == [[long]] * 401


@given(st.integers(1, 3000), st.data())
def test_any_page_is_a_few_steps_away(count: int, data: st.DataObject) -> None:
    here, goal = (data.draw(st.integers(1, count)) for _ in range(2))
    steps = 0
    while here != goal:
        links = details.near(here, count)
        assert links == sorted(set(links)) and len(links) <= 32 and {1, here, count} <= {*links}
        here = min(links, key=lambda page: abs(page - goal))
        steps += 1
    assert steps <= 9

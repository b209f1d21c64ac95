"""Every row of the tables that a page cuts off: pages of rows beside the report, and one CSV file a table.

Pages are static: markup, the report's style, and a policy that allows neither a script nor the network. One page is
made at a time, so that a table of any length costs the memory of one page.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from emotion_circuits.report.content import TableView, sections_of
from emotion_circuits.report.files import address_of, write_text
from emotion_circuits.report.html_page import environment, packaged, policy
from emotion_circuits.report.leftovers import replacing_files
from emotion_circuits.report.table_csv import write_csv
from emotion_circuits.report.text import shorten
from emotion_circuits.report.translation import translated
from emotion_circuits.report.words import DEFAULT_LANGUAGE, Words, load_words

if TYPE_CHECKING:
    from emotion_circuits.types import Report

PAGE_ROWS = 1_000
"""Rows of one page."""
_NEAR = 3
"""A page links as many pages on either side, as many tens, as many hundreds, …: any page is a few steps away."""


@dataclass(frozen=True)
class _Part:
    """One page of a table, from row ``start`` up to ``stop``."""

    number: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        return f"{self.number}.html"

    @property
    def first(self) -> str:
        return f"{self.start + 1:,}"

    @property
    def last(self) -> str:
        return f"{self.stop:,}"


def save_tables(report: Report, folder: Path, page: Path, language: str = DEFAULT_LANGUAGE) -> list[Path]:
    """Write the tables that are too long for the report at ``page``, and return the files written.

    ``{folder}/{section}/{table}/`` gets ``1.html``, ``2.html``, … and ``{table}.csv``; a figure's data count as a
    table. Pages that an earlier, longer report left in ``folder`` are removed. Raises as :func:`render_html` does.
    """
    words = load_words(language)
    report, _ = translated(report, language)
    tables = [table for table in _tables(report, words) if table.left_out]
    names = [name for table in tables for name in _files(table)]
    with replacing_files(folder, names):
        for table in tables:
            _save(table, shorten(report.title, words), folder, page, words)
    return [folder / name for name in names]


def _tables(report: Report, words: Words) -> Iterator[TableView]:
    for section in sections_of(report, words):
        yield from (figure.table for figure in section.figures)
        yield from section.tables


def _files(table: TableView) -> list[str]:
    return [*(table.page(part.number) for part in _parts(len(table.source))), table.csv]


def _parts(rows: int) -> list[_Part]:
    starts = range(0, rows, PAGE_ROWS)
    return [_Part(number, start, min(start + PAGE_ROWS, rows)) for number, start in enumerate(starts, start=1)]


def _save(table: TableView, report: str, folder: Path, page: Path, words: Words) -> None:
    template = environment().get_template("rows_page.html.j2")
    parts = _parts(len(table.source))
    number = f"{words['table'].format(number=table.number)}. " if table.number else ""
    same = {
        "report": report,
        "name": f"{number}{table.title}",
        "back": f"{address_of(page, folder / table.page(1))}#{table.place}",
        "csv": table.csv.rpartition("/")[2],
        "style": Markup(packaged("page.css")),
        "policy": policy([]),
    }
    for place, part in enumerate(parts):
        shown = {
            **same,
            "number": part.number,
            "range": words["rows_of_all"].format(first=part.first, last=part.last, total=f"{len(table.source):,}"),
            "previous": parts[place - 1] if place else None,
            "next": parts[place + 1] if part is not parts[-1] else None,
            "near": [parts[n - 1] for n in near(part.number, len(parts))],
        }
        text = template.render(page=shown, table=table.showing(part.start, part.stop, words), words=words)
        write_text(folder / table.page(part.number), text)
    write_csv(folder / table.csv, {column.key: column.heading for column in table.columns}, table.source)


def near(number: int, count: int) -> Sequence[int]:
    """The pages that page ``number`` of ``count`` links to: first, last, and others in steps of 1, 10, 100, …"""
    found, step = {1, number, count}, 1
    while step < count:
        middle = number // step * step
        found.update(middle + place * step for place in range(-_NEAR, _NEAR + 1))
        step *= 10
    return sorted(n for n in found if 1 <= n <= count)

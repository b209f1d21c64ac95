"""What a page shows, worked out once for HTML and Markdown: numbering, anchors, cells as text, cut-off tables."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from emotion_circuits.report.commands import PROGRAM
from emotion_circuits.report.figures.registry import drawing_of
from emotion_circuits.report.files import unique_stems
from emotion_circuits.report.text import format_value, is_missing, is_number, is_pair, shorten
from emotion_circuits.report.words import Words
from emotion_circuits.types import Verdict

if TYPE_CHECKING:
    from emotion_circuits.types import Figure, Report, Section, Table

MOST_ROWS = 400
"""A table shows at most this many rows; the pages of :mod:`emotion_circuits.report.details` have all of them."""
LONG_TEXT, PHRASE = 40, 14
"""Text cells longer than this get room and keep their line breaks; phrases get enough not to break at every word; what
is no longer than ``PHRASE`` stays on one line."""
LINE_BREAK = "↵"
_CODE = re.compile(rf"`([^`\n]+)`|(?:(?<=: )|(?<=：))({PROGRAM} .+)$", re.S)
_INTERVAL = re.compile(r"\[[^\[\]\s]+, [^\[\]\s]+\]")


@dataclass(frozen=True)
class CellView:
    """``style``: ``n`` (number), ``pair`` (interval), ``command``, ``long`` (read on), ``phrase``, ``short``, none."""

    text: str
    style: str
    missing: bool


@dataclass(frozen=True)
class ColumnView:
    """The key of its cells in a row, a heading, and whether everything under it is a number."""

    key: str
    heading: str
    numeric: bool


@dataclass(frozen=True)
class TableView:
    """``rows`` are what is shown of ``source``; where that is not all, ``left_out`` says in words how much it is.

    ``number`` is 0 for the table of a figure, ``place`` the element of the page that the table belongs to, and ``stem``
    the folder of its pages, below the folder that holds those of all tables.
    """

    id: str
    place: str
    stem: str
    number: int
    title: str
    caption: str
    columns: Sequence[ColumnView]
    rows: Sequence[Sequence[CellView]]
    left_out: str
    source: Sequence[Mapping[str, Any]]

    @property
    def running(self) -> bool:
        """Whether rows are to be read one by one, as texts are, rather than compared down a column."""
        return any(cell.style in ("long", "command") for row in self.rows for cell in row)

    @property
    def csv(self) -> str:
        """The file with all rows, named as the table is, because it is what a reader saves."""
        return f"{self.stem}/{self.stem.rpartition('/')[2]}.csv"

    def page(self, number: int) -> str:
        """The file with a part of the rows."""
        return f"{self.stem}/{number}.html"

    def showing(self, start: int, stop: int, words: Words) -> TableView:
        """The same table with other rows of its source in view."""
        return replace(self, rows=_cells(self.source[start:stop], self.columns, words))


@dataclass(frozen=True)
class FigureView:
    """A figure's texts and its data as a table; ``source`` is what the drawings read."""

    id: str
    number: int
    title: str
    caption: str
    alt: str
    key: Sequence[str]
    table: TableView
    source: Figure


@dataclass(frozen=True)
class SectionView:
    """One question as the page shows it."""

    id: str
    heading: str
    answer: Sequence[str]
    figures: Sequence[FigureView]
    tables: Sequence[TableView]
    limits: Sequence[str]


def sections_of(report: Report, words: Words) -> list[SectionView]:
    """All sections with figures and tables numbered through the whole report."""
    sections, figures, tables = [], 0, 0
    # A figure's table comes before the tables of its section, as on the page.
    stems = unique_stems(
        (section.name, name)
        for section in report.sections
        for name in (*(figure.name for figure in section.figures), *(table.name for table in section.tables))
    )
    for index, section in enumerate(report.sections, start=1):
        sections.append(_section(section, index, figures, tables, stems, words))
        figures += len(section.figures)
        tables += len(section.tables)
    return sections


def verdicts_of(report: Report, words: Words) -> list[Verdict]:
    """The verdicts with their texts cleaned and cut to a readable length."""
    return [
        Verdict(shorten(v.question, words), sentences(v.answers, words), shorten(v.reason, words))
        for v in report.verdicts
    ]


def sentences(texts: Iterable[str], words: Words) -> list[str]:
    """Texts cleaned and cut to a readable length."""
    return [shorten(text, words) for text in texts]


def spans(text: str) -> list[tuple[str, bool]]:
    """A sentence cut into (words, is it code): what stands between backticks, and a command up to the end."""
    parts, end = [], 0
    for match in _CODE.finditer(text):
        parts += [(text[end : match.start()], False), (match[1] or match[2], True)]
        end = match.end()
    return [(words, code) for words, code in [*parts, (text[end:], False)] if words]


def table_view(
    columns: Mapping[str, str],
    rows: Sequence[Mapping[str, Any]],
    words: Words,
    *,
    id: str,  # noqa: A002 - the HTML attribute's own name
    place: str,
    stem: str,
    number: int,
    title: str,
    caption: str = "",
) -> TableView:
    """Cells as text; a column is numeric when every value that is there is a number."""
    heads = [ColumnView(key, shorten(str(heading), words), _is_numeric(rows, key)) for key, heading in columns.items()]
    left_out = ""
    if len(rows) > MOST_ROWS:
        left_out = words["rows_left_out"].format(shown=f"{MOST_ROWS:,}", total=f"{len(rows):,}")
    return TableView(
        id, place, stem, number, shorten(title, words), shorten(caption, words), heads,
        _cells(rows[:MOST_ROWS], heads, words), left_out, rows,
    )  # fmt: skip


def _section(
    section: Section, index: int, figures: int, tables: int, stems: Iterator[str], words: Words
) -> SectionView:
    return SectionView(
        id=f"section-{index}",
        heading=shorten(section.heading, words),
        answer=sentences(section.answer, words),
        figures=[_figure(figure, figures + n, next(stems), words) for n, figure in enumerate(section.figures, start=1)],
        tables=[_table(table, tables + n, next(stems), words) for n, table in enumerate(section.tables, start=1)],
        limits=sentences(section.limits, words),
    )


def _figure(figure: Figure, number: int, stem: str, words: Words) -> FigureView:
    drawing = drawing_of(figure)
    columns, rows = drawing.table(figure, words)
    place = f"figure-{number}"
    return FigureView(
        id=place,
        number=number,
        title=shorten(figure.title, words),
        caption=shorten(figure.caption, words),
        alt=shorten(figure.alt or figure.title, words),
        key=drawing.key(figure, words),
        table=table_view(
            columns,
            rows,
            words,
            id=f"{place}-data",
            place=place,
            stem=stem,
            number=0,
            title=words["data_of_figure"].format(number=number),
            caption=figure.title,
        ),
        source=figure,
    )


def _table(table: Table, number: int, stem: str, words: Words) -> TableView:
    return table_view(
        table.columns,
        table.rows,
        words,
        id=f"table-{number}",
        place=f"table-{number}",
        stem=stem,
        number=number,
        title=table.title,
        caption=table.caption,
    )


def _is_numeric(rows: Sequence[Mapping[str, Any]], key: str) -> bool:
    """Whether a column has numbers and nothing else; all rows count, so that it looks the same on every page."""
    values = [row.get(key) for row in rows]
    return any(map(is_number, values)) and all(is_number(value) or is_missing(value) for value in values)


def _cells(
    rows: Iterable[Mapping[str, Any]], columns: Sequence[ColumnView], words: Words
) -> Sequence[Sequence[CellView]]:
    return [[_cell(row.get(column.key), column.numeric, words) for column in columns] for row in rows]


def _cell(value: Any, numeric: bool, words: Words) -> CellView:
    text = format_value(value, words)
    style = "n" if numeric else "pair" if is_pair(value) else _style_of(text)
    return CellView(_begins_visibly(text), style, is_missing(value))


def _style_of(text: str) -> str:
    if _INTERVAL.fullmatch(text):
        return "pair"
    if text.startswith(f"{PROGRAM} "):
        return "command"
    if len(text) > LONG_TEXT:
        return "long"
    if len(text) <= PHRASE:
        return "short"
    return "phrase" if " " in text else ""


def _begins_visibly(text: str) -> str:
    """A generated text may begin with line breaks, which would look like an empty cell: they become marks."""
    rest = text.lstrip("\n ")
    breaks = text[: len(text) - len(rest)].count("\n")
    return f"{LINE_BREAK * breaks} {rest}" if breaks else text

"""A report as Markdown: the same content, with figures as image files beside it.

Autoescaping stays on, so markup in untrusted text becomes entities; :func:`escape_markdown` adds what Markdown itself
would read (emphasis, links, table bars, headings, fences).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from emotion_circuits.report.content import FigureView, SectionView, sections_of, sentences, verdicts_of
from emotion_circuits.report.figures.saving import figure_stems
from emotion_circuits.report.files import address_of, write_text
from emotion_circuits.report.glossary import terms_in
from emotion_circuits.report.html_page import citation, environment
from emotion_circuits.report.text import clean_text, shorten
from emotion_circuits.report.translation import translated
from emotion_circuits.report.words import DEFAULT_LANGUAGE, load_words

if TYPE_CHECKING:
    from emotion_circuits.types import Report


@dataclass(frozen=True)
class _Illustrated(FigureView):
    """A figure view with the relative address of its image, or an empty one."""

    image: Markup


def render_markdown(
    report: Report,
    path: Path,
    *,
    plots: Path | None = None,
    tables: Path | None = None,
    language: str = DEFAULT_LANGUAGE,
) -> Path:
    """Write the report to ``path`` and return it.

    ``plots`` is the folder that :func:`save_figures` wrote to; the page links its PNG files relatively. Without it each
    figure is given by its description and its data. ``tables`` is the folder of :func:`save_tables`: a long table links
    its CSV file. Raises as :func:`render_html` does.
    """
    words = load_words(language)
    report, left_english = translated(report, language)
    stems = figure_stems(report)
    page = {
        "title": shorten(report.title, words),
        "profile": shorten(report.profile, words),
        "left_english": words["left_english"].format(count=left_english) if left_english else "",
        "verdicts": verdicts_of(report, words),
        "terms": terms_in((answer for verdict in report.verdicts for answer in verdict.answers), language),
        "tables": Markup("" if tables is None else address_of(tables, path)),
        "sections": [_illustrated(section, stems, path, plots) for section in sections_of(report, words)],
        "methods": sentences(report.methods, words),
        "command": clean_text(report.command),
        "provenance": [(shorten(key, words), shorten(value, words)) for key, value in report.provenance.items()],
        "citation": citation(),
    }
    templates = environment().overlay()
    templates.filters = {**templates.filters, "md": escape_markdown, "fenced": fenced}
    text = templates.get_template("report.md.j2").render(page=page, words=words)
    return write_text(path, re.sub(r"\n{3,}", "\n\n", text).strip() + "\n")


def escape_markdown(text: str) -> Markup:
    """One line of text that Markdown shows as it is."""
    line = " ".join(str(text).split())
    # Ampersand, angle brackets and quotes become entities first; the rest gets a backslash.
    return Markup(re.sub(r"([\\`*_\[\]|~$!]|^[#+\-=>](?=\s|$)|^\d+(?=[.)](?:\s|$)))", _backslash, _entities(line)))


def fenced(text: str) -> Markup:
    """A code block whose fence is longer than any run of backticks inside."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    fence = "`" * max(3, longest + 1)
    return Markup(f"{fence}\n{text}\n{fence}")


def _entities(line: str) -> str:
    """Markup becomes entities; quotes stay, because no text of the page stands inside an attribute."""
    return str(escape(line)).replace("&#39;", "'").replace("&#34;", '"')


def _backslash(match: re.Match[str]) -> str:
    found = match[0]
    # "1." at the start of a line would begin a list: the backslash goes between the number and its mark.
    return f"{found}\\" if found[0].isdigit() else f"\\{found}"


def _illustrated(
    section: SectionView, stems: Iterator[tuple[str, object]], path: Path, plots: Path | None
) -> dict[str, object]:
    figures = []
    for figure in section.figures:
        stem, _ = next(stems)
        address = "" if plots is None else address_of(plots / f"{stem}.png", path)
        figures.append(_Illustrated(**vars(figure), image=Markup(address)))
    return {**vars(section), "figures": figures}

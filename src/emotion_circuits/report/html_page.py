"""A report as one HTML file that opens from ``file://`` and asks the network for nothing.

Long tables show their beginning and link to the rest (:mod:`emotion_circuits.report.details`).

Three rules keep untrusted text harmless: Jinja escapes everything; chart specifications are JSON in inert script
elements with every ``<`` escaped; and the content security policy lets only the scripts run whose hashes it lists, so
that even text that slipped through as markup could neither run nor fetch.
"""

from __future__ import annotations

import base64
import hashlib
import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import vl_convert
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from emotion_circuits import __version__
from emotion_circuits.report.content import FigureView, sections_of, sentences, spans, verdicts_of
from emotion_circuits.report.figures.registry import drawing_of
from emotion_circuits.report.files import address_of, write_text
from emotion_circuits.report.glossary import terms_in
from emotion_circuits.report.text import clean_text, shorten
from emotion_circuits.report.translation import translated
from emotion_circuits.report.words import DEFAULT_LANGUAGE, Words, load_words

if TYPE_CHECKING:
    from collections.abc import Sequence

    from emotion_circuits.types import Report


@dataclass(frozen=True)
class _Chart:
    id: str
    spec: Markup


def render_html(report: Report, path: Path, language: str = DEFAULT_LANGUAGE, *, tables: Path | None = None) -> Path:
    """Write the report to ``path`` and return it.

    ``tables`` is the folder that :func:`save_tables` wrote to; the page links its files relatively. Without it a long
    table says that ``report.json`` has the rest. Raises :class:`UsageError` for an unknown language, figure kind or
    option, and for rows a figure cannot read; :class:`StoreError` where the file cannot be written.
    """
    words = load_words(language)
    report, left_english = translated(report, language)
    sections = sections_of(report, words)
    charts = [_Chart(figure.id, _specification(figure, words)) for section in sections for figure in section.figures]
    scripts = [packaged("copy.js")]
    if charts:
        scripts = [_vega_bundle(), packaged("charts.js"), *scripts]
    page = {
        "title": shorten(report.title, words),
        "profile": shorten(report.profile, words),
        "left_english": words["left_english"].format(count=left_english) if left_english else "",
        "verdicts": verdicts_of(report, words),
        "terms": terms_in((answer for verdict in report.verdicts for answer in verdict.answers), language),
        "sections": sections,
        "tables": "" if tables is None else address_of(tables, path),
        "closing": [(name, words[name]) for name in ("methods", "reproduce", "provenance", "citation")],
        "methods": sentences(report.methods, words),
        "command": clean_text(report.command),
        "provenance": [(shorten(key, words), shorten(value, words)) for key, value in report.provenance.items()],
        "citation": citation(),
        "charts": charts,
        "style": Markup(packaged("page.css")),
        "scripts": [Markup(script) for script in scripts],
        "policy": policy(scripts),
    }
    return write_text(path, environment().get_template("report.html.j2").render(page=page, words=words))


@cache
def environment() -> Environment:
    """Templates of the package; everything is escaped unless the code says :class:`Markup`."""
    made = Environment(
        loader=PackageLoader("emotion_circuits.report"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    made.filters["spans"] = spans
    return made


def citation() -> str:
    """How to cite the software, as BibTeX."""
    return environment().get_template("citation.bib.j2").render(version=__version__)


def packaged(name: str) -> str:
    """A file of the templates' folder as it is."""
    return resources.files(__package__).joinpath("templates", name).read_text(encoding="utf-8")


def policy(scripts: Sequence[str]) -> str:
    """No network at all; scripts by hash; styles inline because Vega sets style attributes."""
    digests = [base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode("ascii") for script in scripts]
    allowed = " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data:; "
        "base-uri 'none'; form-action 'none'"
    )


def _specification(figure: FigureView, words: Words) -> Markup:
    chart = drawing_of(figure.source).vega(figure.source, words)
    text = json.dumps(chart.to_dict(), separators=(",", ":"), allow_nan=False)
    # Altair's own HTML does not do this: a label with "</script>" would end the script element.
    return Markup(text.replace("<", "\\u003c"))


@cache
def _vega_bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed as one module, from the vl-convert package (about 0.9 MB)."""
    bundle = vl_convert.javascript_bundle("window.vegaEmbed=vegaEmbed;")
    return bundle.replace("</script", "<\\/script").replace("\r\n", "\n")

"""Everything that a report can say has its Japanese, whatever the outcome, and no Japanese is of what nobody says."""

from __future__ import annotations

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from emotion_circuits.report.translation import Catalogue, entries
from said_templates import PACKAGE, labels_of, texts_of

SPEAKING = [
    *sorted(PACKAGE.glob("experiments/**/*.py")),
    *(PACKAGE / "circuits" / f"{name}.py" for name in ("attribution", "cross_model")),
    *(PACKAGE / "representations" / f"{name}.py" for name in ("sharing_verdict",)),
    *(PACKAGE / "report" / f"{name}.py" for name in ("assemble", "methods", "comparison", "checklist", "answers")),
]
"""The modules that write sections of reports."""
SILENT = ("earlier_claims", "_enough", "_speed", "_batches", "_relabelled", "shared_texts", "readout_scale")
"""Those among them that write none: pages of the documentation, what `bench` prints, hints of errors."""
UNSHOWN = {
    "7 words − neutral words", "fit and dev", "emotions of one pair", "emotions left out", "odd slopes of the grid",
    "log-sum-exp difference, nats", "7 on 7 did not finish", "layer head figure", "the figures of heads",
    "fewest possible texts", "give --random 0 for a sweep without random controls",
}  # fmt: skip
"""Units, families of tests and keys in a run's files, lines of a terminal, hints of errors, and names of an array's
dimensions."""
PARTS = {
    "Is it shared between models?", "top neurons by 7", "7 (τ 7 [7, 7]: transfer 7, highest floor 7, native 7; 7)",
    "7 of the first 7 test prompts at layer 7, α 7; not selected.",
}  # fmt: skip
"""What comes into a report as a part of something longer, in wordings that the sources alone do not show."""
PUT_TOGETHER = re.compile(
    r"Question \d|top neurons by|(Greedy texts|First sample) of the first|floor|p |(un)?seen words|their |"
    r"than random|True|(ex|im)plicit texts|change of the endpoint in nats|embedding of"
)
"""How entries begin whose words are put together from names while a report is made."""


@pytest.mark.parametrize("module", [m for m in SPEAKING if m.stem not in SILENT], ids=lambda m: m.stem)
def test_whatever_a_section_can_say_has_its_japanese(module: Path) -> None:
    say = Catalogue(entries("ja"))
    for _, text in labels_of(module):
        if text not in PARTS:
            say.sentence(text)
    for _, text in texts_of(module):
        if len(re.findall("[A-Za-z]{2,}", text)) > 2 and " " in text and text not in UNSHOWN | PARTS:
            say.sentence(text)
    assert not say.unknown


def test_every_entry_is_of_something_that_is_said() -> None:
    pieces = {piece: entry for entry in entries("ja") for piece in _pieces(entry)}
    assert not {p: entry for p, entry in pieces.items() if p not in _said() and not PUT_TOGETHER.match(p)}


def test_an_entry_that_nobody_says_is_found() -> None:
    assert [p for p in _pieces("Lines of swap effects by layer and donor.") if p not in _said()]
    assert _pieces("{emotion}: {n} words (p {p}); of them") == ["words", "of them"]


def _pieces(entry: str) -> list[str]:
    """An entry's own words: what stands between its places and marks, which sentences are put together at."""
    marks = re.compile(r"[.,:;()\[\]·→]|\s[–−-]\s")
    pieces = (p.strip() for between in re.split(r"\{\w+\}", entry) for p in marks.split(between))
    return [piece for piece in pieces if re.search("[A-Za-z]{2}", piece)]


@cache
def _said() -> str:
    """Every text of the package: as it is written, and in every wording that it can have."""
    found = []
    for module in PACKAGE.glob("**/*.py"):
        tree = ast.parse(module.read_text(encoding="utf-8"))
        about = {n.value for n in ast.walk(tree) if isinstance(n, ast.Expr)}  # what is written of the sources
        constants = (n for n in ast.walk(tree) if isinstance(n, ast.Constant) and n not in about)
        found += [n.value for n in constants if isinstance(n.value, str)]
    found += [text for module in SPEAKING for _, text in (*texts_of(module), *labels_of(module))]
    own = (file for file in PACKAGE.glob("**/*.toml") if file.parent.name not in ("sentences", "strings", "terms"))
    return "\n".join([*dict.fromkeys(found), *(file.read_text(encoding="utf-8") for file in own)])

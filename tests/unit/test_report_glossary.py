"""Words of the answers are explained where they occur, in both languages; commands inside sentences stand as code."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

import said_lines
from emotion_circuits.report import render_html, render_markdown
from emotion_circuits.report.content import spans
from emotion_circuits.report.glossary import terms_in
from emotion_circuits.report.html_page import citation
from emotion_circuits.report.translation import Catalogue, entries
from emotion_circuits.types import Report, Verdict

ROOT = Path(__file__).parents[2]
ANSWERS = [
    said_lines.direction(), said_lines.sweep(), *said_lines.transfer(), said_lines.confirmed(), said_lines.circuit(),
]  # fmt: skip


def names(language: str) -> list[str]:
    path = ROOT / "src/emotion_circuits/report/terms" / f"{language}.toml"
    return [term["name"] for term in tomllib.loads(path.read_text("utf-8"))["term"]]


def test_every_word_is_found_in_some_answer_in_both_languages() -> None:
    assert [name for name, _ in terms_in(ANSWERS)] == names("en")
    say = Catalogue(entries("ja"))
    japanese = [say(answer) for answer in ANSWERS]
    assert all(re.search("[\u3040-\u30ff]", answer) for answer in japanese)
    assert [name for name, _ in terms_in(japanese, "ja")] == names("ja")
    assert len(names("en")) == len(names("ja"))


def test_only_words_that_occur_are_explained(tmp_path: Path) -> None:
    report = Report("T", "p", (Verdict("Q", ANSWERS[:1]),), (), (), "", {})
    page = render_html(report, tmp_path / "r.html").read_text("utf-8")
    assert "<dt>own-vs-rest</dt>" in page and "<dt>τ</dt>" not in page
    assert "**own-vs-rest**" in render_markdown(report, tmp_path / "r.md").read_text("utf-8")
    empty = Report("T", "p", (Verdict("Q", (), "did not finish"),), (), (), "", {})
    assert "What these words mean" not in render_html(empty, tmp_path / "e.html").read_text("utf-8")


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("plain", [("plain", False)]),
        ("see `run check` for more", [("see ", False), ("run check", True), (" for more", False)]),
        ("not asked: emotion-circuits study x", [("not asked: ", False), ("emotion-circuits study x", True)]),
        ("未実施：emotion-circuits study x", [("未実施：", False), ("emotion-circuits study x", True)]),
        ("emotion-circuits is a program", [("emotion-circuits is a program", False)]),
        ("", []),
    ],
)
def test_commands_in_a_sentence_are_code(text: str, parts: list[tuple[str, bool]]) -> None:
    assert spans(text) == parts


def test_markup_in_a_command_is_text(tmp_path: Path) -> None:
    report = Report("T", "p", (Verdict("Q", (), "open: emotion-circuits study '<b>'"),), (), ("`<i>`",), "", {})
    page = render_html(report, tmp_path / "r.html").read_text("utf-8")
    assert '<span class="word">&#39;&lt;b&gt;&#39;</span></code>' in page and "&lt;i&gt;</span></code>" in page
    assert "<b>" not in page and "<i>" not in page


def test_report_and_repository_are_cited_alike() -> None:
    card = (ROOT / "CITATION.cff").read_text("utf-8")
    for key, form in (("title", "title = {%s}"), ("version", "version = {%s}"), ("  - name", "author = {{%s}}")):
        value = re.search(rf"^{key}: (.+)$", card, re.M)
        assert value and form % value[1] in citation()
    changes = (ROOT / "CHANGELOG.md").read_text("utf-8")
    latest = re.search(r"^## (?:Unreleased|\S+ \((?P<date>\d{4}-\d\d-\d\d)\))$", changes, re.M)
    released = re.search(r"^date-released: (\S+)$", card, re.M)
    assert latest and (released[1] if released else None) == latest["date"]
    assert released is None or f"year = {{{released[1][:4]}}}" in citation()

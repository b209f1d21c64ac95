"""The HTML report: structure, escaping, policy, languages, limits of size."""

from __future__ import annotations

import base64
import dataclasses
import hashlib
import json
import re
from pathlib import Path

import pytest
from parsed_page import Page
from report_samples import HOSTILE, hostile_report, study_report

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.report import languages, render_html
from emotion_circuits.report.words import load_words
from emotion_circuits.types import Figure, Section, Table


@pytest.fixture(scope="module")
def study_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    html = render_html(study_report(), tmp_path_factory.mktemp("page") / "report.html").read_text("utf-8")
    return html, Page(html)


@pytest.fixture(scope="module")
def hostile_page(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Page]:
    html = render_html(hostile_report(), tmp_path_factory.mktemp("page") / "report.html").read_text("utf-8")
    return html, Page(html)


def test_verdicts_come_before_sections_and_sections_before_methods_and_command(study_page: tuple[str, Page]) -> None:
    report, shown = study_report(), study_page[1].shown
    wanted = [
        report.title,
        *(text for v in report.verdicts for text in (v.question, *v.answers, v.reason) if text),
        report.sections[0].answer[0],
        *report.methods,
        report.command,
        "@software",
    ]
    places = [shown.index(text) for text in wanted]
    assert places == sorted(places)


def test_three_chart_page_is_one_small_file_with_one_vega_bundle(study_page: tuple[str, Page]) -> None:
    html, page = study_page
    assert len(html.encode()) < 1_500_000
    assert len([text for _, text in page.scripts if len(text) > 500_000]) == 1
    assert not [a for tag in ("script", "img", "link", "iframe") for a in page.all(tag) if "src" in a or "href" in a]


def test_page_without_figures_carries_no_bundle(tmp_path: Path) -> None:
    report = dataclasses.replace(study_report(), sections=(Section("a", "A", ("b",)),))
    assert len(render_html(report, tmp_path / "r.html").read_bytes()) < 30_000


def test_every_figure_has_description_and_a_table_of_all_its_data(study_page: tuple[str, Page]) -> None:
    page = study_page[1]
    figures = [figure for section in study_report().sections for figure in section.figures]
    charts = [a for a in page.all("div") if a.get("class") == "chart"]
    assert [chart["aria-label"] for chart in charts] == [figure.alt for figure in figures]
    assert len([a for a in page.all("details") if a.get("class") != "terms"]) == len(figures)
    data_rows = sum(len(f.data) for f in figures) + sum(len(t.rows) for s in study_report().sections for t in s.tables)
    heads = len(figures) + sum(len(section.tables) for section in study_report().sections)
    assert len(page.all("tr")) == data_rows + heads


def test_page_has_skip_link_landmarks_and_unique_ids_that_links_reach(study_page: tuple[str, Page]) -> None:
    page = study_page[1]
    assert [tag for tag, _ in page.elements if tag in ("header", "main", "nav")] == ["header", "main", "nav"]
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    anchors = [str(a["href"]) for a in page.all("a")]
    assert anchors[0] == "#answers"
    assert all(anchor.startswith("#") and anchor[1:] in ids for anchor in anchors)


def test_policy_forbids_network_and_lists_the_hash_of_every_script_that_runs(study_page: tuple[str, Page]) -> None:
    page = study_page[1]
    (policy,) = [str(a["content"]) for a in page.all("meta") if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy.startswith("default-src 'none'")
    assert "unsafe-eval" not in policy and "http" not in policy and "connect-src" not in policy
    running = [text for attributes, text in page.scripts if attributes.get("type") == "module"]
    hashes = {base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in running}
    assert set(re.findall(r"'sha256-([^']+)'", policy)) == hashes


def test_hostile_text_stays_text_everywhere(hostile_page: tuple[str, Page]) -> None:
    html, page = hostile_page
    assert page.all("img") == []
    # Copy, charts and the bundle run; the rest is inert JSON.
    assert sorted(str(a["type"]) for a, _ in page.scripts) == ["application/json"] * 3 + ["module"] * 3
    assert page.shown.count(HOSTILE) >= 10
    assert html.count("<script") == html.count("</script>") == 6


def test_chart_specifications_keep_hostile_labels_as_data(hostile_page: tuple[str, Page]) -> None:
    texts = [text for a, text in hostile_page[1].scripts if a["type"] == "application/json"]
    assert all("<" not in text for text in texts)
    values = [row for data in json.loads(texts[0])["datasets"].values() for row in data]
    assert any(row.get("series", "").startswith("</script><script>") for row in values)


def test_controls_overrides_and_megabytes_are_made_visible_or_cut(hostile_page: tuple[str, Page]) -> None:
    html, page = hostile_page
    assert not re.search("[\x00-\x08\x0b-\x1f\u202a-\u202e\u2066-\u2069\ud800-\udfff]", html)
    assert "shortened: 1,000,000 characters in all" in page.shown
    assert len(html) < 1_200_000
    assert "مرحبا" in page.shown and "∞" in page.shown


def test_missing_values_are_a_labelled_dash_and_never_zero(tmp_path: Path) -> None:
    rows = [{"a": None, "b": 1.0}, {"a": float("nan"), "b": 2.0}, {"b": 3.0}]
    section = Section("s", "S", (), tables=(Table("t", "T", "", {"a": "A", "b": "B"}, rows),))
    page = Page(
        render_html(dataclasses.replace(study_report(), sections=(section,)), tmp_path / "r.html").read_text("utf-8")
    )
    assert [a["aria-label"] for a in page.all("span") if "aria-label" in a] == ["missing"] * 3
    assert " 0 " not in page.shown.split("Methods")[0]


def test_long_tables_are_cut_with_a_word(tmp_path: Path) -> None:
    rows = [{"n": index} for index in range(100_000)]
    section = Section("s", "S", (), tables=(Table("t", "T", "", {"n": "N"}, rows),))
    path = render_html(dataclasses.replace(study_report(), sections=(section,)), tmp_path / "r.html")
    assert "The first 400 of 100,000 rows are shown. All of them are in report.json." in path.read_text("utf-8")
    assert path.stat().st_size < 200_000


def test_japanese_page_is_declared_japanese_and_has_japanese_headings(tmp_path: Path) -> None:
    page = Page(render_html(study_report(), tmp_path / "r.html", language="ja").read_text("utf-8"))
    assert page.all("html") == [{"lang": "ja"}]
    assert all(word in page.shown for word in ("結論", "方法", "再現方法", "限界", "図 1", "引用"))


def test_every_language_has_the_same_words_with_the_same_placeholders() -> None:
    english = load_words("en")
    for language in languages():
        words = load_words(language)
        assert words.keys() == english.keys()
        for key, text in words.items():
            assert set(re.findall(r"{(\w+)}", text)) == set(re.findall(r"{(\w+)}", english[key])), key
            # Jinja finds a mapping's methods before its keys.
            assert not hasattr({}, key)


def test_unknown_language_names_those_that_exist(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'fr'.*en, ja"):
        render_html(study_report(), tmp_path / "r.html", language="fr")


def test_unknown_figure_kind_names_figure_and_kinds_and_writes_nothing(tmp_path: Path) -> None:
    figure = Figure("f", "layer-curve", "t", "c", "a", [])
    report = dataclasses.replace(study_report(), sections=(Section("s", "S", (), (figure,)),))
    with pytest.raises(UsageError, match=r"figure 'f'.*'layer-curve'") as caught:
        render_html(report, tmp_path / "r.html")
    assert "did you mean layer-curves" in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_unwritable_folder_is_a_store_error_and_an_old_report_survives(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("not a folder")
    with pytest.raises(StoreError, match="a file stands where a folder is needed"):
        render_html(study_report(), blocker / "r.html")
    assert blocker.read_text() == "not a folder"


def test_cells_of_texts_commands_and_intervals_are_told_apart(tmp_path: Path) -> None:
    rows = [
        {"text": "\n\nI am glad", "command": "emotion-circuits run sweep --model 'a b'", "at": "[0.84, 1.00]", "n": 2}
    ]
    table = Table("t", "T", "", {"text": "text", "command": "command", "at": "interval", "n": "n"}, rows)
    report = dataclasses.replace(study_report(), sections=(Section("a", "A", ("b",), (), (table,)),))
    html = render_html(report, tmp_path / "r.html").read_text("utf-8")
    assert ">↵↵ I am glad<" in html.replace("<bdi>", "").replace("</bdi>", "")
    for style in ("command", "pair", "n"):
        assert f'<td class="{style}"' in html
    assert 'data-heading="interval"' in html  # what a phone shows instead of the row of headings

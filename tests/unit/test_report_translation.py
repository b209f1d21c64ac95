"""Reports in Japanese: sentences of experiments are translated, anybody's texts are not, new sentences stay English."""

from __future__ import annotations

import dataclasses
import logging
import math
import re
from pathlib import Path
from typing import Any

import pytest
from fontTools.ttLib import TTFont

import said_lines
from emotion_circuits.circuits.components import Head
from emotion_circuits.circuits.cross_model import HeadMatch
from emotion_circuits.experiments._pairs.transfer_report import verdict_lines
from emotion_circuits.experiments.heads_patch import patching_sentence
from emotion_circuits.experiments.neurons_saliency import SCORES
from emotion_circuits.report import render_html, save_figures
from emotion_circuits.report.answers import QUESTIONS
from emotion_circuits.report.checklist import phases
from emotion_circuits.report.commands import OF_MODEL
from emotion_circuits.report.figures import paper
from emotion_circuits.report.translation import Catalogue, entries, translated
from emotion_circuits.representations.sharing_verdict import judge
from emotion_circuits.types import Figure, Report, Section, Table, Verdict

KANA = re.compile("[\u3040-\u30ff\u4e00-\u9fff]")


def report(**changes: object) -> Report:
    rows = [{"prompt": "layer"}]
    table = Table("texts", "Texts side by side: anger", "", {"prompt": "prompt"}, rows)
    figure = Figure(
        "f", "bars", "Length of the directions", "", "", [{"label": "chance", "value": 1.0}], {"x": "layer"}
    )
    section = Section("s", "Where is each emotion?", ("something new was found",), (figure,), (table,))
    verdict = Verdict("Question 1. Where is each emotion?", ("something new was found",))
    return dataclasses.replace(Report("A study", "p", (verdict,), (section,), (), "", {}), **changes)  # type: ignore[arg-type]


def test_places_of_every_translation_are_places_of_its_sentence() -> None:
    for source, target in entries("ja").items():
        assert {*re.findall(r"\{(\w+)\}", target)} <= {*re.findall(r"\{(\w+)\}", source)}, source
        assert source != target or "{" not in source


def test_every_fixed_sentence_of_a_report_has_a_translation() -> None:
    fixed = [f"Question {n}. {question}" for n, (question, _) in QUESTIONS.items()]
    for phase in phases():
        fixed += [phase["name"], phase["question"], *(item["what"] for item in phase["item"])]
    say = Catalogue(entries("ja"))
    for sentence in fixed:
        assert KANA.search(say.sentence(sentence)), sentence
    assert not say.unknown


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("not asked: add --model gpt2: emotion-circuits study x",
         "未実施：--model gpt2 を加えてください：emotion-circuits study x"),
        ("a → b: inconclusive.", "a → b：結論保留。"),
        ("Directions were fitted on 140 texts of baseline (resid_post, last); the layer was chosen on dev scenarios, "
         "and what follows was measured on 84 test texts of scenarios that neither saw.",
         "方向は baseline の 140 件の文章から求め（resid_post、last）、層は dev の場面で選びました。以下は、"
         "そのどちらにも使っていない場面のテスト文 84 件で測った値です。"),
        ("gratitude: layer 13 of 30, test AUROC 1.00 [0.84, 1.00], own-vs-rest 0.97, shuffled-label p 0.001.",
         "gratitude：層 13（全 30 層）、テスト AUROC 1.00 [0.84, 1.00]、own-vs-rest 0.97、ラベル置換 p = 0.001。"),
    ],
)  # fmt: skip
def test_sentences_keep_their_values(english: str, japanese: str) -> None:
    assert Catalogue(entries("ja"))(english) == japanese


@pytest.mark.parametrize(
    ("found", "part"),
    [
        ({"confirmed": True}, ", more than random"), ({}, "; no effect beyond random"),
        ({"sets": 10}, "too few random sets"),
        ({"beaten": 19}, "NOT confirmed: the interval contains 0, though it is more"),
    ],
)  # fmt: skip
def test_every_outcome_of_patching_heads_is_said_and_has_its_japanese(found: dict[str, Any], part: str) -> None:
    row = {"emotion": "anger", "change": 0.1, "ci": [-0.1, 0.3], "pairs": 12, "unit": "share", "random": [0.0],
           "sets": 19, "beaten": 3, "random_mean": 0.05, "p": 0.4, "confirmed": False}  # fmt: skip
    said = patching_sentence({**row, **found}, 10, "result") + "."
    assert part in said
    assert KANA.search(Catalogue(entries("ja"))(said))


@pytest.mark.parametrize(
    "judged",
    [
        {"identified": False}, {"low": math.nan}, {"high": 0.1}, {"p_max": 0.2}, {"low": 0.1}, {"emotions": 3},
        {"own_is_largest": False}, {},
    ],
)  # fmt: skip
def test_every_reason_of_a_verdict_on_sharing_is_said_in_japanese(judged: dict[str, Any]) -> None:
    usual = {"identified": True, "p_max": 0.01, "low": 0.3, "high": 0.6, "emotions": 7}
    found = judge(**usual | judged)
    emotions = [{"emotion": "joy", "verdict": found.verdict}, {"emotion": "fear", "verdict": "not identified"}]
    numbers = {
        "tau": 0.4,
        "ci": (0.3, 0.6),
        "floor": {"shuffled": 0.6},
        "native": 0.9,
        "layer_pair": {"source": 2, "target": 1},
    }
    for transfer in (0.8, None):
        total = {
            **numbers,
            "transfer": transfer,
            "verdict": found.verdict,
            "reason": found.reason,
            "per_emotion": emotions,
        }
        say = Catalogue(entries("ja"))
        lines = [
            say.sentence(line) for line in verdict_lines(("a", "b"), total, {"explicit": total, "implicit": total})
        ]
        assert not say.unknown
        # Names of models and emotions are all that is left of English.
        assert {*re.findall("[a-z]+", " ".join(lines))} <= {"a", "b", "joy", "fear", "p"}


ESTABLISHED = {"established": True, "damage_ok": True}


@pytest.mark.parametrize(
    ("line", "part"),
    [
        (said_lines.sweep(), "確立されず（層 14、"), (said_lines.sweep(), "文章が破綻"),
        (said_lines.sweep(**ESTABLISHED), "確立（層 14、"), (said_lines.sweep(**ESTABLISHED), "文章は破綻なし"),
        (said_lines.sweep(rank_p_isotropic=None, effect_embedded=None, ci_embedded=None), "無作為な対照なし"),
        (said_lines.direction(), "層 13（全 30 層）"), (said_lines.direction(established=False), "確立されず"),
        (said_lines.confirmed(), "上位ヘッド 10 個の切除"), (said_lines.confirmed(confirmed=False), "確認できず"),
        (said_lines.confirmed("neurons"), "ニューロン 10 個の切除"),
        (said_lines.confirmed(layer_slack=2), "2 層離れたものまで"), (said_lines.confirmed(sets=0), "無作為な組が"),
        (said_lines.circuit(), "忠実度"),
        *((said_lines.confirmed(f"top neurons by {score}", confirmed=state), "上位ニューロン 10 個の切除")
          for score in SCORES for state in (True, False)),
        *((f"joy: {HeadMatch(((Head(1, 2), Head(3, 4)),), 0.1, 0.2, depth, role, 999).sentence()}", part)
          for depth, role, part in (
              (0.01, 0.2, "深さは無作為なヘッドよりよく対応します（p = 0.01）"),
              (0.2, 0.01, "役割は無作為なヘッドよりよく対応します（p = 0.01）"),
              (0.2, 0.01, "深さが無作為なヘッドよりよく対応することは示されませんでした"),
              (0.01, 0.2, "役割が無作為なヘッドよりよく対応することは示されませんでした"),
          )),
    ],
)  # fmt: skip
def test_lines_of_the_experiments_are_said_in_japanese(line: str, part: str) -> None:
    say = Catalogue(entries("ja"))
    # A report of several models names the model first; sections end a line with a full stop.
    for text in (line, f"{line}.", f"smollm2-135m: {line}"):
        said = say.sentence(text)
        assert part in said
        # Names, units and ways to ablate are all that is left of English.
        assert {*re.findall("[A-Za-z]{3,}", said)} <= {
            "anger", "gratitude", "joy", "smollm", "nats", "AUROC", "own", "rest", "resample", "CMD"
        }  # fmt: skip
    assert not say.unknown


def test_a_short_label_does_not_match_a_sentence() -> None:
    say = Catalogue(entries("ja"))
    assert say("anger (layer 14)") == "anger（層 14）"
    new = ["anger: something new (layer 14, α 0.3: measured)", "tried twice on gpt2: something new"]
    assert [say.sentence(text) for text in new] == new and say.unknown == {*new}
    assert say("heads.match on a: no") == "a での heads.match：no"
    # Words of a model's answer are no labels.
    assert say("Unit: raw") == "Unit: raw" and say("raw") != "raw"


def test_what_a_run_was_given_stands_in_front_of_its_verdict_or_behind_a_name() -> None:
    say = Catalogue(entries("ja"))
    line = "joy: layer 14 of 30, test AUROC 1.00 [0.84, 1.00], own-vs-rest 0.97, shuffled-label p 0.001"
    for mark in ("[limit=5]", "[at=window:3 depths=0.5,0.65]"):
        assert say.sentence(f"{mark} {line}") == f"{mark} {say(line)}" != f"{mark} {line}"
        assert say.sentence(f"gpt2: {mark} {line}") == f"gpt2：{mark} {say(line)}"
        assert say.sentence(f"a → b {mark}: shared.") == f"a → b {mark}：共有されている。"
    assert not say.unknown
    assert say.sentence("[limit=5] something new") in say.unknown


@pytest.mark.parametrize("typed", ["gpt2", "../models/My Model", "C:\\models\\mine"])
def test_a_failure_names_its_model_as_it_was_typed(typed: str) -> None:
    said = Catalogue(entries("ja")).sentence(f"{typed}: did not finish (sweep)")
    assert said == f"{typed}：未完了（sweep）"
    say = Catalogue(entries("ja"))
    assert say(f"heads.screen on {typed}: out of memory") == f"{typed} での heads.screen：out of memory"
    assert say.sentence("Depends on your data: see below.") in say.unknown


def test_a_long_expression_is_no_burden() -> None:
    say = Catalogue(entries("ja"))
    terms = " + ".join(f"0.{n} joy @ L{n}" for n in range(40))
    assert say(f"Your text with {terms}") == f"あなたの文章に {terms} を加えた結果"
    assert say(f"Your text with {terms} +") == f"Your text with {terms} +"


def test_a_sentence_whose_words_have_no_translation_is_counted_and_not_mixed() -> None:
    say = Catalogue({"{a}: {Verdict} ({Reason})": "{a}：{Verdict}（{Reason}）", "yes": "はい", "{a}: {b}": "{a}：{b}"})
    assert say("x: yes (yes)") == "x：はい（はい）" and say("x: yes (1)") == "x：はい（1）"
    assert Catalogue({"{a}: {Verdict}": "{a}：{Verdict}"}).sentence("x: something new") == "x: something new"


def test_texts_in_tables_stay_and_new_sentences_are_english_and_counted(tmp_path: Path) -> None:
    found, left = translated(report(), "ja")
    (section,) = found.sections
    assert left == 2 and section.answer == ("something new was found",)  # and the title of the study
    assert [*section.tables[0].rows] == [{"prompt": "layer"}] and section.tables[0].columns["prompt"] == "プロンプト"
    assert section.figures[0].data[0]["label"] == "偶然" and section.figures[0].options["x"] == "層"
    page = render_html(report(), tmp_path / "r.html", "ja").read_text("utf-8")
    assert "2 個の文は" in page and "それぞれの感情はどこにあるか" in page
    assert translated(report(), "en") == (report(), 0)


def test_verdicts_in_any_table_are_our_words() -> None:
    rows = [{"verdict": "inconclusive", "text": "inconclusive"}]
    table = Table("per-emotion", "Verdicts", "", {"verdict": "verdict", "text": "text"}, rows)
    found, _ = translated(report(sections=(Section("s", "Verdicts", (), (), (table,)),)), "ja")
    assert found.sections[0].tables[0].rows[0] == {"verdict": "結論保留", "text": "inconclusive"}


def test_names_of_prompt_sets_are_no_words_of_ours() -> None:
    columns = {"emotion": "emotion", "baseline": "baseline", "implicit": "implicit", "extended": "extended"}
    beside = Table("beside", "Side by side", "", columns, [{"emotion": "joy"}])
    texts = Table("texts", "Texts with and without", "", {"emotion": "emotion", "baseline_texts": "baseline"}, [])
    sets = ("baseline (test)", "baseline, implicit (test)", "implicit", "mine (fitted anew)")
    figure = Figure("test-sets", "intervals", "", "", "", [{"label": "joy", "group": name} for name in sets])
    section = Section("directions", "Verdicts", (), (figure,), (beside, texts))
    other = Section("transfer", "Verdicts", (), (), (Table("beside", "", "", {"what": "what", "value": "value"}, []),))
    (found, shared) = translated(report(sections=(section, other)), "ja")[0].sections
    assert [*found.tables[0].columns.values()] == ["感情", "baseline", "implicit", "extended"]
    assert [*found.tables[1].columns.values()] == ["感情", "基準"]
    assert [*shared.tables[0].columns.values()] == ["内容", "値"]
    assert [row["group"] for row in found.figures[0].data] == [
        "baseline（テスト）", "baseline、感情語なし（テスト）", "implicit", "mine（改めて求めた方向）",
    ]  # fmt: skip


def test_arms_and_controls_are_said_in_japanese_and_new_headings_are_counted() -> None:
    rows = [{"arm": "+v", "against": "random: covariance"}, {"arm": "-v", "what": "floor embedding_source, all"}]
    table = Table("controls", "", "", {"arm": "arm", "against": "against", "p": "rank p", "x": "something new"}, rows)
    figure = Figure("arms", "violins", "", "", "", [{"arm": "joy: +v"}, {"arm": "joy: other vector fear"}],
                    {"x": "something else"})  # fmt: skip
    shown = report(title="", verdicts=(), sections=(Section("s", "", (), (figure,), (table,)),))
    found, left = translated(shown, "ja")
    (section,) = found.sections
    assert left == 2 and section.tables[0].columns["p"] == "順位 p"
    assert section.tables[0].rows == (
        {"arm": "ベクトルを加える", "against": "無作為：共分散"},
        {"arm": "ベクトルを引く", "what": "フロア：元の埋め込み層（全体）"},
    )
    assert [row["arm"] for row in section.figures[0].data] == ["joy：ベクトルを加える", "joy：他のベクトル fear"]


def test_a_heading_that_repeats_its_key_is_missed_unless_it_names_an_emotion() -> None:
    columns = {"layer": "layer", "joy": "joy", "null_low": "null_low"}
    tables = (Table("clusterability", "", "", columns, []), Table("other", "", "", columns, []))
    shown = report(title="", verdicts=(), sections=(Section("overlap", "", (), (), tables),))
    found, left = translated(shown, "ja")
    assert [*found.sections[0].tables[0].columns.values()] == ["層", "joy", "null_low"]
    assert left == 2  # both of the table that is not of emotions


def test_a_heading_that_names_its_model_is_translated_before_the_name() -> None:
    headings = (f"Where is each emotion?{OF_MODEL}layer", f"Something new{OF_MODEL}layer")
    sections = tuple(Section("s", heading, ()) for heading in headings)
    found, left = translated(report(title="", verdicts=(), sections=sections), "ja")
    assert [s.heading for s in found.sections] == ["それぞれの感情はどこにあるか · layer", "Something new · layer"]
    assert left == 1


def test_paper_figures_are_english_where_no_font_has_the_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(paper, "_families", lambda: (paper._LATIN,))
    paper._letters.cache_clear()
    try:
        with caplog.at_level(logging.WARNING):
            (path,) = save_figures(report(), tmp_path, formats=("svg",), language="ja")
    finally:
        paper._letters.cache_clear()
    assert "Length of the directions" in path.read_text("utf-8") and "no font on this machine" in caplog.text


def test_a_font_that_is_installed_after_matplotlib_listed_its_fonts_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fonts = paper.font_manager.fontManager
    made = TTFont(paper.font_manager.findfont("DejaVu Sans"))
    for record in made["name"].names:
        made["name"].setName("IPAGothic", record.nameID, record.platformID, record.platEncID, record.langID)
    made.save(tmp_path / "new.ttf")
    (tmp_path / "damaged.ttf").write_bytes(b"no font")
    files = [str(tmp_path / "new.ttf"), str(tmp_path / "damaged.ttf")]
    monkeypatch.setattr(fonts, "ttflist", [f for f in fonts.ttflist if f.name == "DejaVu Sans"])
    monkeypatch.setattr(paper.font_manager, "findSystemFonts", lambda: files)
    paper._families.cache_clear()
    try:
        assert paper._families() == ("DejaVu Sans", "IPAGothic")
    finally:
        paper._families.cache_clear()

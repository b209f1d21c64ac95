"""No sentence of a report in Japanese is half English: what is not wholly known stays English, and is counted."""

from __future__ import annotations

import re

import pytest

import said_lines
from emotion_circuits.report.translation import Catalogue, entries

PAIR = "smollm2-135m and gemma-3-270m"
BAND = "shuffled maps 0.02 to 0.05 (p 0.01)"


@pytest.mark.parametrize(
    "line",
    [said_lines.direction(), said_lines.sweep(), said_lines.confirmed(), said_lines.circuit()],
)
def test_an_answer_of_one_model_among_several_is_its_line_behind_the_model(line: str) -> None:
    say = Catalogue(entries("ja"))
    alone, of_model = say(line), say.sentence(f"smollm2-135m: {line}")
    assert of_model == f"smollm2-135m：{alone}"
    assert not say.unknown and ": " not in of_model


@pytest.mark.parametrize(
    "text",
    [
        "Something brand new that nobody translated: change when ablated (nats)",
        "joy did a new thing: direct contribution, emotional − neutral.",
        "Something new of 300 nodes reach faithfulness 0.5 on test scenarios, more faithful than random circuits "
        "(|1 − f| smaller than 1 of 2); CMD 0.5, stability 0.5 (chance 0.1)",
    ],
)  # fmt: skip
def test_what_ends_like_a_known_sentence_stays_english_and_is_counted(text: str) -> None:
    say = Catalogue(entries("ja"))
    assert say.sentence(text) == text and say.unknown == {text}


@pytest.mark.parametrize(
    ("english", "japanese"),
    [
        ("Heatmap of heads for joy: change when ablated (nats).",
         "joy についてのヘッドのヒートマップ：切除時の変化（nats）。"),
        ("Layer × head; QK by measured: attention by emotion content.",
         "層 × ヘッド；QK（実測）：感情の内容による注意。"),
        ("joy: QK by weights: attention by emotion content", "joy：QK（重み）：感情の内容による注意"),
        (f"Subspaces of {PAIR}", "部分空間：smollm2-135m と gemma-3-270m"),
        ("Subspaces of smollm2-135m", "部分空間：smollm2-135m"),
        (f"{PAIR}: widths 576 and 640 differ, so no overlap or angle is defined without a map (`x`)",
         "smollm2-135m と gemma-3-270m：幅が異なるため（576 と 640）、写像なしでは重なりも角度も定義できない（`x`）"),
        ("a: silhouette of emotions 0.010 at layer 14, relabelled -0.015 (p 0.005); joy and pride join first.",
         "a：層 14 での感情のシルエット係数 0.010、ラベル置換 -0.015（p = 0.005）。最初に結合するのは joy と pride。"),
        ("a: subspaces of 5 dimensions at layer 6: mean overlap 0.156, relabelled texts 0.246 to 0.275, chance 0.008; "
         "nearest joy and pride: angles 46° 52°",
         "a：層 6 の 5 次元の部分空間：重なりの平均 0.156、ラベルを入れ替えた文章 0.246〜0.275、偶然 0.008。"
         "最も近いのは joy と pride：主角度 46° 52°"),
        ("Cosines between emotions, a layer 14", "感情間のコサイン（a、層 14）"),
        (f"a → b, layers 14 → 8: overlap before not defined (widths differ), after 0.36, {BAND}; held-out R² 0.40 "
         "from 4315 rows.",
         "a → b、層 14 → 8：写像前の重なりは定義できず（幅が異なる）、写像後 0.36、入れ替えた写像 0.02〜0.05"
         "（p = 0.01）。4315 行での検証用 R² 0.40。"),
        (f"a → b, procrustes, layers 1 → 2: overlap before 0.1, after 0.36; {BAND}, random subspaces 0.01 to 0.02 "
         f"(p 0.03); transfer 0.80, {BAND}",
         "a → b、プロクラステス、層 1 → 2：重なりは写像前 0.1、写像後 0.36。入れ替えた写像 0.02〜0.05（p = 0.01）、"
         "無作為な部分空間 0.01〜0.02（p = 0.03）。転移 0.80、入れ替えた写像 0.02〜0.05（p = 0.01）"),
        ("Dots with intervals: steering effect by emotion and model.",
         "感情とモデルごとのステアリングの効果（点と区間）。"),
    ],
)  # fmt: skip
def test_words_that_join_values_are_japanese_too(english: str, japanese: str) -> None:
    say = Catalogue(entries("ja"))
    assert say.sentence(english) == japanese and not say.unknown


def test_no_sentence_ends_with_two_full_stops() -> None:
    say = Catalogue(entries("ja"))
    for source in entries("ja"):
        # Every place takes a number.
        text = re.sub(r"\{\w+\}", "7", source)
        assert "。。" not in say(text) and "。。" not in say(text.removesuffix(".") + "."), source

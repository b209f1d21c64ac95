"""Neutral texts read where the emotion words stand."""

from __future__ import annotations

import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.prompts import load_prompts
from emotion_circuits.prompts.matching import position_matched, same_places
from emotion_circuits.types import Prompt


def words(text: str, spans: tuple[tuple[int, int], ...]) -> list[str]:
    return [text[start:end] for start, end in spans]


def emotional(text: str, *found: str, **fields: object) -> Prompt:
    spans = tuple((text.index(w), text.index(w) + len(w)) for w in found)
    return Prompt(**{"id": "anger-1", "text": text, "emotion": "anger", "spans": spans, "split": "fit", **fields})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("text", "found", "other", "expected"),
    [
        ("I am furious about it.", ["furious"], "He sat down on it.", ["down"]),
        ("Thank you so much.", ["Thank you"], "The bus left early.", ["The", "bus"]),
        ("He left and I was so very angry", ["angry"], "It rained.", ["rained"]),  # shorter: its last word
        ("I – well – hate this.", ["hate"], "She said nothing else.", ["nothing"]),  # dashes are no words
        ("I hate this.", ["hate"], "She – again – said nothing.", ["again"]),
        ("I'm sorry.", ["sorry"], "Don't go.", ["go"]),  # an apostrophe does not cut a word
        ("Oh! Damn! Damn!", ["Damn"], "One, two; three.", ["two"]),
        ("Why 😡 now?", ["😡"], "What is that?", ["is"]),  # a span without a word: where the next word stands
        ("so-so angry", ["angry"], "well-known road", ["road"]),
        ("I hate, hate it.", ["hate, hate"], "You see red cars.", ["see", "red"]),
        ("I am mad.", ["mad"], "…", ["…"]),  # no word at all: the whole text
    ],
)
def test_places_are_counted_in_words(text: str, found: list[str], other: str, expected: list[str]) -> None:
    assert words(other, same_places(emotional(text, *found), other)) == expected


def test_twin_is_the_neutral_text_of_the_same_scenario() -> None:
    texts = [
        emotional("I am furious.", "furious", id="anger-2", scenario="s2", split="test"),
        Prompt("neutral-1", "We sit here.", scenario="s1", split="fit"),
        Prompt("neutral-2", "Cars pass by.", scenario="s2", split="test"),
    ]
    (twin,) = position_matched(texts)
    assert (twin.id, twin.matched, twin.scenario, twin.split) == ("neutral-2@@anger-2", "anger", "s2", "test")
    assert (twin.emotion, words(twin.text, twin.spans)) == ("neutral", ["by"])


def test_scenario_without_neutral_text_has_no_twin() -> None:
    texts = [emotional("I hate it.", "hate", scenario="s9"), Prompt("n", "We sit.", scenario="s1", split="fit")]
    assert position_matched(texts) == []


def test_unpaired_twins_stay_in_their_split_and_take_turns() -> None:
    neutral = [Prompt(f"n{i}", f"Car number {i} passed.", split="fit" if i % 2 else "test") for i in range(6)]
    angry = [
        emotional("I hate it.", "hate", id=f"a{i}", split="fit" if i < 6 else "test") for i in range(9)
    ]  # fmt: skip
    twins = position_matched([*angry, *neutral])
    split_of = {n.id: n.split for n in neutral}
    used = [t.id.split("@@")[0] for t in twins]
    assert len(twins) == 9
    assert all(split_of[u] == t.split for u, t in zip(used, twins, strict=True))
    assert sorted(used[:6]) == ["n1", "n1", "n3", "n3", "n5", "n5"]
    # A neutral text that is read twice is one cluster, not two independent texts.
    assert len({t.scenario for t in twins}) == 6


def test_texts_without_spans_have_no_twin_and_no_neutral_text_is_an_error() -> None:
    assert position_matched([emotional("Get out."), Prompt("n", "We sit.", split="fit")]) == []
    with pytest.raises(UsageError, match="no neutral text") as caught:
        position_matched([emotional("I hate it.", "hate")])
    assert "neutral" in caught.value.fix


def test_every_explicit_built_in_text_has_its_twin() -> None:
    texts = load_prompts("baseline")
    twins = position_matched(texts)
    assert len(twins) == 210 and len({t.id for t in twins}) == 210
    neutral = {p.scenario: p for p in texts if p.emotion == "neutral"}
    assert all(t.text == neutral[t.scenario].text and t.split == neutral[t.scenario].split for t in twins)

"""The scorer contract through its simplest member: keyword rates and VADER, empty texts, other languages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.errors import ModelError, UsageError
from emotion_circuits.prompts import emotion_words
from emotion_circuits.scorers import (
    Card,
    Continuation,
    LoadOptions,
    Scorer,
    empty_texts,
    find_scorer,
    language_flags,
    list_scorers,
)  # fmt: skip
from emotion_circuits.scorers.lexicon import keyword_rate


def texts(*given: str, prompt: str = "") -> list[Continuation]:
    return [Continuation(text, prompt) for text in given]


@pytest.fixture(scope="module")
def lexicon() -> Scorer:
    return find_scorer("lexicon")


def test_rate_is_matches_per_100_words_with_word_boundaries() -> None:
    assert keyword_rate("Thanks, I am grateful today", emotion_words("gratitude")) == pytest.approx(40.0)
    assert keyword_rate("The saddle and the madman", emotion_words("sadness")) == 0
    assert keyword_rate("The saddle and the madman", emotion_words("anger")) == 0
    assert keyword_rate("?!", emotion_words("anger")) == 0


def test_only_the_continuation_is_scored(lexicon: Scorer) -> None:
    bare = lexicon.score(texts("The bus left at noon."))
    prompted = lexicon.score(texts("The bus left at noon.", prompt="Thank you so much, I hate this!"))
    assert all(np.array_equal(bare[column], prompted[column]) for column in lexicon.columns)


def test_vader_sees_the_difference(lexicon: Scorer) -> None:
    scores = lexicon.score(texts("This is wonderful, I love it!", "This is horrible, I hate it!"))
    assert scores["vader_compound"][0] > 0.5 > -0.5 > scores["vader_compound"][1]
    assert scores["vader_pos"][0] > scores["vader_pos"][1] and scores["vader_neg"][1] > 0


def test_apology_has_a_column_and_unknown_emotions_have_none(lexicon: Scorer) -> None:
    for emotion in ("gratitude", "anger", "apology", "joy", "sadness", "fear", "pride"):
        assert lexicon.emotion_column(emotion) in lexicon.columns
    assert lexicon.emotion_column("saudade") is None


def test_the_card_says_everything(lexicon: Scorer) -> None:
    card = lexicon.card().to_dict()
    assert all(card[field] for field in ("what", "data", "licence", "scope", "calibration", "revision", "labels"))
    assert "3.3" in card["revision"]


@given(st.lists(st.sampled_from(["", "  \n", "Thank you.", "I am so angry", "日本語のテキスト"]), max_size=6))
def test_every_text_gets_a_finite_number_and_empty_ones_zero(given_texts: list[str]) -> None:
    scorer = find_scorer("lexicon")
    batch = texts(*given_texts)
    scores = scorer.score(batch)
    assert set(scores) == set(scorer.columns)
    for values in scores.values():
        assert values.shape == (len(batch),) and np.isfinite(values).all()
        assert not values[empty_texts(batch)].any()


def test_a_number_that_is_not_finite_is_an_error_and_not_a_score() -> None:
    class Broken(Scorer):
        columns = ("joy",)

        def score_present(self, texts: Sequence[str]) -> Mapping[str, np.ndarray]:
            return {"joy": np.array([1.0, np.nan])}

        def card(self) -> Card:
            raise AssertionError

    Broken.name = "broken"
    with pytest.raises(ModelError, match="'joy' of text 3"):
        Broken().score(texts("a", "", "b"))


@pytest.mark.parametrize(
    ("text", "flag"),
    [
        ("Thank you so much for your help yesterday.", ""),
        ("Thanks!", ""),
        ("", ""),
        ("2012. 2012. 2012.", ""),
        ("Café Zoë was lovely, naïve as I am", ""),
        ("Vielen Dank für Ihre Hilfe, das war sehr nett.", "words"),
        ("Je suis vraiment désolé pour le retard.", "words"),
        ("Muchas gracias por tu ayuda", "words"),
        ("本当にありがとうございました", "script"),
        ("Спасибо большое за помощь", "script"),
        ("Tuloko tuki mikeli pora " * 6, "words"),
    ],
)  # fmt: skip
def test_language_flags(text: str, flag: str) -> None:
    assert language_flags(texts(text)) == (flag,)


def test_a_declared_language_is_flagged_whatever_the_text_looks_like() -> None:
    assert language_flags([Continuation("OK", language="de"), Continuation("OK", language="en-GB")]) == ("declared", "")


def test_an_unknown_scorer_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UsageError, match="lexicon"):
        find_scorer("lexcon")
    with pytest.raises(UsageError, match="unknown scorer 'lexicon:x'"):
        find_scorer("lexicon:x", LoadOptions())


def test_the_list_has_a_line_for_every_scorer() -> None:
    lines = list_scorers()
    assert "lexicon" in lines and all(lines.values())

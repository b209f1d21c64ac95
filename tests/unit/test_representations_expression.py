"""Steering expressions: what is written is read back, refusals say what to write, and the edit is the sum it says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.errors import UsageError
from emotion_circuits.representations.directions import DirectionSet
from emotion_circuits.representations.expression import (
    Expression,
    Term,
    parse_expression,
    steering_condition,
    steering_vectors,
)

D, LAYERS = 6, (0, 1, 2, 3, 4)


@pytest.fixture
def directions() -> DirectionSet:
    rng = np.random.default_rng(0)
    emotions = ("gratitude", "anger")
    vectors = {m: {e: rng.standard_normal((len(LAYERS), D)) for e in emotions} for m in ("neutral", "centred")}
    # Neutral texts vary along one line only, so that every dimension covaries with every other.
    neutral = rng.standard_normal((30, 1, 1)) * rng.standard_normal((len(LAYERS), D))
    return DirectionSet(
        emotions, LAYERS, vectors, neutral.mean(0), neutral.std(0, ddof=1), np.arange(10.0, 15.0),
        neutral=lambda: neutral,
    )  # fmt: skip


terms = st.builds(
    Term,
    st.floats(allow_nan=False, allow_infinity=False),
    st.from_regex(r"[a-z][a-z0-9_-]{0,8}", fullmatch=True),
    st.none() | st.integers(0, 999_999),
    st.sampled_from(["fraction", "sd", "raw"]),
)


@given(st.lists(terms, min_size=1, max_size=5).map(lambda t: Expression(tuple(t))))
def test_what_is_written_is_read_back(expression: Expression) -> None:
    assert parse_expression(str(expression)) == expression


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_with_an_example(text: str) -> None:
    try:
        parse_expression(text)
    except UsageError as error:
        assert "0.4 gratitude @ L14 - 0.2 anger" in error.fix


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0.4 gratitude @ L14 - 0.2 anger", (Term(0.4, "gratitude", 14), Term(-0.2, "anger"))),
        (" -.5*Anger@3 ", (Term(-0.5, "anger", 3),)),
        ("2sd joy + 1.5 raw pride @ l7", (Term(2, "joy", unit="sd"), Term(1.5, "pride", 7, "raw"))),
        ("0.3 raw", (Term(0.3, "raw"),)),
        ("1e-2 fear \N{MINUS SIGN} 3 joy", (Term(0.01, "fear"), Term(-3, "joy"))),
        ("\N{EN DASH}0.2 fear \N{EN DASH} 3 joy", (Term(-0.2, "fear"), Term(-3, "joy"))),
        ("2SD joy @ L 14 + 1 Raw pride", (Term(2, "joy", 14, "sd"), Term(1, "pride", unit="raw"))),
        ("0.2 joy @ L1 + 0.3 joy", (Term(0.2, "joy", 1), Term(0.3, "joy"))),
    ],
)
def test_forms_of_writing(text: str, expected: tuple[Term, ...]) -> None:
    assert parse_expression(text).terms == expected


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "a strength is missing"),
        ("gratitude", "such as 0.4 gratitude"),
        ("0.4", "an emotion is missing after 0.4"),
        ("0.4 gratitude 0.2 anger", "+ or - is missing"),
        ("0.4 gratitude @", "a layer is missing"),
        ("0.4 gratitude @ L1.5", "a layer is missing"),
        ("0.4 gratitude @ last", "a layer is missing"),
        ("0.4 gratitude - anger", "a strength is missing"),
        ("0.4 gratitude - - 0.2 anger", "two signs follow each other"),
        ("0.4 gratitude + -0.2 anger", "two signs follow each other"),
        ("0,4 gratitude", "write a point, 0.4"),
        ("0.4 gratitude, 0.2 anger", "+ or - is missing"),
        ("40% joy", "an emotion is missing after 40"),
        ("0.4 gratitude @ L-1", "a layer is missing"),
        ("0.4 gratitude @ L14 @ L15", "+ or - is missing"),
        ("1e999 joy", "no number"),
    ],
)
def test_refusals_say_what_is_missing_and_where(text: str, said: str) -> None:
    with pytest.raises(UsageError) as refused:
        parse_expression(text)
    assert said in refused.value.what


def test_terms_without_a_layer_stand_where_the_one_before_them_does() -> None:
    def layers(text: str) -> list[int | None]:
        return [t.layer for t in parse_expression(text).at_layers(9).terms]

    assert layers("1 a - 1 b") == [9, 9]
    assert layers("1 a @ L2 - 1 b + 1 c @ L4 + 1 d") == [2, 2, 4, 4]
    assert layers("1 a - 1 b @ L3") == [3, 3]


def test_the_edit_is_strength_times_the_norm_that_directions_were_read_at(directions: DirectionSet) -> None:
    condition = steering_condition("0.4 gratitude @ L3 - 0.2 anger", directions)
    assert condition.name == "0.4 gratitude @ L3 - 0.2 anger @ L3"
    assert [i.strength for i in condition.interventions] == pytest.approx([0.4 * 13, -0.2 * 13])
    assert all(i.site.layer == 3 and str(i.positions) == "onward" for i in condition.interventions)
    added = sum(i.strength * i.vector.astype(np.float64) for i in condition.interventions if i.vector is not None)
    np.testing.assert_allclose(steering_vectors("0.4 gratitude @ L3 - 0.2 anger", directions)[3], added, atol=1e-5)


def test_units(directions: DirectionSet) -> None:
    vector = directions.vectors["neutral"]["anger"][1]
    np.testing.assert_allclose(steering_vectors("1raw anger @ L1", directions)[1], vector)
    assert directions.neutral is not None
    along = directions.neutral()[:, 1] @ (vector / np.linalg.norm(vector))
    assert np.linalg.norm(steering_vectors("3sd anger @ L1", directions)[1]) == pytest.approx(3 * along.std(ddof=1))


def test_an_emotion_that_is_named_twice_is_added_twice(directions: DirectionSet) -> None:
    once, twice = (steering_vectors(text, directions)[1] for text in ("0.5 anger @ L1", "0.2 anger @ L1 + 0.3 anger"))
    np.testing.assert_allclose(once, twice)
    assert not steering_vectors("0.2 anger @ L1 - 0.2 anger", directions)[1].any()


def test_without_a_layer_the_middle_one_is_steered(directions: DirectionSet) -> None:
    assert steering_condition("1 anger", directions).name == "1 anger @ L2"
    assert steering_condition("1 anger", directions, layer=4).name == "1 anger @ L4"


def test_unknown_emotions_and_layers_are_named(directions: DirectionSet) -> None:
    with pytest.raises(UsageError, match="gratitud"):
        steering_condition("0.4 gratitud", directions)
    with pytest.raises(UsageError, match="layer 7"):
        steering_condition("0.4 gratitude @ L7", directions)

"""Nested results become flat names that a tracker accepts, and nothing is lost on the way without a word."""

from __future__ import annotations

import math
import re

from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.tracking._flatten import cut, legal_names, metrics, texts

ILLEGAL = re.compile(r"[^\w.\- :]")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda below: st.lists(below, max_size=3) | st.dictionaries(st.text(min_size=1, max_size=5), below, max_size=3),
    max_leaves=20,
)


def test_grid_results_keep_their_path() -> None:
    summary = {"aggregated_metrics": {"gratitude": {"15": {"0.3": {"logit:gratitude": 1.25}}}}, "n": [3, {"k": True}]}
    numbers, missing = metrics(summary)
    assert numbers == {"aggregated_metrics.gratitude.15.0.3.logit:gratitude": 1.25, "n.0": 3.0, "n.1.k": 1.0}
    assert missing == []


def test_numbers_that_are_not_finite_are_named_and_left_out() -> None:
    numbers, missing = metrics({"a": math.nan, "b": None, "c": math.inf, "d": 10**400, "e": "text", "f": 0})
    assert numbers == {"f": 0.0}
    assert missing == ["a", "b", "c", "d"]


@given(JSON)
def test_every_metric_is_finite(value: object) -> None:
    numbers, _ = metrics({"x": value})
    assert all(type(number) is float and math.isfinite(number) for number in numbers.values())


@given(st.lists(st.text(max_size=30), unique=True), st.integers(12, 25))
def test_names_are_legal_and_stay_different(names: list[str], longest: int) -> None:
    legal = legal_names(names, ILLEGAL, longest)
    assert set(legal) == set(names)
    assert len(set(legal.values())) == len(names)
    for name in legal.values():
        assert name and len(name) <= longest and not ILLEGAL.search(name) and not name.startswith(".")


def test_a_legal_name_is_kept_even_when_another_would_become_it() -> None:
    legal = legal_names(["a?b", "a_b"], ILLEGAL, 50)
    assert legal["a_b"] == "a_b" and re.fullmatch(r"a_b\.[0-9a-f]{8}", legal["a?b"])


def test_parameters_are_texts_as_they_would_be_typed() -> None:
    params = {"layers": [3, 5], "directions": {"prompts": "baseline", "k": None}, "empty": {}}
    assert texts(params) == {
        "layers": "[3, 5]", "directions.prompts": "baseline", "directions.k": "null", "empty": "{}",
    }  # fmt: skip


def test_long_values_say_that_they_were_cut() -> None:
    assert cut("short", 10, "") == "short"
    long = cut("x" * 7000, 6000, "the whole is in spec.json")
    assert len(long) == 6000 and long.endswith("(cut, 7000 characters in all: the whole is in spec.json)")

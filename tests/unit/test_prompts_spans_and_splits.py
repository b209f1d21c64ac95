"""Lexicon spans and the assignment of splits, as properties."""

from __future__ import annotations

import itertools
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from emotion_circuits.errors import UsageError
from emotion_circuits.prompts import emotion_words, find_emotion_words, list_lexicons
from emotion_circuits.prompts.lexicon import find_words
from emotion_circuits.prompts.overlap import alike_pairs, jaccard
from emotion_circuits.prompts.splits import assign_splits, block_split, scenario_split

EMOTIONS = list_lexicons()


def test_lexicons_cover_the_emotions_and_are_disjoint() -> None:
    assert set(EMOTIONS) == {
        "gratitude", "anger", "apology", "joy", "sadness", "fear", "pride", "love", "disgust"
    }  # fmt: skip
    forms = Counter(form for emotion in EMOTIONS for form in emotion_words(emotion))
    assert [form for form, count in forms.items() if count > 1] == []
    assert all(form == form.lower().strip() for form in forms)


def test_neutral_has_no_words_and_an_unknown_emotion_is_an_error() -> None:
    assert emotion_words("neutral") == ()
    with pytest.raises(UsageError, match="gratitud"):
        emotion_words("gratitud")


@pytest.mark.parametrize(
    ("text", "emotion", "marked"),
    [
        ("Thank you! I'm THANKFUL.", "gratitude", ["Thank", "THANKFUL"]),
        ("The saddle was made on Sadler Street.", "sadness", []),
        ("I’m to blame, it was my  fault.", "apology", ["I’m to blame", "my  fault"]),
        ("Angry people anger me; dangerous ones don't.", "anger", ["Angry", "anger"]),
        ("He's fed up and sick and tired of it.", "anger", ["fed up", "sick and tired"]),
        ("A proud, prouder, proudest day.", "pride", ["proud", "prouder", "proudest"]),
        ("Café owners fear_less.", "fear", []),
    ],
)
def test_spans_point_at_whole_words_in_any_case(text: str, emotion: str, marked: list[str]) -> None:
    assert [text[start:end] for start, end in find_emotion_words(text, emotion)] == marked


filler = st.text(alphabet="abc ñé😀.,!?'’\n", max_size=20)


@given(before=filler, after=filler, word=st.sampled_from([w for e in EMOTIONS for w in emotion_words(e)]))
def test_a_word_between_other_text_is_found_where_it_stands(before: str, after: str, word: str) -> None:
    text = f"{before} {word} {after}"
    start = len(before) + 1
    spans = find_words(text, [word])
    assert (start, start + len(word)) in spans
    assert all(re.sub(r"\s+", " ", text[a:b].lower()).replace("’", "'") == word for a, b in spans)
    assert all(end <= after_start for (_, end), (after_start, _) in itertools.pairwise(spans))


@given(text=st.text(max_size=60), emotion=st.sampled_from(EMOTIONS))
def test_spans_of_any_text_are_inside_it_ordered_and_on_word_boundaries(text: str, emotion: str) -> None:
    end_before = 0
    for start, end in find_emotion_words(text, emotion):
        assert end_before <= start < end <= len(text)
        assert not re.match(r"\w\w", text[start - 1 : start + 1]) if start else True
        end_before = end


@given(series=st.text(max_size=3), block=st.integers(0, 500))
def test_every_block_of_ten_has_the_shares(series: str, block: int) -> None:
    numbers = range(10 * block + 1, 10 * block + 11)
    assert Counter(block_split(series, n) for n in numbers) == {"fit": 5, "dev": 2, "test": 3}


def test_blocks_are_permuted_differently() -> None:
    patterns = {tuple(block_split("s", 10 * block + i) for i in range(1, 11)) for block in range(10)}
    assert len(patterns) >= 8


@given(st.lists(st.text(min_size=1, max_size=8), min_size=3, unique=True), st.randoms())
def test_splits_do_not_depend_on_order_and_leave_none_empty(keys: list[str], random: object) -> None:
    assigned = assign_splits(keys)
    shuffled = list(keys)
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert assign_splits(shuffled) == assigned
    assert set(assigned.values()) == {"fit", "dev", "test"}


def test_a_small_set_of_any_names_has_what_directions_need() -> None:
    """By hash alone ten scenarios may leave one to test on, and twenty fewer than the six that an interval needs."""
    names = ["storm", "key", "train", "exam", "lump", "dog", "bill", "flight", "boss", "file"]
    assert Counter(map(scenario_split, names))["test"] == 1
    assert Counter(assign_splits(names).values()) == {"fit": 5, "dev": 2, "test": 3}
    for start in range(30):
        twenty = Counter(assign_splits([f"case {start + i}" for i in range(20)]).values())
        assert twenty["test"] >= 6 and min(twenty.values()) >= 2


def test_a_large_user_set_has_about_the_shares_and_keeps_them_as_it_grows() -> None:
    keys = [f"case {i}" for i in range(2000)]
    counts = Counter(assign_splits(keys).values())
    assert abs(counts["fit"] - 1000) < 100 and abs(counts["dev"] - 400) < 80 and abs(counts["test"] - 600) < 90
    assert assign_splits(keys[:1000]).items() <= assign_splits(keys).items()


def test_a_user_set_that_reuses_our_scenarios_keeps_their_split() -> None:
    assert assign_splits([f"s{n:03d}" for n in range(1, 41)]) == {
        f"s{n:03d}": block_split("s", n) for n in range(1, 41)
    }
    assert scenario_split("s041") == block_split("s", 41)


@given(
    st.lists(st.frozensets(st.integers(0, 12), max_size=9), max_size=12),
    st.floats(0.05, 0.9),
)
def test_alike_pairs_finds_what_comparing_all_pairs_finds(sets: list[frozenset[int]], limit: float) -> None:
    found = {(i, j) for i, j, _ in alike_pairs(sets, limit)}
    expected = {(i, j) for i in range(len(sets)) for j in range(i + 1, len(sets)) if jaccard(sets[i], sets[j]) > limit}
    assert found == expected

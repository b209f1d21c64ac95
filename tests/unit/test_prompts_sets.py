"""The shipped sets: exact counts, what each promises, and that the validator finds nothing wrong with any."""

from __future__ import annotations

from collections import Counter, defaultdict

import pytest

from emotion_circuits.prompts import find_emotion_words, load_prompts, set_statistics, validate
from emotion_circuits.prompts.balance import surface_auroc
from emotion_circuits.prompts.lexicon import find_any_emotion_word
from emotion_circuits.prompts.loading import BUILT_IN, load_rows
from emotion_circuits.prompts.statistics import words

FOUR = ("gratitude", "anger", "apology", "neutral")
EIGHT = (*FOUR, "joy", "sadness", "fear", "pride")
COUNTS = {
    "extended": 400, "baseline": 280, "replication": 120, "atlas": 320, "implicit": 320, "contrasts": 160,
    "continuations": 50, "neutral_pool": 300, "real_world": 35,
}  # fmt: skip


def test_every_built_in_set_is_counted_here() -> None:
    assert set(BUILT_IN) == set(COUNTS)


@pytest.mark.parametrize("name", COUNTS)
def test_shipped_set_has_its_count_and_no_problem(name: str) -> None:
    rows, problems = load_rows(name)
    assert len(rows) == COUNTS[name]
    assert problems == []
    assert validate([row.prompt for row in rows], rows=rows) == []


@pytest.mark.parametrize("name", ["extended", "baseline", "replication", "atlas", "implicit", "contrasts"])
def test_no_label_shows_in_length_or_punctuation(name: str) -> None:
    found = surface_auroc(load_prompts(name))
    assert set(found) == {prompt.emotion for prompt in load_prompts(name)}
    assert max(found.values()) <= 0.6


@pytest.mark.parametrize(
    ("name", "labels", "scenarios"),
    [
        ("extended", FOUR, range(1, 101)),
        ("baseline", FOUR, range(1, 71)),
        ("replication", FOUR, range(71, 101)),
        ("atlas", EIGHT, range(1, 41)),
        ("implicit", EIGHT, range(1, 41)),
    ],
)
def test_every_scenario_is_written_once_per_label(name: str, labels: tuple[str, ...], scenarios: range) -> None:
    cells = Counter((prompt.scenario, prompt.emotion) for prompt in load_prompts(name))
    assert cells == Counter((f"s{number:03d}", label) for number in scenarios for label in labels)


@pytest.mark.parametrize("name", ["extended", "baseline", "replication", "atlas", "implicit", "contrasts"])
def test_shares_of_the_splits_are_exact_for_every_label(name: str) -> None:
    for counts in set_statistics(load_prompts(name)).label_splits.values():
        total = sum(counts.values())
        assert counts == {"fit": total * 5 // 10, "dev": total * 2 // 10, "test": total * 3 // 10}


def test_a_scenario_keeps_its_split_in_every_set() -> None:
    homes = defaultdict(set)
    for name in ("extended", "baseline", "replication", "atlas", "implicit"):
        for prompt in load_prompts(name):
            homes[prompt.scenario].add(prompt.split)
    assert {len(splits) for splits in homes.values()} == {1}


def test_subsets_are_the_same_prompts() -> None:
    extended = load_prompts("extended")
    assert load_prompts("baseline") + load_prompts("replication") == extended
    four = tuple(prompt for prompt in load_prompts("atlas") if prompt.emotion in FOUR)
    assert set(four) == set(extended[:160])


@pytest.mark.parametrize("name", ["extended", "atlas"])
def test_explicit_text_marks_its_emotion_words_and_no_other_emotion_is_named(name: str) -> None:
    for prompt in load_prompts(name):
        assert prompt.stratum == ("none" if prompt.emotion == "neutral" else "explicit")
        assert prompt.spans == find_emotion_words(prompt.text, prompt.emotion)
        assert {emotion for emotion, _ in find_any_emotion_word(prompt.text)} <= {prompt.emotion}


@pytest.mark.parametrize("name", ["implicit", "contrasts", "continuations", "neutral_pool", "real_world"])
def test_no_emotion_word_where_none_may_be(name: str) -> None:
    assert [(p.id, found) for p in load_prompts(name) if (found := find_any_emotion_word(p.text))] == []


@pytest.mark.parametrize("name", ["extended", "atlas", "neutral_pool", "contrasts"])
def test_sentences_have_8_to_20_words(name: str) -> None:
    assert [(p.id, n) for p in load_prompts(name) if not 8 <= (n := len(words(p.text))) <= 20] == []


def test_continuations_are_open_ended_and_in_halves() -> None:
    prompts = load_prompts("continuations")
    assert Counter(prompt.split for prompt in prompts) == {"dev": 25, "test": 25}
    for prompt in prompts:
        assert prompt.text == prompt.text.strip() and prompt.text[-1].isalnum()
        assert 4 <= len(words(prompt.text)) <= 10


def test_real_world_texts_have_their_domains() -> None:
    assert Counter(p.domain for p in load_prompts("real_world")) == {"social": 15, "review": 10, "mail": 10}


def test_contrasts_are_pairs() -> None:
    pairs = defaultdict(list)
    for prompt in load_prompts("contrasts"):
        pairs[prompt.scenario].append(prompt.emotion)
    assert Counter(map(tuple, pairs.values())) == {("past", "present"): 40, ("formal", "casual"): 40}


def test_texts_say_who_wrote_them() -> None:
    for name in COUNTS:
        assert {prompt.source for prompt in load_prompts(name)} == {"emotion-circuits authors"}

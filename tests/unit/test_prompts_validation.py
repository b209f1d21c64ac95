"""Every rule of the validator notices the fault it is there for, in the right line and field."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace

import pytest

from emotion_circuits.prompts import load_prompts, validate
from emotion_circuits.prompts.loading import load_rows
from emotion_circuits.prompts.schema import Problem
from emotion_circuits.prompts.splits import block_split
from emotion_circuits.prompts.validation import RULES, labels_are_comparable, surface_is_balanced
from emotion_circuits.types import Prompt

# The faults below are made in these two texts, so that a rewording of the shipped sets does not touch the tests.
GRATEFUL = "I'm so grateful that Dave came out on a Sunday to get our boiler running."
COMING = "Dave's coming on Sunday to look at the boiler, so I'll leave the key out."

Change = Callable[[list[Prompt]], list[Prompt]]


def sound() -> list[Prompt]:
    """24 explicit texts of six scenarios, two of them in test, without a problem of their own."""
    first = Prompt("gratitude-s001", GRATEFUL, "gratitude", "s001", "explicit", block_split("s", 1), ((7, 15),))
    neutral = Prompt("neutral-s001", COMING, "neutral", "s001", "none", block_split("s", 1))
    shipped = load_prompts("baseline")[:24]
    return [first, *shipped[1:3], neutral, *shipped[4:]]


def put(index: int, **changes: object) -> Change:
    """Replace fields of prompt ``index``."""
    return lambda prompts: [
        replace(prompt, **changes) if i == index else prompt  # type: ignore[arg-type]
        for i, prompt in enumerate(prompts)
    ]


def longer_anger(prompts: list[Prompt]) -> list[Prompt]:
    return [
        replace(p, text=p.text[:-1] + ", and so on, and so forth, and so it went" + p.text[-1])
        if p.emotion == "anger"
        else p
        for p in load_prompts("baseline")
    ]


def same_opening(prompts: list[Prompt]) -> list[Prompt]:
    return [
        replace(p, text="As I said " + p.text, spans=tuple((a + 10, b + 10) for a, b in p.spans))
        if p.emotion == "anger"
        else p
        for p in prompts
    ]


def near_copy(prompts: list[Prompt]) -> list[Prompt]:
    """Text 20 (another scenario) becomes text 0 with one word changed."""
    text = prompts[0].text.replace("Sunday", "Monday")
    return put(20, text=text, spans=prompts[0].spans)(prompts)


def shuffled_copy(prompts: list[Prompt]) -> list[Prompt]:
    """The same words in another order and another split: no common 4-gram, one bag of words."""
    return put(
        3, scenario="x1", split="test", text="So leave out the key, I'll look on Sunday at Dave's boiler, coming."
    )(
        put(7, scenario="x2", split="fit", text="Coming on Sunday, Dave's boiler key I'll leave, so look out at the.")(
            prompts
        )
    )


def unpaired(prompts: list[Prompt]) -> list[Prompt]:
    return [replace(p, scenario=None) for p in prompts]


FAULTS: list[tuple[Change, int | None, str, str, str]] = [
    (put(5, text=" \n"), 6, "text", "error", "is empty"),
    (put(5, text="A NUL \x00 inside, sorry."), 6, "text", "error", "U+0000"),
    (put(5, id=""), 6, "id", "error", "is empty"),
    (put(5, emotion=" "), 6, "emotion", "error", "is empty"),
    (lambda ps: [p for p in ps if p.emotion != "neutral"], 0, "emotion", "error", "no text is labelled 'neutral'"),
    (put(5, language="de"), 6, "language", "error", "'de' in a set"),
    (lambda ps: [replace(p, language="de") for p in ps], 0, "language", "warning", "lexicons are English"),
    (put(3, text="Дейв придёт в воскресенье посмотреть котёл."), 4, "language", "error", "not Latin"),
    (lambda ps: put(7, id=ps[0].id)(ps), 8, "id", "error", "the same id as 'gratitude-s001'"),
    (lambda ps: put(7, text=ps[3].text.upper())(ps), 8, "text", "error", "the same text as 'neutral-s001'"),
    (put(1, split="test"), 2, "split", "error", "scenario 's001' is in test here and in"),
    (put(1, split=None), 0, "split", "warning", "have no split"),
    (lambda ps: [p for p in ps if p.split != "dev"], 0, "split", "warning", "no text of 'gratitude' is in dev"),
    (near_copy, 21, "text", "error", "nearly 'gratitude-s001' (word 4-grams"),
    (shuffled_copy, 8, "split", "error", "leaks: its words are those of 'neutral-s001'"),
    (same_opening, 2, "text", "error", "6 of 6 texts of 'anger' begin with 'as i said'"),
    (put(0, spans=((0, 900),)), 1, "spans", "error", "[0, 900] is not inside the text"),
    (put(0, spans=((5, 11),)), 1, "spans", "error", "not whole words"),
    (put(0, spans=((4, 14),)), 1, "spans", "error", "not whole words"),
    (put(0, spans=((7, 15), (7, 15))), 1, "spans", "error", "spans overlap"),
    (put(0, spans=()), 1, "spans", "error", "'grateful' is a word of gratitude without a span"),
    (put(3, emotion="awe", stratum="explicit"), 4, "spans", "error", "explicit but no emotion word is marked"),
    (put(0, stratum="implicit"), 1, "text", "error", "implicit but holds the emotion word 'grateful'"),
    (put(3, text="Dave's coming, I'm glad to say."), 4, "text", "warning", "neutral but holds the emotion word 'glad'"),
    (put(3, emotion="awe", stratum="implicit"), 0, "emotion", "warning", "no lexicon for 'awe'"),
    (
        put(3, text="Dave's coming on Sunday, so is the key out?"),
        4,
        "end",
        "error",
        "ends with '?', but 'gratitude-s001'",
    ),
    (longer_anger, 0, "text", "error", "length and punctuation alone tell 'anger' from the rest"),
    (unpaired, 0, "scenario", "warning", "the analysis is unpaired"),
    (lambda ps: put(7, scenario="s001")(ps), 8, "scenario", "warning", "already has a text of 'neutral'"),
]


@pytest.mark.parametrize(("change", "line", "field", "level", "message"), FAULTS)
def test_a_fault_is_reported_where_it_is(change: Change, line: int, field: str, level: str, message: str) -> None:
    problems = validate(change(sound()))
    assert any((p.line, p.field, p.level) == (line, field, level) and message in p.message for p in problems), (
        "\n".join(map(str, problems))
    )


def test_the_sound_example_has_no_error() -> None:
    assert [problem for problem in validate(sound()) if problem.level == "error"] == []


def test_every_rule_is_exercised_above() -> None:
    """A rule that no fault triggers would be a rule without a test."""
    silent = {rule.__name__ for rule in RULES}
    forms = {"gratitude": ("grateful",), "anger": ("furious",), "apology": ("sorry",), "joy": ("glad",)}
    for change, *_ in FAULTS:
        prompts = change(sound())
        silent -= {rule.__name__ for rule in RULES if rule.__name__ in silent and any(rule(prompts, forms))}
    assert silent == set()


def test_an_empty_set_is_a_problem() -> None:
    assert [(p.line, p.field) for p in validate([])] == [(0, "text")]


def test_one_label_needs_no_balance_and_no_neutral() -> None:
    assert validate(load_prompts("neutral_pool")) == []
    contrasts = load_prompts("contrasts")
    assert list(labels_are_comparable(contrasts, {"anger": ("angry",)})) == []


def test_a_small_unbalanced_set_is_a_warning_because_the_estimate_is_noisy() -> None:
    small = [p for p in longer_anger([]) if p.scenario is not None and int(p.scenario[1:]) <= 20]
    assert {finding.level for finding in surface_is_balanced(small, {})} == {"warning"}


def test_own_lexicons_replace_the_built_in_ones() -> None:
    prompts = [Prompt("a", "We stood in awe of it.", "awe", "s001", "explicit", "fit")]
    problems = validate(prompts, {"awe": {"awe": ("awe", "awed")}})
    assert any("'awe' is a word of awe without a span" in problem.message for problem in problems)


def test_problems_name_file_and_line() -> None:
    rows, _ = load_rows("baseline")
    rows = rows[:24]
    prompts = [row.prompt for row in rows]
    prompts[6] = replace(prompts[6], spans=())
    (problem,) = [p for p in validate(prompts, rows=rows) if p.field == "spans" and "explicit" in p.message]
    assert problem == Problem("extended.jsonl", 7, "spans", "error", problem.message)
    assert str(problem).startswith("extended.jsonl:7: field spans: ")


def test_degenerate_texts_do_not_break_the_classifier() -> None:
    prompts = [Prompt(f"p{i}", "word." * (i + 1), "anger" if i % 2 else "neutral", f"c{i // 2}") for i in range(40)]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        validate(prompts)

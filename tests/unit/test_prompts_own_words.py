"""The user's own lists of emotion words: what is read, what is refused, and what never depends on them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.experiments import find_experiment, load_profile
from emotion_circuits.experiments._endpoint import endpoint_inputs, require_words
from emotion_circuits.models import LM
from emotion_circuits.prompts import build_profile, emotion_words, emotions_with_words, list_lexicons, load_prompts
from emotion_circuits.prompts.importing import import_rows
from emotion_circuits.prompts.lexicon import own_lexicons
from emotion_circuits.scorers import Continuation, LoadOptions
from emotion_circuits.scorers.emotion_tokens import resolve_emotion_tokens
from emotion_circuits.scorers.lexicon import LexiconScorer
from emotion_circuits.scorers.logits import LogitsScorer
from emotion_circuits.types import Prompt
from tiny_models import tiny_lm
from worded_tokenizer import worded_tokenizer

TEXTS = "scenario,emotion,text\nk,relief,Phew; the key was in the coat.\nk,neutral,The key was in the coat.\n"
# Words of the everyday list are whole tokens of the tokenizer below, and no emotion's.
WORDS = '[relief]\nphew = ["Phew", "what a  relief"]\nplace = ["garden", "bridge", "window"]\n'
PREFIXES = [Prompt("0", "The garden is behind the house."), Prompt("1", "A letter came on Monday.")]


@pytest.fixture(autouse=True)
def own_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EMOTION_CIRCUITS_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


@pytest.fixture(scope="module")
def lm() -> LM:
    return tiny_lm("llama", worded_tokenizer())


def build(folder: Path, words: str, texts: str = TEXTS, name: str = "mine") -> Any:
    (folder / "mine.csv").write_text(texts, encoding="utf-8")
    (folder / "words.toml").write_text(words, encoding="utf-8")
    return build_profile(folder / "mine.csv", name, folder / "words.toml")


def test_a_list_serves_spans_rates_and_the_endpoint(tmp_path: Path, lm: LM) -> None:
    built = build(tmp_path, WORDS)
    forms = ("phew", "what a relief", "garden", "bridge", "window")
    assert built.words == {"relief": forms} and emotion_words("relief") == forms
    assert not [note for note in built.notes if "relief" in note]
    first = load_prompts("mine")[0]
    assert (first.spans, first.stratum) == (((0, 4),), "explicit")
    require_words(["relief", "anger"])
    scorer = LexiconScorer.load("", LoadOptions())
    assert scorer.emotion_column("relief") == "relief"
    assert scorer.score([Continuation("Phew, what a relief.")])["relief"].tolist() == [50.0]
    found = resolve_emotion_tokens(lm, ["relief"], PREFIXES)
    assert {pair.token for pair in found.pairs["relief"]} >= {" garden", " bridge", " window"}
    assert not {p.neutral_token for p in found.pairs["relief"]} & {" garden", " bridge", " window"}


def test_numbers_of_built_in_emotions_never_depend_on_it(tmp_path: Path, lm: LM) -> None:
    before, inputs = resolve_emotion_tokens(lm, ["anger", "apology"], PREFIXES), endpoint_inputs(["anger"])
    build(tmp_path, WORDS)
    assert endpoint_inputs(["anger"]) == inputs and "relief" not in list_lexicons()
    beside = resolve_emotion_tokens(lm, ["anger", "relief", "apology"], PREFIXES)
    for emotion in ("anger", "apology"):
        assert beside.pairs[emotion] == before.pairs[emotion]


def test_a_changed_list_is_another_input(tmp_path: Path) -> None:
    build(tmp_path, WORDS)
    first = endpoint_inputs(["relief"])
    build(tmp_path, WORDS.replace('"window"', '"window", "lamp"'))
    assert endpoint_inputs(["relief"]) != first and "lamp" in emotion_words("relief")


def test_two_lists_of_the_users_share_no_token(tmp_path: Path, lm: LM) -> None:
    texts = TEXTS.replace("k,neutral", "k,hope,Maybe the key was in the coat.\nk,neutral")
    build(tmp_path, WORDS + '[hope]\nhope = ["river", "winter", "station", "table"]\n', texts)
    assert emotions_with_words() == (*list_lexicons(), "hope", "relief")
    found = resolve_emotion_tokens(lm, ["relief", "hope"], PREFIXES)
    ids = {e: {*found.ids(e), *found.neutral_ids(e)} for e in found.emotions}
    assert not {*found.ids("relief")} & {*found.ids("hope")}
    assert not {*found.neutral_ids("relief")} & {*found.ids("hope")} and len(ids) == 2


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("relief = 3", "[relief] is not a table"),
        ("[relief]\nphew = 'phew'", "phew is not a list of words"),
        ("[relief]\nphew = []", "phew is not a list of words"),
        ("[relief]\nphew = ['phew', ' ']", "phew is not a list of words"),
        ("[relief]", "holds no word"),
        ("", "the file is empty"),
        ("# nothing yet\n", "holds no list of words"),
        ("[relief\n", "is not valid TOML"),
        ("[anger]\nx = ['grr']", "'anger' has a list of words already"),
        ("[neutral]\nx = ['table']", "the words of 'neutral' are fixed"),
        ("[releif]\nx = ['phew']", "there are words for 'releif', but no text of the set has that label"),
        ("[relief]\nx = ['phew', 'thanks']", "'thanks' names 'gratitude' and cannot name 'relief' too"),
    ],
)
def test_what_cannot_be_a_list_is_refused_and_nothing_is_kept(
    tmp_path: Path, own_folder: Path, words: str, told: str
) -> None:
    with pytest.raises(UsageError) as failure:
        build(tmp_path, words)
    assert told in failure.value.what and failure.value.fix
    assert not own_folder.exists()


def test_a_set_without_a_list_says_what_it_lacks(tmp_path: Path) -> None:
    (tmp_path / "mine.csv").write_text(TEXTS, encoding="utf-8")
    notes = build_profile(tmp_path / "mine.csv", "mine").notes
    assert any("no list of words for 'relief'" in note and "--words" in note for note in notes)


def test_whether_a_text_of_a_built_in_emotion_is_implicit_never_depends_on_it(tmp_path: Path) -> None:
    file = tmp_path / "texts.csv"
    file.write_text("emotion,text\nanger,Phew and never again!\nrelief,How grateful I am.\nrelief,At last.\n")
    before = [row.prompt.stratum for row in import_rows(file)]
    build(tmp_path, WORDS)
    after = [row.prompt.stratum for row in import_rows(file)]
    assert before == ["implicit", "none", "none"] and after == ["implicit", "none", "implicit"]


def test_a_damaged_file_is_named(tmp_path: Path, own_folder: Path) -> None:
    build(tmp_path, WORDS)
    (own_folder / "words" / "relief.toml").write_text("relief = 3\n", encoding="utf-8")
    with pytest.raises(UsageError, match=r"relief\.toml is not a list"):
        own_lexicons()


@pytest.mark.parametrize("name", ["steer", "sweep", "iterative", "real-world"])
def test_runs_that_count_the_words_of_a_list_hold_it(tmp_path: Path, name: str) -> None:
    build(tmp_path, WORDS)
    experiment, params = (
        find_experiment(name),
        load_profile("mine").params(name, {"text": ["Hi."]} if name == "steer" else {}),
    )
    before = experiment.inputs(params)
    build(tmp_path, WORDS.replace('"window"', '"window", "lamp"'))
    assert experiment.inputs(params) != before


def test_a_list_that_takes_another_lists_tokens_takes_no_other_column_from_the_scorer(
    tmp_path: Path, lm: LM, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(tmp_path, '[comfort]\nplace = ["gardens", "windows", "kitchens"]\n', TEXTS.replace("relief", "comfort"))
    build(tmp_path, '[relief]\nplace = ["garden", "window", "kitchen"]\n')
    monkeypatch.setattr("emotion_circuits.models.load_lm", lambda *a, **k: lm)
    columns = LogitsScorer.load("tiny", LoadOptions()).columns
    assert {"gratitude", "anger", "comfort"} <= set(columns) and "relief" not in columns

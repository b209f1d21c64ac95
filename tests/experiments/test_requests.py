"""Wrong requests: one paragraph that says what is wrong and what to type, before any model time is spent."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Refused = Callable[..., None]


@pytest.fixture
def refused(cli: Any, model: Path, tmp_path: Path) -> Refused:
    """``refused(code, parts, experiment, options…)`` of `run` with the twenty-scenario set."""

    def check(code: int, parts: tuple[str, ...], experiment: str, *options: object) -> None:
        results = tmp_path / "results"
        words = ["--model", model] if "--model" not in options else []
        cli("run", experiment, *words, "--results", results, "--quiet", *options).refused(code, *parts)
        assert not list(results.glob("*/*/*/*/done.json")), "nothing was computed before the request was refused"

    return check


@pytest.mark.parametrize(
    ("options", "parts"),
    [
        (("--emotions", "gratitud"), ("unknown emotion 'gratitud'", "did you mean gratitude")),
        (("--emotions", "neutral", "anger"), ("'neutral' is no emotion",)),
        (("--positions", "emotion-wrd"), ("unknown position 'emotion-wrd'", "emotion-word-first")),
        (("--positions", "span:9-4"), ("empty character range",)),
        (("--positions", "all"), ("one vector a text", "mean-content")),
        (("--positions", "generated"), ("one vector a text",)),
        (("--sites", "resid_pots"), ("--sites", "resid_post")),
        (("--sites", "z"), ("'z' is not one", "mlp_out")),
        (("--sites", "pattern"), ("'pattern' is not one",)),
        (("--layers", "3"), ("layer 3 does not exist", "0 to 2")),
        (("--layers", "-4"), ("layer -4 does not exist",)),
        (("--layers", "one"), ("--layers", "one")),
        (("--prompts", "basline"), ("unknown prompt set 'basline'", "did you mean baseline")),
        (("--prompts", "missing.jsonl"), ("missing.jsonl", "no such file")),
        (("--compare", "implict"), ("unknown prompt set 'implict'", "did you mean implicit")),
        (("--prompts", "neutral_pool"), ("neutral_pool has no emotional text",)),
        (("--scenarios", "9"), ("--scenarios", "10")),
        (("--scenarios", "12"), ("test scenarios", "ask for more than 12 scenarios (--scenarios)")),
        (("--permutations", "3"), ("--permutations", "99")),
        (("--components", "-1"), ("--components",)),
        (("--profile", "quikstart"), ("unknown profile 'quikstart'", "did you mean quickstart")),
        (("--profile", "nowhere.toml"), ("there is no profile file nowhere.toml",)),
        (("--model", "smollm2-135n", "--offline"), ("smollm2-135n", "smollm2-135m")),
        (("--dtype", "int4"), ("--dtype",)),
        (("--seed", "-1"), ("--seed",)),
        (("--rows", "0"), ("--rows",)),
        (("--positons", "last"), ("no option --positons", "did you mean --positions")),
    ],
)
def test_directions_that_cannot_be(refused: Refused, options: tuple[str, ...], parts: tuple[str, ...]) -> None:
    code = 1 if options[0] == "--model" else 2
    refused(code, parts, "directions", *options)


def test_more_components_than_neutral_texts(cli: Any, model: Path, tmp_path: Path) -> None:
    cli("run", "directions", "--model", model, "--results", tmp_path, "--scenarios", 20, "--components", 10,
        "--quiet").refused(2, "10 principal components of 10 neutral texts", "between 1 and 9")  # fmt: skip


def test_places_that_a_text_does_not_have(refused: Refused) -> None:
    refused(2, ("no text of neutral_pool has an emotion word",), "extract", "--sets", "neutral_pool", "--positions",
            "emotion-word-last")  # fmt: skip
    refused(2, ("position 400 is outside prompt",), "extract", "--sets", "neutral_pool", "--positions", "at:0,400")


@pytest.mark.parametrize("name", ["heads.screen", "heads.patch", "heads.match"])
def test_what_does_not_ablate_in_one_way_takes_no_way(cli: Any, name: str) -> None:
    cli("run", name, "--mode", "zero").refused(2, "has no option --mode")


def test_unknown_experiment(cli: Any) -> None:
    cli("run", "direction").refused(2, "unknown experiment 'direction'", "did you mean directions")
    cli("run", "direction", "--model", "x", "--layers", "3").refused(2, "unknown experiment 'direction'")
    cli("run", "--lst").refused(2, "--lst")


# ---------------------------------------------------------------- check --on


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("missing.jsonl", None, ("missing.jsonl",)),
        ("empty.jsonl", "", ("empty.jsonl",)),
        ("broken.jsonl", '{"text": "a", "emotion": "anger"}\n{"text": ', ("broken.jsonl", "2")),
        ("list.jsonl", "[1, 2]\n", ("list.jsonl", "1")),
        ("nolabel.jsonl", '{"text": "I hate it."}\n', ("nolabel.jsonl", "emotion")),
        ("blank.jsonl", '{"text": "  ", "emotion": "anger"}\n', ("blank.jsonl", "text")),
        (
            "unknown.jsonl",
            '{"text": "Wow!", "emotion": "surprise"}\n',
            ("no text of an emotion", "surprise", "--alias"),
        ),
        ("neutral.jsonl", '{"text": "A car.", "emotion": "neutral"}\n', ("no text of an emotion", "neutral")),
        ("header.csv", "texts,label\nhello,anger\n", ("header.csv", "text")),
        ("notes.txt", "hello", ("notes.txt", ".txt")),
        ("bytes.jsonl", b"\xff\xfe{}", ("bytes.jsonl",)),
    ],
)
def test_files_that_cannot_be_checked(
    refused: Refused, tmp_path: Path, name: str, content: str | bytes | None, parts: tuple[str, ...]
) -> None:
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    refused(2, parts, "check", "--on", path)


def test_check_without_a_file_and_with_wrong_aliases(refused: Refused, tmp_path: Path) -> None:
    refused(2, ("needs a file", "--on FILE.jsonl"), "check")
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "I hate it.", "emotion": "anger"}\n{"text": "A car.", "emotion": "neutral"}\n')
    refused(2, ("cannot read alias 'praise'", "remorse=apology"), "check", "--on", path, "--alias", "praise")
    refused(2, ("unknown emotion 'joyy'",), "check", "--on", path, "--alias", "praise=joyy")
    refused(2, ("one vector a text",), "check", "--on", path, "--position", "all")
    refused(2, ("unknown position 'lst'",), "check", "--on", path, "--position", "lst")


def test_check_at_emotion_words_that_no_text_has(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_text('{"text": "He left.", "emotion": "anger"}\n{"text": "A car.", "emotion": "neutral"}\n')
    refused(2, ("has an emotion word", "mean-content"), "check", "--on", path, "--position", "emotion-word-last")


def test_text_that_is_too_long_names_itself(refused: Refused, tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [{"text": "word " * 2000, "emotion": "anger"}, {"text": "A car.", "emotion": "neutral"}]
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    refused(2, ("'anger-0001' has", "positions for 256", "shorten"), "check", "--on", path)


# ---------------------------------------------------------------- profiles


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        ("title = ", ("is not valid TOML", "end of document")),
        ("titel = 'x'", ("titel", "did you mean title")),
        ("title = 3", ("title must be a text",)),
        ("models = 'smollm2-135m'\n[[experiment]]\nname = 'doctor'", ("models must be a list",)),
        ("title = 'x'", ("has no experiment", "[[experiment]]")),
        ("[experiment]\nname = 'doctor'", ("needs a name",)),
        ("[[experiment]]\nprompts = 'baseline'", ("needs a name",)),
        ("[[experiment]]\nname = 'direction'", ("unknown experiment 'direction'", "mine.toml", "run --list")),
        ("[[experiment]]\nname = 'doctor'\n[[experiment]]\nname = 'doctor'", ("'doctor' twice",)),
        (
            "[[experiment]]\nname = 'directions'\nprompt = 'baseline'",
            ("prompt", "mine.toml", "known parameters: prompts"),
        ),
        ("[[experiment]]\nname = 'directions'\npermutations = 'many'", ("permutations", "mine.toml")),
        ("[[experiment]]\nname = 'directions'\npositions = 'last'", ("positions", "mine.toml")),
        ("[[experiment]]\nname = 'directions'\npositions = ['lats']", ("unknown position 'lats'", "mine.toml")),
        (b"title = '\xff'", ("cannot read the profile file", "UTF-8")),
    ],
)
def test_profiles_that_cannot_be_read(cli: Any, tmp_path: Path, content: str | bytes, parts: tuple[str, ...]) -> None:
    path = tmp_path / "mine.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    cli("study", path, "--results", tmp_path / "r").refused(2, *parts)
    cli("run", "directions", "--profile", path, "--results", tmp_path / "r").refused(2, *parts)
    cli("report", "--profile", path, "--results", tmp_path / "r").refused(2, *parts)


# ---------------------------------------------------------------- results on disk


def test_results_that_are_a_file(cli: Any, model: Path, profile: Path, tmp_path: Path) -> None:
    place = tmp_path / "results"
    place.write_text("not a folder")
    words = ("--model", model, "--profile", profile, "--results", place, "--quiet")
    cli("run", "directions", *words).refused(1, "a file stands where a folder is needed", "--results")
    assert place.read_text() == "not a folder"


@pytest.mark.parametrize("experiment", ["directions", "extract"])
@pytest.mark.parametrize(("schema", "fix"), [(0, "--force"), (99, "update emotion-circuits")])
def test_results_of_another_version(
    cli: Any, model: Path, profile: Path, finished: Path, tmp_path: Path, experiment: str, schema: int, fix: str
) -> None:
    results = Path(shutil.copytree(finished, tmp_path / "results"))
    for name in ("spec.json", "done.json"):
        (path,) = results.glob(f"*/*/{experiment}/*/{name}")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"schema": schema}))
    if experiment == "extract":
        # The run that reads it has to be made anew as well, or it would not be looked at.
        (folder,) = (p.parent for p in results.glob("*/*/directions/*/done.json"))
        shutil.rmtree(folder)
    words = ("run", "directions", "--model", model, "--profile", profile, "--results", results, "--quiet")
    cli(*words).refused(1, f"results schema {schema}", fix)
    assert cli(*words, "--force").code == 0
    assert cli(*words).code == 0


def test_summary_that_was_damaged(cli: Any, model: Path, profile: Path, finished: Path, tmp_path: Path) -> None:
    results = Path(shutil.copytree(finished, tmp_path / "results"))
    (path,) = results.glob("*/*/directions/*/summary.json")
    path.write_text('{"results": [')
    words = ("run", "directions", "--model", model, "--profile", profile, "--results", results, "--quiet")
    cli(*words).refused(1, "summary.json is not valid JSON", "remove the folder")
    assert cli(*words, "--force").code == 0

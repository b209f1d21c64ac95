"""The page of `emotion-circuits study`: with what earlier commands left, and without what of that cannot be read."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def copied(finished: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "results"))


def test_the_page_keeps_what_other_commands_left(
    cli: Any, profile: Path, model: Path, copied: Path, tmp_path: Path
) -> None:
    other = shutil.copytree(model, tmp_path / "other")
    assert cli("run", "doctor", "--model", model, "--profile", profile, "--results", copied).code == 0
    answer = cli("study", profile, "--results", copied, "--model", other)
    assert answer.code == 0
    stored = json.loads((copied / "small" / "report" / "report.json").read_text(encoding="utf-8"))["report"]
    (first, second) = sorted(path.parents[1].name for path in copied.glob("small/*/directions/latest"))
    headings = [section["heading"] for section in stored["sections"]]
    assert {f"Where is each emotion? · {name}" for name in (first, second)} <= {*headings}
    assert any(heading.endswith("measured correctly?") for heading in headings), "the checks ran beside the profile"
    assert len(stored["verdicts"][0]["answers"]) == 6
    with (copied / "small" / "report" / "summary.csv").open(encoding="utf-8") as file:
        assert {row["model"] for row in csv.DictReader(file)} == {first, second}
    assert stored["command"].splitlines()[0] == f"emotion-circuits study {profile} --model {other} {model} " + (
        f"--results {copied}"
    )
    asked = [line for line in answer.out.splitlines() if line.startswith("  ")]
    assert [line.split(":")[0].strip() for line in asked] == ["gratitude", "anger", "apology"], "of what was asked"
    assert len(cli("study", profile, "--results", copied, "--model", other, "--json").json["runs"]) == 1


def test_a_failure_of_an_earlier_command_stays_on_the_page_until_that_model_is_run(
    cli: Any, profile: Path, model: Path, copied: Path
) -> None:
    cli("study", profile, "--results", copied, "--offline", "--model", "no-such-model")
    answer = cli("study", profile, "--results", copied)
    assert answer.code == 0 and "no-such-model" not in answer.out + answer.err
    page = (copied / "small" / "report" / "report.html").read_text(encoding="utf-8")
    assert "no-such-model: did not finish (directions)" in page
    noted = copied / "small" / "no-such-model" / "failed.json"
    assert str(noted) in page, "what to remove where the model is given up"
    assert f"{next(copied.glob('small/*/directions')).parent.name}: gratitude" not in page, "one model has answers"
    found = cli("study", profile, "--results", copied, "--offline", "--model", "no-such-model", model)
    assert found.code == 3
    stored = json.loads((copied / "small" / "report" / "report.json").read_text(encoding="utf-8"))["report"]
    (failures,) = [section for section in stored["sections"] if section["name"] == "failures"]
    assert len(failures["answer"]) == 1, "this call's, not the earlier one's as well"


def test_results_of_another_version_do_not_lose_the_page(cli: Any, profile: Path, copied: Path) -> None:
    (done,) = copied.glob("small/*/directions/*/done.json")
    older = done.parents[2] / "controls" / done.parent.name
    shutil.copytree(done.parent, older)
    (older.parent / "latest").write_text(older.name + "\n")
    for name in ("spec.json", "done.json"):
        (older / name).write_text(json.dumps({**json.loads((older / name).read_text()), "schema": 0}))
    answer = cli("study", profile, "--results", copied)
    assert answer.code == 0 and "the report has this command's runs only" in answer.err
    assert "gratitude" in (copied / "small" / "report" / "report.html").read_text(encoding="utf-8")


@pytest.fixture
def other_run(copied: Path) -> Path:
    """The run of another model beside the profile's own."""
    (done,) = copied.glob("small/*/directions/*/done.json")
    other = shutil.copytree(done.parents[2], done.parents[2].with_name("other-model"))
    return Path(other, "directions", done.parent.name)


@pytest.mark.parametrize(
    ("file", "content"),
    [("summary.json", "{}"), ("summary.json", "[]"), ("summary.json", "{"), ("section.json", "{}"), ("spec.json", "{"),
     ("../../failed.json", "{}")],
)  # fmt: skip
def test_another_models_damaged_run_does_not_lose_the_answers(
    cli: Any, profile: Path, copied: Path, other_run: Path, file: str, content: str
) -> None:
    (other_run / file).write_text(content, encoding="utf-8")
    answer = cli("study", profile, "--results", copied)
    assert answer.code == 0 and "the report has this command's runs only: " in answer.err, answer.err
    assert "Traceback" not in answer.err and "defect" not in answer.err
    assert answer.out.startswith("Question 1. Where is each emotion?\n  gratitude: layer") and "report: " in answer.out
    page = (copied / "small" / "report" / "report.html").read_text(encoding="utf-8")
    assert "gratitude: layer" in page and "other-model" not in page
    with (copied / "small" / "report" / "summary.csv").open(encoding="utf-8") as table:
        assert "other-model" not in {row["model"] for row in csv.DictReader(table)}
    found = cli("study", profile, "--results", copied, "--json").json
    assert len(found["verdicts"][0]["answers"]) == 3 and found["report"]


def test_a_damaged_run_is_named_and_failures_keep_their_exit_code(
    cli: Any, profile: Path, model: Path, copied: Path, other_run: Path
) -> None:
    (other_run / "summary.json").write_text("{}", encoding="utf-8")
    answer = cli("study", profile, "--results", copied, "--offline", "--model", "no-such-model", model)
    assert answer.code == 3 and "failed: directions on no-such-model: " in answer.err
    assert f"{other_run} cannot be read (KeyError: " in answer.err and "--force" in answer.err
    assert "gratitude: layer" in answer.out


def test_a_page_that_cannot_be_written_does_not_lose_the_answers(cli: Any, profile: Path, copied: Path) -> None:
    (copied / "small" / "report").write_text("a file where the page's folder must be")
    answer = cli("study", profile, "--results", copied)
    assert answer.code == 3 and "no report was written: " in answer.err and "a file stands" in answer.err
    assert answer.out.startswith("Question 1.") and "report: " not in answer.out
    found = cli("study", profile, "--results", copied, "--json").json
    assert found["report"] is None and len(found["verdicts"][0]["answers"]) == 3


def test_what_is_no_model_is_on_no_later_page(cli: Any, profile: Path, model: Path, copied: Path) -> None:
    answer = cli("study", profile, "--results", copied, "--model", model, model.with_name("mistyped"))
    assert answer.code == 3 and "no folder or file" in answer.err
    page = copied / "small" / "report" / "report.html"
    assert "mistyped: did not finish (directions)" in page.read_text(encoding="utf-8"), "this call is told"
    assert not (copied / "small" / "mistyped").exists()
    assert cli("study", profile, "--results", copied).code == 0
    assert "mistyped" not in page.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("file", "content"),
    [("summary.json", "{}"), ("summary.json", "{"), ("section.json", "{}"), ("spec.json", "{"), ("spec.json", "[]"),
     ("done.json", '{"schema": 0}')],
)  # fmt: skip
def test_a_report_leaves_out_and_names_a_run_that_cannot_be_read(
    cli: Any, profile: Path, copied: Path, other_run: Path, file: str, content: str
) -> None:
    (other_run / file).write_text(content, encoding="utf-8")
    answer = cli("report", "--profile", profile, "--results", copied, "--format", "svg")
    assert answer.code == 3 and f"left out: {other_run} cannot be read (" in answer.err, answer.err
    assert "--force, or remove that folder" in answer.err and "defect" not in answer.err
    page = (copied / "small" / "report" / "report.html").read_text(encoding="utf-8")
    assert "gratitude: layer" in page and "other-model" not in page
    found = cli("report", "--profile", profile, "--results", copied, "--format", "svg", "--json").json
    assert found["left_out"] == [str(other_run)] and found["html"]


def test_a_report_leaves_out_and_names_a_note_that_cannot_be_read(cli: Any, profile: Path, copied: Path) -> None:
    (run,) = copied.glob("small/*/directions")
    note = run.parent / "failed.json"
    note.write_text("{}", encoding="utf-8")
    answer = cli("report", "--profile", profile, "--results", copied, "--format", "svg")
    assert answer.code == 3 and f"left out: {note} cannot be read (KeyError: " in answer.err
    assert "remove that file" in answer.err and "report: " in answer.out


def test_a_report_of_nothing_that_can_be_read_says_so(cli: Any, profile: Path, copied: Path) -> None:
    (done,) = copied.glob("small/*/directions/*/done.json")
    (done.parent / "summary.json").write_text("{}", encoding="utf-8")
    answer = cli("report", "--profile", profile, "--results", copied)
    assert answer.code == 2 and f"left out: {done.parent}" in answer.err and "no finished run of profile" in answer.err

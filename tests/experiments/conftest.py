"""A tiny random model in a folder, a small profile, and the command line as a function."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from emotion_circuits.cli import main
from emotion_circuits.experiments._registry import experiments
from emotion_circuits.report import translation
from emotion_circuits.report.translation import Catalogue, entries
from emotion_circuits.store import Run
from emotion_circuits.types import Section
from explorer_requests import Page
from small_study import exploring, run_directions, save_model, save_profile, save_worded
from steering_runs import PROFILE, line


@dataclass(frozen=True)
class Answer:
    """What a command left: exit code, stdout, stderr."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        assert self.code in (0, 3), self.err
        return json.loads(self.out)

    def refused(self, code: int, *parts: str) -> None:
        """Assert one paragraph on stderr that names ``parts`` and says what to type, and nothing on stdout."""
        assert self.code == code, self
        error = self.err[self.err.index("error: ") :]
        assert "\n  → " in error and "Traceback" not in error and "defect" not in error, error
        assert len(error.strip().splitlines()) == 2, error
        for part in parts:
            assert part in error, error


Command = Callable[..., Answer]
OURS = frozenset(experiments())
"""The experiments of the package; tests and pages of the documentation add others."""


@pytest.fixture(scope="session", autouse=True)
def untranslated() -> Iterator[dict[str, set[str]]]:
    """Experiment → sentences without Japanese in the sections that its runs have written since the last test."""
    found: dict[str, set[str]] = {}
    write = Run.write_json

    def noting(run: Run, name: str, value: object) -> Path:
        if name == "section.json":
            with suppress(ValidationError):  # a damaged one, on purpose
                say = Catalogue(entries("ja"))
                translation._section(TypeAdapter(Section).validate_python(value), say)
                found.setdefault(run.experiment, set()).update(say.unknown)
        return write(run, name, value)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "write_json", noting)
        yield found


@pytest.fixture(autouse=True)
def _sections_are_said_in_japanese(untranslated: dict[str, set[str]]) -> Iterator[None]:
    yield
    found = {name: sentences for name, sentences in untranslated.items() if sentences}
    untranslated.clear()
    assert not {name: sentences for name, sentences in found.items() if name in OURS}


@pytest.fixture(autouse=True)
def _excepthook_is_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Command:
    """Runs a command line in this process."""

    def run(*words: object) -> Answer:
        capsys.readouterr()
        code = main([str(w) for w in words])
        captured = capsys.readouterr()
        return Answer(code, captured.out, captured.err)

    return run


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Llama of three layers with random weights, as a Hugging Face folder."""
    return save_model(tmp_path_factory.mktemp("models") / "tiny-llama")


@pytest.fixture(scope="session")
def worded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other tokens: most words of the lexicons are whole ones, so that endpoints find them."""
    return save_worded(tmp_path_factory.mktemp("models") / "worded-llama")


@pytest.fixture(scope="session")
def profile(tmp_path_factory: pytest.TempPathFactory, model: Path) -> Path:
    """A study of the first twenty baseline scenarios on the tiny model."""
    return save_profile(tmp_path_factory.mktemp("profiles") / "small.toml", model)


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, model: Path, profile: Path) -> Path:
    """Results of ``run directions`` on the tiny model; tests must not change this folder."""
    return run_directions(tmp_path_factory.mktemp("finished"), model, profile)


@pytest.fixture(scope="module")
def explored(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    """A copy of the finished results that tests may change."""
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("explored") / "results"))


@pytest.fixture(scope="module")
def page(explored: Path, profile: Path) -> Iterator[Page]:
    """The explorer on that copy."""
    with exploring(explored, profile) as (_, address):
        yield Page(address)


@pytest.fixture(scope="module")
def loaded(page: Page) -> Page:
    """The page after its model was loaded."""
    _, state = page.get("api/state")
    (choice,) = state["choices"]
    said = list(page.events("api/load", {"model": choice["model"], "profile": choice["profile"]}))
    assert said[-1]["event"] == "loaded", said
    assert said[-1]["emotions"] == ["gratitude", "anger", "apology"] and said[-1]["layers"] == [0, 1, 2]
    return page


@pytest.fixture(scope="session")
def small_profile(tmp_path_factory: pytest.TempPathFactory, worded: Path) -> Path:
    """A study of steering: only its directions, fitted on the first twenty baseline scenarios."""
    path = tmp_path_factory.mktemp("profiles") / "steering.toml"
    path.write_text(PROFILE.format(model=worded), encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def shared_results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results that all tests of steering add to: directions are fitted once."""
    return tmp_path_factory.mktemp("steering")


@pytest.fixture
def command(cli: Any, embedded: Any, worded: Path, small_profile: Path, shared_results: Path) -> Any:
    """``command(experiment, *words, results=…)`` with the model, the profile and the results of these tests."""
    embedded("minilm")

    def run(name: str, *words: object, results: Path = shared_results) -> Any:
        return cli(*line(name, worded, small_profile, results), *words)

    return run


def run_folders(results: Path, experiment: str) -> list[Path]:
    """Folders of an experiment's runs."""
    return sorted(p.parent for p in results.glob(f"*/*/{experiment}/*/spec.json"))


def summary(results: Path, experiment: str = "directions") -> Any:
    """The summary of the only run of an experiment."""
    (folder,) = run_folders(results, experiment)
    return json.loads((folder / "summary.json").read_text(encoding="utf-8"))

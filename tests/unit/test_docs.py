"""What the documents promise exists: commands, links, filled-in numbers, and the Japanese page says the same."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from emotion_circuits.cli import _app
from emotion_circuits.experiments import experiments, list_profiles

ROOT = Path(__file__).parents[2]
PAGES = ["README.md", "README.ja.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "docs/from-the-plan.md"]


def _read(page: str) -> str:
    return (ROOT / page).read_text(encoding="utf-8")


def _code_lines(page: str) -> list[str]:
    """Lines of fenced blocks without their comments."""
    blocks = re.findall(r"^```\w*\n(.*?)^```", _read(page), flags=re.S | re.M)
    lines = [re.split(r"\s+#", line)[0].strip() for block in blocks for line in block.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("page", PAGES)
def test_no_number_is_left_to_fill_in(page: str) -> None:
    assert not re.findall(r"@[A-Z]+@", _read(page))


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", _read(page))
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


def test_both_readmes_show_the_same_commands_and_code() -> None:
    assert _code_lines("README.md") == _code_lines("README.ja.md")


def test_both_readmes_show_the_same_numbers() -> None:
    english, japanese = (re.findall(r"\d+\.\d+", _read(page)) for page in ("README.md", "README.ja.md"))
    assert english == japanese


@pytest.mark.parametrize("page", ["README.md", "README.ja.md"])
def test_every_command_of_the_readme_names_a_verb_an_experiment_or_a_profile_that_exists(page: str) -> None:
    commands = [line.split() for line in _code_lines(page) if line.startswith("emotion-circuits ")]
    assert commands
    for words in commands:
        assert words[1] in _app.available_verbs()
        if words[1] == "run":
            assert words[2] in experiments()
        if words[1] == "study" and words[2] != "mine":
            assert words[2] in list_profiles()


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z]+):", _read("Makefile"), flags=re.M))
    named = {m for page in PAGES for m in re.findall(r"`make ([a-z]+)`|^make ([a-z]+)", _read(page), flags=re.M)}
    assert {name for pair in named for name in pair if name} <= targets

"""What the documents promise exists: commands, links, filled-in numbers, and the Japanese page says the same."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest
import yaml

from pages import ROOT, blocks, commands, read, refusal

DOCS = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
READMES = ["README.md", "README.ja.md"]
PAGES = [*READMES, "ARCHITECTURE.md", "CONTRIBUTING.md", *DOCS]
PLAN = "docs/from-the-plan.md"
LAST_ROW = 48
# A command of its own page adds it: test_pages.py runs that page.
ADDED = {"norm-gap"}


def _code_lines(page: str) -> list[str]:
    """Lines of fenced blocks without their comments."""
    lines = [re.split(r"\s+#", line)[0].strip() for block in blocks(page) for line in block.text.splitlines()]
    return [line for line in lines if line]


@pytest.mark.parametrize("page", PAGES)
def test_no_number_is_left_to_fill_in(page: str) -> None:
    assert not re.findall(r"@[A-Z]+@|\bTODO\b|\bTBD\b", read(page))


@pytest.mark.parametrize("page", PAGES)
def test_links_within_the_repository_lead_somewhere(page: str) -> None:
    links = re.findall(r"\]\((?!https?:)([^)#]+)", read(page))
    missing = [link for link in links if not ((ROOT / page).parent / link).exists()]
    assert not missing


@pytest.mark.parametrize("page", PAGES)
def test_every_command_is_one_that_the_command_line_accepts(page: str) -> None:
    refused = {c: why for c in commands(page) if not ADDED & {*c.split()} and (why := refusal(c))}
    assert not refused


def test_a_command_that_does_not_exist_is_noticed() -> None:
    assert refusal("emotion-circuits run directions --layerz 3")
    assert refusal("emotion-circuits run no-such-experiment")
    assert refusal("emotion-circuits steer")
    assert refusal("emotion-circuits run heads.patch --patch-mode sideways")


def test_every_row_of_the_plan_has_a_command() -> None:
    rows = [line.split("|") for line in read(PLAN).splitlines() if re.match(r"\| \d+ \|", line)]
    assert [int(row[1]) for row in rows] == list(range(1, LAST_ROW + 1))
    without = [row[1].strip() for row in rows if not re.search(r"`(emotion-circuits |make )[^`]+`", row[3])]
    assert not without


def test_both_readmes_show_the_same_commands_and_code() -> None:
    assert _code_lines(READMES[0]) == _code_lines(READMES[1])


def test_both_readmes_have_the_same_sections_tables_and_links() -> None:
    def shape(page: str) -> list[str]:
        """Heading levels, marks, numbers of cells of table rows, list items, in order."""
        text = re.sub(r"^```.*?^```", "```", read(page), flags=re.S | re.M)
        lines = re.findall(r"^(?:#+ |<!--.*-->|\|.*\||\* |\d\. |```)", text, flags=re.M)
        return [f"|{line.count('|')}" if line.startswith("|") else line for line in lines]

    assert shape(READMES[0]) == shape(READMES[1])
    english, japanese = ({*re.findall(r"\]\(([^)]+)\)", read(page))} - {*READMES} for page in READMES)
    assert english == japanese


def test_both_readmes_show_the_same_numbers() -> None:
    english, japanese = (re.findall(r"\d+\.\d+", read(page)) for page in READMES)
    assert english == japanese


def test_make_targets_that_documents_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", read("Makefile"), flags=re.M))
    named = {m for page in PAGES for m in re.findall(r"`make ([a-z-]+)`|^make ([a-z-]+)", read(page), flags=re.M)}
    assert {name for pair in named for name in pair if name} <= targets


def test_an_environment_that_could_not_be_made_is_removed_and_the_missing_package_is_named(tmp_path: Path) -> None:
    """As on Debian without python3-venv: ``bin/python`` is there when ``ensurepip`` fails."""
    python, venv = tmp_path / "python", tmp_path / "venv"
    python.write_text('#!/bin/sh\n[ "$1" = -c ] && exit 0\nmkdir -p "$3/bin"\n: > "$3/bin/python"\nexit 1\n')
    python.chmod(0o755)
    words = ["make", "-f", ROOT / "Makefile", f"PYTHON={python}", f"VENV={venv}", f"{venv}/bin/python"]
    quiet = {k: v for k, v in os.environ.items() if not k.startswith("MAKE")}
    for _ in range(2):
        ended = subprocess.run(words, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=60, check=False)
        assert ended.returncode and "python3-venv" in ended.stderr and not venv.exists(), ended


def test_the_workflow_runs_what_ci_runs() -> None:
    """``.ci/run`` and the GitHub workflow call the same make targets; the workflow also builds the site."""
    wanted = re.findall(r"^make ([a-z-]+)", read(".ci/run"), flags=re.M)
    workflow = yaml.safe_load(read(".github/workflows/ci.yml"))
    steps = [step["run"] for job in workflow["jobs"].values() for step in job["steps"] if "run" in step]
    assert wanted and steps == [f"make {target}" for target in [*wanted, "docs"]]


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": ([\w/.-]+\.md)$", read("mkdocs.yml"), flags=re.M))
    assert listed == {str(Path(page).relative_to("docs").as_posix()) for page in DOCS}

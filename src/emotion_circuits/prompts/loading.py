"""Prompt sets by name: the built-in ones, the user's own, or any JSONL file by its path."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.resources import as_file, files
from pathlib import Path

from emotion_circuits.errors import UsageError, unknown_name
from emotion_circuits.prompts.schema import Problem, Row, read_rows, refuse
from emotion_circuits.prompts.user_data import user_sets_folder
from emotion_circuits.types import Prompt


@dataclass(frozen=True, slots=True)
class BuiltInSet:
    """A named selection from the package's JSONL files.

    ``scenarios`` is the inclusive range of scenario numbers that are taken (all of them where it is ``None``): a text
    is stored once although several sets hold it.
    """

    name: str
    description: str
    files: tuple[str, ...]
    scenarios: tuple[int, int] | None = None

    def takes(self, prompt: Prompt) -> bool:
        if self.scenarios is None or prompt.scenario is None:
            return True
        first, last = self.scenarios
        return first <= int(prompt.scenario[1:]) <= last


BUILT_IN: dict[str, BuiltInSet] = {
    spec.name: spec
    for spec in (
        BuiltInSet("extended", "100 scenarios × gratitude, anger, apology, neutral", ("extended",)),
        BuiltInSet("baseline", "the first 70 scenarios of extended", ("extended",), (1, 70)),
        BuiltInSet("replication", "the last 30 scenarios of extended alone", ("extended",), (71, 100)),
        BuiltInSet("atlas", "40 scenarios × 8, adds joy, sadness, fear, pride", ("extended", "more_emotions"), (1, 40)),
        BuiltInSet("implicit", "the same 40 × 8 without any emotion word", ("implicit",)),
        BuiltInSet("contrasts", "past/present and formal/casual, emotion-neutral pairs", ("contrasts",)),
        BuiltInSet("continuations", "open-ended neutral beginnings for generation", ("continuations",)),
        BuiltInSet("neutral_pool", "varied neutral sentences", ("neutral_pool",)),
        BuiltInSet("real_world", "posts, reviews and mails in a real-world style", ("real_world",)),
    )
}


def list_sets() -> tuple[str, ...]:
    """Names that :func:`load_prompts` accepts: the built-in sets, then the user's own."""
    return (*BUILT_IN, *sorted(path.stem for path in _user_files()))


def load_prompts(name_or_path: str | Path) -> tuple[Prompt, ...]:
    """The prompts of a set, in the order of its file.

    Args:
        name_or_path: a built-in set (see :data:`BUILT_IN`), a set that ``prompts build`` made, or a JSONL file's path.

    Raises:
        UsageError: no such set or file, or a line that is not a prompt (names file, line and field).
    """
    rows, problems = load_rows(name_or_path)
    refuse(problems)
    return tuple(row.prompt for row in rows)


def load_rows(name_or_path: str | Path) -> tuple[list[Row], list[Problem]]:
    """Like :func:`load_prompts`, but every prompt with its file and line, and bad lines as problems."""
    name = str(name_or_path)
    if name in BUILT_IN:
        return _load_built_in(BUILT_IN[name])
    path = find_set_file(name)
    rows, problems = read_rows(path)
    problems.extend(repeated_ids(rows))
    return rows, problems


def find_set_file(name_or_path: str) -> Path:
    """The JSONL file behind a path or the name of one of the user's own sets."""
    path = Path(name_or_path).expanduser()
    if path.is_file():
        if path.suffix.lower() in (".csv", ".json"):
            raise UsageError(f"{path} is not a prompt set but something to build one from", build_command(path))
        return path
    if path.suffix or len(path.parts) != 1:
        reason = "it is a folder" if path.is_dir() else "there is no such file"
        raise UsageError(f"cannot read prompt file {path}: {reason}", "give the path of a JSONL file or a set's name")
    own = user_sets_folder() / f"{name_or_path}.jsonl"
    if own.is_file():
        return own
    raise unknown_name("prompt set", name_or_path, list(list_sets()))


def build_command(path: str | Path) -> str:
    """What to type to make a set of the texts of a file, under a name like the file's."""
    name = re.sub(r"[^a-z0-9_-]+", "-", Path(path).stem.lower()).strip("-_") or "mine"
    name = f"my-{name}" if name in BUILT_IN else name
    return shlex.join(["emotion-circuits", "prompts", "build", "--from", str(path), "--name", name])


def _user_files() -> Iterable[Path]:
    folder = user_sets_folder()
    return folder.glob("*.jsonl") if folder.is_dir() else ()


def _load_built_in(spec: BuiltInSet) -> tuple[list[Row], list[Problem]]:
    rows: list[Row] = []
    problems: list[Problem] = []
    for stem in spec.files:
        resource = files("emotion_circuits.prompts") / "sets" / f"{stem}.jsonl"
        if not resource.is_file():
            raise UsageError(
                f"the built-in prompt set {spec.name!r} is not in this installation ({stem}.jsonl is missing)",
                "install the package again",
            )
        with as_file(resource) as path:
            found, faults = read_rows(path, shown_as=f"{stem}.jsonl")
        rows.extend(row for row in found if spec.takes(row.prompt))
        problems.extend(faults)
    return rows, problems


def repeated_ids(rows: Iterable[Row]) -> list[Problem]:
    """A problem for every id that occurs again: results are keyed by it, so this cannot wait for validation."""
    first: dict[str, Row] = {}
    problems = []
    for row in rows:
        earlier = first.setdefault(row.prompt.id, row)
        if earlier is not row:
            message = f"{row.prompt.id!r} is already the id of line {earlier.line}"
            problems.append(Problem(row.file, row.line, "id", "error", message))
    return problems

"""Reading the documentation as data: fenced blocks, code spans, and whether the command line would accept a command."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

from emotion_circuits.cli._app import available_verbs, build_app

ROOT = Path(__file__).parents[1]
PROGRAM = "emotion-circuits"

_FENCE = re.compile(r"^```(?P<language>\w*)(?P<info>[^\n]*)\n(?P<body>.*?)^```", flags=re.S | re.M)


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file it is meant to be saved as (``title="…"``), its text."""

    language: str
    title: str
    text: str


def read(page: str) -> str:
    """The text of a page, named from the repository's root."""
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(page: str) -> list[Block]:
    """Every fenced block of a page, in order."""
    found = []
    for match in _FENCE.finditer(read(page)):
        title = re.search(r'title="([^"]+)"', match["info"])
        found.append(Block(match["language"], title[1] if title else "", match["body"]))
    return found


def commands(page: str) -> list[str]:
    """Every ``emotion-circuits …`` line of fenced blocks (comments cut off) and every such code span, in order."""
    text = read(page)
    lines = [line for match in _FENCE.finditer(text) for line in match["body"].splitlines()]
    inline = re.findall(rf"`({PROGRAM} [^`]+)`", _FENCE.sub("", text))
    return [c for c in map(_uncommented, [*lines, *inline]) if c.startswith(f"{PROGRAM} ")]


def refusal(command: str) -> str:
    """Why the real command line would not accept ``command`` (nothing is run), or an empty text."""
    from cyclopts import CycloptsError

    words = shlex.split(command)[1:]
    if words[0] not in available_verbs():
        return f"there is no verb {words[0]!r}"
    try:
        _, bound, *_ = build_app(words[0]).parse_args(words, print_error=False, exit_on_error=False)
    except (CycloptsError, ValueError) as error:
        return str(error)
    # A name that is no experiment falls through to the verb itself, which takes any words.
    stray = bound.arguments.get("words", ()) if words[0] == "run" else ()
    return f"there is no experiment {stray[0]!r}" if stray else ""


def _uncommented(line: str) -> str:
    return re.split(r"\s+#", line.strip())[0]

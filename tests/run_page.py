"""Run what a page of the documentation shows, in order, in this process: ``python run_page.py PAGE MODEL``.

Blocks with ``title="…"`` become files: below the current folder, or, for ``src/emotion_circuits/FOLDER/NAME.py``, a
module that the package finds beside its own. Python blocks run in one namespace; ``emotion-circuits`` lines of blocks
without a language run as typed. ``smollm2-135m`` is replaced by MODEL. Blocks in other languages are only shown.
"""

from __future__ import annotations

import importlib
import shlex
import sys
from pathlib import Path
from typing import Any

from pages import PROGRAM, Block, blocks

EMBEDDED = "smollm2-135m"


def main(page: str, model: str) -> None:
    found = blocks(page)
    for block in found:
        if block.title:
            save(block, model)
    names: dict[str, Any] = {}
    for block in found:
        text = block.text.replace(EMBEDDED, model)
        if block.language == "python" and not block.title:
            exec(compile(text, page, "exec"), names)
        elif not block.language:
            for line in text.splitlines():
                run(line)


def save(block: Block, model: str) -> None:
    path = Path(block.title)
    if path.parts[0] == "src":
        package = importlib.import_module(".".join(path.parts[1:-1]))
        package.__path__.append(str(path.parent.absolute()))
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(block.text.replace(EMBEDDED, model), encoding="utf-8")


def run(line: str) -> None:
    from emotion_circuits.cli import main as command_line

    words = shlex.split(line, comments=True)
    if not words or words[0] != PROGRAM:
        return
    code = command_line(words[1:])
    if code:
        raise SystemExit(f"exit {code}: {line}")


if __name__ == "__main__":
    main(*sys.argv[1:])

"""Removing what an earlier report wrote and the present one does not, and nothing that is anybody else's.

A list beside the files says which of them a report wrote. Whatever is not on it stays, and so does whatever the list
names outside its own folder.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from emotion_circuits.report.files import write_text
from emotion_circuits.store.files import translating

LIST = "files.json"
_OURS = re.compile(r"(?:[A-Za-z0-9][A-Za-z0-9._-]*/){1,2}[A-Za-z0-9][A-Za-z0-9._-]*\.(?:html|csv|png|svg|pdf)")
"""Folder of a section, folder of a table, a page or the rows; or a section's figure. No part is hidden or leads up."""


@contextmanager
def replacing_files(folder: Path, names: Sequence[str]) -> Iterator[None]:
    """Let the block write ``names`` (relative to ``folder``), then remove what an earlier call wrote beside them."""
    earlier = _listed(folder)
    # Before the first file is written, so that none is left unlisted when the process is killed between two.
    if names:
        _write_list(folder, [*names, *earlier])
    yield
    kept = {name.casefold() for name in names}
    for name in earlier:
        if name.casefold() not in kept:
            _remove(folder, name)
    if names:
        _write_list(folder, names)
    elif earlier:
        with translating(folder / LIST, "remove"):
            (folder / LIST).unlink(missing_ok=True)
        _remove_if_empty(folder)


def _listed(folder: Path) -> list[str]:
    """What the list names; a list that is missing or damaged names nothing."""
    try:
        names = json.loads((folder / LIST).read_text(encoding="utf-8"))["files"]
        return [name for name in names if isinstance(name, str) and _OURS.fullmatch(name)]
    except (OSError, ValueError, LookupError, TypeError):
        return []


def _write_list(folder: Path, names: Sequence[str]) -> None:
    write_text(folder / LIST, json.dumps({"files": list(dict.fromkeys(names))}, indent=1) + "\n")


def _remove(folder: Path, name: str) -> None:
    path = folder / name
    with translating(path, "remove"):
        path.unlink(missing_ok=True)
    for parent in (path.parent, path.parent.parent):
        _remove_if_empty(parent)


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):  # somebody's file is in it, or it is gone already
        folder.rmdir()

"""Compare every measured figure that the documents quote with what its command gives; see ``docs/figures.toml``.

    python scripts/docs_check.py              run the commands (finished runs return at once), then compare
    python scripts/docs_check.py --stored     compare with the latest runs on disk, run nothing
    python scripts/docs_check.py --quick      only figures that need no model

Exit code 0: every figure compared agrees. 1: one differs, or stands in a document without an entry. 3: some could not
be made here (a file that the reader has to bring is missing, or no run is on disk).
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
REGISTER = ROOT / "docs" / "figures.toml"
PROGRAM = "emotion-circuits"

_MARK = re.compile(r"^<!-- figures: (?P<name>[\w-]+) -->\n", re.M)
_FENCE = re.compile(r"^```.*?^```", re.S | re.M)
_NUMBER = re.compile(r"(?<![\w.])[-−]?\d+(?:,\d{3})*(?:\.\d+)?(?!\w|\.\d)")
_MEASURED = re.compile(r"(?<![\w.])[-−]?\d+\.\d+(?!\w|\.\d)")
"""A number with digits on both sides of the point; constants of the protocol are written without the leading zero."""
_P = re.compile(r"\bp(?: is| =| ≤| <)? $")
"""What stands before a p value in a result line."""
_P_NAME = re.compile(r"(?:^|[._])p(?:$|[._])")
_P_LIMIT = 0.05
_COUNT = ".count"
_HEADING = re.compile(r"```|Question \d")
_TEXT = re.compile(r'"([^"]+)"')
_NO_MEASUREMENT = re.compile(r"Python 3\.\d+|(?<=CC BY )\d\.\d|(?<=Apache-)\d\.\d")


class FigureError(Exception):
    """A figure that differs from its source, or an entry that does not fit its block."""


class NotMadeError(Exception):
    """A figure whose source is not here, and why."""


@dataclass(frozen=True)
class Entry:
    """One table of the register; see the head of ``docs/figures.toml``."""

    name: str
    command: str
    run: str = ""
    lines: str = ""
    numbers: tuple[str, ...] = ()
    words: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    integers: bool = False
    tolerance: float = 0.0
    quick: bool = False
    needs: str = ""


class Made(NamedTuple):
    """A number that comes out, and whether it is a p value."""

    value: float
    is_p: bool


@dataclass(frozen=True)
class Quoted:
    """A marked block: where it stands, which figures it names, its text."""

    page: str
    name: str
    text: str


def documents(root: Path = ROOT) -> list[str]:
    """Pages that may quote figures, named from the root; pages that a command writes as a whole are left out."""
    made = {table["page"] for table in _register(root).get("pages", [])}
    found = [root / "README.md", root / "README.ja.md", *sorted((root / "docs").rglob("*.md"))]
    return [name for path in found if (name := path.relative_to(root).as_posix()) not in made]


def entries(root: Path = ROOT) -> dict[str, Entry]:
    """The register by name."""
    lists = ("numbers", "words", "texts")
    tables = [{**t, **{name: tuple(t.get(name, ())) for name in lists}} for t in _register(root)["figures"]]
    return {t["name"]: Entry(**t) for t in tables}


def quotations(page: str, root: Path = ROOT) -> list[Quoted]:
    """The marked blocks of a page: the fence, table or paragraph behind each mark."""
    text = (root / page).read_text(encoding="utf-8")
    examples = [fence.span() for fence in _FENCE.finditer(text)]
    marks = [m for m in _MARK.finditer(text) if not any(start < m.start() < end for start, end in examples)]
    return [Quoted(page, m["name"], _block(text[m.end() :])) for m in marks]


def unmarked(page: str, root: Path = ROOT) -> list[str]:
    """Measured numbers of a page's running text that stand in no marked block."""
    text = (root / page).read_text(encoding="utf-8")
    for quoted in quotations(page, root):
        text = text.replace(quoted.text, "")
    text = _FENCE.sub("", text)
    text = re.sub(r"`[^`]*`|\]\([^)]*\)", "", text)
    return _MEASURED.findall(_NO_MEASUREMENT.sub("", text))


def source_of(entry: Entry, results: Path, *, run: bool) -> Any:
    """What the entry's figures are compared with: a run's summary (of ``texts``: the rows of its texts), or what the
    command prints.

    Raises :class:`NotMadeError` where it is not here and cannot be made.
    """
    if entry.run:
        if run:
            _command(entry, results)
        folder = results / entry.run
        latest = folder / "latest"
        if not latest.is_file():
            raise NotMadeError(f"no run in {folder}")
        finished = folder / latest.read_text(encoding="utf-8").strip()
        if entry.texts:
            return [json.loads(line) for line in (finished / "generations.jsonl").read_text("utf-8").splitlines()]
        return json.loads((finished / "summary.json").read_text("utf-8"))
    if not run and not entry.quick:
        raise NotMadeError(f"only `{entry.command}` gives it, and nothing is run")
    return json.loads(_command(entry, None))


def compare(quoted: Quoted, entry: Entry, source: Any) -> None:
    """Raise :class:`FigureError` where the block does not say what the source says."""
    if entry.lines:
        _compare_lines(quoted, entry, value_at(source, entry.lines))
        return
    if entry.texts:
        _compare_texts(quoted, entry, source)
        return
    at = 0
    for path in entry.words:
        word = str(value_at(source, path))
        # A whole cell, or emphasised: “shared” is a part of “partly shared”.
        found = re.compile(rf"(?:\| *|\*){re.escape(word)}(?: *\||\*)").search(quoted.text, at)
        if found is None:
            raise FigureError(f"{quoted.page}: {quoted.name}: {path} is “{word}”, which the block does not say there")
        at = found.end() - 1
    shown = (_NUMBER if entry.integers else _MEASURED).findall(quoted.text)
    made = [Made(float(value_at(source, path)), _P_NAME.search(path) is not None) for path in entry.numbers]
    _agree(quoted, shown, made, entry.tolerance)


def _compare_lines(quoted: Quoted, entry: Entry, lines: Sequence[str]) -> None:
    """Each line of the source stands in the block, and the block has no others, such as lines of an earlier run."""
    printed = [line for text in quoted.text.splitlines() if (line := text.strip()) and not _HEADING.match(line)]
    for line in lines:
        pattern = _NUMBER.sub("#", line)
        found = next((p for p in printed if _NUMBER.sub("#", p) == pattern), None)
        if found is None:
            raise FigureError(f"{quoted.page}: {quoted.name}: the block lacks “{line}”")
        printed.remove(found)
        made = [Made(_value(n[0]), _P.search(line[: n.start()]) is not None) for n in _NUMBER.finditer(line)]
        _agree(quoted, _NUMBER.findall(found), made, entry.tolerance)
    if printed:
        raise FigureError(f"{quoted.page}: {quoted.name}: nothing gives “{printed[0]}”")


def _compare_texts(quoted: Quoted, entry: Entry, rows: Sequence[Mapping[str, Any]]) -> None:
    """The n-th text in straight quotes was written under the n-th condition (spaces and line breaks alike)."""
    shown = _TEXT.findall(quoted.text)
    where = f"{quoted.page}: {quoted.name}"
    if len(shown) != len(entry.texts):
        raise FigureError(f"{where}: {len(shown)} texts in the block, {len(entry.texts)} in docs/figures.toml")
    for text, path in zip(shown, entry.texts, strict=True):
        step, condition, prompt = path.split("/")
        own = {"step": step, "condition": condition, "prompt": prompt}
        written = [" ".join(row["text"].split()) for row in rows if own.items() <= row.items()]
        if not any(" ".join(text.split()).removeprefix("… ") in one for one in written):
            raise FigureError(f"{where}: no text of {path} holds “{text}”")


def value_at(source: Any, path: str) -> Any:
    """``results[emotion=anger].auroc``, ``ci.0``: keys, the member of a list whose key has a value, or by its number.

    ``floor.highest`` is the largest number of a table. Several conditions stand with commas, ``<`` and ``>`` beside
    ``=``; ``scores[emotion=anger,ablation<0].count`` is how many members hold to them.

    Raises :class:`FigureError` for a path that leads nowhere.
    """
    found = source
    counted = path.endswith(_COUNT)
    for key, conditions in re.findall(r"([\w-]+)(?:\[([^]]+)\])?", path.removesuffix(_COUNT)):
        if isinstance(found, list) and key.isdigit():
            found = found[int(key)] if int(key) < len(found) else None
        elif key == "highest" and isinstance(found, dict) and key not in found:
            found = max((value for value in found.values() if value is not None), default=None)
        else:
            found = found.get(key) if isinstance(found, dict) else None
        if conditions:
            rows = [row for row in found or () if all(_holds(row, c) for c in conditions.split(","))]
            found = len(rows) if counted else next(iter(rows), None)
        if found is None:
            raise FigureError(f"the source has no {path}")
    return found


def _holds(row: Mapping[str, Any], condition: str) -> bool:
    name, sign, value = re.split("([=<>])", condition, maxsplit=1)
    own = row.get(name)
    if sign == "=":
        return str(own) == value
    return own is not None and (own < float(value) if sign == "<" else own > float(value))


def _agree(quoted: Quoted, shown: Sequence[str], made: Sequence[Made], tolerance: float) -> None:
    """Numbers are alike within rounding and tolerance; a p value also stays on its side of .05."""
    where = f"{quoted.page}: {quoted.name}"
    if len(shown) != len(made):
        raise FigureError(f"{where}: {len(shown)} numbers in the block, {len(made)} in docs/figures.toml: {shown}")
    for text, (value, is_p) in zip(shown, made, strict=True):
        digits = len(text.partition(".")[2])
        if abs(_value(text) - value) > 0.5 * 10**-digits * (1 + 1e-9) + tolerance:
            raise FigureError(f"{where}: {text} is quoted, {value:g} comes out")
        if is_p and (_value(text) <= _P_LIMIT) != (value <= _P_LIMIT):
            raise FigureError(f"{where}: p {text} is quoted, {value:g} comes out, on the other side of .05")


def _value(text: str) -> float:
    return float(text.replace(",", "").replace("−", "-"))


def _command(entry: Entry, results: Path | None) -> str:
    """Run an entry's command with this interpreter and return what it printed."""
    if entry.needs and not Path(needed := entry.needs.partition(":")[0]).exists():
        raise NotMadeError(f"{needed} is missing here ({entry.needs.partition(': ')[2]})")
    words = [sys.executable, "-m", "emotion_circuits", *shlex.split(entry.command)[1:]]
    words += ["--results", str(results)] if results is not None else []
    ended = subprocess.run(words, stdout=subprocess.PIPE, text=True, check=False)
    if ended.returncode:
        raise NotMadeError(f"`{entry.command}` ended with {ended.returncode}")
    return ended.stdout


def _block(text: str) -> str:
    fence = _FENCE.match(text)
    return fence[0] if fence else text.partition("\n\n")[0]


def _register(root: Path) -> dict[str, Any]:
    return tomllib.loads((root / REGISTER.relative_to(ROOT)).read_text(encoding="utf-8"))


def check(results: Path, *, run: bool, quick: bool, root: Path = ROOT) -> Iterator[tuple[str, str]]:
    """(``ok``, ``wrong`` or ``not made``, sentence) for every quotation and every number without one."""
    known = entries(root)
    sources: dict[str, Any] = {}
    for page in documents(root):
        for number in unmarked(page, root):
            yield "wrong", f"{page}: {number} is quoted without `<!-- figures: NAME -->` (constants: write .05)"
        for quoted in quotations(page, root):
            if quoted.name not in known:
                yield "wrong", f"{page}: {quoted.name} is not in docs/figures.toml"
                continue
            entry = known[quoted.name]
            if quick and not entry.quick:
                continue
            try:
                # Entries share a run: it is made once.
                key = f"{entry.command} {entry.run} {bool(entry.texts)}"
                if key not in sources:
                    sources[key] = source_of(entry, results, run=run)
                compare(quoted, entry, sources[key])
            except NotMadeError as error:
                yield "not made", f"{page}: {quoted.name}: {error}"
            except FigureError as error:
                yield "wrong", str(error)
            else:
                yield "ok", f"{page}: {quoted.name}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--results", type=Path, default=Path("results"), help="where runs are (default: results)")
    parser.add_argument("--stored", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="only figures that need no model")
    given = parser.parse_args()
    outcomes = []
    for outcome, sentence in check(given.results, run=not given.stored, quick=given.quick):
        outcomes.append(outcome)
        sys.stdout.write(f"{outcome:8} {sentence}\n")
    return 1 if "wrong" in outcomes else 3 if "not made" in outcomes else 0


if __name__ == "__main__":
    sys.exit(main())

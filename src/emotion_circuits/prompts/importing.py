"""The user's own texts as a prompt set: JSONL, CSV, or JSON with one list of texts per emotion.

Accepted files (one or several, or a folder of them):

- ``.jsonl``: one object a line with ``text`` and ``emotion``; every other field of the schema may be there.
- ``.csv``: a header with ``text`` and ``emotion``, optional ``scenario``, ``split``, ``stratum``, ``domain``, ``id`` …
- ``.json``: ``{"prompts": [text, …]}`` for one emotion (key ``emotion``, else the file's name; optional ``words`` that
  name it in these texts), or ``{"gratitude": [text, …], "neutral": [text, …]}``.

Texts in the lists may be objects (``{"text": …, "scenario": …}``). What is missing is filled in: ids, splits by
scenario (by text where there are no scenarios), spans of the emotion words, stratum (``explicit`` with a word of the
emotion, ``implicit`` without a word of any; the user's own lists count for texts of the emotions that have one).
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from emotion_circuits.errors import UsageError
from emotion_circuits.prompts.copies import folded, without_copies
from emotion_circuits.prompts.lexicon import Lexicon, find_words, forms_of, lexicon_of, load_lexicons, own_lexicons
from emotion_circuits.prompts.loading import BUILT_IN, repeated_ids
from emotion_circuits.prompts.own_words import check_word_lists, label, read_word_lists, save_word_lists
from emotion_circuits.prompts.schema import Problem, Row, json_lines, parse_line, read_text, refuse, to_line
from emotion_circuits.prompts.splits import assign_splits
from emotion_circuits.prompts.statistics import is_paired
from emotion_circuits.prompts.user_data import save_text, user_sets_folder
from emotion_circuits.types import NEUTRAL, Prompt

FIELDS = ("id", "text", "emotion", "scenario", "stratum", "spans", "split", "domain", "source", "language")
FORMATS = (".jsonl", ".json", ".csv")
UNPAIRED_NOTE = "no scenarios in this set: the analysis is unpaired (texts are not matched between emotions)"


@dataclass(frozen=True)
class BuiltProfile:
    """A set that was built: where it is, what it holds, and what the user should know (``notes``).

    ``words`` are the user's own lists that its emotions are measured by: emotion → words.
    """

    name: str
    path: Path
    prompts: tuple[Prompt, ...]
    paired: bool
    notes: tuple[str, ...]
    words: Mapping[str, tuple[str, ...]]


@dataclass(frozen=True)
class _Draft:
    """One record as the user wrote it, with its place and the words that name its emotion."""

    record: dict[str, Any]
    file: str
    line: int
    words: tuple[str, ...] = ()


def build_profile(
    source: str | Path | Sequence[str | Path], name: str, words: str | Path | None = None
) -> BuiltProfile:
    """Read the user's texts, fill in what is missing, and save them as the prompt set ``name``.

    Args:
        source: a file (``.jsonl``, ``.json``, ``.csv``), a folder of such files, or several of them.
        name: what ``load_prompts`` and ``--profile`` will know the set by.
        words: a TOML file with the words of emotions that have no built-in list; they are kept for every set.

    Raises:
        UsageError: unusable name, or a file that is not what it should be (names file, line and field).
        StoreError: the user's data folder cannot be written to.
    """
    if not re.fullmatch(r"[a-z0-9][a-z0-9_-]{0,63}", name):
        raise UsageError(f"{name!r} cannot name a prompt set", "use lower-case letters, digits, - and _")
    if name in BUILT_IN:
        raise UsageError(f"{name!r} is a built-in prompt set", f"choose another name, for example my-{name}")
    lists = {} if words is None else read_word_lists(words)
    rows = import_rows(source, lists)
    kept = without_copies(rows)
    refuse(repeated_ids(kept), "give every text an id of its own, or leave the ids out: they are made then")
    prompts = tuple(row.prompt for row in kept)
    labels = list(dict.fromkeys(prompt.emotion for prompt in prompts))
    check_word_lists(lists, labels)
    save_word_lists(lists)
    path = user_sets_folder() / f"{name}.jsonl"
    save_text(path, "".join(to_line(prompt) + "\n" for prompt in prompts))
    notes = (*_left_out(len(rows) - len(prompts)), *_notes(prompts))
    own = {emotion: forms_of(lexicon) for emotion, lexicon in own_lexicons().items() if emotion in labels}
    return BuiltProfile(name, path, prompts, is_paired(prompts), notes, own)


def import_rows(source: str | Path | Sequence[str | Path], words: Mapping[str, Lexicon] | None = None) -> list[Row]:
    """The user's texts as prompts with everything filled in; raises for the first thing that is wrong.

    ``words`` are lists of emotion words beside those that are known.
    """
    drafts: list[_Draft] = []
    problems: list[Problem] = []
    for path in _source_files(source):
        for item in _READERS[path.suffix.lower()](path):
            if isinstance(item, Problem):
                problems.append(item)
            else:
                drafts.append(item)
    rows: list[Row] = []
    numbers: Counter[str] = Counter()
    built_in, own = load_lexicons(), {**own_lexicons(), **(words or {})}
    lists = {**built_in, **own}
    built_in_forms, every_form = _forms(built_in), _forms(lists)
    for draft in drafts:
        parsed = parse_line(_filled(draft, numbers), draft.file, draft.line)
        if isinstance(parsed, Prompt):
            forms = (*draft.words, *forms_of(lists.get(parsed.emotion, {})))
            # Whether a text of a built-in emotion is implicit must not depend on the user's lists.
            others = every_form if parsed.emotion in own else built_in_forms
            rows.append(Row(_with_spans(parsed, forms, others), draft.file, draft.line))
        else:
            problems.extend(parsed)
    refuse(sorted(problems), "correct it and run the same command again")
    if not rows:
        raise UsageError("no text was found in the given files", "see `emotion-circuits prompts build --help`")
    return _with_splits(rows)


def _source_files(source: str | Path | Sequence[str | Path]) -> list[Path]:
    given = [source] if isinstance(source, str | Path) else list(source)
    found: list[Path] = []
    for item in map(Path, given):
        path = item.expanduser()
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in FORMATS) if path.is_dir() else [path]
        if not inside:
            raise UsageError(f"the folder {path} holds no .jsonl, .json or .csv file", "give the files themselves")
        found.extend(inside)
    for path in found:
        if path.suffix.lower() not in FORMATS:
            raise UsageError(
                f"{path}: {path.suffix or 'no extension'} is not a format of prompts",
                f"use one of {', '.join(FORMATS)}",
            )
    return found


def _read_jsonl(path: Path) -> Iterator[_Draft | Problem]:
    for number, record in json_lines(read_text(path), str(path)):
        yield record if isinstance(record, Problem) else _Draft(_known(record), str(path), number)


def _read_csv(path: Path) -> Iterator[_Draft | Problem]:
    text = read_text(path)
    table = text.lstrip("\r\n")
    above = text.count("\n") - table.count("\n")  # blank lines, which count in the numbers of lines
    header = table.split("\n", 1)[0]
    delimiter = max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(table, newline=""), delimiter=delimiter, strict=True)
    try:
        columns = [str(column).strip().lower() for column in reader.fieldnames or ()]
    except csv.Error as error:
        yield Problem(str(path), above + 1, "-", "error", f"the header is not valid CSV ({error})")
        return
    reader.fieldnames = columns
    for field in ("text", "emotion"):
        if field not in columns:
            yield Problem(
                str(path), above + 1, field, "error", f"the header has no such column; columns: {', '.join(columns)}"
            )
            return
    try:
        for cells in reader:
            if None in cells:
                message = "the line has more cells than the header (quote texts that hold the separator)"
                yield Problem(str(path), above + reader.line_num, "text", "error", message)
                continue
            record = {key: value for key, value in cells.items() if value}
            if "spans" in record:
                record["spans"] = _spans_cell(record["spans"])
            yield _Draft(_known(record), str(path), above + reader.line_num)
    except csv.Error as error:
        yield Problem(str(path), above + reader.line_num, "-", "error", f"not valid CSV ({error})")


def _spans_cell(cell: str) -> object:
    """Spans in a CSV cell are JSON (``[[0, 5]]``); anything else is left for the schema to refuse."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        return cell


def _read_json(path: Path) -> Iterator[_Draft | Problem]:
    file = str(path)
    try:
        content = json.loads(read_text(path))
    except json.JSONDecodeError as error:
        yield Problem(file, error.lineno, "-", "error", f"not valid JSON ({error.msg})")
        return
    except (ValueError, RecursionError) as error:
        yield Problem(file, 1, "-", "error", f"not valid JSON ({error})")
        return
    if not isinstance(content, dict):
        kind = type(content).__name__
        yield Problem(
            file, 1, "prompts", "error", f'expected {{"prompts": [...]}} or {{"emotion": [...]}}, found {kind}'
        )
        return
    if "prompts" not in content:
        for emotion, texts in content.items():
            yield from _listed(texts, str(emotion), file, str(emotion), ())
        return
    words = content.get("words", [])
    if not (isinstance(words, list) and all(isinstance(word, str) for word in words)):
        yield Problem(file, 1, "words", "error", "must be a list of words")
        return
    emotion = content.get("emotion", path.stem)
    yield from _listed(content["prompts"], emotion, file, "prompts", tuple(words))


def _listed(texts: object, emotion: object, file: str, key: str, words: tuple[str, ...]) -> Iterator[_Draft | Problem]:
    """The entries of a list of texts; ``line`` is the entry's number in its list."""
    if not isinstance(texts, list):
        yield Problem(file, 1, key, "error", f"must be a list of texts, found {type(texts).__name__}")
        return
    for number, entry in enumerate(texts, start=1):
        record = _known(entry) if isinstance(entry, dict) else {"text": entry}
        yield _Draft({"emotion": emotion, **record}, file, number, words)


def _known(record: Mapping[Any, Any]) -> dict[str, Any]:
    """The fields of the schema; a user's other columns (comment ids, authors) are not ours to keep."""
    return {key: value for key, value in record.items() if key in FIELDS}


def _filled(draft: _Draft, numbers: Counter[str]) -> dict[str, Any]:
    """The record with label in lower case and an id."""
    record = dict(draft.record)
    emotion = record.get("emotion")
    if isinstance(emotion, str):
        record["emotion"] = emotion = label(emotion)
    for field in ("text", "scenario"):
        if isinstance(record.get(field), str):
            record[field] = record[field].strip()
    if isinstance(record.get("scenario"), int) and not isinstance(record["scenario"], bool):
        record["scenario"] = str(record["scenario"])
    if "id" not in record:
        numbers[str(emotion)] += 1
        record["id"] = f"{emotion}-{numbers[str(emotion)]:04d}"
    return record


def _forms(lists: Mapping[str, Lexicon]) -> tuple[str, ...]:
    return tuple(form for lexicon in lists.values() for form in forms_of(lexicon))


def _with_spans(prompt: Prompt, forms: tuple[str, ...], every_form: tuple[str, ...]) -> Prompt:
    """Spans of the words that name the emotion, and the stratum that follows from them.

    A text without them that holds a word of another emotion (``every_form``) is neither explicit nor implicit.
    """
    if prompt.emotion == NEUTRAL:
        return prompt
    spans = prompt.spans or find_words(prompt.text, forms)
    if prompt.stratum != "none" or not (forms or spans):
        return replace(prompt, spans=spans)
    if spans:
        return replace(prompt, spans=spans, stratum="explicit")
    return prompt if find_words(prompt.text, every_form) else replace(prompt, stratum="implicit")


def _with_splits(rows: Sequence[Row]) -> list[Row]:
    """Splits for rows that have none; a scenario (or a copy of a text) that has one already keeps it."""
    keys = [row.prompt.scenario or folded(row.prompt.text) for row in rows]
    given = {key: row.prompt.split for key, row in zip(keys, rows, strict=True) if row.prompt.split}
    assigned = assign_splits(key for key in keys if key not in given)
    return [
        row if row.prompt.split else replace(row, prompt=replace(row.prompt, split=given.get(key) or assigned[key]))
        for key, row in zip(keys, rows, strict=True)
    ]


def _left_out(copies: int) -> tuple[str, ...]:
    return (f"{copies} copies of texts were left out (the same text and label again)",) if copies else ()


def _notes(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    notes = [] if is_paired(prompts) else [UNPAIRED_NOTE]
    labels = dict.fromkeys(prompt.emotion for prompt in prompts)
    if NEUTRAL not in labels:
        notes.append(f"no text is labelled {NEUTRAL!r}: directions against neutral need some")
    if mixed := [p for p in prompts if p.emotion != NEUTRAL and p.stratum == "none" and lexicon_of(p.emotion)]:
        notes.append(
            f"{len(mixed)} of the texts (the first: {mixed[0].id}) have a word of another emotion but none of their "
            "own: they count neither as explicit nor as implicit"
        )
    for emotion in labels:
        if emotion != NEUTRAL and not lexicon_of(emotion):
            notes.append(
                f"there is no list of words for {emotion!r}, by which steering and circuits are measured: "
                "give one with --words"
            )
        if emotion != NEUTRAL and not any(prompt.spans for prompt in prompts if prompt.emotion == emotion):
            notes.append(f"no emotion word of {emotion!r} was found: emotion-word positions will not work for it")
    return tuple(notes)


_READERS = {".jsonl": _read_jsonl, ".csv": _read_csv, ".json": _read_json}

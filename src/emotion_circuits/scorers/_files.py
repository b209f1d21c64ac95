"""Texts to score, and labelled texts to train or check evaluators on, from the files people have.

``.jsonl``: an object a line; ``.json``: a list of objects or of texts, ``{"prompts": [...]}``, or ``{label: [...]}``;
``.csv`` and ``.tsv`` with a header; ``.txt``: a text a line. The text is in the field ``text``; optional ``emotion`` or
``labels`` (several with commas, or a list), ``prompt`` (never scored) and ``language``. A ``.tsv`` without a header is
read in GoEmotions' form: text, label numbers with commas, comment id.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from emotion_circuits.errors import UsageError
from emotion_circuits.prompts.schema import Problem, json_lines, read_text
from emotion_circuits.scorers._contract import ENGLISH, Continuation

GOEMOTIONS = (
    "admiration", "amusement", "anger", "annoyance", "approval", "caring", "confusion", "curiosity", "desire",
    "disappointment", "disapproval", "disgust", "embarrassment", "excitement", "fear", "gratitude", "grief", "joy",
    "love", "nervousness", "optimism", "pride", "realization", "relief", "remorse", "sadness", "surprise", "neutral",
)  # fmt: skip
"""The labels of GoEmotions (Demszky et al. 2020) in the order of their numbers."""
LABEL_FIELDS = ("labels", "emotion")
FORMATS = (".jsonl", ".json", ".csv", ".tsv", ".txt")


@dataclass(frozen=True)
class TextFile:
    """The texts of a file in its order; ``labels[i]`` are those of text i, None where the file has no label field."""

    texts: tuple[Continuation, ...]
    labels: tuple[frozenset[str], ...] | None


def read_texts(path: Path, label_names: Sequence[str] = GOEMOTIONS) -> TextFile:
    """All texts of a file, with labels where it has them; see the module's docstring.

    Args:
        path: the file; ``label_names`` name the numbers of GoEmotions' form.

    Raises:
        UsageError: missing, empty or malformed file, no field ``text``, labels on some texts only; names file and line.
    """
    path = path.expanduser()
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise UsageError(
            f"{path}: {suffix or 'no extension'} is not a format of texts", f"use one of {', '.join(FORMATS)}"
        )
    if not path.exists():
        raise UsageError(f"there is no file {path}", "check the path given to --on")
    content = read_text(path)
    if suffix == ".tsv" and not _has_header(content):
        records = _goemotions(path, content, label_names)
    else:
        records = _READERS[suffix](path, content)
    texts: list[Continuation] = []
    labels: list[frozenset[str] | None] = []
    for line, record in records:
        texts.append(_continuation(path, line, record))
        labels.append(_labels(path, line, record))
    if not texts:
        raise UsageError(f"{path} holds no text", "give one object with a field text per line")
    return TextFile(tuple(texts), _all_or_none(path, labels))


def read_ratings(path: Path) -> tuple[list[str], list[float]]:
    """Requests and ratings of a CSV file in the form of the Stanford Politeness Corpus.

    Its columns are ``Request`` (or ``text``) and ``Normalized Score`` (or ``score``); raises :class:`UsageError`.
    """
    path = path.expanduser()
    if not path.exists():
        raise UsageError(f"there is no file {path}", "check the path given to --politeness")
    texts, ratings = [], []
    for line, record in _read_csv(path, read_text(path)):
        text, rating = record.get("request", record.get("text")), record.get("normalized score", record.get("score"))
        if text is None or rating is None:
            raise UsageError(
                f"{path}:{line}: no columns for the request and its rating; columns: {', '.join(record)}",
                "name them Request and Normalized Score",
            )
        try:
            ratings.append(float(rating))
        except ValueError:
            raise UsageError(f"{path}:{line}: the rating {rating!r} is no number", "correct the line") from None
        texts.append(text)
    return texts, ratings


def read_label_names(path: Path) -> tuple[str, ...]:
    """Label names of a text file, one a line, in the order of their numbers."""
    if not path.expanduser().exists():
        raise UsageError(f"there is no file {path}", "check the path given to --labels")
    return tuple(line.strip() for line in read_text(path.expanduser()).splitlines() if line.strip())


Record = tuple[int, Mapping[str, Any]]


def _has_header(content: str) -> bool:
    return "text" in content.split("\n", 1)[0].strip().lower().split("\t")


def _goemotions(path: Path, content: str, names: Sequence[str]) -> Iterator[Record]:
    for number, line in enumerate(content.split("\n"), start=1):
        if not line.strip():
            continue
        cells = line.rstrip("\r").split("\t")
        numbers = cells[1].split(",") if len(cells) > 1 else []
        if not numbers or not all(n.strip().isdigit() and int(n) < len(names) for n in numbers):
            raise UsageError(
                f"{path}:{number}: expected text, label numbers below {len(names)} with commas, and an id, with tabs",
                "give the file a header with a column text, or name the labels' file with --labels",
            )
        yield number, {"text": cells[0], "labels": [names[int(n)] for n in numbers]}


def _read_jsonl(path: Path, content: str) -> Iterator[Record]:
    for number, record in json_lines(content, str(path)):
        if isinstance(record, Problem):
            raise UsageError(str(record), "give one JSON object a line, with a field text")
        yield number, record


def _read_csv(path: Path, content: str) -> Iterator[Record]:
    header = content.lstrip("\n").split("\n", 1)[0]
    delimiter = "\t" if path.suffix.lower() == ".tsv" else max(",;\t", key=header.count)
    reader = csv.DictReader(io.StringIO(content, newline=""), delimiter=delimiter, strict=True)
    try:
        reader.fieldnames = [str(column).strip().lower() for column in reader.fieldnames or ()]
        for cells in reader:
            if None in cells:
                raise UsageError(
                    f"{path}:{reader.line_num}: the line has more cells than the header",
                    "put quotes around texts that hold the separator",
                )
            yield reader.line_num, {key: value for key, value in cells.items() if value is not None}
    except csv.Error as error:
        raise UsageError(f"{path}:{reader.line_num}: not valid CSV ({error})", "correct the line") from error


def _read_json(path: Path, content: str) -> Iterator[Record]:
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path}: not valid JSON ({error})", "correct the file, or use .jsonl") from error
    if isinstance(found, dict) and "prompts" not in found:
        groups: list[tuple[Any, Any]] = list(found.items())
    elif isinstance(found, dict):
        groups = [(found.get("emotion"), found["prompts"])]
    else:
        groups = [(None, found)]
    number = 0
    for label, entries in groups:
        if not isinstance(entries, list):
            raise UsageError(f"{path}: expected a list of texts, found {type(entries).__name__}", "see score --help")
        for entry in entries:
            number += 1
            record = entry if isinstance(entry, dict) else {"text": entry}
            yield number, ({"emotion": label, **record} if label is not None else record)


def _read_lines(path: Path, content: str) -> Iterator[Record]:
    lines = content.removesuffix("\n").split("\n")
    return ((number, {"text": line.rstrip("\r")}) for number, line in enumerate(lines, start=1))


def _continuation(path: Path, line: int, record: Mapping[str, Any]) -> Continuation:
    if "text" not in record:
        shown = ", ".join(map(str, record)) or "none"
        raise UsageError(f"{path}:{line}: no field text; fields: {shown}", "name the field or column of the texts text")
    text, prompt, language = record["text"], record.get("prompt") or "", record.get("language") or ENGLISH
    if not isinstance(text, str):
        raise UsageError(f"{path}:{line}: field text: expected a text, found {type(text).__name__}", "correct the line")
    return Continuation(text, str(prompt), str(language))


def _labels(path: Path, line: int, record: Mapping[str, Any]) -> frozenset[str] | None:
    value = next((record[field] for field in LABEL_FIELDS if field in record), None)
    if value is None:
        return None
    if isinstance(value, str):
        value = value.split(",")
    if not isinstance(value, list) or not all(isinstance(label, str) for label in value):
        raise UsageError(f"{path}:{line}: labels must be names with commas between them, or a list", "correct the line")
    return frozenset(label.strip() for label in value if label.strip())


def _all_or_none(path: Path, labels: Sequence[frozenset[str] | None]) -> tuple[frozenset[str], ...] | None:
    known = tuple(own for own in labels if own is not None)
    if not known:
        return None
    if len(known) < len(labels):
        raise UsageError(
            f"{path}: text {labels.index(None) + 1} has no label, but others have one",
            "give every text a field emotion or labels (empty for none), or remove the field",
        )
    return known


_READERS = {".jsonl": _read_jsonl, ".json": _read_json, ".csv": _read_csv, ".tsv": _read_csv, ".txt": _read_lines}

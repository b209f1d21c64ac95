"""One line of a prompt file: which fields it has, and how a bad line is reported.

A prompt file is JSONL in UTF-8. Each line is an object with at least ``text`` and ``emotion``; what else it may hold is
declared once, in :class:`PromptLine`. Reading never stops at the first fault: every bad line becomes a
:class:`Problem` with file, line and field.
"""

from __future__ import annotations

import codecs
import json
import shlex
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from emotion_circuits.errors import UsageError
from emotion_circuits.types import Prompt, Split, Stratum

SCHEMA_VERSION = 1
LABEL_PATTERN = r"^[a-z][a-z0-9_-]*$"
END_MARKS = ".!?…"
"""Characters that count as end punctuation; a text without one has the empty end."""

_CLOSING = "\"'”’)]"

Level = Literal["error", "warning"]


@dataclass(frozen=True, slots=True, order=True)
class Problem:
    """One fault of a prompt set. ``line`` counts from 1 (0: the whole file); ``field`` is ``-`` where none applies."""

    file: str
    line: int
    field: str
    level: Level
    message: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}" if self.line else self.file
        return f"{where}: field {self.field}: {self.message}" if self.field != "-" else f"{where}: {self.message}"


@dataclass(frozen=True, slots=True)
class Row:
    """A prompt and the place in a file that it came from."""

    prompt: Prompt
    file: str
    line: int


class PromptLine(BaseModel):
    """The JSONL schema, version 1. Unknown fields are refused: a misspelt field would be ignored silently otherwise."""

    model_config = ConfigDict(extra="forbid", strict=True)

    schema_version: Literal[1] = Field(1, alias="schema", description="version of this schema")
    id: str | None = Field(None, min_length=1, description="unique in its file; made from label and line if absent")
    text: str = Field(min_length=1, description="the text itself, as a model reads it")
    emotion: str = Field(
        pattern=LABEL_PATTERN, description="lower-case label; `neutral` is what emotions are compared with"
    )
    scenario: str | None = Field(None, min_length=1, description="shared by matched texts; the unit of statistics")
    stratum: Stratum = Field("none", description="explicit (has an emotion word), implicit (has none), none")
    end: str = Field("", description="end punctuation of the text: one of . ! ? … or empty")
    spans: list[tuple[int, int]] = Field(default_factory=list, description="character ranges of emotion words")
    split: Split | None = Field(None, description="fit, dev or test")
    domain: str | None = Field(None, min_length=1, description="where such a text occurs (home, work, review …)")
    source: str = Field("user", min_length=1, description="who wrote it")
    language: str = Field("en", pattern=r"^[a-z]{2,3}$", description="ISO 639 code")

    @field_validator("spans", mode="before")
    @classmethod
    def _pairs(cls, value: object) -> object:
        # JSON has no tuples: [[0, 5]] is how a span is written.
        if isinstance(value, list):
            return [tuple(item) if isinstance(item, list) else item for item in value]
        return value

    @field_validator("text")
    @classmethod
    def _readable(cls, value: str) -> str:
        return check_text(value)

    @model_validator(mode="after")
    def _consistent(self) -> PromptLine:
        for start, end in self.spans:
            if not 0 <= start < end <= len(self.text):
                raise ValueError(f"spans: [{start}, {end}] is not inside a text of {len(self.text)} characters")
        if "end" in self.model_fields_set and self.end != end_mark(self.text):
            raise ValueError(f"end: {self.end!r} is written here but the text ends with {end_mark(self.text)!r}")
        return self

    def to_prompt(self, line: int) -> Prompt:
        """The project's noun for this line (``end`` is derived from the text, ``schema`` is the file's business)."""
        return Prompt(
            self.id or f"{self.emotion}-line{line}", self.text, self.emotion, self.scenario, self.stratum, self.split,
            tuple(sorted(self.spans)), self.domain, self.source, self.language,
        )  # fmt: skip


def check_text(text: str) -> str:
    """Return ``text``; raises :class:`ValueError` for text that no tokenizer should meet (blank, NUL, surrogates)."""
    if not text.strip():
        raise ValueError("the text is empty")
    for character in text:
        category = unicodedata.category(character)
        if category == "Cs" or (category == "Cc" and character not in "\n\t\r"):
            raise ValueError(f"the text holds the unprintable character U+{ord(character):04X}")
    return text


def end_mark(text: str) -> str:
    """The end punctuation of a text (``.``, ``!``, ``?``, ``…`` or nothing), looking through closing quotes."""
    stripped = text.rstrip().rstrip(_CLOSING)
    return stripped[-1] if stripped and stripped[-1] in END_MARKS else ""


def to_line(prompt: Prompt) -> str:
    """One JSONL line (without newline) that :func:`read_rows` reads back as the same prompt."""
    record: dict[str, Any] = {
        "schema": SCHEMA_VERSION,
        "id": prompt.id,
        "text": prompt.text,
        "emotion": prompt.emotion,
        "scenario": prompt.scenario,
        "stratum": prompt.stratum,
        "end": end_mark(prompt.text),
        "spans": [list(span) for span in prompt.spans],
        "split": prompt.split,
        "domain": prompt.domain,
        "source": prompt.source,
        "language": prompt.language,
    }
    return json.dumps({key: value for key, value in record.items() if value is not None}, ensure_ascii=False)


def read_text(path: Path) -> str:
    """The file as text; raises :class:`UsageError` naming file and line for what is not UTF-8 text."""
    try:
        data = path.read_bytes()
    except OSError as error:
        reason = "is a folder" if path.is_dir() else (error.strerror or str(error)).lower()
        raise UsageError(f"cannot read prompt file {path}: {reason}", "check the path and its permissions") from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        wide = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))  # "Unicode text" of Windows programs
        guess, name = ("it is UTF-16", "UTF-16") if wide else ("a Latin-1 or Windows file?", "LATIN1")
        raise UsageError(
            f"{path}:{line}: field text: byte 0x{data[error.start]:02x} is not UTF-8 ({guess})",
            f"convert it: iconv -f {name} -t UTF-8 {shlex.quote(str(path))} > {shlex.quote(f'fixed-{path.name}')}",
        ) from error
    if "\x00" in text:
        line = text.count("\n", 0, text.index("\x00")) + 1
        raise UsageError(
            f"{path}:{line}: field text: the file holds a NUL byte", "save it as plain UTF-8 text (it may be UTF-16)"
        )
    if not text.strip():
        raise UsageError(f"{path}: the file is empty", 'write one JSON object a line: {"text": …, "emotion": …}')
    return text


def json_lines(text: str, file: str) -> Iterator[tuple[int, dict[str, Any] | Problem]]:
    """Each non-blank line of a JSONL text as (line number, object), or as a problem where it is not an object."""
    # Not splitlines(): a text may hold U+2028, which JSON leaves as it is.
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            yield number, Problem(file, number, "-", "error", f"not valid JSON ({error})")
            continue
        if isinstance(record, dict):
            yield number, record
        else:
            yield number, Problem(file, number, "-", "error", f"expected a JSON object, found {type(record).__name__}")


def parse_line(record: dict[str, Any], file: str, line: int) -> Prompt | list[Problem]:
    """The prompt that one JSON object describes, or everything that is wrong with it."""
    try:
        return PromptLine.model_validate(record).to_prompt(line)
    except ValidationError as error:
        return [Problem(file, line, *_reworded(detail)) for detail in error.errors()]


def _reworded(detail: Any) -> tuple[str, Level, str]:
    """Pydantic's finding as (field, level, message) in plain words."""
    field = str(detail["loc"][0]) if detail["loc"] else "-"
    kind, context = detail["type"], detail.get("ctx", {})
    found = type(detail["input"]).__name__
    if kind == "missing":
        message = "is missing"
    elif kind == "extra_forbidden":
        message = "is not a field of a prompt; known: " + ", ".join(
            info.alias or name for name, info in PromptLine.model_fields.items()
        )
    elif kind == "value_error":
        message = str(context["error"])
        head, _, tail = message.partition(": ")
        if head in ("spans", "end"):
            field, message = head, tail
    elif kind == "string_pattern_mismatch":
        message = f"{detail['input']!r} is not a lower-case name ({context['pattern']})"
    elif kind == "literal_error":
        message = f"{detail['input']!r} is not one of {context['expected']}"
    elif kind == "string_unicode":
        message = "the text holds half of a surrogate pair (U+D800 to U+DFFF)"
    elif kind.endswith("_type"):
        message = f"must be a {kind.removesuffix('_type')}, found {found}"
    else:
        message = f"{detail['msg'].lower()} (found {found})"
    return field, "error", message


def read_rows(path: Path, shown_as: str | None = None) -> tuple[list[Row], list[Problem]]:
    """Every prompt of a JSONL file with its line, and a problem for every line that is not one.

    Raises:
        UsageError: the file cannot be read at all (absent, empty, not UTF-8, NUL bytes).
    """
    file = shown_as or str(path)
    rows: list[Row] = []
    problems: list[Problem] = []
    for number, record in json_lines(read_text(path), file):
        if isinstance(record, Problem):
            problems.append(record)
            continue
        parsed = parse_line(record, file, number)
        if isinstance(parsed, Prompt):
            rows.append(Row(parsed, file, number))
        else:
            problems.extend(parsed)
    return rows, problems


def refuse(problems: Sequence[Problem], fix: str = "") -> None:
    """Raise :class:`UsageError` with the first error of ``problems``, if there is one."""
    errors = [problem for problem in problems if problem.level == "error"]
    if errors:
        more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
        command = f"emotion-circuits prompts validate {shlex.quote(errors[0].file)}"
        raise UsageError(f"{errors[0]}{more}", fix or f"correct it; `{command}` lists every problem")

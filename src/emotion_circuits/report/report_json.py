"""A report as strict JSON, and back: the form in which it is stored, mirrored and rendered again.

JSON has no NaN or infinity: both become ``null``, which every reader of a report shows as missing.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import PurePath
from typing import Any

from pydantic import TypeAdapter, ValidationError

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.types import Figure, Report, Section, Table

SCHEMA = 1
"""Version of the layout below; a reader refuses a newer one by name."""


def report_to_json(report: Report) -> str:
    """``{"schema": 1, "report": {…}}`` as text; raises :class:`UsageError` for a value that is not plain data."""
    body = {"schema": SCHEMA, "report": _plain(report, "report")}
    # ASCII escapes keep lone surrogates of broken model output readable by every JSON parser.
    return json.dumps(body, allow_nan=False, indent=1) + "\n"


def report_from_json(text: str) -> Report:
    """Read what :func:`report_to_json` wrote; raises :class:`StoreError` that says which field is wrong."""
    try:
        body = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise StoreError(f"this is not a report: {error}", "write it again with: emotion-circuits report") from error
    if not isinstance(body, dict) or body.get("schema") != SCHEMA:
        found = body.get("schema") if isinstance(body, dict) else type(body).__name__
        raise StoreError(
            f"report.json has schema {found!r}, this version reads {SCHEMA}",
            "write it again with: emotion-circuits report",
        )
    try:
        return _with_tuples(TypeAdapter(Report).validate_python(body.get("report")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"]) or "report"
        raise StoreError(
            f"report.json is malformed at {where}: {first['msg']}", "write it again with: emotion-circuits report"
        ) from error


def _plain(value: Any, where: str) -> Any:
    if value is None or isinstance(value, bool | str | int):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: _plain(getattr(value, f.name), f"{where}.{f.name}") for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): _plain(item, f"{where}.{key}") for key, item in value.items()}
    if isinstance(value, Sequence | set | frozenset) and not isinstance(value, bytes):
        return [_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, PurePath):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays, without importing numpy here
        return _plain(value.tolist(), where)
    raise UsageError(
        f"{where} holds a {type(value).__name__}, which is not plain data",
        "turn it into numbers or text before it goes into the report",
    )


def _with_tuples(report: Report) -> Report:
    """JSON only knows lists; sequences of a frozen report are tuples."""
    return dataclasses.replace(
        report,
        verdicts=tuple(dataclasses.replace(v, answers=tuple(v.answers)) for v in report.verdicts),
        sections=tuple(_section_with_tuples(section) for section in report.sections),
        methods=tuple(report.methods),
    )


def _section_with_tuples(section: Section) -> Section:
    figures: tuple[Figure, ...] = tuple(dataclasses.replace(f, data=tuple(f.data)) for f in section.figures)
    tables: tuple[Table, ...] = tuple(dataclasses.replace(t, rows=tuple(t.rows)) for t in section.tables)
    return dataclasses.replace(
        section, answer=tuple(section.answer), figures=figures, tables=tables, limits=tuple(section.limits)
    )

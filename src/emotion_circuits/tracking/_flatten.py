"""Nested results as flat names: ``aggregated_metrics.gratitude.15.0.3.logit:gratitude`` → a number."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Any


def leaves(value: object, prefix: str = "") -> Iterator[tuple[str, object]]:
    """Every value that is no mapping and no list, with its dotted path; places in a list are numbers from 0."""
    if isinstance(value, Mapping):
        for key, below in value.items():
            yield from leaves(below, f"{prefix}.{key}" if prefix else str(key))
    elif isinstance(value, list | tuple):
        for place, below in enumerate(value):
            yield from leaves(below, f"{prefix}.{place}" if prefix else str(place))
    else:
        yield prefix, value


def metrics(value: object, prefix: str = "") -> tuple[dict[str, float], list[str]]:
    """The numbers in ``value`` by dotted path (yes and no as 1 and 0), and the paths whose value is not finite.

    A result file holds ``null`` where a number was not finite; trackers would clip or refuse such a value.
    """
    numbers: dict[str, float] = {}
    missing = []
    for path, leaf in leaves(value, prefix):
        if leaf is None or (isinstance(leaf, float) and not math.isfinite(leaf)):
            missing.append(path)
        elif isinstance(leaf, int | float):
            try:
                numbers[path] = float(leaf)
            except OverflowError:  # an integer beyond what a float holds
                missing.append(path)
    return numbers, missing


def texts(value: Mapping[str, Any]) -> dict[str, str]:
    """Parameters by dotted path; a list of plain values stays one text, as it would be typed in JSON."""
    flat: dict[str, str] = {}
    for key, below in value.items():
        if isinstance(below, Mapping) and below:
            flat.update({f"{key}.{path}": text for path, text in texts(below).items()})
        else:
            flat[str(key)] = below if isinstance(below, str) else json.dumps(below, ensure_ascii=False)
    return flat


def cut(text: str, longest: int, whole: str) -> str:
    """``text``, or its beginning and a remark that says how long it was and where the ``whole`` is."""
    if len(text) <= longest:
        return text
    remark = f" … (cut, {len(text)} characters in all: {whole})"
    return text[: longest - len(remark)] + remark


def legal_names(names: Iterator[str] | list[str], illegal: re.Pattern[str], longest: int) -> dict[str, str]:
    """Each name as a tracker allows it: ``illegal`` characters become ``_``, long ones are cut.

    A name that changed and would meet another one gets a hash of its original form at the end.
    """
    legal: dict[str, str] = {}
    given = list(names)
    taken = {name for name in given if not illegal.search(name) and len(name) <= longest and _is_plain(name)}
    for name in given:
        plain = illegal.sub("_", name).lstrip(".") or "_"
        if plain != name or len(plain) > longest:
            if len(plain) > longest or plain in taken:
                plain = f"{plain[: longest - 9]}.{hashlib.sha256(name.encode()).hexdigest()[:8]}"
            taken.add(plain)
        legal[name] = plain
    return legal


def _is_plain(name: str) -> bool:
    return bool(name) and not name.startswith(".")

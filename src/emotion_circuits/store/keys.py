"""Names for content: the same inputs give the same key, any other input another one.

A run's folder is named by :func:`content_key` of everything that can change its numbers (parameters, fingerprints of
model, tokenizer and prompts). What cannot (batch size, device, number of workers) is recorded beside it, not hashed.
"""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path, PurePath
from typing import Any

from emotion_circuits.errors import StoreError, UsageError

KEY_LENGTH = 12


def content_key(inputs: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits of the SHA-256 over the canonical JSON of ``inputs``.

    The order of mapping keys does not matter; tuples equal lists, paths equal their POSIX text, dataclasses and
    pydantic models equal the mapping of their fields. ``1`` and ``1.0`` differ. Raises :class:`UsageError` for NaN and
    for types that have no canonical form.
    """
    text = json.dumps(canonical(inputs), sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:KEY_LENGTH]


def canonical(value: object, where: str = "inputs") -> Any:
    """``value`` as plain JSON types only; applying it twice changes nothing. ``where`` names the place in errors."""
    if isinstance(value, float) and math.isnan(value):
        raise UsageError(f"{where} is NaN, which equals nothing and cannot name a result", "give a number instead")
    return _walk(value, where, strict=True)


def plain(value: object) -> Any:
    """``value`` for a JSON file that people read: like :func:`canonical`, but arrays become lists, sets sorted lists,
    and numbers that are not finite ``None`` (JSON has no NaN)."""
    return _walk(value, "value", strict=False)


def fingerprint_file(path: Path | str) -> str:
    """SHA-256 (64 hexadecimal digits) of a file's bytes, read in pieces; :class:`StoreError` if it cannot be read."""
    digest = hashlib.sha256()
    try:
        with Path(path).open("rb") as file:
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise StoreError(f"cannot read {path}: {error.strerror or error}", "check the path and its permissions") from (
            error
        )
    return digest.hexdigest()


def fingerprint_texts(texts: Iterable[str]) -> str:
    """SHA-256 of texts in their order; lengths are hashed too, so that ["ab", "c"] and ["a", "bc"] differ."""
    if isinstance(texts, str):
        raise UsageError("fingerprint_texts takes several texts, not one", "wrap the text in a list")
    digest = hashlib.sha256()
    for text in texts:
        encoded = text.encode("utf-8", "surrogatepass")
        digest.update(len(encoded).to_bytes(8, "little"))
        digest.update(encoded)
    return digest.hexdigest()


def _walk(value: object, where: str, *, strict: bool) -> Any:
    if isinstance(value, enum.Enum):
        return _walk(value.value, where, strict=strict)
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        if math.isnan(value) and strict:
            raise UsageError(f"{where} is NaN, which equals nothing and cannot name a result", "give a number instead")
        return float(value) if strict or math.isfinite(value) else None
    if isinstance(value, PurePath):
        return value.as_posix()
    if isinstance(value, Mapping):
        return {_text_key(k, where, strict): _walk(v, f"{where}.{k}", strict=strict) for k, v in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        return _walk(fields, where, strict=strict)
    if isinstance(value, Sequence) and not isinstance(value, bytes | bytearray | memoryview):
        return [_walk(item, f"{where}[{i}]", strict=strict) for i, item in enumerate(value)]
    if isinstance(value, set | frozenset) and not strict:
        return sorted((_walk(item, where, strict=False) for item in value), key=str)
    return _walk_library_type(value, where, strict=strict)


def _walk_library_type(value: object, where: str, *, strict: bool) -> Any:
    # Looked up instead of imported: a value of a library's type exists only where that library is loaded already.
    pydantic, numpy = sys.modules.get("pydantic"), sys.modules.get("numpy")
    if pydantic is not None and isinstance(value, pydantic.BaseModel):
        fields = {name: getattr(value, name) for name in type(value).model_fields} | (value.model_extra or {})
        return _walk(fields, where, strict=strict)
    if numpy is not None and isinstance(value, numpy.generic) and not isinstance(value, numpy.void):
        return _walk(value.item(), where, strict=strict)
    if numpy is not None and isinstance(value, numpy.ndarray) and value.dtype.kind in "biuf":
        return _array_digest(value) if strict else _walk(value.tolist(), where, strict=False)
    raise UsageError(
        f"{where} has the type {type(value).__name__}, which has no canonical form",
        "give numbers, texts, lists, mappings, paths, dataclasses or parameter models",
    )


def _array_digest(array: Any) -> dict[str, Any]:
    little = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
    return {
        "dtype": little.dtype.str,
        "shape": list(array.shape),
        "sha256": hashlib.sha256(little.tobytes()).hexdigest(),
    }


def _text_key(key: object, where: str, strict: bool) -> str:
    if isinstance(key, enum.Enum):
        key = key.value
    if isinstance(key, str):
        return key
    if not strict and isinstance(key, int | float):
        return str(key)
    raise UsageError(f"{where} has the key {key!r}; only texts name inputs", "use text keys")

"""Atomic files: the old content or the new one, and the system's refusals in words."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from emotion_circuits.errors import StoreError
from emotion_circuits.store import append_jsonl, read_json, read_jsonl, replacing, write_json
from emotion_circuits.store.files import keep_jsonl


def test_exception_while_writing_keeps_the_old_file_and_no_temporary(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_json(path, {"v": 1})
    with pytest.raises(ZeroDivisionError), replacing(path) as temporary:
        temporary.write_text("half")
        raise ZeroDivisionError
    assert read_json(path) == {"v": 1}
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EACCES, "permission denied"),
        (errno.EROFS, "read-only"),
        (errno.EIO, os.strerror(errno.EIO)),
    ],
)
def test_refusals_of_the_system_become_errors_with_a_fix(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, reason: str
) -> None:
    write_json(tmp_path / "a.json", {"v": 1})

    def refuse(*arguments: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StoreError, match=reason) as caught:
        write_json(tmp_path / "a.json", {"v": 2})
    assert caught.value.fix and "a.json" in caught.value.what
    assert read_json(tmp_path / "a.json") == {"v": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.json"]


def test_jsonl_drops_a_torn_line_and_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    append_jsonl(path, [{"i": 0, "text": "Zeile\nmit Umbruch und \u2028"}])
    with path.open("a") as file:
        file.write('{"i": 1, "te')
    assert [row["i"] for row in read_jsonl(path)] == [0]
    append_jsonl(path, [{"i": 1}, {"i": 2}])
    assert [row["i"] for row in read_jsonl(path)] == [0, 1, 2]
    assert read_jsonl(tmp_path / "absent.jsonl") == []


def test_lines_that_are_not_wanted_are_dropped_and_the_others_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "g.jsonl"
    keep_jsonl(path, lambda row: False)
    assert not path.exists()
    whole = b'{"i": 0,  "text": "\xe2\x80\xa8"}\n{"i": 1}\n{"i": 2}\n'
    path.write_bytes(whole + b'{"i": ')
    keep_jsonl(path, lambda row: row["i"] != 1)
    assert path.read_bytes() == whole.replace(b'{"i": 1}\n', b"")
    assert list(tmp_path.iterdir()) == [path]


def test_jsonl_on_a_full_disk_keeps_the_lines_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g.jsonl"
    append_jsonl(path, [{"i": 0}])
    real_write, calls = os.write, []

    def half_then_full(descriptor: int, data: Any) -> int:
        calls.append(len(data))
        if len(calls) > 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return real_write(descriptor, bytes(data)[: len(data) // 2])

    monkeypatch.setattr(os, "write", half_then_full)
    with pytest.raises(StoreError, match="the disk is full"):
        append_jsonl(path, [{"i": 1}, {"i": 2}])
    monkeypatch.undo()
    assert path.read_text() == '{"i": 0}\n'


def test_damaged_json_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{\n"v": \n')
    with pytest.raises(StoreError, match=r"a\.json is not valid JSON \(line"):
        read_json(tmp_path / "a.json")
    (tmp_path / "a.jsonl").write_text('{"v": 1}\nnot json\n')
    with pytest.raises(StoreError, match="line 2 is not valid JSON"):
        read_jsonl(tmp_path / "a.jsonl")


FILE_SIZE_LIMIT = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from emotion_circuits.errors import StoreError
from emotion_circuits.store import PartSet, TensorFileWriter, write_json

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
folder = Path(sys.argv[1])
write_json(folder / "kept.json", {"v": 1})
parts = PartSet(folder / "parts")
parts.write("kept", {"x": np.ones(10)})
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
refused = 0
try:
    parts.write("large", {"x": np.ones(100_000)})
except StoreError as error:
    refused += "larger than this system allows" in error.what
try:
    write_json(folder / "kept.json", ["x" * 1000] * 1000)
except StoreError as error:
    refused += "larger than this system allows" in error.what
try:
    TensorFileWriter(folder / "t.safetensors", {"x": ((1000, 1000), "F32")})
except StoreError as error:
    refused += "larger than this system allows" in error.what
sys.stdout.write(str(refused))
"""


@pytest.mark.skipif(os.name != "posix", reason="file size limits are a POSIX feature")
def test_real_limit_of_the_system_loses_nothing_finished(tmp_path: Path) -> None:
    child = subprocess.run(
        [sys.executable, "-c", FILE_SIZE_LIMIT, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert child.stdout == "3", child.stderr
    assert read_json(tmp_path / "kept.json") == {"v": 1}
    assert [p.name for p in (tmp_path / "parts").iterdir()] == ["kept.safetensors"]

"""Tensor files and parts: same bytes as the safetensors library reads, resumable, refusing what is damaged."""

from __future__ import annotations

import errno
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store import PartSet, TensorFileWriter, open_tensors, tensors, write_tensors
from emotion_circuits.types import Observation

ROWS = 10
SHAPES: dict[str, tuple[tuple[int, ...], str]] = {
    "resid_post@last": ((ROWS, 3, 4), "F32"), "z@all": ((ROWS, 2, 5), "F16"), "kept": ((ROWS,), "BOOL"),
}  # fmt: skip


@pytest.fixture
def values() -> dict[str, np.ndarray[Any, Any]]:
    rng = np.random.default_rng(0)
    return {
        "resid_post@last": rng.normal(size=(ROWS, 3, 4)).astype(np.float32),
        "z@all": rng.normal(size=(ROWS, 2, 5)).astype(np.float16),
        "kept": rng.random(ROWS) > 0.5,
    }


def done(writer: TensorFileWriter) -> list[int]:
    """Rows that are finished."""
    return sorted({*range(ROWS)} - {*writer.missing_rows().tolist()})


def write_some(writer: TensorFileWriter, values: dict[str, np.ndarray[Any, Any]], rows: Any) -> None:
    for name, array in values.items():
        writer.write_rows(name, rows, array[rows])
    writer.finish_rows(rows)


def test_rows_in_any_order_give_a_file_that_safetensors_reads(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]
) -> None:
    path = tmp_path / "acts.safetensors"
    with TensorFileWriter(path, SHAPES, {"model": "m"}) as writer:
        write_some(writer, values, [9, 3, 4, 5])
        write_some(writer, values, [0, 1, 2, 8, 7, 6])
    theirs, ours = safetensors.numpy.load_file(path), open_tensors(path)
    for name, array in values.items():
        np.testing.assert_array_equal(theirs[name], array)
        np.testing.assert_array_equal(ours[name], array)
        assert isinstance(ours[name], np.memmap) and not ours[name].flags.writeable
    with safetensors.safe_open(path, "numpy") as opened:
        assert opened.metadata() == {"model": "m"}
    assert list(tmp_path.iterdir()) == [path]


def test_single_rows_are_cast_to_the_declared_dtype(tmp_path: Path) -> None:
    with TensorFileWriter(tmp_path / "t", {"x": ((2, 3), np.float32), "s": ((2,), "F64")}) as writer:
        for row in (1, 0):
            writer.write_rows("x", row, np.full(3, row + 0.5))
            writer.write_rows("s", row, np.float64(row))
            writer.finish_rows(row)
    read = open_tensors(tmp_path / "t")
    assert read["x"].dtype == np.float32 and read["x"].tolist() == [[0.5] * 3, [1.5] * 3]
    assert read["s"].tolist() == [0.0, 1.0]


def test_stopped_writer_resumes_to_the_same_bytes(tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    with TensorFileWriter(tmp_path / "whole", SHAPES) as writer:
        write_some(writer, values, list(range(ROWS)))
    with pytest.raises(KeyboardInterrupt), TensorFileWriter(tmp_path / "acts", SHAPES) as writer:
        write_some(writer, values, [0, 1, 6])
        writer.write_rows("kept", 9, values["kept"][9])  # written, not finished
        raise KeyboardInterrupt
    assert not (tmp_path / "acts").exists()
    with TensorFileWriter(tmp_path / "acts", SHAPES) as writer:
        assert done(writer) == [0, 1, 6]
        write_some(writer, values, writer.missing_rows())
    assert (tmp_path / "acts").read_bytes() == (tmp_path / "whole").read_bytes()


def test_row_counts_as_finished_only_after_a_flush(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = TensorFileWriter(tmp_path / "acts", SHAPES)
    write_some(writer, values, [4])
    assert len(writer.missing_rows()) == ROWS
    monkeypatch.setattr(tensors, "FLUSH_BYTES", 0)
    write_some(writer, values, [5])
    assert done(writer) == [4, 5]
    writer.suspend()


def test_torn_last_line_of_the_progress_file_is_ignored(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]
) -> None:
    with pytest.raises(ZeroDivisionError), TensorFileWriter(tmp_path / "acts", SHAPES) as writer:
        write_some(writer, values, [0, 1])
        raise ZeroDivisionError
    with writer.progress.open("a") as file:
        file.write("2 3 4")
    with TensorFileWriter(tmp_path / "acts", SHAPES) as writer:
        assert writer.missing_rows().tolist() == list(range(2, ROWS))
        write_some(writer, values, writer.missing_rows())
    np.testing.assert_array_equal(open_tensors(tmp_path / "acts")["z@all"], values["z@all"])


def test_killed_before_the_progress_file_was_begun_starts_anew(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]
) -> None:
    (tmp_path / "acts.partial").write_bytes(b"half a hea")
    (tmp_path / "acts.rows").write_bytes(b"0123")
    with TensorFileWriter(tmp_path / "acts", SHAPES) as writer:
        assert writer.missing_rows().tolist() == list(range(ROWS))
        write_some(writer, values, list(range(ROWS)))


def test_suspended_writer_keeps_its_rows_and_may_be_suspended_twice(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]
) -> None:
    writer = TensorFileWriter(tmp_path / "acts", SHAPES)
    write_some(writer, values, [2])
    writer.suspend()
    writer.suspend()
    with pytest.raises(UsageError, match="is closed"):
        writer.write_rows("kept", 0, np.array(True))
    resumed = TensorFileWriter(tmp_path / "acts", SHAPES)
    assert done(resumed) == [2]
    resumed.suspend()


def test_another_header_is_not_resumed(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), TensorFileWriter(tmp_path / "acts", SHAPES):
        raise ZeroDivisionError
    with pytest.raises(StoreError, match="begun with other tensors"):
        TensorFileWriter(tmp_path / "acts", {**SHAPES, "kept": ((ROWS,), "F32")})
    os.truncate(tmp_path / "acts.partial", 50)
    with pytest.raises(StoreError, match="damaged"):
        TensorFileWriter(tmp_path / "acts", SHAPES)


def test_unfinished_rows_are_not_closed_silently(tmp_path: Path, values: dict[str, np.ndarray[Any, Any]]) -> None:
    with (
        pytest.raises(UsageError, match="8 of 10 rows were not written"),
        TensorFileWriter(tmp_path / "acts", SHAPES) as writer,
    ):
        write_some(writer, values, [0, 1])
    assert not (tmp_path / "acts").exists()


@pytest.mark.parametrize(
    ("name", "rows", "shape", "message"),
    [
        ("nope", [0], (1,), "no tensor 'nope'"),
        ("z@all", [0, 1], (1, 2, 5), "2 rows of shape"),
        ("z@all", [0], (1, 5, 2), "1 rows of shape"),
        ("z@all", [ROWS], (1, 2, 5), "must lie in 0…9"),
        ("z@all", [-1], (1, 2, 5), "must lie in 0…9"),
    ],
)
def test_wrong_rows_are_refused(
    tmp_path: Path, name: str, rows: list[int], shape: tuple[int, ...], message: str
) -> None:
    writer = TensorFileWriter(tmp_path / "acts", SHAPES)
    with pytest.raises(UsageError, match=message):
        writer.write_rows(name, rows, np.zeros(shape))
    writer.suspend()


def test_full_disk_while_writing_rows_can_be_resumed(
    tmp_path: Path, values: dict[str, np.ndarray[Any, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(StoreError, match="the disk is full"), TensorFileWriter(tmp_path / "acts", SHAPES) as writer:
        write_some(writer, values, [0, 1])
        monkeypatch.setattr(tensors, "_pwrite", refuse)
        write_some(writer, values, [2, 3])
    monkeypatch.undo()
    with TensorFileWriter(tmp_path / "acts", SHAPES) as writer:
        assert writer.missing_rows().tolist() == list(range(2, ROWS))
        write_some(writer, values, writer.missing_rows())
    np.testing.assert_array_equal(open_tensors(tmp_path / "acts")["z@all"], values["z@all"])


def test_too_large_for_the_disk_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="MB free"):
        TensorFileWriter(tmp_path / "acts", {"x": ((10**9, 10**6), "F32")})
    assert list(tmp_path.iterdir()) == []


def test_tensors_of_unequal_length_or_unknown_dtype_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="same number of rows"):
        TensorFileWriter(tmp_path / "a", {"x": ((2, 1), "F32"), "y": ((3, 1), "F32")})
    with pytest.raises(UsageError, match="complex128 cannot be written"):
        write_tensors(tmp_path / "a", {"x": np.zeros(2, complex)})


arrays = st.dictionaries(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=6).filter(lambda name: name != "__metadata__"),
    st.sampled_from(["f8", "f4", "f2", "i8", "i4", "u1", "?"]).flatmap(
        lambda dtype: npst.arrays(dtype, npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    ),
    max_size=4,
)


@settings(max_examples=50, deadline=None)
@given(arrays)
def test_written_tensors_read_back_here_and_in_the_library(
    tmp_path_factory: pytest.TempPathFactory, content: dict[str, np.ndarray[Any, Any]]
) -> None:
    path = tmp_path_factory.mktemp("t") / "x.safetensors"
    write_tensors(path, content)
    theirs, ours = safetensors.numpy.load_file(path), open_tensors(path)
    assert set(ours) == set(theirs) == set(content)
    for name, array in content.items():
        np.testing.assert_array_equal(ours[name], array)
        np.testing.assert_array_equal(theirs[name], array)
        assert ours[name].dtype == array.dtype and ours[name].shape == array.shape


@pytest.mark.parametrize("keep", [0, 5, 40, -1])
def test_truncated_file_is_named(tmp_path: Path, keep: int) -> None:
    path = tmp_path / "x.safetensors"
    write_tensors(path, {"x": np.ones(100)})
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(StoreError, match=r"x\.safetensors is (truncated|not a safetensors file)"):
        open_tensors(path)


def test_bfloat16_and_foreign_bytes_are_refused(tmp_path: Path) -> None:
    header = json.dumps({"w": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "b").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(StoreError, match="dtype BF16, which NumPy cannot read"):
        open_tensors(tmp_path / "b")
    header = json.dumps({"w": {"dtype": "F32", "shape": [9], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "c").write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
    with pytest.raises(StoreError, match="does not fit its bytes"):
        open_tensors(tmp_path / "c")
    (tmp_path / "d").write_bytes(b"PK\x03\x04 something else entirely, long enough to be read")
    with pytest.raises(StoreError, match="not a safetensors file"):
        open_tensors(tmp_path / "d")
    with pytest.raises(StoreError, match="there is no such file"):
        open_tensors(tmp_path / "absent")


ROW = Observation("e", "m", "joy", 1, None, None, "baseline", "u", "c", None, 0, "s", 1.0)


def test_parts_are_written_once_and_gathered(tmp_path: Path) -> None:
    parts = PartSet(tmp_path / "parts")
    assert parts.names() == [] and not parts.has("layer=1")
    parts.write("layer=2", [replace(ROW, layer=2)])
    parts.write("layer=1", [ROW, ROW])
    parts.write("vectors", {"v": np.arange(3.0)})
    assert parts.names() == ["layer=1", "layer=2", "vectors"] and parts.has("vectors")
    assert [row["layer"] for row in parts.observations()] == [1, 1, 2]
    assert parts.arrays("vectors")["v"].tolist() == [0.0, 1.0, 2.0]
    parts.write("vectors", [ROW])
    assert parts.table("vectors").num_rows == 1
    with pytest.raises(StoreError, match=r"no part vectors\.safetensors"):
        parts.arrays("vectors")
    parts.clear()
    assert parts.names() == []


@pytest.mark.parametrize("name", ["../up", "", ".hidden", "a/b"])
def test_part_names_are_plain(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="cannot name a part"):
        PartSet(tmp_path).write(name, [ROW])


def test_interrupted_part_is_not_there(tmp_path: Path) -> None:
    parts = PartSet(tmp_path / "parts")

    def rows() -> Any:
        yield ROW
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        parts.write("cell", rows())
    assert not parts.has("cell") and list(parts.folder.iterdir()) == []

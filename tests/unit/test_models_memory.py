"""How much memory is free inside a container."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_circuits.models import memory

GB = 10**9


def group(root: Path, version: int, limit: object, used: int, files: int) -> Path:
    """A control group's files as the kernel shows them."""
    folder, names, entry = root, ("memory.max", "memory.current"), "inactive_file"
    if version == 1:
        folder, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        entry = "total_inactive_file"
    folder.mkdir(exist_ok=True)
    for name, value in zip(names, (limit, used), strict=True):
        (folder / name).write_text(f"{value}\n")
    (folder / "memory.stat").write_text(f"anon {used - files}\n{entry} {files}\nactive_file 7\n")
    return root


@pytest.mark.parametrize("version", [1, 2])
def test_files_that_were_read_do_not_count_as_used(tmp_path: Path, version: int) -> None:
    """Reading or writing a model fills a container's memory with pages that the system gives up at once."""
    assert memory._container(group(tmp_path, version, 4 * GB, 3_900_000_000, 3 * GB)) == 3_100_000_000
    assert memory._container(group(tmp_path, version, 4 * GB, 3_900_000_000, 0)) == 100_000_000
    assert memory._container(group(tmp_path, version, GB, 2 * GB, 0)) == 0


def test_no_limit_is_no_limit(tmp_path: Path) -> None:
    assert memory._container(tmp_path) > 10**18
    assert memory._container(group(tmp_path, 2, "max", GB, 0)) > 10**18


def test_a_group_that_keeps_no_statistics_has_no_pages_to_give_up(tmp_path: Path) -> None:
    (group(tmp_path, 2, 4 * GB, 3 * GB, GB) / "memory.stat").unlink()
    assert memory._container(tmp_path) == GB

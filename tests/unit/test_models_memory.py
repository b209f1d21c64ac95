"""How much memory is free inside a container."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from emotion_circuits.models import memory

GB = 10**9


def group(root: Path, version: int, limit: object, used: int, files: int) -> Path:
    """A control group's files as the kernel shows them."""
    folder, names, entry = root, ("memory.max", "memory.current"), "inactive_file"
    if version == 1:
        folder, names = root / "memory", ("memory.limit_in_bytes", "memory.usage_in_bytes")
        entry = "total_inactive_file"
    folder.mkdir(parents=True, exist_ok=True)
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


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("at", ["slice", "slice/job_7", "slice/job_7/step_0"])
def test_the_tightest_group_between_the_root_and_the_process_counts(tmp_path: Path, version: int, at: str) -> None:
    """A Slurm job's or a systemd slice's limit is not the root's."""
    root, own = tmp_path / "groups", tmp_path / "own"
    names = "5:cpu,cpuacct:/elsewhere\n9:{}:/slice/job_7/step_0\n" if version == 1 else "0::/slice/job_7/step_0\n"
    own.write_text(names.format("memory"))
    top = root / "memory" if version == 1 else root
    for folder, limit in (("", 64 * GB), ("slice", 32 * GB), ("slice/job_7", "max"), ("slice/job_7/step_0", "max")):
        files = group(tmp_path / "made", version, 8 * GB if folder == at else limit, 5 * GB, GB)
        (top / folder).parent.mkdir(parents=True, exist_ok=True)
        (files / "memory" if version == 1 else files).rename(top / folder)
    group(root / "slice/job_8", 2, GB, GB, 0)
    assert memory._container(root, own) == 4 * GB


def test_a_group_that_is_not_seen_leaves_the_root(tmp_path: Path) -> None:
    """In a container the path may be the one outside, or lead out of what is mounted."""
    own = tmp_path / "own"
    for path in ("/docker/4f1d", "/../../job_7", "/", ""):
        own.write_text(f"1:name=systemd:/x\n0::{path}\nnonsense\n")
        assert memory._container(group(tmp_path, 2, 4 * GB, 3 * GB, 0), own) == GB
    assert memory._container(tmp_path, tmp_path / "absent") == GB


@pytest.mark.parametrize(("told", "most"), [("1024", 1 << 30), ("0", None), ("all", None), ("1", 0)])
def test_memory_of_a_slurm_job(monkeypatch: pytest.MonkeyPatch, told: str, most: int | None) -> None:
    monkeypatch.setattr(memory, "_available", lambda: 500 * GB)
    monkeypatch.setattr(memory, "_container", lambda: 400 * GB)
    monkeypatch.setattr(memory, "_resident", lambda: 24 << 20)
    monkeypatch.setenv("SLURM_MEM_PER_NODE", told)
    found = memory.free_bytes(torch.device("cpu"))
    assert found == (400 * GB if most is None else max(0, most - (24 << 20)))

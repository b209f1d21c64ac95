"""The script that runs a command in a Slurm of one node, with stand-ins for Slurm's programs."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "scripts" / "slurm_one_node.sh"

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc/meminfo")


def run(tmp_path: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    programs = tmp_path / "bin"
    programs.mkdir(exist_ok=True)
    texts = dict.fromkeys(("munged", "slurmctld", "slurmd"), "exec sleep 60") | {"sinfo": "echo idle", "scancel": ":"}
    for name, text in texts.items():
        (programs / name).write_text(f"#!/bin/sh\n{text}\n")
        (programs / name).chmod(0o755)
    path = f"{programs}{os.pathsep}{os.environ['PATH']}"
    (tmp_path / "tmp").mkdir(exist_ok=True)
    return subprocess.run(
        ["sh", SCRIPT, *words], env={**os.environ, "PATH": path, "TMPDIR": str(tmp_path / "tmp"), **environment},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_nothing_is_left_of_a_folder_that_it_made(tmp_path: Path) -> None:
    """Its key among it."""
    done = run(tmp_path, "sh", "-c", "dirname $SLURM_CONF; exit 7")
    assert done.returncode == 7 and done.stdout.startswith(str(tmp_path / "tmp")), done.stderr
    assert not list((tmp_path / "tmp").iterdir())


def test_a_folder_that_was_named_is_kept(tmp_path: Path) -> None:
    assert run(tmp_path, "true", SLURM_ONE_NODE=str(tmp_path / "mine")).returncode == 0
    assert (tmp_path / "mine" / "munge" / "key").stat().st_size == 1024

"""What a run was computed with: package versions, source revision, machine. Recorded in ``spec.json``, never hashed."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

_PACKAGES = (
    "emotion-circuits", "torch", "transformers", "tokenizers", "safetensors", "gguf", "numpy", "scipy",
    "scikit-learn", "pyarrow", "pandas", "pydantic",
)  # fmt: skip


def now() -> str:
    """The time in UTC, to the second: ``2026-01-31T12:00:00+00:00``."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that can change numbers (absent ones are left out)."""
    versions = {"python": platform.python_version()}
    for name in _PACKAGES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def git_revision() -> str | None:
    """Commit of the checkout this package runs from, with ``+changes`` when it was edited; ``None`` when installed.

    A package that lies in somebody else's repository (an environment inside a project) has no revision of its own,
    so the file itself must be tracked.
    """
    git, here = shutil.which("git"), Path(__file__).resolve()
    if git is None:
        return None

    def ask(*words: str) -> str | None:
        command = [git, "-C", str(here.parent), *words]
        try:
            answer = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
        except (OSError, subprocess.TimeoutExpired):
            return None
        return answer.stdout.strip() if answer.returncode == 0 else None

    if ask("ls-files", "--error-unmatch", here.name) is None:
        return None
    revision = ask("rev-parse", "HEAD")
    edited = ask("status", "--porcelain", "--untracked-files=no", "--", str(here.parents[1]))
    return f"{revision}+changes" if revision and edited else revision


def machine() -> dict[str, Any]:
    """Host, system, processors and memory (bytes) of this machine."""
    memory = None
    if hasattr(os, "sysconf") and {"SC_PAGE_SIZE", "SC_PHYS_PAGES"} <= set(os.sysconf_names):
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "host": socket.gethostname(),
        "system": platform.platform(),
        "processor": platform.machine(),
        "cpus": os.cpu_count(),
        "memory": memory,
        "command": sys.argv,
    }

"""The hub library's settings, read from the environment when they are used.

The library itself reads them when it is imported, which is too early for a program (or a test) that sets them later.
"""

from __future__ import annotations

import os
from pathlib import Path


def offline_by_environment() -> bool:
    """Whether ``HF_HUB_OFFLINE`` asks for no network, read now and not when the hub library was imported."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def hub_cache() -> Path:
    """The hub library's cache folder, read from the environment now."""
    if folder := os.environ.get("HF_HUB_CACHE"):
        return Path(folder).expanduser()
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "hub"


def hub_endpoint() -> str:
    """Address of the hub, read from ``HF_ENDPOINT`` now."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")

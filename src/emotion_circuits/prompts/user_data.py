"""The user's own data: prompt sets and lists of emotion words, in one folder."""

from __future__ import annotations

import os
from pathlib import Path

from emotion_circuits.errors import StoreError

DATA_FOLDER_VARIABLE = "EMOTION_CIRCUITS_DATA"
"""Environment variable that moves the user's own data to another folder."""


def user_sets_folder() -> Path:
    """Where ``prompts build`` keeps the user's sets, a JSONL file each."""
    return _user_folder() / "prompts"


def user_words_folder() -> Path:
    """Where ``prompts build --words`` keeps the user's lists of words, a TOML file for each emotion."""
    return _user_folder() / "words"


def save_text(path: Path, text: str) -> None:
    """Write through a temporary file, so that an interrupted command leaves the earlier file as it was.

    Raises:
        StoreError: the folder cannot be written to.
    """
    partial = path.with_suffix(".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        raise StoreError(
            f"cannot save {path}: {error.strerror or error}",
            f"set {DATA_FOLDER_VARIABLE} to a folder that can be written to",
        ) from error


def _user_folder() -> Path:
    """``EMOTION_CIRCUITS_DATA``, else the platform's data folder."""
    if folder := os.environ.get(DATA_FOLDER_VARIABLE):
        return Path(folder)
    import platformdirs

    return platformdirs.user_data_path("emotion-circuits")

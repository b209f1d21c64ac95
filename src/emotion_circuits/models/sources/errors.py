"""Failures of a source that the code around it treats differently; users meet them as any other :class:`ModelError`."""

from __future__ import annotations

from pathlib import Path

from emotion_circuits.errors import ModelError


class UnreachableError(ModelError):
    """The place that has the weights cannot be reached now; another source may have them."""


class DamagedFileError(ModelError):
    """A file is cut short or is not what its name says; ``path`` is the file, so that a download can be thrown away."""

    def __init__(self, path: Path, problem: str) -> None:
        super().__init__(f"{path} {problem}", "copy or download the file again")
        self.path = path

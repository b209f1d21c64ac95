"""The log file of one run: what the package logs while the run works, appended to ``run.log``."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from emotion_circuits.store.files import make_folder, translating

_PACKAGE = logging.getLogger("emotion_circuits")


@contextmanager
def logging_to(path: Path, level: int = logging.INFO) -> Iterator[None]:
    """Append everything that ``emotion_circuits`` logs to ``path`` (UTF-8, UTC times) until the block ends."""
    make_folder(path.parent)
    with translating(path, "write"):
        handler = _FileHandler(path, encoding="utf-8", errors="backslashreplace")
    formatter = logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%SZ")
    formatter.converter = time.gmtime
    handler.setFormatter(formatter)
    handler.setLevel(level)
    before = _PACKAGE.level
    if not _PACKAGE.isEnabledFor(level):
        _PACKAGE.setLevel(level)
    _PACKAGE.addHandler(handler)
    try:
        yield
    finally:
        _PACKAGE.removeHandler(handler)
        _PACKAGE.setLevel(before)
        with suppress(OSError):  # the last lines of a log do not fit on a full disk: the results matter more
            handler.close()


class _FileHandler(logging.FileHandler):
    """A log that cannot be written (full disk) must not end the run that it describes."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (name given by logging)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

"""The log file of one run: what is logged and warned of while the run works, appended to ``run.log``."""

from __future__ import annotations

import logging
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

from emotion_circuits.store.files import make_folder, translating

_PACKAGE = logging.getLogger("emotion_circuits")
_TRANSFORMERS = logging.getLogger("transformers")
_WARNINGS = logging.getLogger("py.warnings")


@contextmanager
def logging_to(path: Path, level: int = logging.INFO) -> Iterator[None]:
    """Append what the package and ``transformers`` log, and Python's warnings, to ``path`` until the block ends.

    UTF-8, UTC times. Everything is still shown where it was before.
    """
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
    loggers = (_PACKAGE, _TRANSFORMERS, _WARNINGS)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with _warnings_logged():
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        _PACKAGE.setLevel(before)
        with suppress(OSError):  # the last lines of a log do not fit on a full disk: the results matter more
            handler.close()


@contextmanager
def _warnings_logged() -> Iterator[None]:
    """Warnings go to the logger ``py.warnings`` and are shown; ``logging.captureWarnings`` takes them off stderr."""
    shown = warnings.showwarning

    def log_and_show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        _WARNINGS.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)
        shown(message, category, filename, lineno, file, line)

    warnings.showwarning = log_and_show
    try:
        yield
    finally:
        warnings.showwarning = shown


class _FileHandler(logging.FileHandler):
    """A log that cannot be written (full disk) must not end the run that it describes."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (name given by logging)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

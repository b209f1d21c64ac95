"""The log file of one run: what is logged and warned of while the run works, appended to ``run.log``."""

from __future__ import annotations

import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
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
    loggers = (_PACKAGE, _TRANSFORMERS, _WARNINGS)
    for logger in loggers:
        logger.addHandler(handler)
    try:
        with _HEARD.at(level):
            yield
    finally:
        for logger in loggers:
            logger.removeHandler(handler)
        with suppress(OSError):  # the last lines of a log do not fit on a full disk: the results matter more
            handler.close()


class _Heard:
    """What all open logs share: the package's level, and one hook that sends Python's warnings to ``py.warnings``.

    Logs are nested, and opened and closed in any order by threads. The first one sets both and the last one restores
    them: were each to undo its own change, warnings would be logged once per log and the last hook would stay.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open = 0
        self._undo = ExitStack()

    @contextmanager
    def at(self, level: int) -> Iterator[None]:
        """Messages of ``level`` and warnings are heard until the block ends."""
        with self._lock:
            if not self._open:
                self._undo.callback(_PACKAGE.setLevel, _PACKAGE.level)
                self._undo.callback(_log_warnings())
            self._open += 1
            if not _PACKAGE.isEnabledFor(level):
                _PACKAGE.setLevel(level)
        try:
            yield
        finally:
            with self._lock:
                self._open -= 1
                if not self._open:
                    self._undo.close()


def _log_warnings() -> Callable[[], None]:
    """Send warnings to the logger and show them; ``logging.captureWarnings`` takes them off stderr.

    Returns what undoes it. A hook that was put over this one in the meantime is left in place, and this one falls
    silent below it.
    """
    shown, heard = warnings.showwarning, threading.Event()
    heard.set()

    def log_and_show(
        message: Warning | str,
        category: type[Warning],
        filename: str,
        lineno: int,
        file: TextIO | None = None,
        line: str | None = None,
    ) -> None:
        if heard.is_set():
            _WARNINGS.warning("%s: %s (%s:%d)", category.__name__, message, filename, lineno)
        shown(message, category, filename, lineno, file, line)

    def undo() -> None:
        heard.clear()
        if warnings.showwarning is log_and_show:
            warnings.showwarning = shown

    warnings.showwarning = log_and_show
    return undo


_HEARD = _Heard()


class _FileHandler(logging.FileHandler):
    """A log that cannot be written (full disk) must not end the run that it describes."""

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802 (name given by logging)
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)

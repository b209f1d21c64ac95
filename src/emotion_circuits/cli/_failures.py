"""How failures are told: one paragraph on stderr with what, where and what to type; never a traceback."""

from __future__ import annotations

import os
import re
import sys
import tempfile
import traceback
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from cyclopts import CycloptsError
from cyclopts.exceptions import (
    CoercionError,
    MissingArgumentError,
    RepeatArgumentError,
    UnknownCommandError,
    UnknownOptionError,
    UnusedCliTokensError,
    ValidationError,
)

from emotion_circuits.errors import EmotionCircuitsError, UsageError, near

PROGRAM = "emotion-circuits"


def show(error: EmotionCircuitsError) -> int:
    """Print the error on stderr and return its exit code."""
    return show_line(f"error: {error}", error.exit_code)


def show_line(text: str, code: int) -> int:
    """Print ``text`` on stderr and return ``code``."""
    sys.stderr.write(text + "\n")
    return code


def reword(error: CycloptsError, verbs: list[str]) -> UsageError:
    """A wrong command line in our own words: what is wrong, in which option, what to type."""
    command = " ".join([PROGRAM, *(error.command_chain or ())])
    see_help = f"`{command} --help` shows what it takes"
    if isinstance(error, UnknownCommandError):
        return _unknown_command(error, verbs)
    if isinstance(error, UnknownOptionError):
        name = error.token.keyword or error.token.value
        # The list may hold several names of one option, and positional ones.
        options = [n for argument in error.argument_collection for n in argument.names if n.startswith("--")]
        return UsageError(f"`{command}` has no option {name}", near(name, options) + see_help)
    if isinstance(error, MissingArgumentError) and error.argument is not None:
        return _missing(error, command, see_help)
    if isinstance(error, RepeatArgumentError):
        return UsageError(f"{error.token.keyword} is given more than once", "give it once")
    if isinstance(error, UnusedCliTokensError):
        rest = " ".join(error.unused_tokens or ())
        return UsageError(f"`{command}` does not know what to do with {rest!r}", see_help)
    if isinstance(error, ValidationError | CoercionError) and is_pydantic(error.__cause__):
        return invalid_parameters(error.__cause__, see_help)
    error.verbose = False
    return UsageError(_one_line(str(error)), see_help)


def invalid_parameters(cause: Any, fix: str) -> UsageError:
    """What a typed model refused, field by field, as the options that the user typed."""
    return UsageError("; ".join(_pydantic_problems(cause)), fix)


def is_pydantic(error: BaseException | None) -> bool:
    """Whether the error is a typed model's; asks without importing pydantic."""
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and isinstance(error, pydantic.ValidationError)


def refused_by_system(error: OSError) -> EmotionCircuitsError:
    """A full disk or a missing permission that was met outside the store."""
    where = f" ({error.filename})" if error.filename else ""
    return EmotionCircuitsError(
        f"the system refused to go on: {error.strerror}{where}",
        "free some space or change the permissions, then run the same command again: what was finished is kept",
    )


def report_defect(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """``sys.excepthook``: one paragraph for a defect of this program; the traceback goes to a file that it names."""
    if issubclass(kind, KeyboardInterrupt):
        show_line("stopped; the same command resumes", 130)
        return
    text = "".join(traceback.format_exception(kind, error, trace))
    summary = _one_line(f"{kind.__name__}: {error}")
    try:
        place = f"the traceback is in {_write_defect(text)}"
    except OSError:
        place = f"the traceback follows, because no file could be written:\n{text}"
    show_line(
        f"error: unexpected failure in {PROGRAM}: {summary}\n"
        f"  → this is a defect of the program, not of your input: please report it; {place}",
        1,
    )


def _write_defect(text: str) -> Path:
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S")
    descriptor, name = tempfile.mkstemp(prefix=f"{PROGRAM}-{stamp}-", suffix=".log", text=True)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="backslashreplace") as file:
        file.write(f"command: {' '.join(sys.argv)}\npython: {sys.version}\n\n{text}")
    return Path(name)


def _unknown_command(error: UnknownCommandError, verbs: list[str]) -> UsageError:
    token = (error.unused_tokens or [""])[0]
    # Asking the error for its own text would import every verb; the names are known without.
    chain = list(error.command_chain or ())
    known = verbs if error.app is None or not chain else [n for n in error.app._commands if not n.startswith("-")]
    command = " ".join([PROGRAM, *chain])
    return UsageError(
        f"`{command}` has no command {token!r}; it has {', '.join(known)}", f"{near(token, known)}`{command} --help`"
    )


def _missing(error: MissingArgumentError, command: str, see_help: str) -> UsageError:
    argument = error.argument
    assert argument is not None
    option = error.keyword or next((token.keyword for token in argument.tokens if token.keyword), None)
    if option is not None:
        return UsageError(f"{option} needs a value", see_help)
    names = argument.names
    positional = next((name for name in names if not name.startswith("-")), None)
    name = positional or (argument.name.lstrip("-").upper() if argument.index is not None else argument.name)
    return UsageError(f"`{command}` needs {name}", f"`{command} {name} …`; {see_help}")


def _pydantic_problems(cause: Any) -> Iterator[str]:
    for problem in cause.errors(include_url=False, include_context=False):
        place = [str(part) for part in problem["loc"] if isinstance(part, str)]
        option = "--" + ".".join(place).replace("_", "-") if place else "the options"
        message = re.sub(r"^(Value error|Assertion failed), ", "", problem["msg"])
        message = re.sub(r"^Input should be ", "must be ", re.sub(r", unable to parse.*", "", message))
        given = problem.get("input")
        shown = f", not {str(given)!r}" if isinstance(given, str | int | float) and problem["type"] != "missing" else ""
        yield _one_line(f"{option}: {message}{shown}")


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()

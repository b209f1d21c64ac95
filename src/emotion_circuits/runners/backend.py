"""What a backend is, and what the three of them share."""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from emotion_circuits.errors import EmotionCircuitsError, UsageError, unknown_name
from emotion_circuits.experiments._crew import Crew, clear_finished
from emotion_circuits.runners.manifest import Manifest
from emotion_circuits.runners.state import (
    collect,
    drivers_of,
    forget_failure,
    has_failed,
    is_done,
    read_notices,
    write_failed,
)
from emotion_circuits.store.files import translating

if TYPE_CHECKING:
    from emotion_circuits.experiments import Study

Name = Literal["local", "slurm", "ray"]
NAMES: tuple[Name, ...] = get_args(Name)
Tell = Callable[[str], None]
"""Gets one line whenever something happens that a user wants to know."""

ATTEMPTS = 3
"""How often a shard whose process was ended from outside is begun again."""

LAST_BYTES = 8192
_STAMP = re.compile(r"^[\d-]+ [\d:,]+ [A-Z]+ ")

_INTEGERS = {"workers", "threads", "timeout_min", "cpus_per_task", "gpus_per_node", "array_parallelism", "array_size",
             "timeouts"}  # fmt: skip
_NUMBERS = {"mem_gb", "cpus", "gpus", "store_gb"}
_MAY_BE_NONE = {"gpus", "gpus_per_node"}
KNOWN: Mapping[Name, tuple[str, ...]] = {
    "local": ("workers", "threads"),
    "slurm": ("partition", "account", "qos", "constraint", "timeout_min", "mem_gb", "cpus_per_task", "gpus_per_node",
              "array_parallelism", "array_size", "timeouts", "setup", "cluster"),
    "ray": ("address", "cpus", "gpus", "mem_gb", "store_gb"),
}  # fmt: skip
"""Options of each backend, as ``--runner-options name=value``."""


@dataclass(frozen=True)
class Backend:
    """One way to run shards, with its own options."""

    name: Name
    options: Mapping[str, Any]


def backend(name: str, words: tuple[str, ...] = ()) -> Backend:
    """The backend ``name`` with options written as ``name=value``; raises :class:`UsageError` for unknown ones."""
    if name not in NAMES:
        raise unknown_name("runner", name, list(NAMES))
    options: dict[str, Any] = {}
    for word in words:
        key, equals, value = word.partition("=")
        if key not in KNOWN[name]:
            raise unknown_name(f"option of the runner {name}", key, list(KNOWN[name]))
        if not equals or not value:
            raise UsageError(f"the runner option {word!r} has no value", f"write {key}=VALUE")
        options[key] = _value(key, value)
    return Backend(name, options)


def _value(key: str, text: str) -> Any:
    try:
        value: Any = int(text) if key in _INTEGERS else float(text) if key in _NUMBERS else text
    except ValueError:
        raise UsageError(f"the runner option {key} is a number, not {text!r}", f"write {key}=4") from None
    if key in _INTEGERS | _NUMBERS and not (0 < value < float("inf") or (value == 0 and key in _MAY_BE_NONE)):
        raise UsageError(f"the runner option {key} is {text}, which is no amount", f"write {key}=1 or more")
    return value


def run_shards(manifest: Manifest, chosen: Backend, tell: Tell) -> None:
    """Run every shard of a manifest that is written; returns when all have ended, however they ended.

    Raises:
        UsageError: the backend's package is not installed. EmotionCircuitsError: the cluster refuses or is not there.
    """
    if chosen.name == "local":
        from emotion_circuits.runners.local import run_local

        run_local(manifest, tell, **chosen.options)
    elif chosen.name == "slurm":
        from emotion_circuits.runners.slurm import run_slurm

        run_slurm(manifest, tell, **chosen.options)
    else:
        from emotion_circuits.runners.ray import run_ray

        run_ray(manifest, tell, **chosen.options)


def run_manifest(manifest: Manifest, chosen: Backend, tell: Tell) -> Study:
    """Write the manifest, run its shards, and gather what is there: the study, with failures in it.

    Calling it again, with any backend, takes up what is left. Raises as :func:`run_shards`, and :class:`StoreError`
    when the results folder has gone meanwhile.
    """
    manifest.write()
    with translating(manifest.path, "write"):
        os.utime(manifest.path)  # of the plans of a profile the one that was asked for last is the newest
    for cell in manifest.cells:
        forget_failure(manifest, cell)
    with drivers_of(manifest).take(f"command-{secrets.token_hex(4)}") or nullcontext():
        run_shards(manifest, chosen, tell)
    Crew(marker=manifest.path).require_folder()  # otherwise that is why nothing is finished
    clear_finished(manifest.folder.parents[1])
    for notice in read_notices(manifest):
        tell(notice)
    study = collect(manifest)
    for run in study.runs:
        run.name_latest()  # reused work is the latest answer too
    return study


def unfinished(manifest: Manifest) -> list[int]:
    """Shards that still have something to do."""
    return [n for n in range(len(manifest.shards)) if not all(is_done(manifest, c) for c in manifest.cells_of(n))]


def give_up(manifest: Manifest, number: int, reason: str, fix: str, code: int = 1) -> bool:
    """Note that a shard's first unfinished cell failed, where its process could not do so itself; True when it did not.

    ``code`` is what its process ended with. What was noted before stays. Raises :class:`StoreError` when nothing can be
    written: that is then why nothing goes on.
    """
    Crew(marker=manifest.path).require_folder()  # a note would make it anew
    cell = next((cell for cell in manifest.cells_of(number) if not is_done(manifest, cell)), None)
    if cell is None or has_failed(manifest, cell):
        return False
    error = EmotionCircuitsError(f"{cell.shown}: {reason}", fix)
    error.exit_code = code if code in (1, 2) else 1
    write_failed(manifest, cell, error)
    return True


def tell_end(manifest: Manifest, number: int, code: int, log: Path, tell: Tell) -> None:
    """Tell that a shard's process has ended; where it left no reason for its code, what its log says last is noted."""
    what, fix = last_words(log) if code else ("", "")
    tell_code(manifest, number, code, what, fix, f"its log is {log}", tell)


def tell_code(manifest: Manifest, number: int, code: int, what: str, fix: str, where: str, tell: Tell) -> None:
    """Tell with which code a shard's process has ended; ``what`` it said, ``fix`` and ``where`` its log is are noted
    where it left no reason itself."""
    shown = f"shard {number} ({' → '.join(manifest.shards[number].models)})"
    if code == 0:
        tell(f"{shown}: done")
        return
    said = f": {what}" if what else ""
    noted = give_up(
        manifest, number, f"its process ended with code {code}{said}; {where}",
        fix or "look at the log, then run the same command again: it resumes", code,
    )  # fmt: skip
    tell(f"{shown}: ended with code {code}{said if noted else ''}")


def last_words(log: Path) -> tuple[str, str]:
    """The last line of a log, and the line behind it that says what to do, where there is one."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - LAST_BYTES))
            lines = file.read().decode("utf-8", errors="replace").split("\n")
    except OSError:
        return "", ""
    lines = [line.strip() for line in lines if line.strip()]
    fix = lines.pop().removeprefix("→").strip() if lines and lines[-1].startswith("→") else ""
    return (_STAMP.sub("", lines[-1])[:300] if lines else ""), fix


def not_installed(package: str, extra: str) -> UsageError:
    """The error of a backend whose package is missing."""
    return UsageError(f"the runner needs the package {package}, which is not installed", f"pip install -e '.[{extra}]'")

"""Run folders: ``results/{profile}/{model}/{experiment}/{key}/``, from the first byte to ``done.json``.

A run is finished when ``done.json`` exists, which is written last; before that, the same command takes up the folder
again. ``latest`` beside the run folders names the one that was asked for last.
"""

from __future__ import annotations

import logging
import re
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError
from emotion_circuits.store import files, locks, provenance
from emotion_circuits.store.keys import KEY_LENGTH, canonical, content_key, plain
from emotion_circuits.store.logs import logging_to
from emotion_circuits.store.observations import read_observations, write_observations
from emotion_circuits.store.parts import PartSet
from emotion_circuits.types import Observation

if TYPE_CHECKING:
    import pyarrow as pa

logger = logging.getLogger(__name__)

SCHEMA_VERSION = 1
"""Version of the folder layout; it is written into every folder and never hashed."""

SPEC, SUMMARY, DONE, FAILED, LOG, LATEST = (
    "spec.json", "summary.json", "done.json", "failed.json", "run.log", "latest",
)  # fmt: skip
OBSERVATIONS = "observations.parquet"
PAIR, ARROW = "--", " → "
"""Between the two models of a pair: in the name of their folder, and where they are told."""
Status = Literal["done", "failed", "partial", "running"]

_KEY = re.compile(rf"[0-9a-f]{{{KEY_LENGTH}}}")


def slug(name: str) -> str:
    """A model's name as a folder name: letters, digits, ``.``, ``_`` and ``-``; a folder gives its last part.

    ``--`` is kept for pairs, so runs of other characters become a single ``-``.
    """
    last = Path(name).expanduser().resolve().name if name.startswith(("/", ".", "~")) else name
    cleaned = re.sub(r"-{2,}", "-", re.sub(r"[^A-Za-z0-9._-]+", "-", last)).strip("-.")
    if not cleaned:
        raise UsageError(f"{name!r} cannot name a results folder", "use a name with letters or digits")
    return cleaned


def model_folder(model: str | tuple[str, ...]) -> str:
    """``model`` as folder name; a pair becomes ``A--B``."""
    return slug(model) if isinstance(model, str) else PAIR.join(slug(part) for part in model)


@dataclass(frozen=True)
class Run:
    """One run folder. ``inputs`` is what its key was made from, ``recorded`` what is only written down.

    ``marker`` is a file that lies in the shared folder as long as it is there: without it nothing is written, because a
    folder that was unmounted would be made anew, on one machine's own disk.

    Usual use::

        run = store.run(profile, model, "directions", inputs, recorded)
        with run.open():                 # lock, spec.json, run.log; an exception leaves failed.json
            if not run.done:             # another process may have finished while this one waited
                run.write_observations(rows)
                run.finish(summary)
        return run.read_summary()
    """

    folder: Path
    inputs: Mapping[str, Any] = field(repr=False)
    recorded: Mapping[str, Any] = field(default_factory=dict, repr=False)
    marker: Path | None = field(default=None, repr=False, compare=False)

    @property
    def key(self) -> str:
        return self.folder.name

    @property
    def experiment(self) -> str:
        return self.folder.parent.name

    @property
    def model(self) -> str:
        """Folder name of the model (or of the pair, ``A--B``)."""
        return self.folder.parent.parent.name

    @property
    def profile(self) -> str:
        return self.folder.parent.parent.parent.name

    @property
    def done(self) -> bool:
        """Whether the run is finished; raises :class:`StoreError` when another schema wrote it."""
        if not (self.folder / DONE).exists():
            return False
        check_schema(self.folder / DONE)
        return True

    @property
    def status(self) -> Status:
        if self.done:
            return "done"
        if locks.holder(self._lock_file) is not None:
            return "running"
        return "failed" if (self.folder / FAILED).exists() else "partial"

    @property
    def started(self) -> datetime:
        """When the run was begun for the first time (UTC)."""
        return datetime.fromisoformat(self.read_json(SPEC)["started"])

    @property
    def size(self) -> int:
        """Bytes of all files in the folder."""
        with files.translating(self.folder, "read"):
            return sum(file.stat().st_size for file in self.folder.rglob("*") if file.is_file())

    @property
    def parts(self) -> PartSet:
        """Finished pieces of a long experiment, in the folder ``parts``."""
        return PartSet(self.folder / "parts")

    def lock(self, wait: float | None = None) -> AbstractContextManager[None]:
        """Hold the run for this process; ``wait`` in seconds (``None``: as long as it takes, ``0``: not at all)."""
        files.require_marker(self.marker)
        return locks.exclusive(self._lock_file, wait)

    def log(self) -> AbstractContextManager[None]:
        """Append what is logged and warned of inside the block to ``run.log``."""
        return logging_to(self.folder / LOG)

    @contextmanager
    def open(self, wait: float | None = None) -> Iterator[Run]:
        """Lock the run, begin it and log to its folder.

        An exception inside is written to ``failed.json`` (an interruption is not: the run stays partial) and raised on.
        A run that is already done is locked only: look at :attr:`done` first thing inside.
        """
        with self.lock(wait):
            if self.done:
                yield self
                return
            self.begin()
            with self.log(), ExitStack() as stack:
                stack.push(self._record_failure)
                yield self

    @contextmanager
    def open_together(self) -> Iterator[Run]:
        """Begin the run unless another process did, and log to its folder, without keeping others out.

        For processes that share the work of one run; each holds :meth:`lock` while it writes into the folder. All of
        them are in ``spec.json``: the first as the one that began it, the others under ``resumed``.
        """
        attempt = self._attempt()  # before the lock, which many may wait for
        with self.lock():
            if not self.done and not (self.folder / SPEC).exists():
                self.begin()
            elif not self.done:
                self._record(attempt)
        with self.log(), ExitStack() as stack:
            stack.push(self._record_failure)
            yield self

    def begin(self) -> None:
        """Write ``spec.json`` (parameters, versions, revision, machine); on a later start only add to ``resumed``."""
        files.make_folder(self.folder)
        files.remove_temporaries(self.folder)
        files.remove_discarded(self.folder.parent, f".{self.key}.*")
        self._record(self._attempt())

    def _attempt(self) -> dict[str, Any]:
        """Who computes the run now, with what."""
        return {
            "started": provenance.now(),
            "versions": provenance.package_versions(),
            "git": provenance.git_revision(),
            "machine": provenance.machine(),
            "recorded": plain(self.recorded),
        }

    def _record(self, attempt: Mapping[str, Any]) -> None:
        if (self.folder / SPEC).exists():
            check_schema(self.folder / SPEC)
            spec = self.read_json(SPEC)
            spec["resumed"] = [*spec.get("resumed", []), attempt]
        else:
            spec = {
                "schema": SCHEMA_VERSION, "profile": self.profile, "model": self.model, "experiment": self.experiment,
                "key": self.key, "inputs": canonical(self.inputs), **attempt,
            }  # fmt: skip
        self.write_json(SPEC, spec)
        with files.translating(self.folder / FAILED, "remove"):
            (self.folder / FAILED).unlink(missing_ok=True)

    def path(self, name: str) -> Path:
        """Path of a file in the run folder; ``name`` may not lead out of it, nor the shared folder have gone."""
        files.require_marker(self.marker)
        path = self.folder / name
        if not path.resolve().is_relative_to(self.folder.resolve()):
            raise UsageError(f"{name!r} leads out of the run folder", "use a plain file name")
        return path

    def write_json(self, name: str, value: object) -> Path:
        """Write one JSON file of the run, atomically."""
        return files.write_json(self.path(name), value)

    def write_text(self, name: str, text: str) -> Path:
        """Write one UTF-8 text file of the run, atomically."""
        return files.write_text(self.path(name), text)

    def write_observations(self, observations: Iterable[Observation | Mapping[str, Any]]) -> int:
        """Write ``observations.parquet`` atomically from an iterable (never held whole); returns the number of rows."""
        return write_observations(self.path(OBSERVATIONS), observations)

    def append_jsonl(self, name: str, rows: Iterable[Mapping[str, Any]]) -> Path:
        """Append rows to a JSON-lines file and flush them to the disk."""
        return files.append_jsonl(self.path(name), rows)

    def read_json(self, name: str) -> Any:
        return files.read_json(self.path(name))

    def read_jsonl(self, name: str) -> list[dict[str, Any]]:
        """Complete rows of a JSON-lines file; none when it was not begun."""
        return files.read_jsonl(self.path(name))

    def keep_jsonl(self, name: str, wanted: Callable[[Mapping[str, Any]], bool]) -> None:
        """Keep only the ``wanted`` rows of a JSON-lines file, atomically; their bytes stay as they are."""
        files.keep_jsonl(self.path(name), wanted)

    def read_observations(self, columns: Iterable[str] | None = None) -> pa.Table:
        """The observation table, or some of its columns, as an Arrow table (``.to_pandas()`` for a data frame)."""
        return read_observations(self.path(OBSERVATIONS), columns)

    def read_params(self) -> Any:
        """The experiment's parameters, as ``spec.json`` has them."""
        return self.read_json(SPEC)["inputs"]["params"]

    def read_summary(self) -> Any:
        """What :meth:`finish` was given; :class:`StoreError` when the run is not finished."""
        if not self.done:
            raise StoreError(
                f"the run {self.folder} is not finished (it is {self.status})", "run the same command again: it resumes"
            )
        return self.read_json(SUMMARY)

    def finish(self, summary: object, *, asked: bool = True) -> None:
        """Write ``summary.json``, then ``done.json``, then name this run in ``latest``.

        A run that nobody ``asked`` for (another one requires it) is named only where ``latest`` names none.
        """
        self.write_json(SUMMARY, summary)
        with files.translating(self.folder / FAILED, "remove"):
            (self.folder / FAILED).unlink(missing_ok=True)
        written = [p for p in sorted(self.folder.rglob("*")) if p.is_file() and p.name != LOG]
        sizes = {p.relative_to(self.folder).as_posix(): p.stat().st_size for p in written}
        done = {"schema": SCHEMA_VERSION, "finished": provenance.now(), "files": sizes}
        self.write_json(DONE, done)
        if asked or not (self.folder.parent / LATEST).exists():
            self.name_latest()

    def name_latest(self) -> None:
        """Name this finished run in ``latest``: it is the one that the last command asked for."""
        pointer, line = self.folder.parent / LATEST, self.key + "\n"
        with files.translating(pointer, "read"):
            named = pointer.exists() and pointer.read_text(encoding="utf-8") == line
        if not named:
            files.write_text(pointer, line)

    def fail(self, error: BaseException) -> None:
        """Leave the error and its time in ``failed.json`` and its traceback in the log, until the next start."""
        what, fix = (error.what, error.fix) if isinstance(error, EmotionCircuitsError) else (str(error), "")
        logger.error("failed: %s\n%s", error, "".join(traceback.format_exception(error)))
        record = {"schema": SCHEMA_VERSION, "time": provenance.now(), "type": type(error).__name__}
        self.write_json(FAILED, {**record, "message": what, "fix": fix})

    def _record_failure(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        # An interruption is no failure, and a folder that was unmounted or removed is not made anew to say so.
        if isinstance(error, Exception) and self.folder.exists():
            with suppress(StoreError):  # on a full disk the first error is the one to show
                self.fail(error)

    def discard(self) -> None:
        """Remove the folder, so that the next start computes it anew; hold :meth:`lock` around it."""
        files.discard_folder(self.folder, self.folder)

    @property
    def _lock_file(self) -> Path:
        # Beside the folder and not inside, so that the lock outlives discard().
        return self.folder.with_name(f".{self.key}.lock")


@dataclass(frozen=True)
class Store:
    """All results below one folder (``--results``).

    ``marker`` as of :class:`Run`; ``without``: run folders and files that are not looked at.
    """

    root: Path
    marker: Path | None = None
    without: frozenset[Path] = frozenset()

    def run(
        self,
        profile: str,
        model: str | tuple[str, str],
        experiment: str,
        inputs: Mapping[str, Any],
        recorded: Mapping[str, Any] | None = None,
    ) -> Run:
        """The run of these inputs, new or as it was left; nothing is read or written yet.

        ``inputs`` holds everything that can change a number, fingerprints of model, tokenizer and prompts included;
        ``recorded`` what cannot (batch size, device, workers). A folder that another schema wrote raises
        :class:`StoreError` from :attr:`Run.done` and :meth:`Run.open`; :meth:`Run.discard` (``--force``) clears it.
        """
        folder = self._experiment_folder(profile, model, experiment) / content_key(inputs)
        return Run(folder, inputs, recorded or {}, self.marker)

    def find(
        self, profile: str | None = None, model: str | tuple[str, str] | None = None, experiment: str | None = None
    ) -> list[Run]:
        """Runs on disk that match, oldest first; runs of another schema are left out (see :meth:`foreign`)."""
        runs = [
            Run(spec.parent, content["inputs"], content.get("recorded", {}))
            for spec in self.specs(profile, model, experiment)
            if (content := files.read_json(spec)).get("schema") == SCHEMA_VERSION
        ]
        return sorted(runs, key=lambda run: (run.started, run.key))

    def foreign(self) -> list[Path]:
        """Run folders that another schema wrote."""
        specs = self.specs()
        return [spec.parent for spec in specs if files.read_json(spec).get("schema") != SCHEMA_VERSION]

    def latest(self, profile: str, model: str | tuple[str, str], experiment: str) -> Run | None:
        """The finished run that was asked for last, or ``None``; raises :class:`StoreError` for another schema."""
        pointer = self._experiment_folder(profile, model, experiment) / LATEST
        if not pointer.exists():
            return None
        with files.translating(pointer, "read"):
            key = pointer.read_text(encoding="utf-8").strip()
        folder = pointer.parent / key
        if not _KEY.fullmatch(key) or folder in self.without or not (folder / DONE).exists():
            return None
        check_schema(folder / DONE)
        spec = files.read_json(folder / SPEC)
        return Run(folder, spec["inputs"], spec.get("recorded", {}))

    def specs(
        self, profile: str | None = None, model: str | tuple[str, str] | None = None, experiment: str | None = None
    ) -> list[Path]:
        """The files ``spec.json`` of matching run folders, whatever is in them, in the order of their paths."""
        parts = (
            "*" if profile is None else slug(profile),
            "*" if model is None else model_folder(model),
            "*" if experiment is None else slug(experiment),
        )
        with files.translating(self.root, "read"):
            if self.root.exists() and not self.root.is_dir():
                raise NotADirectoryError(20, "not a folder")
            found = self.root.glob("/".join((*parts, "*", SPEC)))
            return sorted(s for s in found if _KEY.fullmatch(s.parent.name) and s.parent not in self.without)

    def _experiment_folder(self, profile: str, model: str | tuple[str, str], experiment: str) -> Path:
        return self.root / slug(profile) / model_folder(model) / slug(experiment)


def check_schema(path: Path) -> None:
    """Raise :class:`StoreError` unless the JSON file ``path`` was written by this schema."""
    content = files.read_json(path)
    found = content.get("schema") if isinstance(content, Mapping) else None
    if found == SCHEMA_VERSION:
        return
    newer = isinstance(found, int) and found > SCHEMA_VERSION
    fix = (
        "update emotion-circuits (`pip install -U emotion-circuits`) or choose another --results"
        if newer
        else "add --force to compute it again, or choose another --results"
    )
    raise StoreError(
        f"{path.parent} was written by {'a newer' if newer else 'an older'} version of emotion-circuits "
        f"(results schema {found}, this one reads {SCHEMA_VERSION})",
        fix,
    )

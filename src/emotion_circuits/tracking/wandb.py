"""Weights & Biases, offline: runs are written below the results folder and nothing is sent.

``wandb sync results/wandb/offline-run-*`` uploads them when the user wants that. An index beside them says which
records were written, with which fingerprint: an offline folder cannot be asked.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from emotion_circuits.errors import EmotionCircuitsError, UsageError
from emotion_circuits.store import exclusive, read_json, write_json
from emotion_circuits.tracking._contract import INCOMPLETE, LOCAL_SECONDS, Record, Tracker, TrackerError
from emotion_circuits.tracking._registry import missing_extra, tracker

if TYPE_CHECKING:
    from wandb import Run as WandbRun

FOLDER, INDEX = "wandb", "emotion-circuits.json"
PROJECT = "emotion-circuits"
LONGEST_TAG = 64
FORCED = {
    "WANDB_MODE": "offline",
    "WANDB_SILENT": "true",
    "WANDB_ERROR_REPORTING": "false",  # no telemetry
    "WANDB_DISABLE_GIT": "true",  # the revision is a parameter of the record; the current folder is somebody else's
}


@tracker("wandb")
class WandbTracker:
    """Records as offline runs of Weights & Biases; the address is the project's name."""

    def __init__(self, address: str, results: Path) -> None:
        if importlib.util.find_spec("wandb") is None:
            raise missing_extra("wandb")
        if "/" in address or ":" in address:
            raise UsageError(
                f"{address!r} is no project name, and runs are only written offline",
                "--track wandb:PROJECT, then `wandb sync results/wandb/offline-run-*`",
            )
        self.results, self.project = results, address or PROJECT
        self.target = f"wandb:{self.project}"
        self.connect_seconds = LOCAL_SECONDS
        self.folder = results / FOLDER
        with self.session():
            importlib.import_module("wandb")

    @contextmanager
    def session(self) -> Iterator[None]:
        """Offline, silent and without telemetry inside; its helper process is gone and the environment as before."""
        before = {name: os.environ.get(name) for name in FORCED}
        os.environ.update(FORCED)
        try:
            yield
        finally:
            sys.modules["wandb"].teardown()  # imported by the opener; a helper process would outlive the session
            for name, former in before.items():
                if former is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = former

    def connect(self) -> None:
        """See whether the folder can be written: wandb itself would silently take a temporary one."""
        with self._translating():
            self.folder.mkdir(parents=True, exist_ok=True)
            if not os.access(self.folder, os.W_OK | os.X_OK):
                raise OSError(f"{self.folder} is not writable")

    def mirrored(self, record: Record) -> str | None:
        """See :meth:`Tracker.mirrored`. What ``wandb sync --clean`` removed stays mirrored."""
        with self._translating():
            entry = self._index().get(self._name(record))
            return None if entry is None else str(entry["fingerprint"])

    def send(self, record: Record) -> None:
        """See :meth:`Tracker.send`. A folder that an earlier state of the record left is replaced."""
        with self._translating(), exclusive(self.folder / f".{INDEX}.lock", 30):
            index = self._index()
            earlier = index.get(self._name(record), {}).get("folder", "")
            self._note(index, record, INCOMPLETE, earlier)
            written = self._write(record)
            if earlier and earlier != written.name:
                shutil.rmtree(self.folder / earlier, ignore_errors=True)
            self._note(index, record, record.fingerprint, written.name)

    def fallback(self) -> Tracker | None:
        """None: this is a place on this machine."""
        return None

    def _write(self, record: Record) -> Path:
        """One offline run with everything that the record has; its folder."""
        import wandb

        state = hashlib.sha256(f"{self._name(record)} {record.fingerprint}".encode()).hexdigest()[:16]
        profile, model, experiment = record.identity.split("/")[:3]
        run = wandb.init(
            project=self.project, dir=self.results, mode="offline", reinit="create_new", id=state, name=record.name,
            group=profile, job_type=experiment, notes=record.description,
            tags=[label[:LONGEST_TAG] for label in dict.fromkeys((model, record.status))],
            config={"parameters": dict(record.parameters), "tags": dict(record.tags), "run": record.identity},
            settings=wandb.Settings(
                silent=True, console="off", save_code=False, x_disable_stats=True, x_disable_meta=True,
                x_save_requirements=False,
            ),
        )  # fmt: skip
        try:
            self._fill(run, record)
        finally:
            run.finish(exit_code=0 if record.status == "done" else 1)
        return Path(run.dir).parent

    @staticmethod
    def _fill(run: WandbRun, record: Record) -> None:
        run.summary.update(dict(record.metrics))
        for file in record.files:
            copy = Path(run.dir) / file.relative_to(record.folder)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)
            run.save(copy, base_path=run.dir, policy="now", glob=False)

    def _name(self, record: Record) -> str:
        return f"{self.project}: {record.identity}"

    def _index(self) -> dict[str, Mapping[str, str]]:
        path = self.folder / INDEX
        return dict(read_json(path)) if path.exists() else {}

    def _note(self, index: dict[str, Mapping[str, str]], record: Record, fingerprint: str, folder: str) -> None:
        index[self._name(record)] = {"fingerprint": fingerprint, "folder": folder}
        write_json(self.folder / INDEX, index)

    @contextmanager
    def _translating(self) -> Iterator[None]:
        import wandb

        # Its service process and protocol raise these beside its own errors.
        known: tuple[type[Exception], ...] = (wandb.Error, OSError, ValueError, RuntimeError, EmotionCircuitsError)
        try:
            yield
        except known as error:
            what: Any = getattr(error, "what", "") or " ".join(str(error).split()) or type(error).__name__
            raise TrackerError(
                f"{self.target} did not take it: {str(what)[:300]}",
                "see the logs below results/wandb, then sync again",
            ) from error

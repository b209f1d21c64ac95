"""MLflow: a tracking server, or an SQLite store below the results folder when there is none or it does not answer."""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store import exclusive
from emotion_circuits.tracking._contract import INCOMPLETE, LOCAL_SECONDS, SERVER_SECONDS, Record, Tracker, TrackerError
from emotion_circuits.tracking._flatten import cut, legal_names
from emotion_circuits.tracking._registry import missing_extra, tracker

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run as MlflowRun

T = TypeVar("T")

DATABASE, ARTEFACTS = "mlflow.db", "mlflow-artifacts"
PREFIX = "emotion_circuits."
RUN, MIRRORED = f"{PREFIX}run", f"{PREFIX}mirrored"
"""Tags that hold a record's identity, and its fingerprint once all of it has been sent."""

# mlflow.utils.validation: the characters of names (a "/" would make folders), and the longest name, parameter and tag.
ILLEGAL = re.compile(r"[^\w.\- :]")
LONGEST_NAME, LONGEST_PARAMETER, LONGEST_TAG = 250, 6000, 5000
METRICS_A_BATCH, TEXTS_A_BATCH = 1000, 20
"""MLflow takes 1,000 metrics a request, and one megabyte: twenty long texts of six bytes a character fit."""
MOST_METRICS = 20_000
WHOLE = "the whole is in spec.json"

STATUS = {"done": "FINISHED", "failed": "FAILED", "partial": "KILLED"}
FORCED = {
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",  # stdout belongs to --json
    "MLFLOW_ENABLE_ASYNC_LOGGING": "false",  # what is not sent when the call returns is not sent
}
UNLESS_SET = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
    "MLFLOW_ARTIFACT_UPLOAD_DOWNLOAD_TIMEOUT": "30",
    "GIT_PYTHON_REFRESH": "quiet",
}


@tracker("mlflow")
class MlflowTracker:
    """Records as MLflow runs, one MLflow experiment a profile (``emotion-circuits/PROFILE``).

    An empty ``address`` means ``MLFLOW_TRACKING_URI``, and without that the SQLite store below ``results``.
    """

    def __init__(self, address: str, results: Path) -> None:
        if not all(map(importlib.util.find_spec, ("mlflow", "sqlalchemy", "alembic"))):
            raise missing_extra("mlflow")
        self.results = results
        self.local = f"sqlite:///{(results / DATABASE).as_posix()}"
        self.uri = _checked(address or os.environ.get("MLFLOW_TRACKING_URI") or self.local)
        self.target = f"mlflow:{_without_password(self.uri)}"
        self.connect_seconds = SERVER_SECONDS if self.uri.startswith(("http://", "https://")) else LOCAL_SECONDS
        self._client: MlflowClient | None = None
        self._experiments: dict[str, str] = {}
        with self.session():
            # Seconds that do not belong to the time a server is given.
            for module in ("mlflow", "requests", "alembic.util.exc", "sqlalchemy.exc"):
                importlib.import_module(module)

    @contextmanager
    def session(self) -> Iterator[None]:
        """MLflow's limits and silence for the calls inside; the environment is as before afterwards."""
        before = {name: os.environ.get(name) for name in (*FORCED, *UNLESS_SET)}
        os.environ.update(FORCED)
        for name, value in UNLESS_SET.items():
            os.environ.setdefault(name, value)
        loggers = [logging.getLogger(name) for name in ("mlflow", "alembic")]
        levels = [logger.level for logger in loggers]
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of MLflow about its own dependencies
                for logger in loggers:
                    logger.setLevel(logging.ERROR)
                yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            for name, former in before.items():
                if former is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = former

    def connect(self) -> None:
        """Ask the server whether it is there, or make the local database."""
        with self._translating():
            if self.uri.startswith(("http://", "https://")):
                _probe(self.uri)
            client = self._connected()
            client.search_experiments(max_results=1)

    def mirrored(self, record: Record) -> str | None:
        """See :meth:`Tracker.mirrored`."""
        with self._translating():
            run = self._find(self._experiment(record.profile), record)
            return None if run is None else str(run.data.tags.get(MIRRORED, INCOMPLETE))

    def send(self, record: Record) -> None:
        """See :meth:`Tracker.send`."""
        with self._translating():
            client = self._connected()
            experiment = self._experiment(record.profile)
            found = self._find(experiment, record)
            if found is None:
                tags = {RUN: record.identity, MIRRORED: INCOMPLETE}
                found = client.create_run(experiment, _milliseconds(record.started), tags, record.name)
            else:
                client.set_tag(found.info.run_id, MIRRORED, INCOMPLETE)
            self._fill(found, record)
            client.set_terminated(found.info.run_id, STATUS[record.status], _milliseconds(record.ended))
            client.set_tag(found.info.run_id, MIRRORED, record.fingerprint)

    def fallback(self) -> Tracker | None:
        """The SQLite store below the results folder."""
        return None if self.uri == self.local else MlflowTracker(self.local, self.results)

    def _connected(self) -> MlflowClient:
        from mlflow import MlflowClient

        if self._client is None:
            if self.uri == self.local:
                # Two processes that make the same tables at the same time break each other's.
                self.results.mkdir(parents=True, exist_ok=True)
                with exclusive(self.results / f".{DATABASE}.lock", 30):
                    self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
                    return self._client
            self._client = MlflowClient(tracking_uri=self.uri, registry_uri=self.uri)
        return self._client

    def _experiment(self, profile: str) -> str:
        """The id of the profile's MLflow experiment, made when it is not there."""
        if profile in self._experiments:
            return self._experiments[profile]
        client, name = self._connected(), f"emotion-circuits/{profile}"
        found = client.get_experiment_by_name(name)
        if found is None:
            folder = (self.results / ARTEFACTS / profile).as_uri() if self.uri == self.local else None
            self._experiments[profile] = str(client.create_experiment(name, folder))
        elif found.lifecycle_stage == "deleted":
            raise TrackerError(
                f"the MLflow experiment {name!r} in {self.target} was deleted",
                f"restore it: mlflow experiments restore --experiment-id {found.experiment_id}",
            )
        else:
            self._experiments[profile] = str(found.experiment_id)
        return self._experiments[profile]

    def _find(self, experiment: str, record: Record) -> MlflowRun | None:
        wanted = record.identity.replace("'", "")  # folder names hold no quote: see store.slug
        found = self._connected().search_runs([experiment], f"tags.`{RUN}` = '{wanted}'", max_results=1)
        return found[0] if found else None

    def _fill(self, run: MlflowRun, record: Record) -> None:
        """Parameters, metrics, tags and files; what is there already is overwritten with the same."""
        from mlflow.entities import Metric, Param, RunTag

        client, run_id = self._connected(), run.info.run_id
        numbers = dict(list(record.metrics.items())[:MOST_METRICS])
        texts = {**record.tags}
        if len(record.metrics) > MOST_METRICS:
            texts["metrics_left_out"] = f"{len(record.metrics) - MOST_METRICS} (all are in summary.json)"
        names = legal_names(list(numbers), ILLEGAL, LONGEST_NAME)
        moment = _milliseconds(record.ended)
        for some in _groups([*numbers.items()], METRICS_A_BATCH):
            client.log_batch(run_id, metrics=[Metric(names[name], value, moment, 0) for name, value in some])
        names = legal_names(list(record.parameters), ILLEGAL, LONGEST_NAME)
        params = {names[k]: cut(v, LONGEST_PARAMETER, WHOLE) for k, v in record.parameters.items()}
        for group in _groups([*params.items()], TEXTS_A_BATCH):
            client.log_batch(run_id, params=[Param(*pair) for pair in group])
        tags = self._tags(texts, record.description)
        for group in _groups([*tags.items()], TEXTS_A_BATCH):
            client.log_batch(run_id, tags=[RunTag(*pair) for pair in group])
        for stale in set(run.data.tags) - set(tags):  # such as the failure of a run that went through later
            if stale.startswith(PREFIX) and stale not in (RUN, MIRRORED):
                client.delete_tag(run_id, stale)
        for file in record.files:
            below = file.relative_to(record.folder).parent.as_posix()
            client.log_artifact(run_id, str(file), None if below == "." else below)

    @staticmethod
    def _tags(texts: Mapping[str, str], description: str) -> dict[str, str]:
        names = legal_names(list(texts), ILLEGAL, LONGEST_NAME - len(PREFIX))
        tags = {PREFIX + names[k]: cut(v, LONGEST_TAG, "the whole is in the run's files") for k, v in texts.items()}
        if texts.get("git", "").split("+")[0].isalnum():
            tags["mlflow.source.git.commit"] = texts["git"].split("+")[0]
        tags["mlflow.note.content"] = cut(description, LONGEST_TAG, "the whole is in the run's files")
        return tags

    @contextmanager
    def _translating(self) -> Iterator[None]:
        """MLflow's errors, and those of what it stands on, as ours."""
        from alembic.util.exc import CommandError
        from google.protobuf.message import Error as ProtobufError
        from mlflow.exceptions import MlflowException
        from sqlalchemy.exc import SQLAlchemyError

        # ValueError: an answer that is no JSON; ImportError: a store (s3, …) whose own package is missing.
        known: tuple[type[Exception], ...] = (
            MlflowException, SQLAlchemyError, CommandError, ProtobufError, OSError, ValueError, ImportError,
            StoreError,
        )  # fmt: skip
        try:
            yield
        except known as error:
            raise TrackerError(
                f"{self.target} did not take it: {_first_line(error)}",
                "see whether the server runs, then `emotion-circuits track sync`",
            ) from error


def _checked(uri: str) -> str:
    if re.match(r"[A-Za-z][A-Za-z0-9+.-]+:", uri) or uri == "databricks":
        if uri.startswith("file:"):
            raise UsageError(
                f"MLflow no longer writes its old file store ({uri})", "take mlflow (SQLite) or mlflow:http://SERVER"
            )
        return uri
    raise UsageError(f"{uri!r} is no MLflow address", "mlflow, mlflow:http://127.0.0.1:5000 or mlflow:sqlite:///FILE")


def _without_password(uri: str) -> str:
    return re.sub(r"(://)[^/@]*@", r"\1", uri)


def _probe(uri: str) -> None:
    """Raise :class:`TrackerError` unless something answers; MLflow's own client would try for minutes."""
    import requests

    insecure = os.environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").lower() == "true"
    shown = _without_password(uri)
    try:
        answer = requests.get(f"{uri.rstrip('/')}/health", timeout=(2.0, 2.5), verify=not insecure)
    except requests.RequestException as error:
        why = "did not answer in time" if isinstance(error, requests.Timeout) else "cannot be reached"
        raise TrackerError(f"the MLflow server {shown} {why}", "start it, or leave the address out") from error
    if answer.status_code >= 500:
        raise TrackerError(f"the MLflow server {shown} answers with error {answer.status_code}", "see its own log")


def _groups(pairs: Sequence[tuple[str, T]], size: int) -> list[Sequence[tuple[str, T]]]:
    return [pairs[start : start + size] for start in range(0, len(pairs), size)]


def _milliseconds(moment: datetime) -> int:
    return int(moment.timestamp() * 1000)


def _first_line(error: Any) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f"{text[:299]}…"

"""Run folders and reports as records: what was asked, what came out, what went wrong, and which files show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from emotion_circuits.errors import EmotionCircuitsError, StoreError
from emotion_circuits.store import Run, Store, read_json, read_jsonl, slug
from emotion_circuits.tracking._contract import FilePolicy, Record, RecordStatus
from emotion_circuits.tracking._flatten import leaves, metrics, texts

FAILURES, FAILED = "failures.jsonl", "failed.json"
"""In a model's folder: every failure of the model in a study, and the last one while it stands."""
REPORT, PLOTS, STATISTICS = "report", "plots", "stats"
"""Folders of a profile beside those of its models: pages and tables of all runs together, their figures, statistics."""


def record_of(run: Run, policy: FilePolicy | None = None) -> Record:
    """What a mirror shows of a run; reads only. The run may be finished, failed or interrupted.

    Parameters come from ``inputs`` in ``spec.json``, metrics from ``summary.json``, statistics of the prompt set
    from the package's own counting (``prompts.…``).

    Raises:
        StoreError: a file of the run cannot be read.
    """
    spec = run.read_json("spec.json")
    done = run.read_json("done.json") if run.done else None
    failure = run.read_json(FAILED) if done is None and (run.folder / FAILED).exists() else None
    summary = run.read_json("summary.json") if done else {}
    status: RecordStatus = "done" if done else "failed" if failure else "partial"
    numbers, missing = metrics({k: v for k, v in summary.items() if k not in ("model", "profile", "verdicts")})
    about, counted = _prompt_statistics(spec["inputs"])
    files, left_out = _files(run.folder, policy or FilePolicy())
    tags = {
        **_provenance(spec), **about, "status": status, "results": run.folder.as_posix(),
        **({"not_finite": ", ".join(missing)} if missing else {}),
        **({"files_left_out": ", ".join(left_out)} if left_out else {}),
        **({f"failure.{k}": str(failure.get(k, "")) for k in ("type", "message", "fix")} if failure else {}),
    }  # fmt: skip
    return Record(
        identity=f"{run.profile}/{run.model}/{run.experiment}/{run.key}",
        profile=run.profile,
        name=f"{run.experiment} {run.model}",
        status=status,
        started=run.started,
        ended=_ended(run.folder, done, failure),
        description=_description(summary, failure),
        parameters=texts(spec["inputs"]),
        metrics={**numbers, **counted},
        tags=tags,
        folder=run.folder,
        files=files,
    )


def records(
    store: Store, profile: str | None = None, policy: FilePolicy | None = None, unreadable: list[str] | None = None
) -> Iterator[Record]:
    """Records of all runs below the results, oldest first, then of models that failed before they had a run, last of
    the profiles' reports: a large one that takes too long keeps nothing else from being sent.

    A run that another process is writing at this moment is left out; one that cannot be read adds a sentence to
    ``unreadable`` (it raises where there is no such list).
    """
    for run in store.find(profile):
        try:
            if run.status != "running":
                yield record_of(run, policy)
        except StoreError as error:
            if unreadable is None:
                raise
            unreadable.append(f"not mirrored: {error.what}")
    profiles = "*" if profile is None else slug(profile)
    for path in sorted(store.root.glob(f"{profiles}/*/{FAILURES}")):
        found = read_jsonl(path)
        if found:
            yield _failures_record(path.parent, found, policy or FilePolicy())
    written = [*store.root.glob(f"{profiles}/{REPORT}/report.json"), *store.root.glob(f"{profiles}/{STATISTICS}/*.csv")]
    for folder in sorted({path.parents[1] for path in written}):
        yield _report_record(folder, policy or FilePolicy())


def _failures_record(folder: Path, failures: list[dict[str, Any]], policy: FilePolicy) -> Record:
    """What kept a model from being studied (it may not even have been found); failed as long as that stands."""
    last, stands = failures[-1], (folder / FAILED).exists()
    profile = folder.parent.name
    wanted = [folder / FAILURES, *([folder / FAILED] if stands else [])]
    tags = {
        "profile": profile, "model": str(last["model"]), "experiment": str(last["experiment"]), "key": "failures",
        "status": "failed" if stands else "done", "results": folder.as_posix(),
        **{f"failure.{k}": str(last.get(k, "")) for k in ("type", "message", "fix")},
    }  # fmt: skip
    return Record(
        identity=f"{profile}/{folder.name}/failures",
        profile=profile,
        name=f"failures {folder.name}",
        status="failed" if stands else "done",
        started=_time(failures[0]["time"]),
        ended=_time(last["time"]),
        description=_description({}, last) + ("" if stands else "\n\nThe model went through later."),
        parameters={"model": str(last["model"])},
        metrics={"failures": float(len(failures))},
        tags=tags,
        folder=folder,
        files=tuple(path for path in wanted if path.stat().st_size <= policy.largest),
    )


def _report_record(folder: Path, policy: FilePolicy) -> Record:
    """Report, tables and figures of a profile, which no run folder has; one record that follows what is on disk."""
    profile = folder.name
    files, left_out = _files(folder, policy, (REPORT, PLOTS, STATISTICS))
    times = [datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in files] or [datetime.now(UTC)]
    counts = {name: sum(path.relative_to(folder).parts[0] == name for path in files) for name in (REPORT, PLOTS)}
    return Record(
        identity=f"{profile}/study/report",
        profile=profile,
        name=f"report {profile}",
        status="done",
        started=min(times),
        ended=max(times),
        description=_answers(folder / REPORT / "report.json"),
        parameters={"profile": profile},
        metrics={f"files.{name}": float(count) for name, count in counts.items()},
        tags={
            "profile": profile, "experiment": "report", "key": "report", "status": "done", "results": folder.as_posix(),
            **({"files_left_out": ", ".join(left_out)} if left_out else {}),
        },
        folder=folder,
        files=files,
        rewritten=True,
    )  # fmt: skip


def _answers(report: Path) -> str:
    """The questions with their answers; nothing where there is no report that can be read."""
    lines: list[str] = []
    # A report that is missing or broken has files beside it that are worth showing all the same.
    with suppress(StoreError, KeyError, TypeError):
        for verdict in read_json(report)["report"]["verdicts"]:
            lines += [str(line) for line in (verdict["question"], *verdict["answers"], verdict["reason"]) if line]
    return "\n\n".join(lines)


def _provenance(spec: Mapping[str, Any]) -> dict[str, str]:
    inputs = spec["inputs"]
    tags = {name: str(spec[name]) for name in ("profile", "model", "experiment", "key")}
    tags["git"] = str(spec.get("git") or "none (installed package)")
    tags["package_version"] = str(spec.get("versions", {}).get("emotion-circuits", ""))
    tags["host"] = str(spec.get("machine", {}).get("host", ""))
    for part in ("versions", "recorded"):
        tags.update({f"{part}.{path}": str(value) for path, value in leaves(spec.get(part, {})) if value is not None})
    model = inputs.get("model")
    for name in ("weights", "tokenizer"):
        if isinstance(model, Mapping) and name in model:
            tags[f"fingerprint.{name}"] = str(model[name])
    if isinstance(inputs.get("prompts"), Mapping):
        tags.update({f"fingerprint.prompts.{name}": str(value) for name, value in leaves(inputs["prompts"])})
    return tags


def _prompt_statistics(inputs: Mapping[str, Any]) -> tuple[dict[str, str], dict[str, float]]:
    """Tags and numbers of the prompt set that the run names: totals, counts and lengths per label."""
    from emotion_circuits.prompts import load_prompts
    from emotion_circuits.prompts.statistics import set_statistics

    named = (value for path, value in leaves(inputs.get("params", {})) if path.split(".")[-1] == "prompts")
    name = next((value for value in named if isinstance(value, str)), None)
    if name is None:
        return {}, {}
    try:
        counts = asdict(set_statistics(load_prompts(name)))
    except EmotionCircuitsError:  # the user's own file has moved since: the run itself is complete without it
        return {"prompts": f"{name} (not found any more: no statistics)"}, {}
    return {"prompts": name}, metrics(counts, "prompts")[0]


def _files(folder: Path, policy: FilePolicy, inside: Iterable[str] = (".",)) -> tuple[tuple[Path, ...], list[str]]:
    """Files to copy, and the names of those that are too large or of another kind; pieces of ``parts`` are neither."""
    taken, left_out = [], []
    for path in sorted(path for part in inside for path in (folder / part).rglob("*")):
        name = path.relative_to(folder)
        if not path.is_file() or name.parts[0] == "parts" or any(part.startswith(".") for part in name.parts):
            continue
        if path.suffix in policy.suffixes and path.stat().st_size <= policy.largest:
            taken.append(path)
        else:
            left_out.append(name.as_posix())
    return tuple(taken), left_out


def _description(summary: Mapping[str, Any], failure: Mapping[str, Any] | None) -> str:
    if failure:
        return "\n\n".join(str(failure[part]) for part in ("message", "fix") if failure.get(part))
    return "\n\n".join(str(line) for line in summary.get("verdicts", ()))


def _ended(folder: Path, done: Mapping[str, Any] | None, failure: Mapping[str, Any] | None) -> datetime:
    if done:
        return _time(done["finished"])
    if failure:
        return _time(failure["time"])
    return max(
        (datetime.fromtimestamp(path.stat().st_mtime, UTC) for path in folder.rglob("*") if path.is_file()),
        default=datetime.now(UTC),
    )


def _time(text: str) -> datetime:
    return datetime.fromisoformat(text)

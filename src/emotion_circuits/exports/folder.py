"""Writing a layout into a folder: what was there before is never replaced unseen, and what is not there is named.

The folder keeps ``export.json``, the list of files that were exported with their SHA-256 and where they come from. A
file that stands in the way and is not on that list, or was changed since, is somebody's own: nothing is written then,
unless it may be replaced (``force``).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from emotion_circuits.errors import EmotionCircuitsError, UsageError
from emotion_circuits.exports.contract import File, PlanFile, Results, plan_files
from emotion_circuits.store import Run, read_json, replacing, write_json
from emotion_circuits.store.files import translating

MANIFEST, SCHEMA = "export.json", 1
State = Literal["written", "unchanged", "replaced"]


@dataclass(frozen=True)
class Written:
    """One exported file; ``path`` is below the output folder, ``source`` below the results folder."""

    path: str
    plan: str
    what: str
    state: State
    bytes: int
    sha256: str
    source: str


@dataclass(frozen=True)
class Missing:
    """A path of the plan that nothing was found for; ``command`` (a template) makes what it holds."""

    path: str
    what: str
    command: str


@dataclass(frozen=True)
class Unfinished:
    """Something that is there and could not be exported: ``reason`` says why, ``fix`` what to type or do."""

    source: str
    reason: str
    fix: str


@dataclass
class Exported:
    """What an export wrote, found missing and could not read; ``left``: an earlier export's, not written now."""

    folder: Path
    files: list[Written] = field(default_factory=list)
    missing: list[Missing] = field(default_factory=list)
    unfinished: list[Unfinished] = field(default_factory=list)
    left: list[str] = field(default_factory=list)


def export_plan(results: Results, output: Path, *, force: bool = False) -> Exported:
    """Write everything that ``results`` hold in the plan's paths below ``output``.

    Raises:
        UsageError: files that were not exported stand in the way. StoreError: the folder cannot be written.
    """
    known = _known(output)
    done = Exported(output)
    wanted: list[tuple[PlanFile, File]] = []
    for plan in plan_files():
        try:
            found = list(plan.files(results))
        except EmotionCircuitsError as error:
            done.unfinished.append(Unfinished(plan.path, error.what, error.fix))
            continue
        wanted += [(plan, file) for file in found]
        if not found:
            done.missing.append(Missing(plan.path, plan.what, plan.command))
    done.unfinished += _unfinished_runs(results)
    if not force:
        _refuse_others(output, [file for _, file in wanted], known)
    try:
        for plan, file in wanted:
            _write(done, plan, file, results, output)
        now = {w.path for w in done.files}
        done.left = sorted(path for path in known if path not in now and (output / path).exists())
    finally:
        if done.files:
            _keep_manifest(done, known, results)
    return done


def _write(done: Exported, plan: PlanFile, file: File, results: Results, output: Path) -> None:
    source = file.source.relative_to(results.store.root).as_posix()
    try:
        content = file.make()
    except EmotionCircuitsError as error:
        done.unfinished.append(Unfinished(source, f"{file.path} was not written: {error.what}", error.fix))
        return
    path, digest = output / file.path, hashlib.sha256(content).hexdigest()
    before = _digest(path)
    state: State = "written" if before is None else "unchanged" if before == digest else "replaced"
    if state != "unchanged":
        with replacing(path) as temporary:
            temporary.write_bytes(content)
    done.files.append(Written(file.path, plan.path, plan.what, state, len(content), digest, source))


def _refuse_others(output: Path, files: Iterable[File], known: Mapping[str, str]) -> None:
    """Raise where files that this export would change are not those that an earlier one wrote."""
    there = {file.path: (file, digest) for file in files if (digest := _digest(output / file.path)) is not None}
    others = [
        path
        for path, (file, digest) in there.items()
        if known.get(path) != digest and hashlib.sha256(_made(file)).hexdigest() != digest
    ]
    if others:
        more = f" and {len(others) - 1} more" if len(others) > 1 else ""
        raise UsageError(
            f"{output / others[0]}{more} would be replaced and was not written by an export, or was changed since",
            "choose another folder with --output, or add --force to replace it",
        )


def _made(file: File) -> bytes:
    try:
        return file.make()
    except EmotionCircuitsError:
        return b""  # it is not going to be written; the reason is told when it is its turn


def _known(output: Path) -> dict[str, str]:
    """Path → SHA-256 of what earlier exports wrote into the folder."""
    with translating(output, "read"):
        if output.exists() and not output.is_dir():
            raise UsageError(f"{output} is a file", "give a folder with --output")
    manifest = output / MANIFEST
    if not manifest.exists():
        return {}
    content = read_json(manifest)
    if not isinstance(content, Mapping) or content.get("schema") != SCHEMA:
        raise UsageError(f"{manifest} is not the list of an export", "choose another folder with --output")
    return {row["path"]: row["sha256"] for row in content["files"]}


def _keep_manifest(done: Exported, known: Mapping[str, str], results: Results) -> None:
    rows: list[dict[str, Any]] = [{k: v for k, v in asdict(w).items() if k != "state"} for w in done.files]
    now = {w.path for w in done.files}
    # What an earlier export left is still known to be an export's.
    rows += [{"path": path, "sha256": known[path]} for path in sorted(known) if path not in now]
    write_json(
        done.folder / MANIFEST,
        {"schema": SCHEMA, "layout": "plan", "profile": results.profile, "files": rows,
         "missing": [asdict(m) for m in done.missing]},
    )  # fmt: skip


def _unfinished_runs(results: Results) -> list[Unfinished]:
    """Runs that did not finish where no other run of the same experiment and model did."""
    done = {(run.experiment, run.model) for run in results.runs if run.done}
    exported = {plan.experiment for plan in plan_files()}
    waiting = [r for r in results.runs if r.experiment in exported and (r.experiment, r.model) not in done]
    return [_unfinished(run, results) for run in waiting]


def _unfinished(run: Run, results: Results) -> Unfinished:
    source, status = run.folder.relative_to(results.store.root).as_posix(), run.status
    if status == "running":
        return Unfinished(source, "still running", "export again when it has finished")
    if status == "failed":
        record = run.read_json("failed.json")
        return Unfinished(source, f"failed: {record['message']}", record.get("fix") or "run the same command again")
    return Unfinished(source, "interrupted", "run the same command again: it resumes")


def _digest(path: Path) -> str | None:
    with translating(path, "read"):
        if not path.exists():
            return None
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()


def totals(files: Sequence[Written]) -> dict[str, list[Written]]:
    """The files by their path in the plan, in its order."""
    found: dict[str, list[Written]] = {}
    for file in files:
        found.setdefault(file.plan, []).append(file)
    return found

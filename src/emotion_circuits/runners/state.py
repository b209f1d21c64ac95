"""What became of the cells of a manifest, read from the files that workers leave."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from emotion_circuits.errors import EmotionCircuitsError
from emotion_circuits.runners.manifest import FILE, FOLDER, Cell, Manifest, read_manifest
from emotion_circuits.store import Claims, content_key, read_json, write_json
from emotion_circuits.store.claims import Holder
from emotion_circuits.store.files import translating
from emotion_circuits.store.provenance import now

if TYPE_CHECKING:
    from emotion_circuits.experiments import Study

Status = Literal["done", "failed", "running", "waiting"]
DONE, FAILED = "done", "failed"
"""What a worker notes about a cell, in a file each: whoever fails cannot hide that another one finished."""


@dataclass(frozen=True)
class CellState:
    """One cell: what became of it, who works on it, where its run is (relative to the results), and why it failed.

    A cell that failed may have workers: others that go on with it, or some that died so lately that it does not show.
    """

    cell: Cell
    status: Status
    workers: tuple[str, ...] = ()
    run: str = ""
    source: str = ""
    message: str = ""
    fix: str = ""
    exit_code: int = 0
    seconds: float = 0.0


def claims_of(manifest: Manifest, heartbeat: float, stale: float) -> Claims:
    """Claims on the manifest's cells."""
    return Claims(manifest.folder / "claims", heartbeat, stale)


def drivers_of(manifest: Manifest) -> Claims:
    """Claims of the commands that wait for the manifest's shards: no work is theirs, they only show that it goes on."""
    return Claims(manifest.folder / "drivers")


def write_done(manifest: Manifest, cell: Cell, run: Path, source: str, seconds: float) -> None:
    """Note that a cell is finished."""
    content = {"run": run.relative_to(manifest.results).as_posix(), "source": source}
    write_json(_file(manifest, cell, DONE), {**content, "seconds": seconds, "time": now()})
    forget_failure(manifest, cell)


def write_failed(manifest: Manifest, cell: Cell, error: EmotionCircuitsError, seconds: float = 0.0) -> None:
    """Note why a cell failed; where another worker finishes it, that counts."""
    content = {"message": error.what, "fix": error.fix, "exit_code": error.exit_code}
    write_json(_file(manifest, cell, FAILED), {**content, "seconds": seconds, "time": now()})


def write_notices(manifest: Manifest, model: str, notices: Sequence[str]) -> None:
    """Note what is to be known about a model as it was loaded the last time; its worker has nobody to tell it to."""
    path = manifest.folder / "notices" / f"{content_key({'model': model})}.json"
    if notices or path.exists():
        write_json(path, {"model": model, "notices": notices})


def read_notices(manifest: Manifest) -> list[str]:
    """What workers noted about the models of a manifest, in its order."""
    noted = {n["model"]: n["notices"] for n in map(read_json, (manifest.folder / "notices").glob("*.json"))}
    return [f"{model}: {notice}" for model in manifest.work.sources for notice in noted.get(model, ())]


def forget_failure(manifest: Manifest, cell: Cell) -> None:
    """Forget why a cell failed the last time: it is tried again."""
    path = _file(manifest, cell, FAILED)
    with translating(path, "remove"):
        path.unlink(missing_ok=True)


def has_failed(manifest: Manifest, cell: Cell) -> bool:
    """Whether it is noted why a cell failed."""
    return _file(manifest, cell, FAILED).exists()


def is_done(manifest: Manifest, cell: Cell) -> bool:
    """Whether a cell is noted as finished and its run still is (somebody may have removed it)."""
    return bool(_finished(manifest, cell))


def _finished(manifest: Manifest, cell: Cell) -> dict[str, Any]:
    noted = _noted(manifest, cell, DONE)
    return noted if noted and (manifest.results / noted["run"] / "done.json").exists() else {}


def states(manifest: Manifest) -> list[CellState]:
    """Every cell of the manifest, in order."""
    held: dict[str, list[Holder]] = {}
    for name, holder in Claims(manifest.folder / "claims").holders().items():
        held.setdefault(name.partition("-")[0], []).append(holder)
    found = []
    for cell in manifest.cells:
        holders = held.get(cell.id, [])
        workers = tuple(sorted(holder.who for holder in holders))
        status: Status = "running" if workers else "waiting"
        if noted := _finished(manifest, cell):
            status = "done"
        elif noted := _failed_since(manifest, cell, max((holder.beat for holder in holders), default=0)):
            status = "failed"
        found.append(CellState(
            cell, status, workers, noted.get("run", ""), noted.get("source", ""), noted.get("message", ""),
            noted.get("fix", ""), noted.get("exit_code", 0), noted.get("seconds", 0.0),
        ))  # fmt: skip
    return found


def _failed_since(manifest: Manifest, cell: Cell, beat: int) -> dict[str, Any]:
    """Why a cell failed, unless somebody has worked on it since: ``beat`` is the last sign of life of its workers."""
    try:
        noted_at = _file(manifest, cell, FAILED).stat().st_mtime_ns
    except OSError:
        return {}
    return _noted(manifest, cell, FAILED) if noted_at > beat else {}


def collect(manifest: Manifest) -> Study:
    """The study as it stands: finished runs in the manifest's order, and what failed or was never begun."""
    from emotion_circuits.experiments import Failure, Study
    from emotion_circuits.runners.desk import profile_of
    from emotion_circuits.store import Run

    study = Study(profile_of(manifest.work))
    failed: set[tuple[str, ...]] = set()
    for state in states(manifest):
        cell = state.cell
        if state.status == "done":
            folder = manifest.results / state.run
            spec = read_json(folder / "spec.json")
            run = Run(folder, spec["inputs"], spec.get("recorded", {}))
            study.runs.append(run)
            study.sources.update(dict(zip(_model_names(run), state.source.split(" → "), strict=False)))
        elif not any(set(other) <= set(cell.models) for other in failed):  # one line a model, as in a study
            failed.add(cell.models)
            error = EmotionCircuitsError(
                state.message or f"{cell.shown} was not finished",
                state.fix or "run the same command again: it resumes; `emotion-circuits ls --watch` shows its workers",
            )
            error.exit_code = state.exit_code or 1
            study.failures.append(Failure(" → ".join(cell.models), cell.experiment, error))
    return study


def shards_at_work(manifest: Manifest) -> set[int]:
    """Numbers of the shards for which a worker holds a cell now."""
    pairs = {manifest.cells[c].id: n for n, s in enumerate(manifest.shards) if len(s.models) > 1 for c in s.cells}
    held = (name.split("-") for name in Claims(manifest.folder / "claims").holders())
    # A cell on a pair has one holder, and no number in its claim's name.
    found = (int(shard[0]) if shard else pairs.get(cell) for cell, *shard in held)
    return {number for number in found if number is not None}


def is_worked_on(manifest: Manifest) -> bool:
    """Whether a worker holds one of the cells, or a command waits for them."""
    return bool(Claims(manifest.folder / "claims").held() or drivers_of(manifest).held())


def manifests(results: Path, profile: str | None = None) -> Iterator[Manifest]:
    """The manifests below a results folder, in the order in which commands last asked for them."""
    found = Path(results).glob(f"{profile or '*'}/{FOLDER}/*/{FILE}")
    for path in sorted(found, key=lambda p: (p.stat().st_mtime, p.parent.name)):
        yield read_manifest(path)


def _model_names(run: Any) -> list[str]:
    names: list[str] = run.model.split("--")
    return names


def _noted(manifest: Manifest, cell: Cell, how: str) -> dict[str, Any]:
    """What was noted about a cell; empty when nothing was."""
    path = _file(manifest, cell, how)
    return dict(read_json(path)) if path.exists() else {}


def _file(manifest: Manifest, cell: Cell, how: str) -> Path:
    return manifest.folder / "cells" / f"{cell.id}.{how}.json"

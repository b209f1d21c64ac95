"""Reading a results folder for the page: runs, their answers and tables, arms, and generated texts.

A run is found by comparing names with those that are on disk, never by putting a request's words into a path; what is
read lies inside the results folder, also where a link points elsewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from emotion_circuits.errors import StoreError, UsageError
from emotion_circuits.store import Run, Store
from emotion_circuits.types import BASELINE_ARM

PAGE = 50
"""Texts a page of the list of texts."""
MOST_GROUPS = 20_000
"""Rows of arms and cells that are sent to the page, which draws those that its filter leaves."""
_NAMES = ("profile", "model", "experiment", "key")


def list_runs(root: Path) -> list[dict[str, Any]]:
    """Every run, newest first; a folder that is gone has none."""
    return [_line(run) for run in reversed(_runs(root))]


def find_run(root: Path, names: Mapping[str, str]) -> Run:
    """The run of these names.

    Raises:
        UsageError: there is none.
    """
    for run in _runs(root):
        if all(getattr(run, name) == names.get(name) for name in _NAMES):
            return run
    raise UsageError("there is no such run in the results folder", "reload the list of runs")


def describe_run(run: Run) -> dict[str, Any]:
    """Answers, parameters and tables of one run, the arms of its texts, and the scorers of its observations."""
    found: dict[str, Any] = {**_line(run), "params": run.inputs.get("params", {}), "verdicts": [], "tables": []}
    if run.done:
        found["verdicts"] = [str(v) for v in _mapping(run.read_summary()).get("verdicts", [])]
    if run.path("section.json").is_file():
        section = _mapping(run.read_json("section.json"))
        found["tables"] = section.get("tables", [])
        found["answer"] = section.get("answer", [])
    found["arms"] = _arms(run)
    found["observations"] = run.path("observations.parquet").is_file()
    return found


def list_texts(run: Run, *, step: str = "", arms: tuple[str, ...] = (), search: str = "", page: int = 0) -> Any:
    """Generated texts of a run, those of the chosen arms, with the prompts that they continue."""
    wanted = search.casefold()
    prompts = _prompts(run)
    rows = [
        {**row, "before": prompts.get(str(row.get("prompt")), "")}
        for row in run.read_jsonl("generations.jsonl")
        if (not step or row.get("step") == step) and (not arms or row.get("condition") in arms)
    ]
    if wanted:
        rows = [r for r in rows if wanted in str(r.get("text", "")).casefold() or wanted in r["before"].casefold()]
    keep = ("step", "prompt", "before", "condition", "sample", "text", "stopped")
    start = page * PAGE
    return {
        "total": len(rows),
        "page": page,
        "pages": -(-len(rows) // PAGE),
        "rows": [{k: row.get(k) for k in keep} for row in rows[start : start + PAGE]],
    }


def compare_arms(run: Run) -> dict[str, Any]:
    """Mean of every arm in every cell of the run's observations, and how far it is from the baseline arm's.

    The baseline is that of the same cell, or the one without layer and strength where an experiment measures it once
    for all cells. ``cut``: there were more than :data:`MOST_GROUPS`.
    """
    if not run.path("observations.parquet").is_file():
        return {"rows": [], "cut": False}
    import pandas as pd

    cells, what = ["emotion", "layer", "strength", "position", "split", "scorer"], ["emotion", "split", "scorer"]
    frame = run.read_observations([*cells, "arm", "value"]).to_pandas()
    groups = frame.groupby([*cells, "arm"], dropna=False, sort=True)["value"].agg(["mean", "count"]).reset_index()
    base = groups[groups["arm"] == BASELINE_ARM]
    everywhere = base[base["layer"].isna() & base["strength"].isna()]
    own, common = (
        pd.merge(groups[keys], b[[*keys, "mean"]].drop_duplicates(keys), on=keys, how="left")["mean"]
        for keys, b in ((cells, base), (what, everywhere))
    )
    groups["change"] = (groups["mean"] - own.fillna(common)).where(groups["arm"] != BASELINE_ARM)
    rows = [{str(k): _plain(v) for k, v in row.items()} for row in groups.head(MOST_GROUPS).to_dict("records")]
    return {"rows": rows, "cut": len(groups) > MOST_GROUPS}


def _runs(root: Path) -> list[Run]:
    if not root.is_dir():
        return []
    inside = root.resolve()
    return [run for run in Store(root).find() if run.folder.resolve().is_relative_to(inside)]


def _line(run: Run) -> dict[str, Any]:
    try:
        status, started = str(run.status), run.started.isoformat()
    except StoreError:  # the folder is being removed
        status, started = "gone", ""
    return {**{name: getattr(run, name) for name in _NAMES}, "status": status, "started": started,
            "texts": run.path("generations.jsonl").is_file()}  # fmt: skip


def _arms(run: Run) -> list[dict[str, Any]]:
    rows = run.read_jsonl("generations.jsonl")
    counted = Counter((str(r.get("step")), str(r.get("condition"))) for r in rows)
    return [{"step": step, "arm": arm, "texts": n} for (step, arm), n in counted.items()]


def _prompts(run: Run) -> dict[str, str]:
    """Texts of prompts by id: those of the run's captures, and those its parameters hold."""
    texts: dict[str, str] = {}
    for name in sorted(run.folder.glob("*.json")):
        if name.name in ("spec.json", "summary.json", "done.json", "section.json"):
            continue
        content = run.read_json(name.name)
        listed = content.get("prompts") if isinstance(content, dict) else None
        for prompt in listed if isinstance(listed, list) else []:
            if isinstance(prompt, dict) and "id" in prompt and "text" in prompt:
                texts[str(prompt["id"])] = str(prompt["text"])
    given = _mapping(run.inputs.get("params")).get("text", [])
    if isinstance(given, list | tuple):
        texts |= {f"text-{i}": str(t) for i, t in enumerate(given)}
    return texts


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, Mapping) else {}


def _plain(value: Any) -> Any:
    """A cell of a data frame for JSON; nothing for what does not apply."""
    if value is None or value != value:
        return None
    return value.item() if hasattr(value, "item") else value

"""What is mirrored: finished, failed and interrupted runs, a model that never had a run, and a profile's report."""

from __future__ import annotations

from pathlib import Path

import pytest

from emotion_circuits.errors import UsageError
from emotion_circuits.store import Run, Store, append_jsonl, write_json
from emotion_circuits.types import Observation

SUMMARY = {
    "aggregated_metrics": {"gratitude": {"15": {"0.3": {"logit:gratitude": 1.25, "p(50%)": None}}}},
    "established": True,
    "verdicts": ["gratitude: established at layer 15"],
}


def inputs(seed: int = 0) -> dict[str, object]:
    return {
        "experiment": {"name": "directions", "version": 1},
        "params": {"prompts": "baseline", "layers": [3, 5], "long": "x" * 7000},
        "seed": seed,
        "model": {"name": "tiny", "weights": "w" * 12, "tokenizer": "t" * 12},
        "prompts": {"texts": "p" * 12},
        "required": {},
    }


def finished_run(store: Store, seed: int = 0) -> Run:
    run = store.run("small", "tiny", "directions", inputs(seed), {"rows": 4, "device": "cpu"})
    with run.open():
        run.write_observations([observation()])
        run.write_text("table.csv", "layer,auroc\n15,0.9\n")
        run.path("directions.safetensors").write_bytes(b"tensors")
        run.finish({"model": "tiny", "profile": "small", **SUMMARY})
    return run


def failed_run(store: Store) -> Run:
    run = store.run("small", "tiny", "sweep", inputs(1))
    with pytest.raises(UsageError), run.open():
        raise UsageError("layer 99 does not exist", "choose a layer below 30")
    return run


def failed_model(store: Store) -> Path:
    folder = store.root / "small" / "absent"
    record = {"time": "2026-01-31T12:00:00+00:00", "model": "absent", "experiment": "directions",
              "type": "ModelError", "message": "there is no model 'absent'", "fix": "models list"}  # fmt: skip
    write_json(folder / "failed.json", record)
    append_jsonl(folder / "failures.jsonl", [{**record, "traceback": "Traceback …"}])
    return folder


REPORT = {
    "report/report.json": b'{"schema": 1, "report": {"verdicts": [{"question": "Question 1", "answers": ["yes"], '
    b'"reason": ""}]}}',
    "report/report.html": b"<html>", "report/report.md": b"# Report", "report/summary.csv": b"model\n",
    "plots/directions/layer-auroc.png": b"png", "plots/directions/layer-auroc.svg": b"svg",
    "stats/effect_sizes.csv": b"effect\n",
}  # fmt: skip


def written_report(store: Store, **changed: bytes) -> Path:
    """The report of the profile ``small`` as ``study`` and ``stats`` leave it; ``changed``: other pages by stem."""
    folder = store.root / "small"
    for name, content in REPORT.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(changed.get(path.stem, content) if path.suffix == ".html" else content)
    return folder


def observation() -> Observation:
    return Observation(
        experiment="directions", model="tiny", emotion="gratitude", layer=15, position="last", strength=0.3,
        arm="baseline", unit="p1", cluster="s1", split="test", sample=0, scorer="logit:gratitude", value=0.5,
    )  # fmt: skip

"""Finished runs of a profile without a model: a verdict, a section, and a summary with what a report reads of it."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from emotion_circuits.experiments import load_profile
from emotion_circuits.store import Run, Store

READ: dict[str, Any] = {
    "layers": 30, "results": [], "test": [], "per_emotion": [], "layer_pair": {"source": 1, "target": 1},
    "ci": [0.1, 0.7], "p": {"max": 0.2},
}  # fmt: skip
"""What the section that sets models side by side reads of a summary, empty."""

BEGUN = datetime(2026, 1, 31, tzinfo=UTC)
_MINUTES = itertools.count()


def finished(
    store: Store,
    model: str | tuple[str, str],
    experiment: str,
    verdict: str = "found",
    *,
    profile: str = "atlas",
    changed: Mapping[str, Any] | None = None,
    seed: int = 0,
    addresses: Sequence[str] | None = None,
    argv: Sequence[str] = ("a script.py",),
    summary: Mapping[str, Any] | None = None,
) -> Run:
    """A finished run with the profile's parameters but for those ``changed``; it is the latest of its experiment."""
    names = (model,) if isinstance(model, str) else model
    params = load_profile(profile).params(experiment, changed)
    recorded: dict[str, Any] = {"device": "cpu", "source": " → ".join(["here", "there"][: len(names)])}
    if addresses is not None:
        recorded["addresses"] = list(addresses)
    run = store.run(profile, model, experiment, {"params": params, "seed": seed}, recorded)
    pair = {"source": names[0], "target": names[-1], "tau": 0.4, "verdict": "x"} if len(names) > 1 else {}
    with run.open():
        answer = [f"{verdict}."] if verdict else []
        section = {"name": experiment, "heading": experiment, "answer": answer, "figures": [], "tables": [],
                   "limits": []}  # fmt: skip
        run.path("section.json").write_text(json.dumps(section))
        spec = run.read_json("spec.json")
        spec["machine"]["command"] = list(argv)
        # Times are kept to the second, and runs are read in their order.
        spec["started"] = (BEGUN + timedelta(minutes=next(_MINUTES))).isoformat(timespec="seconds")
        run.write_json("spec.json", spec)
        run.finish({"verdicts": [verdict] if verdict else [], "paired": True, **READ, **pair, **(summary or {})})
    run.name_latest()
    return run

"""The explorer's server as a process of its own: what it streams, which texts it shows, and one edit in every place."""

from __future__ import annotations

import json
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from emotion_circuits import readout, steering_condition
from emotion_circuits.cli import main
from emotion_circuits.engine import Row, Sampling
from emotion_circuits.engine.stream import stream
from emotion_circuits.experiments.directions import load_directions
from emotion_circuits.experiments.readout import ReadTokens, load_reader
from emotion_circuits.explorer.live import Live
from emotion_circuits.explorer.queue import CancelledError
from emotion_circuits.explorer.steering import LoadRequest, SteerRequest
from emotion_circuits.models import LM, load_lm
from emotion_circuits.representations.directions import DirectionSet
from emotion_circuits.representations.exchange import read_vectors
from emotion_circuits.representations.expression import steering_vectors
from emotion_circuits.store import Store
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site
from explorer_requests import REQUEST, Page

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


def test_steering_streams_both_texts_with_readouts_and_the_command_writes_the_same(
    loaded: Page, capsys: pytest.CaptureFixture[str]
) -> None:
    said = list(loaded.events("api/steer", REQUEST))
    kinds = [e["event"] for e in said]
    assert kinds[0] == "start" and kinds[-4:] == ["text", "damage", "prompt", "done"]
    assert said[0]["expression"] == "0.4 gratitude @ L1 - 0.2 anger @ L1"
    texts = {e["arm"]: e["text"] for e in said if e["event"] == "text"}
    for arm, text in texts.items():
        tokens = [e for e in said if e["event"] == "token" and e["arm"] == arm]
        # Half a character at the very end comes with the whole text only.
        assert text.startswith("".join(e["piece"] or "" for e in tokens))
        # Every written token is read once, by the event that follows it.
        assert [e["reading"] is None for e in tokens] == [True] + [False] * (len(tokens) - 1)
        assert all(len(e["reading"]) == 3 and len(e["reading"][0]) == 3 for e in tokens[1:])
    damage = next(e for e in said if e["event"] == "damage")
    assert isinstance(damage["ok"], bool) and len(damage["measures"]) == 4
    outside = [m["measure"] for m in damage["measures"] if m["ok"] is False]
    assert all(name in damage["said"] for name in outside) and damage["ok"] <= (not outside)
    last = [e["rep4"] for e in said if e["event"] == "token" and e["arm"] == "steered" and e["piece"] is not None][-1]
    assert last == pytest.approx(damage["measures"][1]["steered"], abs=1e-3)

    words = shlex.split(said[0]["command"])
    assert words[0] == "emotion-circuits"
    capsys.readouterr()
    assert main([*words[1:], "--json", "--quiet"]) == 0
    rows = json.loads(capsys.readouterr().out)["results"]
    assert {r["condition"]: r["text"] for r in rows} == {
        "baseline": texts["baseline"], said[0]["expression"]: texts["steered"]
    }  # fmt: skip


def test_texts_and_arms_of_a_run_can_be_filtered(loaded: Page) -> None:
    _, listed = loaded.get("api/runs")
    run = next(r for r in listed["runs"] if r["experiment"] == "steer")
    names = {k: run[k] for k in ("profile", "model", "experiment", "key")}
    status, found = loaded.get("api/run", names)
    assert status == 200 and found["verdicts"] and found["tables"][0]["rows"]
    arms = [a["arm"] for a in found["arms"]]
    assert arms == ["baseline", "0.4 gratitude @ L1 - 0.2 anger @ L1"]
    _, only = loaded.get("api/texts", {**names, "arm": [arms[1]]})
    assert [r["condition"] for r in only["rows"]] == [arms[1]] and only["rows"][0]["before"] == REQUEST["text"]
    assert loaded.get("api/texts", {**names, "search": "no such words"})[1]["total"] == 0
    directions = next(r for r in listed["runs"] if r["experiment"] == "directions")
    _, means = loaded.get("api/arms", {k: directions[k] for k in names})
    assert {r["arm"] for r in means["rows"]} == {"baseline", "emotion"}
    cells = {(r["emotion"], r["layer"], r["arm"]): r for r in means["rows"]}
    for (emotion, layer, arm), row in cells.items():
        expected = None if arm == "baseline" else row["mean"] - cells[emotion, layer, "baseline"]["mean"]
        assert row["change"] == (expected if expected is None else pytest.approx(expected))


def test_an_expression_means_the_same_in_every_place(
    loaded: Page, cli: Callable[..., Any], explored: Path, profile: Path, model: Path, tmp_path: Path
) -> None:
    """Command line, Python, the page and the exported file with its card: one edit, and one text."""
    written, text = "1.5 gratitude @ L1 - 2sd anger + 0.7raw apology @ L2", "the cat sat on"
    common = ["--model", model, "--profile", profile, "--results", explored]

    lm = load_lm(str(model), device="cpu")
    directions = load_directions(Store(explored).find(experiment="directions")[-1], "resid_post", "mean-content")
    edit = steering_condition(written, directions)
    in_python = text_and_readings(lm, directions, text, edit)
    # The test can tell: half of the expression writes another text and leaves other activations.
    half = text_and_readings(lm, directions, text, steering_condition("0.75 gratitude @ L1 - 1sd anger", directions))
    assert half[0] != in_python[0] and np.abs(half[1] - in_python[1]).max() > 0.1

    row = cli("run", "steer", f"--expression={written}", f"--text={text}", "--max-new-tokens", 12, *common, "--json")
    assert row.json["expression"] == edit.name
    assert [r["text"] for r in row.json["results"] if r["condition"] == edit.name] == [in_python[0]]

    _, shown = loaded.post("api/expression", {"expression": written})
    assert shown["expression"] == edit.name
    said = list(loaded.events("api/steer", {"text": text, "expression": shown["expression"], "max_new_tokens": 12}))
    assert [e["text"] for e in said if e["event"] == "text" and e["arm"] == "steered"] == [in_python[0]]
    scale = cli("run", "readout", f"--text={text}", *common)  # finds the calibration that the page made
    assert scale.code == 0
    reader = load_reader(
        Store(explored).find(experiment="directions")[-1], Store(explored).find(experiment="readout.scale")[-1],
        ReadTokens.Params(),
    )  # fmt: skip
    readings = [e["reading"] for e in said if e["event"] == "token" and e["arm"] == "steered"][1:]
    np.testing.assert_allclose(readings, reader.read(in_python[1][1:]), atol=0.02)

    for suffix in (".npz", ".gguf"):
        file = tmp_path / f"v{suffix}"
        card = cli("vectors", "export", written, "--output", file, *common, "--json").json
        content = read_vectors(file)
        assert card["expression"] == content.card.expression == edit.name
        edits = [
            Intervention(Site("resid_post", at), "add", Positions("onward"), v) for at, v in content.vectors.items()
        ]
        from_file = text_and_readings(lm, directions, text, Condition("file", tuple(edits)))
        assert from_file[0] == in_python[0]
        np.testing.assert_allclose(from_file[1], in_python[1], atol=1e-4)
        again = steering_vectors(content.card.expression, directions)
        for layer, vector in content.vectors.items():
            np.testing.assert_allclose(again[layer], vector, rtol=1e-6)


def text_and_readings(lm: LM, directions: DirectionSet, text: str, edit: Condition) -> tuple[str, Any]:
    """What is written under an edit, and ``[step, layer, d]`` of what its tokens left in the residual stream."""
    (encoded,) = lm.encode([Prompt("text-0", text)])
    seen: list[Any] = []
    (generation,) = stream(
        lm, [Row(encoded, edit)], Sampling(12), directions.layers, lambda step: seen.append(step.residual)
    )
    return generation.text, np.stack(seen)


def test_a_second_tab_waits_its_turn_and_is_told_so(loaded: Page) -> None:
    first = loaded.events("api/steer", {**REQUEST, "max_new_tokens": 60})
    assert next(first)["event"] == "start"
    second = loaded.events("api/steer", REQUEST)
    assert next(second) == {"event": "queued", "ahead": 1}
    assert list(first)[-1]["event"] == "done"
    assert list(second)[-1]["event"] == "done"


def test_leaving_cancels_the_work(loaded: Page) -> None:
    # Stop tokens end a text early, so several long requests are begun and left.
    for _ in range(3):
        left = loaded.events("api/steer", {**REQUEST, "max_new_tokens": 200})
        assert next(e for e in left if e["event"] != "queued")["event"] == "start"
        left.close()
    said = list(loaded.events("api/steer", REQUEST))
    assert said[-1]["event"] == "done"


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"expression": "gratitude"}, "a strength is missing"),
        ({"expression": "0.4 envy"}, "envy"),
        ({"expression": "0.4 anger @ L9"}, "layer 9"),
        ({"text": "  "}, "no text to continue"),
        ({"text": "cat " * 4000}, "tokens"),
        ({"text": "x" * 1_000_000}, "text"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": -1}, "temperature"),
        ({"seed": "one"}, "seed"),
        ({"extra": 1}, "extra"),
        ({"text": "\ud800"}, "text"),
        ({"text": "a\0b"}, "character"),
    ],
)
def test_requests_that_cannot_be_answered_say_why(loaded: Page, change: dict[str, Any], part: str) -> None:
    status, content = loaded.post("api/steer", {**REQUEST, **change})
    if status == 200:  # found out by the worker
        last = json.loads(content.decode().strip().split("\n\n")[-1][6:])
        assert last["event"] == "error"
        content = last
    else:
        assert status == 400
    assert part in content["error"] and content["fix"]


def test_a_model_without_directions_is_refused_with_the_command_and_the_one_in_memory_stays(
    loaded: Page, tmp_path: Path, model: Path
) -> None:
    other = tmp_path / "other"
    shutil.copytree(model, other)
    (said,) = loaded.events("api/load", {"model": str(other), "profile": "small"})
    assert said["event"] == "error" and f"run directions --model {other}" in said["fix"]
    assert loaded.get("api/state")[1]["loaded"]["model"].startswith("tiny-llama")
    assert list(loaded.events("api/steer", REQUEST))[-1]["event"] == "done"


def test_promoted_tokens_are_those_of_the_command_line(
    loaded: Page, cli: Callable[..., Any], explored: Path, profile: Path, model: Path
) -> None:
    (said,) = loaded.events("api/promoted", {"layer": 2, "count": 3})
    assert said["event"] == "promoted" and said["layer"] == 2
    words = ["--model", model, "--profile", profile, "--results", explored, "--layer", 2, "--count", 3, "--json"]
    printed = cli("vectors", "promoted", *words).json["emotions"]
    assert list(printed) == [row["emotion"] for row in said["rows"]] == ["gratitude", "anger", "apology"]
    for row in said["rows"]:
        for side in ("up", "down"):
            assert [t["id"] for t in row[side]] == [t["id"] for t in printed[row["emotion"]][side]]
    (said,) = loaded.events("api/promoted", {"layer": 99})
    assert said["event"] == "error" and "99" in said["error"]
    assert loaded.post("api/promoted", {"layer": "one"})[0] == 400


class Leaving:
    """A job whose page goes as soon as a part of the calibration texts was read."""

    def __init__(self) -> None:
        self.said: list[dict[str, Any]] = []

    def say(self, event: str, **content: Any) -> None:
        self.said.append({"event": event, **content})

    def check(self) -> None:
        if any(e.get("read") for e in self.said):
            raise CancelledError


def test_calibrating_says_how_far_it_is_and_ends_when_the_page_has_gone(
    finished: Path, profile: Path, model: Path, tmp_path: Path
) -> None:
    results = Path(shutil.copytree(finished, tmp_path / "results"))
    live = Live(results, lambda name: load_lm(name, device="cpu"), {"small": str(profile)})
    job: Any = Leaving()
    with pytest.raises(CancelledError):
        live.change_model(LoadRequest(model=str(model), profile="small"), job)
    reads = [e["read"] for e in job.said if e["event"] == "calibrating"]
    assert reads[0] == 0 < reads[1] < job.said[-1]["texts"] and len(reads) == 2
    assert live.loaded is None
    assert [str(r.status) for r in Store(results).find(experiment="readout.scale")] == ["partial"]
    job.check = lambda: None
    live.change_model(LoadRequest(model=str(model), profile="small"), job)
    assert job.said[-1]["event"] == "loaded" and live.loaded is not None


def test_directions_of_another_seed_are_found_and_the_command_names_it(
    cli: Callable[..., Any], profile: Path, model: Path, tmp_path: Path
) -> None:
    common = ["--profile", profile, "--results", tmp_path, "--seed", 3, "--quiet"]
    assert cli("run", "directions", "--model", model, *common).code == 0
    live = Live(tmp_path, lambda name: load_lm(name, device="cpu"), {"small": str(profile)})
    job: Any = Leaving()
    job.check = lambda: None
    live.change_model(LoadRequest(model=str(model), profile="small"), job)
    assert job.said[-1]["seed"] == 3
    live.steer(SteerRequest(**REQUEST, seed=3), job)
    (command,) = [e["command"] for e in job.said if e["event"] == "start"]
    before = len(Store(tmp_path).find(experiment="directions"))
    rows = cli(*shlex.split(command)[1:], "--json", "--quiet").json["results"]
    assert [r["text"] for r in rows] == [e["text"] for e in job.said if e["event"] == "text"]
    assert len(Store(tmp_path).find(experiment="directions")) == before, "nothing is fitted again"


def test_reading_a_text_gives_the_same_numbers_in_python_and_on_the_command_line(
    cli: Callable[..., Any], explored: Path, profile: Path, model: Path
) -> None:
    text, common = "the cat sat on the mat", ["--model", model, "--profile", profile, "--results", explored]
    (printed,) = cli("readout", text, *common, "--json").json["texts"]
    directions = load_directions(Store(explored).find(experiment="directions")[-1], "resid_post", "mean-content")
    found = readout(load_lm(str(model), device="cpu"), text, directions)
    np.testing.assert_allclose(found.values, printed["values"], rtol=1e-4, atol=1e-4)
    assert [list(span) for span in found.spans] == printed["spans"] and list(found.pieces) == printed["tokens"]
    table = cli("readout", text, *common).out.splitlines()
    assert max(map(len, table[:-1])) <= 80 and f"{found.values[0, 1, 0]:+.1f}" in table[4]


def test_an_expression_and_a_text_may_begin_with_a_minus(
    cli: Callable[..., Any], finished: Path, profile: Path, model: Path
) -> None:
    common = ["--model", model, "--profile", profile, "--results", finished, "--dry-run", "--json"]
    apart = cli("run", "steer", "--expression", "-0.2 anger @ L1", "--text", "- the cat", *common)
    together = cli("run", "steer", "--expression=-0.2 anger @ L1", "--text=- the cat", *common)
    assert [c["key"] for c in apart.json["cells"]] == [c["key"] for c in together.json["cells"]]
    cli("run", "steer", "--expression", "--text", "the cat", *common).refused(2, "--expression needs a value")

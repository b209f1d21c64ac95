"""The explorer's server as a process of its own: who may ask, what it streams, and what it survives."""

from __future__ import annotations

import http.client
import json
import random
import shlex
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import numpy as np
import pytest

from emotion_circuits.cli import main
from emotion_circuits.engine import Row, Sampling
from emotion_circuits.engine.stream import stream
from emotion_circuits.experiments.directions import load_directions
from emotion_circuits.experiments.readout import ReadTokens, load_reader
from emotion_circuits.models import LM, load_lm
from emotion_circuits.representations.directions import DirectionSet
from emotion_circuits.representations.exchange import read_vectors
from emotion_circuits.representations.expression import steering_condition, steering_vectors
from emotion_circuits.store import Store
from emotion_circuits.types import Condition, Intervention, Positions, Prompt, Site
from small_study import exploring

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")

REQUEST = {"text": "the cat sat on", "expression": "0.4 gratitude @ L1 - 0.2 anger", "max_new_tokens": 8}
JSON = {"content-type": "application/json"}


class Page:
    """Asks the server as the page does."""

    def __init__(self, address: str) -> None:
        parts = urlsplit(address)
        self.host, self.port, self.secret = str(parts.hostname), int(parts.port or 0), parts.path.strip("/")

    def send(
        self, method: str, path: str, body: bytes | None = None, headers: dict[str, str] | None = None,
        secret: str | None = None,
    ) -> tuple[http.client.HTTPConnection, http.client.HTTPResponse]:  # fmt: skip
        connection = http.client.HTTPConnection(self.host, self.port, timeout=60)
        prefix = self.secret if secret is None else secret
        connection.request(method, f"/{prefix}/{path}", body, headers or {})
        return connection, connection.getresponse()

    def get(self, path: str, query: dict[str, Any] | None = None, **given: Any) -> tuple[int, Any]:
        connection, answer = self.send("GET", f"{path}?{urlencode(query or {}, doseq=True)}", **given)
        content = json.loads(answer.read())
        connection.close()
        return answer.status, content

    def post(self, path: str, content: object, **given: Any) -> tuple[int, Any]:
        connection, answer = self.send("POST", path, json.dumps(content).encode(), JSON, **given)
        found = answer.read()
        connection.close()
        return answer.status, json.loads(found) if answer.getheader("content-type") == "application/json" else found

    def events(self, path: str, content: object) -> Iterator[dict[str, Any]]:
        connection, answer = self.send("POST", path, json.dumps(content).encode(), JSON)
        assert answer.status == 200, answer.read()
        try:
            for line in answer:
                if line.startswith(b"data: "):
                    yield json.loads(line[6:])
        finally:
            connection.close()


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, finished: Path) -> Path:
    return Path(shutil.copytree(finished, tmp_path_factory.mktemp("explored") / "results"))


@pytest.fixture(scope="module")
def page(results: Path, profile: Path) -> Iterator[Page]:
    with exploring(results, profile) as (_, address):
        yield Page(address)


@pytest.fixture(scope="module")
def loaded(page: Page) -> Page:
    """The page after its model was loaded."""
    _, state = page.get("api/state")
    (choice,) = state["choices"]
    said = list(page.events("api/load", {"model": choice["model"], "profile": choice["profile"]}))
    assert said[-1]["event"] == "loaded", said
    assert said[-1]["emotions"] == ["gratitude", "anger", "apology"] and said[-1]["layers"] == [0, 1, 2]
    return page


def test_page_and_its_files_come_with_a_strict_policy(page: Page) -> None:
    for name, kind in (("", "text/html"), ("main.js", "javascript"), ("style.css", "text/css")):
        connection, answer = page.send("GET", name)
        assert answer.status == 200 and kind in str(answer.getheader("content-type"))
        policy = str(answer.getheader("content-security-policy"))
        assert "default-src 'none'" in policy and "unsafe" not in policy
        assert answer.getheader("referrer-policy") == "no-referrer"
        assert b"http://" not in answer.read().replace(b"http://www.w3.org/2000/svg", b"")
        connection.close()


@pytest.mark.parametrize(
    ("headers", "secret", "status"),
    [
        ({}, "", 403),
        ({}, "wrong", 403),
        ({"Host": "evil.example"}, None, 421),
        ({"Host": "127.0.0.1"}, None, 421),
        ({"Origin": "http://evil.example"}, None, 403),
        ({"Origin": "null"}, None, 403),
        ({"Sec-Fetch-Site": "cross-site"}, None, 403),
    ],
)
def test_others_are_refused(page: Page, headers: dict[str, str], secret: str | None, status: int) -> None:
    found, content = page.get("api/state", headers=headers, secret=secret)
    assert found == status and content["fix"]
    assert "results" not in content


@pytest.mark.parametrize(
    "path",
    ["../pyproject.toml", "%2e%2e/app.py", "..%2fapp.py", "app.py", "/etc/passwd", "static/main.js", "main.js/.."],
)
def test_no_other_file_is_served(page: Page, path: str) -> None:
    connection, answer = page.send("GET", path)
    assert answer.status in (403, 404)
    connection.close()


def test_runs_outside_the_results_folder_are_not_shown(page: Page, results: Path, tmp_path: Path) -> None:
    run = next(results.glob("small/*/directions/*/spec.json")).parent
    outside = tmp_path / "0123456789ab"
    shutil.copytree(run, outside)
    link = run.parent / "0123456789ab"
    link.symlink_to(outside, target_is_directory=True)
    try:
        _, content = page.get("api/runs")
        assert "0123456789ab" not in {r["key"] for r in content["runs"]} and run.name in {
            r["key"] for r in content["runs"]
        }
        names = {"profile": "small", "model": run.parent.parent.name, "experiment": "directions"}
        assert page.get("api/run", {**names, "key": run.name})[0] == 200
        for key in ("0123456789ab", "../" + run.name, run.name + "/..", ""):
            assert page.get("api/run", {**names, "key": key})[0] == 400
    finally:
        link.unlink()


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
    assert set(damage["arms"]) == {"baseline", "steered"} and isinstance(damage["gate"]["ok"], bool)

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


def test_an_expression_means_the_same_in_every_place(
    loaded: Page, cli: Callable[..., Any], results: Path, profile: Path, model: Path, tmp_path: Path
) -> None:
    """Command line, Python, the page and the exported file with its card: one edit, and one text."""
    written, text = "1.5 gratitude @ L1 - 2sd anger + 0.7raw apology @ L2", "the cat sat on"
    common = ["--model", model, "--profile", profile, "--results", results]

    lm = load_lm(str(model), device="cpu")
    directions = load_directions(Store(results).find(experiment="directions")[-1], "resid_post", "mean-content")
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
        Store(results).find(experiment="directions")[-1], Store(results).find(experiment="readout.scale")[-1],
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
    loaded: Page, cli: Callable[..., Any], results: Path, profile: Path, model: Path
) -> None:
    (said,) = loaded.events("api/promoted", {"layer": 2, "count": 3})
    assert said["event"] == "promoted" and said["layer"] == 2
    words = ["--model", model, "--profile", profile, "--results", results, "--layer", 2, "--count", 3, "--json"]
    printed = cli("vectors", "promoted", *words).json["emotions"]
    assert list(printed) == [row["emotion"] for row in said["rows"]] == ["gratitude", "anger", "apology"]
    for row in said["rows"]:
        for side in ("up", "down"):
            assert [t["id"] for t in row[side]] == [t["id"] for t in printed[row["emotion"]][side]]
    (said,) = loaded.events("api/promoted", {"layer": 99})
    assert said["event"] == "error" and "99" in said["error"]
    assert loaded.post("api/promoted", {"layer": "one"})[0] == 400


def test_200_malformed_requests_and_oversized_ones_are_survived(loaded: Page) -> None:
    rng = random.Random(0)
    paths = [
        "api/steer",
        "api/load",
        "api/expression",
        "api/run",
        "api/texts",
        "api/arms",
        "api/state",
        "",
        "x",
        "api/",
    ]
    values: list[Any] = [
        None,
        [],
        {},
        "",
        "a\0b",
        -1,
        1e308,
        True,
        "../..",
        [[[]]],
        {"text": {}},
        "\u202e",
        "0.4 a @ L99",
    ]
    for number in range(200):
        path = f"/{loaded.secret}/{rng.choice(paths)}"
        if number % 4 == 0:  # no HTTP at all, or half of it
            raw = [b"\0" * 50, b"GET / HTTP/9.9\r\n\r\n", f"POST {path} HTTP/1.1\r\nHost: a\r\n".encode(), b"\r\n" * 9,
                   f"GET {path} HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n".encode(), rng.randbytes(300)]  # fmt: skip
            with socket.create_connection((loaded.host, loaded.port), timeout=5) as line:
                line.sendall(rng.choice(raw))
            continue
        keys = ["text", "expression", "model", "profile", "max_new_tokens", "seed", "arm", "page"]
        content = {rng.choice(keys): rng.choice(values) for _ in range(rng.randrange(4))}
        body = rng.choice([json.dumps(content).encode(), b"{", b"[" * 5000, b"\xff\xfe", rng.randbytes(40), b""])
        method = rng.choice(["GET", "POST", "PUT", "DELETE", "OPTIONS", "BREW"])
        query = urlencode({rng.choice(keys): str(rng.choice(values))}, errors="replace")
        connection = http.client.HTTPConnection(loaded.host, loaded.port, timeout=30)
        connection.request(method, f"{path}?{query}", body, rng.choice([JSON, {}, {"content-type": "text/plain"}]))
        answer = connection.getresponse()
        answer.read()
        assert answer.status < 500, (method, path, body)
        connection.close()
    assert loaded.post("api/steer", {**REQUEST, "text": "x" * 3_000_000})[0] == 413
    assert list(loaded.events("api/steer", REQUEST))[-1]["event"] == "done"


def test_a_results_folder_that_vanishes_leaves_the_page_usable(loaded: Page, results: Path) -> None:
    aside = results.with_name("aside")
    results.rename(aside)
    try:
        assert loaded.get("api/state")[1]["found"] is False
        assert loaded.get("api/runs") == (200, {"found": False, "runs": []})
        assert loaded.get("api/run", {"profile": "small"})[0] == 400
        assert list(loaded.events("api/steer", REQUEST))[-1]["event"] == "done"
    finally:
        aside.rename(results)
    assert loaded.get("api/state")[1]["found"] is True


def test_ctrl_c_ends_it_also_while_a_text_is_streamed(results: Path, profile: Path) -> None:
    with exploring(results, profile) as (process, address):
        page = Page(address)
        (choice,) = [c for c in page.get("api/state")[1]["choices"] if c["profile"] == "small"]
        assert list(page.events("api/load", {"model": choice["model"], "profile": "small"}))[-1]["event"] == "loaded"
        stop = threading.Event()

        def reading() -> None:
            with_errors = (OSError, http.client.HTTPException, AssertionError)
            while not stop.is_set():
                try:
                    for _ in page.events("api/steer", {**REQUEST, "max_new_tokens": 200}):
                        pass
                except with_errors:
                    return

        reader = threading.Thread(target=reading)
        reader.start()
        started = time.monotonic()
        process.send_signal(signal.SIGINT)
        code = process.wait(timeout=20)
        stop.set()
        reader.join(timeout=20)
        assert code in (0, 130) and time.monotonic() - started < 15
        error = process.stderr.read() if process.stderr else ""
        assert "Traceback" not in error and "defect" not in error, error


def test_a_taken_port_is_named(cli: Callable[..., Any], results: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = cli("explore", results, "--port", taken.getsockname()[1])
    answer.refused(2, "cannot be used")

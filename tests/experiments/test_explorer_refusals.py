"""The explorer's server as a process of its own: who may ask, and what it survives."""

from __future__ import annotations

import http.client
import json
import random
import shutil
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from emotion_circuits.explorer.guard import LONGEST_WAIT
from explorer_requests import JSON, REQUEST, Page, head, raw_answer, raw_requests
from small_study import exploring

pytest.importorskip("starlette", reason="the extra [serve] is not installed")
pytest.importorskip("uvicorn", reason="the extra [serve] is not installed")
pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs POSIX signals")


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


def test_runs_outside_the_results_folder_are_not_shown(page: Page, explored: Path, tmp_path: Path) -> None:
    run = next(explored.glob("small/*/directions/*/spec.json")).parent
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


def test_raw_requests_that_no_browser_sends_are_refused_and_leave_the_terminal_clean(
    explored: Path, profile: Path
) -> None:
    with exploring(explored, profile) as (process, address):
        page = Page(address)
        for request, status in raw_requests(page).items():
            assert raw_answer(page, request).startswith(f"HTTP/1.1 {status} ".encode()), request[:120]
        # Half of a request, then silence or the end of the line: others are answered meanwhile, and Ctrl-C ends it.
        steer = head(
            page, "POST", f"/{page.secret}/api/steer", "Content-Type: application/json\r\nContent-Length: 90\r\n"
        )
        with ExitStack() as lines:
            for half in [*[steer + b'{"te'] * 50, *[head(page, "GET", f"/{page.secret}/")[:-2] + b"X-a: "] * 50]:
                line = lines.enter_context(socket.create_connection((page.host, page.port), timeout=5))
                line.sendall(half)
            with socket.create_connection((page.host, page.port), timeout=5) as line:
                line.sendall(steer)
            assert page.get("api/state")[0] == 200
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(timeout=60) in (0, 130) and time.monotonic() - started < LONGEST_WAIT
        assert process.stderr is not None
        said = [line for line in process.stderr.read().splitlines() if not line.startswith(("browse ", "stopped; "))]
        assert said == []


def test_a_results_folder_that_vanishes_leaves_the_page_usable(loaded: Page, explored: Path) -> None:
    aside = explored.with_name("aside")
    explored.rename(aside)
    try:
        assert loaded.get("api/state")[1]["found"] is False
        assert loaded.get("api/runs") == (200, {"found": False, "runs": []})
        assert loaded.get("api/run", {"profile": "small"})[0] == 400
        assert list(loaded.events("api/steer", REQUEST))[-1]["event"] == "done"
    finally:
        aside.rename(explored)
    assert loaded.get("api/state")[1]["found"] is True


def test_ctrl_c_ends_it_also_while_a_text_is_streamed(explored: Path, profile: Path) -> None:
    with exploring(explored, profile) as (process, address):
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
        code = process.wait(timeout=60)
        stop.set()
        reader.join(timeout=20)
        assert code in (0, 130) and time.monotonic() - started < 30
        error = process.stderr.read() if process.stderr else ""
        assert "Traceback" not in error and "defect" not in error, error


def test_a_taken_port_is_named(cli: Callable[..., Any], explored: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        answer = cli("explore", explored, "--port", taken.getsockname()[1])
    answer.refused(2, "cannot be used")

"""The guard alone: what is refused before it is read, and requests that stop half-way."""

from __future__ import annotations

import asyncio
import json
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from emotion_circuits.explorer import guard
from emotion_circuits.explorer.guard import MOST_BYTES, Guard, Message, Receive, Scope, Send, TooLongError, TooSlowError

SECRET, PORT = "s" * 32, 1234


async def reads_everything(scope: Scope, receive: Receive, send: Send) -> None:
    """An application that reads a request's body and says how long it was, and then waits until the page has gone."""
    length = 0
    while True:
        message = await receive()
        length += len(message.get("body", b""))
        if not message.get("more_body", False):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})
    assert (await receive())["type"] == "http.disconnect"


def asked(
    parts: list[bytes], *, headers: dict[str, str] | None = None, path: str = f"/{SECRET}/api/steer", wait: float = 0
) -> tuple[int, bytes]:
    """Status and body of the answer to a request whose body comes in parts; the last one says that more follows."""
    said: list[Message] = []
    left = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    left += [] if wait else [{"type": "http.request", "body": b"", "more_body": False}]

    async def receive() -> Message:
        if left:
            return left.pop(0)
        await asyncio.sleep(wait or 0.2)
        return {"type": "http.disconnect"}

    async def send(message: Message) -> None:
        said.append(message)

    given = {"host": f"127.0.0.1:{PORT}", **(headers or {})}
    scope: dict[str, Any] = {
        "type": "http",
        "path": path,
        "headers": [(k.encode(), v.encode()) for k, v in given.items()],
    }

    async def whole() -> None:
        await Guard(reads_everything, SECRET, PORT)(scope, receive, send)

    # In a thread of its own: the browser tests leave an event loop running in theirs.
    with ThreadPoolExecutor(1) as thread:
        thread.submit(lambda: asyncio.run(whole())).result()
    return said[0]["status"], said[1]["body"]


def test_a_body_in_parts_is_read_and_the_wait_for_the_page_to_leave_has_no_limit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(guard, "LONGEST_WAIT", 0.05)
    assert asked([b"abc", b"de"]) == (200, b"5")


def test_a_body_that_says_it_is_far_too_long_is_refused_before_it_comes() -> None:
    status, body = asked([], headers={"content-length": "99999999999999999999"}, wait=60)
    assert status == 413 and json.loads(body)["fix"]


def test_a_body_that_says_it_is_too_long_may_be_sent_before_it_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = [b"x" * 1_000_000] * 3
    assert asked(parts, headers={"content-length": "3000000"})[0] == 413
    monkeypatch.setattr(guard, "LONGEST_WAIT", 0.05)
    assert asked([], headers={"content-length": str(MOST_BYTES + 1)}, wait=60)[0] == 413


def test_a_body_that_turns_out_too_long_is_cut_off() -> None:
    with pytest.raises(TooLongError):
        asked([b"x" * 1_000_000] * 3)


def test_a_body_that_stops_coming_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guard, "LONGEST_WAIT", 0.05)
    with pytest.raises(TooSlowError):
        asked([b'{"te'], wait=60)


def test_the_length_of_a_stranger_is_not_even_looked_at() -> None:
    status, _ = asked([], headers={"content-length": "99999999"}, path="/wrong/api/steer", wait=60)
    assert status == 403

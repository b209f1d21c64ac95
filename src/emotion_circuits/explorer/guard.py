"""Who may ask: only pages that this server itself sent, to the person who has its address.

The server listens on this machine only. That alone does not keep other web pages out: a page can send requests to
127.0.0.1, and a name that it owns can be made to point there. So every request needs the secret of the address, the
server's own name as ``Host``, and, where the browser says where it comes from, this very origin.
"""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

MOST_BYTES = 2_000_000
"""Of a request's body; larger ones are refused, at once where they say how long they are."""

MOST_DISCARDED = 50_000_000
"""A longer body is not even read to its end: whoever sends it may find the line closed before the answer."""

LONGEST_WAIT = 20.0
"""Seconds for the next part of a request's body."""

HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
}


class Guard:
    """ASGI middleware: refuses what is not from the page itself, cuts long bodies off, adds the headers.

    ``secret`` is the first part of every path. ``port`` is where the server listens.
    """

    def __init__(self, inner: Application, secret: str, port: int) -> None:
        self._inner, self._secret = inner, secret
        self._hosts = {f"{name}:{port}" for name in ("127.0.0.1", "localhost", "[::1]")}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            if scope["type"] == "websocket":
                await send({"type": "websocket.close", "code": 1008})
                return
            await self._inner(scope, receive, send)
            return

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                own = [(k.encode(), v.encode()) for k, v in HEADERS.items()]
                message["headers"] = [*message.get("headers", []), *own]
            await send(message)

        refusal = self._refusal(scope)
        if refusal is not None:
            await _answer(with_headers, *refusal)
            return
        length = _length(scope)
        if length > MOST_BYTES:
            # A browser that is still sending would see a broken line instead of the answer.
            await _discarded(receive, length)
            await _answer(with_headers, 413, *TOO_LONG)
            return
        path = "/" + str(scope["path"]).lstrip("/").partition("/")[2]
        inner_scope = {**scope, "path": path, "raw_path": path.encode()}
        await self._inner(inner_scope, _limited(receive), with_headers)

    def _refusal(self, scope: Scope) -> tuple[int, str, str] | None:
        headers: dict[str, list[str]] = {}
        for name, value in scope["headers"]:
            headers.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
        hosts = headers.get("host", [])
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return 421, "this server has another name", "open the address that `emotion-circuits explore` printed"
        own = f"http://{hosts[0].lower()}"
        if any(origin != own for origin in headers.get("origin", [])):
            return 403, "requests from other pages are refused", "use the page itself"
        if any(site not in ("same-origin", "none") for site in headers.get("sec-fetch-site", [])):
            return 403, "requests from other pages are refused", "use the page itself"
        given = str(scope["path"]).lstrip("/").partition("/")[0]
        if not secrets.compare_digest(given.encode(), self._secret.encode()):
            return 403, "the secret part of the address is missing or wrong", (
                "open the whole address that `emotion-circuits explore` printed"
            )  # fmt: skip
        return None


TOO_LONG = ("the request is too long", "shorten the text")


class TooLongError(Exception):
    """A request's body is longer than :data:`MOST_BYTES`."""


class TooSlowError(Exception):
    """The next part of a request's body did not come within :data:`LONGEST_WAIT`."""


def _length(scope: Scope) -> int:
    """How long a request says that its body is; the server has checked that it is a number."""
    return max((int(value) for name, value in scope["headers"] if name.lower() == b"content-length"), default=0)


async def _discarded(receive: Receive, length: int) -> None:
    """Read a body that nobody wants, unless it is longer than is worth it or stops coming."""
    left = length
    while 0 < left <= MOST_DISCARDED:
        try:
            message = await asyncio.wait_for(receive(), LONGEST_WAIT)
        except TimeoutError:
            return
        left -= len(message.get("body", b""))
        if not message.get("more_body", False):
            return


def _limited(receive: Receive) -> Receive:
    seen, complete = 0, False

    async def limited() -> Message:
        nonlocal seen, complete
        if complete:  # what comes now is that the page has gone, whenever that is
            return await receive()
        try:
            message = await asyncio.wait_for(receive(), LONGEST_WAIT)
        except TimeoutError as error:
            raise TooSlowError from error
        seen += len(message.get("body", b"")) if message["type"] == "http.request" else 0
        if seen > MOST_BYTES:
            raise TooLongError
        complete = not message.get("more_body", False)
        return message

    return limited


async def _answer(send: Send, status: int, what: str, fix: str) -> None:
    body = json.dumps({"error": what, "fix": fix}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()),
               (b"connection", b"close")]  # fmt: skip
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})

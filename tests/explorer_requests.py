"""Asking the explorer's server as its page does, and as no browser would."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from typing import Any
from urllib.parse import urlencode, urlsplit

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


def head(page: Page, method: str, target: str, more: str = "", host: str | None = None) -> bytes:
    """The first lines of a request."""
    name = f"{page.host}:{page.port}" if host is None else host
    return f"{method} {target} HTTP/1.1\r\nHost: {name}\r\n{more}\r\n".encode("latin-1")


def raw_requests(page: Page) -> dict[bytes, int]:
    """Requests as bytes, and the status that answers them."""
    state, steer, asked = f"/{page.secret}/api/state", f"/{page.secret}/api/steer", "Content-Type: application/json\r\n"
    upgrade = "Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAA\r\n"
    names = urlencode({"profile": "..", "model": "../..", "experiment": ".", "key": "/etc/passwd"})
    return {
        head(page, "GET", state): 200,
        f"GET {state} HTTP/1.0\r\n\r\n".encode(): 421,
        head(page, "GET", state, host=f"evil.example:{page.port}"): 421,
        head(page, "GET", state, host=f"{page.host}:{page.port}@evil.example"): 421,
        head(page, "GET", state, f"Host: {page.host}:{page.port}\r\n"): 400,
        head(page, "GET", f"http://evil.example{state}"): 403,
        head(page, "GET", "/api/state"): 403,
        head(page, "GET", state, f"Origin: https://{page.host}:{page.port}\r\n"): 403,
        head(page, "GET", state, "Sec-Fetch-Site: same-site\r\n"): 403,
        head(page, "OPTIONS", steer, "Origin: http://evil.example\r\nAccess-Control-Request-Method: POST\r\n"): 403,
        head(page, "GET", steer, upgrade): 405,
        head(page, "GET", f"/{page.secret}/%2e%2e%2f%2e%2e%2fetc%2fpasswd"): 404,
        head(page, "GET", f"/{page.secret}/main.js%00.html"): 404,
        head(page, "GET", f"/{page.secret}/api/run?{names}"): 400,
        head(page, "GET", f"/{page.secret}/api/texts?page=%C2%B2"): 400,
        head(page, "POST", steer, asked + "Content-Length: -5\r\n"): 400,
        head(page, "POST", steer, asked + "Content-Length: 5\r\nContent-Length: 6\r\n") + b"{}   ": 400,
        head(page, "POST", steer, asked + "Content-Length: 99999999999999999999\r\n"): 413,
        head(page, "POST", steer, asked + "Transfer-Encoding: chunked\r\n") + b"3\r\n{}{\r\n0\r\n\r\n": 400,
        head(page, "POST", steer, asked + "Content-Length: 6000\r\n") + b"9" * 6000: 400,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 40: 400,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n": 421,
    }


def raw_answer(page: Page, request: bytes) -> bytes:
    with socket.create_connection((page.host, page.port), timeout=10) as line:
        line.sendall(request)
        return line.recv(1000)

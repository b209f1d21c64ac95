"""A Hugging Face hub on this machine, over real HTTP, for the hub library to talk to through ``HF_ENDPOINT``.

It speaks the part of the protocol that a download needs: model information and file tree (``/api/models/…``), and
``/{repo}/resolve/{revision}/{file}`` with the hub's metadata headers, where large files are redirected to a second path
as to a content network. Repositories can be gated, forbidden, or serve a file cut short.
"""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_valid"
LARGE = (".safetensors", ".bin")


@dataclass
class Repository:
    """What the fake hub serves under one id.

    ``access``: "open"; "gated" (401 without ``TOKEN``); "forbidden" (403 also with it). ``cut`` maps a file to the
    number of bytes after which its body ends although more was announced.
    """

    files: dict[str, bytes]
    access: str = "open"
    cut: dict[str, int] = field(default_factory=dict)
    branches: tuple[str, ...] = ("main",)

    @property
    def commit(self) -> str:
        digest = hashlib.sha1(usedforsecurity=False)
        for name in sorted(self.files):
            digest.update(name.encode() + b"\0" + self.files[name])
        return digest.hexdigest()

    @classmethod
    def of_folder(cls, folder: Path, **options: Any) -> Repository:
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file()]
        return cls({path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}, **options)


@dataclass
class FakeHub:
    """A running hub: its address, its repositories and the requests that it got (``"GET /path"``)."""

    url: str
    repositories: dict[str, Repository]
    requests: list[str]


@contextmanager
def serve(repositories: Mapping[str, Repository]) -> Iterator[FakeHub]:
    """Run a fake hub on a free port until the block ends."""
    hub = FakeHub("", dict(repositories), [])

    class Handler(_Handler):
        state = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    hub.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    state: FakeHub
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002  (the base class names it so)
        """Requests are kept in the hub's list, not printed."""

    def _answer(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path).strip("/")
        self.state.requests.append(f"{self.command} /{path}")
        if path.startswith("api/models/"):
            self._api(path.removeprefix("api/models/"), with_body)
        elif path.startswith("cdn/"):
            repo_id, _, name = path.removeprefix("cdn/").partition("/-/")
            self._file(self.state.repositories[repo_id], name, with_body)
        else:
            self._resolve(path, with_body)

    def _api(self, path: str, with_body: bool) -> None:
        repo_id, revision, tree = path, "main", False
        for marker in ("/revision/", "/tree/"):
            if marker in path:
                repo_id, _, revision = path.partition(marker)
                tree = marker == "/tree/"
        repository = self.state.repositories.get(repo_id)
        if repository is None:
            # The real hub answers 401 here to whoever has no token, because the repository might be private.
            code = 404 if self._token() else 401
            self._error(code, "RepoNotFound", "Repository not found", with_body)
        elif revision not in (*repository.branches, repository.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}", with_body)
        elif tree:
            entries = [
                {"type": "file", "path": name, "size": len(body), "oid": _oid(body)} | _lfs(name, body)
                for name, body in repository.files.items()
            ]
            self._json(entries, with_body)
        else:
            siblings = [
                {"rfilename": name, "size": len(body), "blobId": _oid(body)} | _lfs(name, body)
                for name, body in repository.files.items()
            ]
            gated = "manual" if repository.access == "gated" else False
            info = {"_id": "0", "id": repo_id, "modelId": repo_id, "sha": repository.commit, "private": False}
            self._json({**info, "gated": gated, "tags": [], "downloads": 0, "siblings": siblings}, with_body)

    def _resolve(self, path: str, with_body: bool) -> None:
        repo_id, _, rest = path.partition("/resolve/")
        revision, _, name = rest.partition("/")
        repository = self.state.repositories.get(repo_id)
        if repository is None:
            self._error(404, "RepoNotFound", "Repository not found", with_body)
        elif repository.access == "gated" and not self._token():
            self._error(401, "GatedRepo", f"Access to model {repo_id} is restricted", with_body)
        elif repository.access == "forbidden":
            self._error(403, "GatedRepo", f"Access to model {repo_id} is restricted", with_body)
        elif revision not in (*repository.branches, repository.commit):
            self._error(404, "RevisionNotFound", f"Invalid rev id: {revision}", with_body)
        elif name not in repository.files:
            self._error(404, "EntryNotFound", "Entry not found", with_body)
        elif name.endswith(LARGE):
            body = repository.files[name]
            headers = {
                "Location": f"{self.state.url}/cdn/{repo_id}/-/{name}",
                "X-Repo-Commit": repository.commit,
                "X-Linked-Size": str(len(body)),
                "X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"',
            }
            self._send(302, b"", headers, with_body)
        else:
            self._file(repository, name, with_body)

    def _file(self, repository: Repository, name: str, with_body: bool) -> None:
        body = repository.files[name]
        headers = {"X-Repo-Commit": repository.commit, "ETag": f'"{_oid(body)}"', "Accept-Ranges": "bytes"}
        cut = repository.cut.get(name)
        if cut is None:
            self._send(200, body, headers, with_body)
            return
        # The connection closes cleanly before the announced size; a chunked body ends where it likes.
        self.send_response(200)
        for key, value in (headers | {"Transfer-Encoding": "chunked"}).items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(f"{cut:x}\r\n".encode() + body[:cut] + b"\r\n0\r\n\r\n")

    def _token(self) -> bool:
        return self.headers.get("Authorization") == f"Bearer {TOKEN}"

    def _json(self, value: Any, with_body: bool) -> None:
        self._send(200, json.dumps(value).encode(), {"Content-Type": "application/json"}, with_body)

    def _error(self, status: int, code: str, message: str, with_body: bool) -> None:
        body = json.dumps({"error": message}).encode()
        headers = {"X-Error-Code": code, "X-Error-Message": message, "Content-Type": "application/json"}
        self._send(status, body, headers, with_body)

    def _send(self, status: int, body: bytes, headers: Mapping[str, str], with_body: bool) -> None:
        self.send_response(status)
        for key, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(key, value)
        self.end_headers()
        if with_body:
            self.wfile.write(body)


def _oid(body: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(body) + body, usedforsecurity=False).hexdigest()


def _lfs(name: str, body: bytes) -> dict[str, Any]:
    if not name.endswith(LARGE):
        return {}
    digest = hashlib.sha256(body).hexdigest()
    return {"lfs": {"oid": digest, "sha256": digest, "size": len(body), "pointerSize": 134}}

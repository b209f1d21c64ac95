"""The routes of the page: its files, the results, and the live events."""

from __future__ import annotations

import json
import mimetypes
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from importlib.resources import files
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from emotion_circuits.errors import EmotionCircuitsError, StoreError, UsageError
from emotion_circuits.explorer import browse
from emotion_circuits.explorer.guard import TOO_LONG, Guard, TooLongError, TooSlowError
from emotion_circuits.explorer.live import Live
from emotion_circuits.explorer.queue import BusyError, Job, WorkQueue
from emotion_circuits.explorer.steering import LoadRequest, PromotedRequest, SteerRequest, checked
from emotion_circuits.store import plain

PAGE_FILES = tuple(sorted(f.name for f in (files("emotion_circuits.explorer") / "static").iterdir()))


@dataclass(frozen=True)
class Explorer:
    """The server's state: what is steered, and the queue in front of it."""

    live: Live
    queue: WorkQueue

    def routes(self) -> list[Route]:
        return [
            Route("/", self.page),
            Route("/{name:str}", self.page),
            Route("/api/state", self.state),
            Route("/api/load", self.load, methods=["POST"]),
            Route("/api/steer", self.steer, methods=["POST"]),
            Route("/api/promoted", self.promoted, methods=["POST"]),
            Route("/api/expression", self.expression, methods=["POST"]),
            Route("/api/runs", self.runs),
            Route("/api/run", self.run),
            Route("/api/texts", self.texts),
            Route("/api/arms", self.arms),
        ]

    async def page(self, request: Request) -> Response:
        name = request.path_params.get("name", "index.html")
        if name not in PAGE_FILES:  # a name of the list, never a path
            raise HTTPException(404)
        content = (files("emotion_circuits.explorer") / "static" / name).read_bytes()
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return Response(content, media_type=kind)

    async def state(self, request: Request) -> Response:
        loaded = self.live.loaded
        choices = await run_in_threadpool(self.live.choices)
        return _json({
            "results": str(self.live.results), "found": self.live.results.is_dir(), "choices": choices,
            "loaded": None if loaded is None else loaded.facts(),
        })  # fmt: skip

    async def load(self, request: Request) -> Response:
        wanted = checked(LoadRequest, await _body(request))
        return self._stream(lambda job: self.live.change_model(wanted, job))

    async def steer(self, request: Request) -> Response:
        wanted = checked(SteerRequest, await _body(request))
        return self._stream(lambda job: self.live.steer(wanted, job))

    async def promoted(self, request: Request) -> Response:
        wanted = checked(PromotedRequest, await _body(request))
        return self._stream(lambda job: self.live.promoted(wanted, job))

    async def expression(self, request: Request) -> Response:
        """The terms of an expression as the page's sliders show them, checked against the model in memory."""
        from emotion_circuits.representations.expression import parse_expression, placed_expression

        content = await _body(request)
        text = content.get("expression") if isinstance(content, dict) else None
        if not isinstance(text, str) or len(text) > 2000:
            raise UsageError("expression: there is none", 'write "0.4 gratitude @ L14 - 0.2 anger"')
        parsed, loaded = parse_expression(text), self.live.loaded
        placed = parsed if loaded is None else placed_expression(parsed, loaded.reader.directions)
        terms = [{"strength": t.strength, "emotion": t.emotion, "layer": t.layer, "unit": t.unit} for t in placed.terms]
        return _json({"expression": str(placed), "terms": terms})

    async def runs(self, request: Request) -> Response:
        root = self.live.results
        return _json({"found": root.is_dir(), "runs": await run_in_threadpool(browse.list_runs, root)})

    async def run(self, request: Request) -> Response:
        return _json(await run_in_threadpool(lambda: browse.describe_run(self._found(request))))

    async def texts(self, request: Request) -> Response:
        query = request.query_params
        page = query.get("page", "0")
        if not page.isdecimal() or len(page) > 6:
            raise UsageError("page: it is no number", "ask for page=0")

        def listed() -> Any:
            return browse.list_texts(
                self._found(request), step=query.get("step", ""), arms=tuple(query.getlist("arm")),
                search=query.get("search", ""), page=int(page),
            )  # fmt: skip

        return _json(await run_in_threadpool(listed))

    async def arms(self, request: Request) -> Response:
        return _json(await run_in_threadpool(lambda: browse.compare_arms(self._found(request))))

    def _found(self, request: Request) -> Any:
        return browse.find_run(self.live.results, dict(request.query_params))

    def _stream(self, work: Callable[[Job], None]) -> Response:
        job = self.queue.submit(work)
        return StreamingResponse(_events(job), media_type="text/event-stream", headers={"x-accel-buffering": "no"})


def create_app(live: Live, queue: WorkQueue, secret: str, port: int) -> Guard:
    """The guarded application; whoever made the queue closes it."""
    handlers = {
        EmotionCircuitsError: _refused, HTTPException: _http_error, TooLongError: _ended(413, *TOO_LONG),
        TooSlowError: _ended(408, "the request stopped half-way", "send it again"),
        ClientDisconnect: _ended(400, "the page has gone", "open it again"),
    }  # fmt: skip
    return Guard(Starlette(routes=Explorer(live, queue).routes(), exception_handlers=handlers), secret, port)


async def _events(job: Job) -> AsyncIterator[bytes]:
    async for event in job.events():
        line = json.dumps(plain(event), ensure_ascii=False, allow_nan=False)
        yield f"data: {line}\n\n".encode()


async def _body(request: Request) -> Any:
    if request.headers.get("content-type", "").partition(";")[0].strip() != "application/json":
        raise UsageError("the request is no JSON", "send content-type: application/json")
    try:
        return json.loads(await request.body())
    except (ValueError, RecursionError) as error:
        raise UsageError("the request is no valid JSON", "send one JSON object") from error


def _json(content: object) -> Response:
    return JSONResponse(plain(content))


async def _refused(request: Request, error: Exception) -> Response:
    assert isinstance(error, EmotionCircuitsError)
    status = 503 if isinstance(error, BusyError) else 410 if isinstance(error, StoreError) else 400
    return JSONResponse({"error": error.what, "fix": error.fix}, status)


def _ended(status: int, what: str, fix: str) -> Callable[[Request, Exception], Awaitable[Response]]:
    """Answers a request that was not read to its end, and closes the connection."""

    async def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"error": what, "fix": fix}, status, {"connection": "close"})

    return answer


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": error.detail, "fix": "open the page's start"}, error.status_code)

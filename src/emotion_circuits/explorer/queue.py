"""One request at a time uses the model: the others wait, are told at which place, and may leave."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

from emotion_circuits.errors import EmotionCircuitsError

log = logging.getLogger(__name__)

MOST_WAITING = 8

Event = dict[str, Any]


class BusyError(EmotionCircuitsError):
    """Too many requests wait already."""


class CancelledError(BaseException):
    """The page that asked has gone, or pressed cancel. No Exception: a run that it ends is partial, not failed."""


class Job:
    """One piece of work on the worker thread, and what it has to say."""

    def __init__(self, work: Callable[[Job], None], loop: asyncio.AbstractEventLoop) -> None:
        self.work = work
        self._loop = loop
        self._events: asyncio.Queue[Event | None] = asyncio.Queue()
        self._cancelled = threading.Event()

    def say(self, event: str, **content: Any) -> None:
        """Send an event; from any thread."""
        self._put({"event": event, **content})

    def close(self) -> None:
        """There is nothing more to say."""
        self._put(None)

    def cancel(self) -> None:
        """Ask the work to stop at its next step."""
        self._cancelled.set()

    def check(self) -> None:
        """Raise :class:`CancelledError` when the work shall stop."""
        if self._cancelled.is_set():
            raise CancelledError

    async def events(self) -> AsyncIterator[Event]:
        """Everything the work says, until it is over; leaving early cancels it."""
        try:
            while (event := await self._events.get()) is not None:
                yield event
        finally:
            self.cancel()

    def _put(self, event: Event | None) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._events.put_nowait, event)


class WorkQueue:
    """A worker thread and the jobs in front of it."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="model")
        self._lock = threading.Lock()
        self._waiting: deque[Job] = deque()
        self._running: Job | None = None

    def submit(self, work: Callable[[Job], None]) -> Job:
        """Queue a piece of work; call it on the event loop.

        Raises:
            BusyError: too many jobs wait.
        """
        job = Job(work, asyncio.get_running_loop())
        with self._lock:
            if len(self._waiting) >= MOST_WAITING:
                raise BusyError(f"{MOST_WAITING} requests wait for the model already", "try again in a moment")
            self._waiting.append(job)
            self._tell()
        self._worker.submit(self._run, job).add_done_callback(lambda done: self._finished(job, done))
        return job

    def stop(self) -> None:
        """Cancel everything and end what it streams at once; the work itself ends at its next step."""
        with self._lock:
            for job in (*self._waiting, *([self._running] if self._running else [])):
                job.cancel()
                job.say("cancelled")
                job.close()

    def close(self) -> None:
        """Cancel everything and wait for the worker to end."""
        self.stop()
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _run(self, job: Job) -> None:
        with self._lock:
            self._waiting.remove(job)
            self._running = job
            self._tell()
        job.check()
        job.work(job)

    def _finished(self, job: Job, done: Future[None]) -> None:
        with self._lock:
            self._running = None
            if job in self._waiting:  # the queue was closed before its turn
                self._waiting.remove(job)
        error = None if done.cancelled() else done.exception()
        if isinstance(error, CancelledError) or done.cancelled():
            job.say("cancelled")
        elif isinstance(error, EmotionCircuitsError):
            job.say("error", error=error.what, fix=error.fix)
        elif error is not None:
            from emotion_circuits.models.memory import is_out_of_memory

            log.error("the explorer's work failed", exc_info=error)
            full = is_out_of_memory(error)
            job.say(
                "error",
                error="memory ran out" if full else f"unexpected failure: {type(error).__name__}",
                fix="shorten the text, or choose a smaller model"
                if full
                else "the terminal shows more; please report it",
            )
        job.close()

    def _tell(self) -> None:
        ahead = 1 if self._running else 0
        for place, job in enumerate(self._waiting):
            if place + ahead:
                job.say("queued", ahead=place + ahead)

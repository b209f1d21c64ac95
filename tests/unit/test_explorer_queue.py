"""The queue in front of the model: order, places, cancelling, failures and its end; and the guard's limit."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from emotion_circuits.errors import UsageError

pytest.importorskip("starlette", reason="the extra [serve] is not installed")

from emotion_circuits.explorer.queue import MOST_WAITING, BusyError, Job, WorkQueue


def run(scenario: Callable[[WorkQueue], Any]) -> Any:
    async def whole() -> Any:
        queue = WorkQueue()
        try:
            return await scenario(queue)
        finally:
            await asyncio.to_thread(queue.close)

    # In a thread of its own: the browser tests leave an event loop running in theirs.
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(lambda: asyncio.run(asyncio.wait_for(whole(), 20))).result()


async def everything(job: Job) -> list[dict[str, Any]]:
    return [event async for event in job.events()]


def test_one_works_at_a_time_and_the_others_are_told_their_place() -> None:
    gate, working = threading.Event(), []

    def work(job: Job) -> None:
        working.append(len(working))
        gate.wait(10)
        job.say("worked")

    async def scenario(queue: WorkQueue) -> None:
        first = queue.submit(work)
        while not working:
            await asyncio.sleep(0)
        second, third = queue.submit(work), queue.submit(work)
        assert working == [0]
        gate.set()
        assert await everything(first) == [{"event": "worked"}]
        assert await everything(second) == [{"event": "queued", "ahead": 1}] * 2 + [{"event": "worked"}]
        ahead = [e["ahead"] for e in await everything(third) if e["event"] == "queued"]
        assert ahead[0] == 2 and ahead[-1] == 1

    run(scenario)


def test_leaving_the_events_stops_the_work_at_its_next_step() -> None:
    stopped = threading.Event()

    def endless(job: Job) -> None:
        try:
            while True:
                job.say("step")
                job.check()
        finally:
            stopped.set()

    async def scenario(queue: WorkQueue) -> None:
        events = queue.submit(endless).events()
        assert await anext(events) == {"event": "step"}
        await events.aclose()  # type: ignore[attr-defined]
        assert await asyncio.to_thread(stopped.wait, 10)
        # The next one finds the worker free.
        assert await everything(queue.submit(lambda job: job.say("next"))) == [{"event": "next"}]

    run(scenario)


def test_a_waiting_job_that_was_left_does_not_work() -> None:
    gate, worked = threading.Event(), []

    async def scenario(queue: WorkQueue) -> None:
        first = queue.submit(lambda job: bool(gate.wait(10)) and None)
        second = queue.submit(lambda job: worked.append(1))
        second.cancel()
        gate.set()
        await everything(first)
        assert (await everything(second))[-1] == {"event": "cancelled"}
        assert worked == []

    run(scenario)


def test_failures_are_told_and_the_queue_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    def refuse(job: Job) -> None:
        raise UsageError("no such thing", "type another")

    def break_down(job: Job) -> None:
        raise ZeroDivisionError("secret details")

    def fill(job: Job) -> None:
        raise MemoryError

    async def scenario(queue: WorkQueue) -> None:
        assert await everything(queue.submit(refuse)) == [
            {"event": "error", "error": "no such thing", "fix": "type another"}
        ]
        with caplog.at_level(logging.CRITICAL):
            (told,) = await everything(queue.submit(break_down))
            assert told["error"] == "unexpected failure: ZeroDivisionError" and "secret" not in str(told)
            (told,) = await everything(queue.submit(fill))
            assert told["error"] == "memory ran out"
        assert await everything(queue.submit(lambda job: job.say("fine"))) == [{"event": "fine"}]

    run(scenario)


def test_too_many_waiting_are_refused() -> None:
    gate = threading.Event()

    async def scenario(queue: WorkQueue) -> None:
        started = threading.Event()

        def hold(job: Job) -> None:
            started.set()
            gate.wait(10)

        queue.submit(hold)
        assert await asyncio.to_thread(started.wait, 10)
        for _ in range(MOST_WAITING):
            queue.submit(lambda job: None)
        with pytest.raises(BusyError):
            queue.submit(lambda job: None)
        gate.set()

    run(scenario)


def test_stopping_ends_every_stream_at_once() -> None:
    gate = threading.Event()

    async def scenario(queue: WorkQueue) -> None:
        jobs = [queue.submit(lambda job: bool(gate.wait(10)) and None) for _ in range(3)]
        queue.stop()
        for job in jobs:
            assert {"event": "cancelled"} in await everything(job)
        gate.set()

    run(scenario)

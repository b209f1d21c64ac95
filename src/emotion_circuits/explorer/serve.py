"""Running the page on this machine, until Ctrl-C."""

from __future__ import annotations

import logging
import secrets
import socket
from collections.abc import Callable
from contextlib import closing

import uvicorn

from emotion_circuits.errors import UsageError
from emotion_circuits.explorer.app import create_app
from emotion_circuits.explorer.live import Live
from emotion_circuits.explorer.queue import WorkQueue

HOST = "127.0.0.1"


def serve(live: Live, port: int, ready: Callable[[str], None]) -> None:
    """Serve on 127.0.0.1 until the process is asked to stop.

    Args:
        port: 0 takes a free one. ready: called with the address, secret included, once requests are taken.

    Raises:
        UsageError: the port is taken.
    """
    queue = WorkQueue()
    with closing(_bound(port)) as listening:
        actual = int(listening.getsockname()[1])
        secret = secrets.token_urlsafe(24)
        config = uvicorn.Config(
            create_app(live, queue, secret, actual), log_level="error", access_log=False, server_header=False,
            timeout_graceful_shutdown=1, lifespan="off", ws="none", proxy_headers=False,
        )  # fmt: skip
        ready(f"http://{HOST}:{actual}/{secret}/")
        try:
            _Server(config, queue).run(sockets=[listening])
        finally:
            queue.close()


class _Server(uvicorn.Server):
    """Ends open streams when it is asked to stop, instead of waiting for their texts."""

    def __init__(self, config: uvicorn.Config, queue: WorkQueue) -> None:
        super().__init__(config)
        self._queue = queue

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._queue.stop()
        # Requests that never came to their end are cancelled now: no defect that a traceback should tell of.
        logging.getLogger("uvicorn.error").disabled = True
        await super().shutdown(sockets)


def _bound(port: int) -> socket.socket:
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listening.bind((HOST, port))
        listening.listen()
    except OSError as error:
        listening.close()
        raise UsageError(
            f"port {port} cannot be used: {error.strerror}", "choose another --port, or leave it out"
        ) from (error)
    return listening

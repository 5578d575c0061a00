"""Serves an application with uvicorn on the running loop, until a signal asks to stop."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import socket
from collections.abc import Callable, Iterator

import fastapi
import uvicorn

from tollgate.domain.errors import SettingsError

GRACE_S = 3
"""Requests under way get so long at the stop; whoever waits for a task can ask again."""


class Server(uvicorn.Server):
    """Says when it listens. Signals are handled here, in order: uvicorn's own way raises them again at its end."""

    def __init__(self, config: uvicorn.Config, on_ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_ready = on_ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if not self.should_exit:
            self._on_ready()

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. Raises SettingsError where there can be none: the port is taken, or no such address."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise cannot_listen(host, port, error) from error
    return listener


def cannot_listen(host: str, port: int, error: OSError) -> SettingsError:
    """What to tell of an address that could not be bound."""
    # asyncio puts words of its own before the system's; the resolver's errors are not the system's.
    own = isinstance(error, socket.gaierror) or error.errno is None
    why = error.strerror if own else os.strerror(error.errno or 0)
    return SettingsError(f"cannot listen on {host}:{port}: {why}; choose another with --port")


def address_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    shown = {"0.0.0.0": "127.0.0.1", "::": "127.0.0.1"}.get(host, host)  # noqa: S104  # shown, not bound
    return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"


async def serve(
    app: fastapi.FastAPI, listener: socket.socket, *, on_ready: Callable[[], None], on_stop: Callable[[], None]
) -> None:
    """Until SIGINT or SIGTERM; `on_stop` then lets go of who waits. A second signal ends the process at once."""
    config = uvicorn.Config(
        app,
        http="httptools",
        ws="none",
        lifespan="on",
        access_log=False,
        log_config=None,
        timeout_graceful_shutdown=GRACE_S,
        timeout_keep_alive=75,
        backlog=4096,
    )
    server = Server(config, on_ready)

    def stop() -> None:
        on_stop()
        server.should_exit = True

    with stop_on_signals(stop):
        await server.serve(sockets=[listener])


@contextlib.contextmanager
def stop_on_signals(stop: Callable[[], object]) -> Iterator[None]:
    """Call `stop` at the first SIGINT or SIGTERM; the next has its usual effect."""
    loop = asyncio.get_running_loop()
    caught = (signal.SIGINT, signal.SIGTERM)

    def on_signal() -> None:
        for one in caught:
            loop.remove_signal_handler(one)
        stop()

    for one in caught:
        loop.add_signal_handler(one, on_signal)
    try:
        yield
    finally:
        for one in caught:
            loop.remove_signal_handler(one)

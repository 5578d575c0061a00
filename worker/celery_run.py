"""What Celery does in a worker: hand the ids of a message to the engine, and start and stop it.

The engine lives beside Celery's pool, in a thread with its own event loop; Celery's own start and stop
(SIGTERM, a container's stop) drive it as one of the worker's steps.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any
from uuid import UUID

import celery
import uvloop
from celery import bootsteps
from celery.exceptions import WorkerShutdown
from celery.worker import state

from tollgate import collecting
from tollgate.broker.celery_app import RUN
from tollgate.domain.errors import TollgateError
from worker.engine import Engine

log = logging.getLogger("tollgate.worker")

Offer = Callable[[str, Mapping[str, list[UUID]]], None]
OpenEngine = Callable[[], AbstractAsyncContextManager[Engine]]
START_TIMEOUT_S = 60.0
ASKED_S = 0.2
"""So often a start looks whether it is still wanted."""
STOP_MARGIN_S = 30.0
"""Beyond the drain: to settle what was aborted, and to sign off."""
EXIT_FAILURE = 1


def register_run(app: celery.Celery, offer: Offer) -> None:
    """The one message: it never waits, so that a pool thread is always free for the next."""

    # Shared, Celery's default, would make it a task of every app in this process, the first one for all.
    @app.task(name=RUN, ignore_result=True, shared=False)
    def run(lane: str, hints: Mapping[str, list[str]]) -> None:
        offer(lane, {route: [UUID(text) for text in ids] for route, ids in hints.items()})


class EngineThread:
    """An engine on an event loop of its own."""

    def __init__(self, open_engine: OpenEngine) -> None:
        self._open = open_engine
        self._engine: Engine | None = None
        self._failure: BaseException | None = None
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stopping: asyncio.Event | None = None
        self._serving: asyncio.Task[None] | None = None
        self._thread = threading.Thread(target=self._main, name="engine", daemon=True)

    def start(self, timeout_s: float = START_TIMEOUT_S) -> None:
        """Returns when the engine runs. Raises what its start raised, and WorkerShutdown where that is asked for
        meanwhile: loading a model takes minutes."""
        self._thread.start()
        ends_at_s = time.monotonic() + timeout_s
        while not self._ready.wait(ASKED_S):
            state.maybe_shutdown()
            if time.monotonic() > ends_at_s:
                raise TimeoutError(f"the engine did not start within {timeout_s:.0f} s")
        if self._failure is not None:
            raise self._failure

    def offer(self, lane: str, hints: Mapping[str, list[UUID]]) -> None:
        if self._engine is not None:
            self._engine.offer(lane, hints)

    def stop(self, timeout_s: float) -> None:
        """Drain and wait."""
        if self._loop is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._leave)
            self._thread.join(timeout_s)
            if self._thread.is_alive():
                log.error("the engine did not stop in time", extra={"timeout_s": timeout_s})

    def _main(self) -> None:
        collecting.seldom()
        try:
            uvloop.run(self._serve())
        except BaseException as error:  # handed to `start`, or logged where that has returned
            if self._ready.is_set():
                log.exception("the engine broke")
            self._failure = error
        finally:
            self._ready.set()

    def _leave(self) -> None:
        if self._ready.is_set() and self._stopping is not None:
            self._stopping.set()
        elif self._serving is not None:
            self._serving.cancel()

    async def _serve(self) -> None:
        self._stopping = asyncio.Event()
        self._serving = asyncio.current_task()
        self._loop = asyncio.get_running_loop()
        async with self._open() as engine:
            self._engine = engine
            self._ready.set()
            await self._stopping.wait()


def add_engine(
    app: celery.Celery, open_engine: OpenEngine, *, drain_timeout_s: float, start_timeout_s: float = START_TIMEOUT_S
) -> None:
    """Make the engine a step of every worker started from `app`: after the pool, before the consumer."""
    thread = EngineThread(open_engine)
    register_run(app, thread.offer)

    class EngineStep(bootsteps.StartStopStep):
        requires = ("celery.worker.components:Pool",)

        def start(self, parent: Any) -> None:  # noqa: ARG002 - Celery's signature
            try:
                thread.start(start_timeout_s)
            except (TollgateError, TimeoutError) as error:
                log.critical("cannot start: %s", error)
                raise WorkerShutdown(EXIT_FAILURE) from error

        def stop(self, parent: Any) -> None:  # noqa: ARG002
            thread.stop(drain_timeout_s + STOP_MARGIN_S)

    app.steps["worker"].add(EngineStep)

"""Hands hints to the broker, from a thread of its own: no request waits for it, however long the broker hangs.

What cannot be published is dropped: the row says it is queued, and the announcer tells it again.
"""

from __future__ import annotations

import logging
import threading
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping
from typing import Any
from uuid import UUID

import celery
import kombu

from tollgate.broker.celery_app import RUN

log = logging.getLogger("tollgate.publisher")

Hints = Mapping[str, Iterable[UUID]]
"""Route -> ids."""
IDS_PER_MESSAGE = 500
"""A message costs about 0.6 ms of CPU at each end, an id a few microseconds."""
MAX_WAITING = 100_000
"""Ids held while the broker hangs; older ones are dropped, for the announcer to tell again."""
PACE_S = 0.02
"""From one message to the next, at least: under load what is told meanwhile goes together. A hint after a pause does
not wait."""
PAUSE_AFTER_FAILURE_S = 1.0
CLOSE_S = 2.0


class Publisher:
    """One thread, one connection. `announce` never blocks; `close` sends what waits, for two seconds at most."""

    def __init__(self, app: celery.Celery) -> None:
        self._app = app
        self._waiting: deque[tuple[str, str, str]] = deque(maxlen=MAX_WAITING)
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="publisher", daemon=True)
        self._thread.start()

    def announce(self, lane: str, hints: Hints) -> None:
        """Queue a hint for publishing. Thread-safe."""
        # Made before it is handed over: the thread would send the first ids of a list that still grows.
        self._waiting.extend([(lane, route, str(task_id)) for route, ids in hints.items() for task_id in ids])
        self._wake.set()

    def close(self) -> None:
        """Send what waits and end the thread; one that hangs in the broker's client ends with the process."""
        self._closing.set()
        self._wake.set()
        self._thread.join(CLOSE_S)

    def _run(self) -> None:
        producer: kombu.Producer | None = None
        while not (self._closing.is_set() and (self._failing or not self._waiting)):
            self._wake.wait()
            self._wake.clear()
            while self._waiting:
                try:
                    producer = producer or self._connect()
                    self._send(producer, self._next_messages())
                    self._failing = False
                    if len(self._waiting) < IDS_PER_MESSAGE:
                        self._closing.wait(PACE_S)
                except Exception as error:  # whatever the broker's client raises: the hint is not worth more
                    self._failed(error)
                    self._hang_up(producer)
                    producer = None
        self._hang_up(producer)

    def _connect(self) -> kombu.Producer:
        connection = self._app.connection_for_write()
        try:
            connection.connect()
            return kombu.Producer(connection, serializer="json")
        except BaseException:
            connection.release()
            raise

    def _hang_up(self, producer: kombu.Producer | None) -> None:
        """Close the connection, as far as a broken one can be closed."""
        connection = producer.connection if producer is not None else None
        if connection is not None:
            try:
                connection.release()
            except Exception as error:  # the thread must outlive it
                log.debug("broker connection not closed", extra={"error": repr(error)})

    def _next_messages(self) -> dict[str, dict[str, list[str]]]:
        """Up to IDS_PER_MESSAGE waiting ids, one message a lane."""
        messages: dict[str, dict[str, list[str]]] = {}
        for _ in range(min(len(self._waiting), IDS_PER_MESSAGE)):
            lane, route, task_id = self._waiting.popleft()
            messages.setdefault(lane, defaultdict(list))[route].append(task_id)
        return messages

    def _send(self, producer: kombu.Producer, messages: Mapping[str, Mapping[str, Any]]) -> None:
        for lane, hints in messages.items():
            self._app.send_task(RUN, args=[lane, hints], queue=lane, producer=producer, retry=False, ignore_result=True)

    def _failed(self, error: Exception) -> None:
        if not self._failing:
            log.warning("broker unreachable, hints wait for the announcer", extra={"error": repr(error)})
        self._failing = True
        self._waiting.clear()
        self._closing.wait(PAUSE_AFTER_FAILURE_S)

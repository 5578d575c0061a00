"""A Celery worker in a thread of this process, for the embedded mode: no signals, no global state.

Celery's own `Worker` belongs to a process's main thread: it takes the signals and stops by the module
global `celery.worker.state.should_stop`. A plain WorkController does neither. What makes its stop slow is
that the loop for in-memory brokers drains for 2 s at a time, and a stop from another thread pulls the
connection from under it; here it is asked to leave the loop, which it does within the 0.1 s that
`broker.celery_app` allows a drain, and stops itself, in its own thread.
"""

from __future__ import annotations

import threading

import celery
from celery.bootsteps import CLOSE  # type: ignore[attr-defined]  # celery-types lacks it
from celery.concurrency.solo import TaskPool
from celery.worker import WorkController

START_TIMEOUT_S = 10.0
STOP_TIMEOUT_S = 5.0


class EmbeddedCelery:
    """Runs the messages of `app` in a thread. Start and stop once, from one thread."""

    def __init__(self, app: celery.Celery) -> None:
        self._app = app
        self._ready = threading.Event()
        self._failure: BaseException | None = None
        self._worker: WorkController | None = None
        self._thread = threading.Thread(target=self._run, name="celery", daemon=True)

    def start(self) -> None:
        """Returns when it takes messages (some 30 ms). Raises what kept it from that."""
        self._thread.start()
        if not self._ready.wait(START_TIMEOUT_S):
            raise TimeoutError(f"the embedded Celery worker did not start within {START_TIMEOUT_S:.0f} s")
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Returns when the messages it had taken are done (some 0.1 s). Blocks: not for an event loop's thread."""
        consumer = getattr(self._worker, "consumer", None)
        if consumer is not None:
            consumer.blueprint.state = CLOSE
        if self._thread.ident is not None:
            self._thread.join(STOP_TIMEOUT_S)

    def _run(self) -> None:
        try:
            # A message's task is looked up in the current app, of this thread: else in the default one, the process's.
            self._app.set_current()
            self._worker = WorkController(
                app=self._app,
                pool_cls=TaskPool,
                ready_callback=lambda _consumer: self._ready.set(),
                without_mingle=True,
                without_gossip=True,
                without_heartbeat=True,
            )
            self._worker.start()
            self._worker.stop()
        except BaseException as error:  # handed to `start`
            self._failure = error
        finally:
            self._ready.set()

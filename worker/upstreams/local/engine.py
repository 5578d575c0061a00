"""The engine: one thread that owns a model and runs many requests on it at once.

It takes who waits into free slots and steps as long as there is work. What is wrong with one request ends that one.
What is wrong with the device ends the engine, and everything in it as what may be tried again elsewhere.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum

import torch
from transformers import PreTrainedModel

from worker.upstreams.local import admission, faults
from worker.upstreams.local.admission import Busy, EngineStopped, Refused
from worker.upstreams.local.graphs import Capture, CudaGraphs
from worker.upstreams.local.requests import EndReason, Event, Request
from worker.upstreams.local.stats import Stats
from worker.upstreams.local.stepper import Stepper, ended, overdue
from worker.upstreams.local.steps import Steps, vocabulary_of
from worker.upstreams.local.waiting import Waiting

__all__ = ["Busy", "Engine", "EngineState", "EngineStopped", "Refused"]

log = logging.getLogger(__name__)

HANG_S = 60.0
"""No step takes so long, but on a CPU that is too small for its model: an engine of which nothing is heard for so much
longer than it was given waits for a device that hangs."""
Deliver = Callable[[Sequence[Event]], None]


class EngineState(StrEnum):
    NEW = "new"
    RUNNING = "running"
    DRAINING = "draining"
    """Takes nothing new; what it has goes on."""
    STOPPED = "stopped"
    DEAD = "dead"
    """By an error that could not be kept to one request."""


class Engine:
    """Of one model, on the device where it is. `slots` and `context_tokens` (of each) are what it has."""

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        slots: int,
        context_tokens: int,
        ends: frozenset[int],
        deliver: Deliver,
        on_dead: Callable[[BaseException], None] = lambda _: None,
        prefill_tokens: int = 512,
        room: int = 1024,
        ahead: int | None = None,
        capture: Capture | None = None,
    ) -> None:
        """Allocates the cache; `context_tokens` is at most what the model was made for.

        - `ends`: the tokens that end an answer.
        - `deliver`, `on_dead`: called in the engine's thread, which waits for them; the latter after the last events.
        - `prefill_tokens`: of prompts, in one step. `room`: for requests that wait.
        - `ahead`: passes that are launched before the tokens of one are handled; None: one on a GPU, which would wait
          for the host otherwise, and none on a CPU, where nothing runs by itself.
        - `capture`: how passes of one shape are recorded; None: as CUDA graphs on a GPU.

        Raises ValueError where the model cannot be run so, and torch.OutOfMemoryError.
        """
        limit = getattr(model.config.get_text_config(), "max_position_embeddings", context_tokens)
        self.slots, self.context_tokens = slots, min(context_tokens, int(limit))
        self._vocabulary = vocabulary_of(model)
        self._deliver, self._on_dead = deliver, on_dead
        on_gpu = model.device.type == "cuda"
        capture = CudaGraphs() if capture is None and on_gpu else capture
        with torch.inference_mode():
            steps = Steps(model, slots=slots, context_tokens=self.context_tokens, capture=capture)
        self._steps = steps
        ahead = int(on_gpu) if ahead is None else ahead
        self._stepper = Stepper(
            steps, slots=slots, prefill_tokens=prefill_tokens, ahead=ahead, ends=ends, tell=self._hand_over
        )
        self._waiting = Waiting(room)
        self._changed = threading.Condition()
        """Guards who waits and the state."""
        self._state = EngineState.NEW
        self._stop_at_s: float | None = None
        self._thread = threading.Thread(target=self._run, name="local-engine", daemon=True)

    @property
    def state(self) -> EngineState:
        return self._state

    def stats(self) -> Stats:
        """As it stands; the numbers are of one moment only between two steps."""
        rows = self._stepper.rows
        return replace(
            self._stepper.stats,
            decoding=len(rows.decoding),
            prefilling=len(rows.prefilling),
            waiting=len(self._waiting),
            graphs=self._steps.graphs,
        )

    def start(self) -> None:
        self._state = EngineState.RUNNING
        self._thread.start()

    def submit(self, request: Request) -> None:
        """Its events follow, `Ended` the last. Raises Refused, Busy or EngineStopped; then none does."""
        admission.check(request, vocabulary=self._vocabulary, context_tokens=self.context_tokens)
        with self._changed:
            if self._state is not EngineState.RUNNING:
                raise EngineStopped(f"the engine is {self._state}")
            if self._waiting.full:
                raise Busy(f"{len(self._waiting)} requests wait already")
            self._waiting.add(request)
            self._changed.notify()

    def cancel(self, request: Request) -> None:
        """Before the next step; nothing where it has ended."""
        request.cancelled = True

    def stop(self, drain_s: float) -> None:
        """Take nothing more, go on for at most `drain_s`, then end what is left as the device's; wait for that, unless
        the device hangs."""
        with self._changed:
            if self._state is EngineState.RUNNING:
                self._state = EngineState.DRAINING
            if self._state is EngineState.NEW:
                self._state = EngineState.STOPPED
            self._stop_at_s = time.monotonic() + drain_s
            self._changed.notify()
        if self._thread.ident is not None:
            self._thread.join(drain_s + HANG_S)
            if self._thread.is_alive():
                log.error("the local engine did not stop: its device hangs")

    def _run(self) -> None:
        self._stepper.wake()  # the first request may be here already
        try:
            with torch.inference_mode():
                while self._await_work():
                    self._step()
            self._state = EngineState.STOPPED
            self._end_all("the engine was stopped")
        except Exception as error:
            self._die(error)

    def _await_work(self) -> bool:
        """Until there is some; False where the engine is to stop."""
        with self._changed:
            if not (self._busy or self._stop_at_s is not None):
                self._changed.wait_for(lambda: self._busy or self._stop_at_s is not None)
                self._stepper.wake()
            return self._stop_at_s is None or (self._busy and time.monotonic() < self._stop_at_s)

    @property
    def _busy(self) -> bool:
        return bool(len(self._waiting)) or self._stepper.busy

    def _step(self) -> None:
        now_s = time.monotonic()
        self._stepper.sweep(now_s)
        self._sweep_waiting(now_s)
        self._seat()
        self._stepper.step()

    def _sweep_waiting(self, now_s: float) -> None:
        with self._changed:
            gone = self._waiting.take(lambda request: overdue(request, now_s) is not None)
        if gone:
            self._hand_over([ended(request, overdue(request, now_s) or EndReason.CANCELLED) for request in gone])

    def _seat(self) -> None:
        while self._stepper.rows.free:
            with self._changed:
                request = self._waiting.next()
            if request is None:
                return
            self._stepper.seat(request)

    def _hand_over(self, events: Sequence[Event]) -> None:
        try:
            self._deliver(events)
        except Exception:
            log.exception("events of the local engine could not be handed over")

    def _die(self, error: Exception) -> None:
        log.error("the local engine died", exc_info=error)
        with self._changed:
            self._state = EngineState.DEAD
        self._end_all(faults.told(error))
        self._on_dead(error)

    def _end_all(self, error: str) -> None:
        with self._changed:
            waiting = self._waiting.take(lambda _: True)
        self._stepper.abandon(error)
        if waiting:
            self._hand_over([ended(request, EndReason.DEVICE, error=error) for request in waiting])

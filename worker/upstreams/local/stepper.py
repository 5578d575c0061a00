"""What a step does: some prompts come into the cache, then every row decodes one token; and what follows from them.

Rows share nothing but the time of a step: what is wrong with one ends that one. What cannot be kept to one is raised.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence

from torch import Tensor

from worker.upstreams.local import faults, scheduling
from worker.upstreams.local.requests import Ended, EndReason, Event, Request, Tokens
from worker.upstreams.local.results import Launched, Readback
from worker.upstreams.local.rows import Move, Row, Rows
from worker.upstreams.local.sampling import NOT_FINITE, Draws
from worker.upstreams.local.stats import Stats
from worker.upstreams.local.steps import PromptPiece, Steps

log = logging.getLogger(__name__)


class Stepper:
    """Of one engine, in its thread. `tell` is given what happened, all of one pass together."""

    def __init__(
        self,
        steps: Steps,
        *,
        slots: int,
        prefill_tokens: int,
        ahead: int,
        ends: frozenset[int],
        tell: Callable[[Sequence[Event]], None],
    ) -> None:
        self._steps = steps
        self._prefill_tokens, self._ahead, self._ends = prefill_tokens, ahead, ends
        self._tell = tell
        self.rows = Rows(slots)
        self.stats = Stats()
        self._launched: deque[Launched] = deque()
        self._events: list[Event] = []
        self._charged_to_s = 0.0

    @property
    def busy(self) -> bool:
        return bool(len(self.rows) or self._launched)

    def wake(self) -> None:
        """Nobody pays for the time until now."""
        self._charged_to_s = time.perf_counter()

    def seat(self, request: Request) -> None:
        """Where there is a free slot."""
        row = self.rows.seat(request, ends=self._ends if request.ends is None else request.ends)
        self._steps.begin(row.slot, request.sampling)

    def sweep(self, now_s: float) -> None:
        """End what was cancelled, or is past its deadline."""
        for row in self.rows.all():
            if reason := overdue(row.request, now_s):
                self._end(row, reason)
        self._flush()

    def step(self) -> None:
        """Raises what is the device's, or happened to all rows at once."""
        plan = scheduling.prefill(self.rows.prefilling, budget=self._prefill_tokens)
        if plan.finished:
            self._finish_prompts(plan.finished)
        if plan.long is not None:
            self._advance_prompt(plan.long, plan.long_tokens)
        self._decode()

    def abandon(self, error: str) -> None:
        """End all rows as the device's, without touching it."""
        self._launched.clear()
        for row in self.rows.all():
            row.over = True
            self.rows.leave(row)
            self._events.append(ended(row.request, EndReason.DEVICE, row=row, error=error))
        self._flush()

    def _finish_prompts(self, rows: Sequence[Row]) -> None:
        """Their first tokens. A pass that fails is tried for each alone: only who fails alone has failed."""
        pieces = [_piece(row, row.missing) for row in rows]
        try:
            tokens = self._steps.finish_prompts(pieces, [row.request.sampling for row in rows])
        except Exception as error:
            self._isolate(rows, error)
            return
        self._note_filled(rows, pieces)
        for row in rows:
            row.launched = 1
            self._move(self.rows.promote(row))
        self._launch(rows, tokens, weights=[len(piece.ids) for piece in pieces])

    def _advance_prompt(self, row: Row, count: int) -> None:
        piece = _piece(row, count)
        try:
            tokens = self._steps.prefill(piece)
        except Exception as error:
            self._isolate([row], error)
            return
        self._note_filled([row], [piece])
        self._launch([row], tokens, weights=[count])

    def _note_filled(self, rows: Sequence[Row], pieces: Sequence[PromptPiece]) -> None:
        self.stats.prefills += 1
        for row, piece in zip(rows, pieces, strict=True):
            row.filled = piece.end
            self.stats.prompt_tokens += len(piece.ids)

    def _isolate(self, rows: Sequence[Row], error: Exception) -> None:
        if faults.is_device_error(error):
            raise error
        faults.free_memory(error)
        self._handle_launched(ahead=0)  # passes before this one pay for themselves
        self._charge(rows, [row.missing for row in rows])
        if len(rows) > 1:
            for row in rows:
                self._finish_prompts([row])
            return
        log.warning("a prefill failed", exc_info=error)
        self._end(rows[0], EndReason.FAULT, error=faults.told(error))
        self._flush()

    def _decode(self) -> None:
        rows = list(self.rows.decoding)
        if not rows:
            self._handle_launched(ahead=0)
            return
        length = max(row.held for row in rows) + 1
        tokens = self._steps.decode(len(rows), length=length, draws=Draws([row.request.sampling for row in rows]))
        for row in rows:
            row.launched += 1
        self.stats.steps += 1
        self.stats.rows += len(rows)
        self._launch(rows, tokens, weights=[1] * len(rows))

    def _launch(self, rows: Sequence[Row], tokens: Tensor, *, weights: Sequence[int]) -> None:
        self._launched.append(Launched(rows=rows, weights=weights, tokens=Readback(tokens)))
        self._handle_launched(ahead=self._ahead)

    def _handle_launched(self, *, ahead: int) -> None:
        while len(self._launched) > ahead:
            launched = self._launched.popleft()
            tokens = launched.tokens.wait()
            self._charge(launched.rows, launched.weights)
            # A piece of a prompt that goes on has a row and no token.
            for row, token in zip(launched.rows, tokens, strict=False):
                self._take(row, token)
            self._flush()

    def _charge(self, rows: Sequence[Row], weights: Sequence[int]) -> None:
        """The time since the last pass was read, or failed, to those that this one was for and that are still here."""
        now_s = time.perf_counter()
        spent_s, self._charged_to_s = now_s - self._charged_to_s, now_s
        present = [(row, weight) for row, weight in zip(rows, weights, strict=True) if not row.over]
        whole = sum(weight for _, weight in present)
        for row, weight in present:
            row.engine_s += spent_s * weight / whole
        self.stats.worked_s += spent_s if present else 0.0

    def _take(self, row: Row, token: int) -> None:
        """A row that ended while its next pass ran has one token too many."""
        if row.over:
            return
        if token == NOT_FINITE:
            self._end(row, EndReason.FAULT, error="the model's logits are not finite")
            return
        row.tokens += 1
        self.stats.tokens += 1
        self._events.append(Tokens(request=row.request, ids=(token,)))
        if token in row.ends:
            self._end(row, EndReason.STOP)
        elif row.tokens == row.request.max_tokens:
            self._end(row, EndReason.LENGTH)

    def _end(self, row: Row, reason: EndReason, *, error: str | None = None) -> None:
        """Told before the device is asked for anything: where that breaks, nobody else would tell of this row."""
        row.over = True
        if reason is EndReason.FAULT:
            self.stats.faults += 1
        self._events.append(ended(row.request, reason, row=row, error=error))
        move = self.rows.leave(row)
        self._steps.clear(row.slot, length=None if reason is EndReason.FAULT else row.held)
        self._move(move)

    def _move(self, move: Move | None) -> None:
        if move is not None:
            self._steps.move(move)

    def _flush(self) -> None:
        if self._events:
            events, self._events = self._events, []
            self._tell(events)


def overdue(request: Request, now_s: float) -> EndReason | None:
    """Why it is to end now, whatever it is doing. `now_s` on the monotonic clock."""
    if request.cancelled:
        return EndReason.CANCELLED
    if request.deadline_s is not None and now_s >= request.deadline_s:
        return EndReason.DEADLINE
    return None


def ended(request: Request, reason: EndReason, *, row: Row | None = None, error: str | None = None) -> Ended:
    """`row`: None where it never had a slot."""
    return Ended(
        request=request,
        reason=reason,
        prompt_tokens=0 if row is None else row.filled,
        completion_tokens=0 if row is None else row.tokens,
        engine_s=0.0 if row is None else row.engine_s,
        error=error,
    )


def _piece(row: Row, count: int) -> PromptPiece:
    return PromptPiece(slot=row.slot, begin=row.filled, ids=row.request.ids[row.filled : row.filled + count])

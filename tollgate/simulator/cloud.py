"""The state of one running simulator, and the decisions that need it: who may call, what befalls, what it costs."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import UTC, datetime

from aiohttp import web

from tollgate.domain.prices import Price, PriceTable
from tollgate.domain.usage import TokenUsage
from tollgate.simulator import faults, keys, settings_json
from tollgate.simulator.batch_book import BatchBook
from tollgate.simulator.bill import Bill
from tollgate.simulator.calls import ChatCall
from tollgate.simulator.codes import CODES, RefusalError
from tollgate.simulator.faults import Fate, FaultKind, Stream
from tollgate.simulator.memory import AnswerBook, TaskBook, TryBook
from tollgate.simulator.meter import Meter
from tollgate.simulator.settings import SimulatorSettings
from tollgate.simulator.stored_files import FileBook

UPSTREAM = "zhipu"
"""The upstream in whose name the price list is read."""


class Cloud:
    """One simulated cloud. `settings` may be replaced at any time; calls that already run keep what they began with."""

    def __init__(self, settings: SimulatorSettings, *, prices: PriceTable) -> None:
        self.settings = settings
        self.prices = prices
        self.bill = Bill()
        self.meter = Meter()
        self.tasks = TaskBook()
        self.answers = AnswerBook()
        self.tries = TryBook()
        self.files = FileBook()
        self.batches = BatchBook()
        self.closing = asyncio.Event()
        """Set when the server stops: whatever hangs lets go."""
        self.garbage_turn = 0
        self._number = 0
        self._poll_number = 0
        self._line_number = 0
        self._batch_call_number = 0
        # Ids are decimal strings of 19 digits, as ZhipuAI's; the clock keeps those of two runs apart.
        self._identifiers = 8 * 10**18 + time.time_ns() // 1_000_000 % 10**12 * 10**6

    def change(self, changes: Mapping[str, object]) -> None:
        """Change the named settings. Naming `seed` numbers the calls from 1 again, so that the same faults follow.

        Raises SettingsError; then nothing changed.
        """
        self.settings = settings_json.change(self.settings, changes)
        if "seed" in changes:
            self._number = self._poll_number = self._line_number = self._batch_call_number = 0

    def next_number(self) -> int:
        """The number of a call that passed the checks; 1 for the first."""
        self._number += 1
        return self._number

    def next_identifier(self) -> str:
        """A new upstream id."""
        self._identifiers += 1
        return str(self._identifiers)

    def authenticate(self, request: web.Request) -> str:
        """The key id of a request; RefusalError if it may not call."""
        header = request.headers.get("Authorization")
        return keys.authenticate(header, settings=self.settings, now_ms=time.time_ns() // 1_000_000)

    def price_of(self, model: str) -> Price | None:
        """The price in force now; None for a model without one."""
        return self.prices.find(UPSTREAM, model, at=datetime.now(UTC))

    def knows(self, model: str) -> bool:
        """Whether the model has a price, or stands in `extra_models`."""
        return self.price_of(model) is not None or model in self.settings.extra_models

    def fate_of(self, call: ChatCall, *, number: int) -> Fate:
        """What befalls a chat call: what its hook asks for, else what the draw says."""
        return self.asked_fate(call) or self.fate_of_number(number)

    def asked_fate(self, call: ChatCall) -> Fate | None:
        """What a hook in the prompt asks for, if this try is one of those it asks for."""
        asked, tries = call.hooks.fate, call.hooks.fault_tries
        if asked is not None and (tries is None or self.tries.count(call.digest) <= tries):
            return self._counted(asked)
        return None

    def fate_of_number(self, number: int) -> Fate:
        """What befalls the call `number`, by the rates alone."""
        drawn = faults.draw(self.settings.seed, number=number, stream=Stream.FAULTS)
        return self._counted(faults.decide(self.settings.faults, drawn=drawn))

    def fate_of_poll(self) -> Fate:
        """What befalls a GET /async-result."""
        if not self.settings.fault_polls:
            return faults.FINE
        self._poll_number += 1
        drawn = faults.draw(self.settings.seed, number=self._poll_number, stream=Stream.POLLS)
        fate = faults.decide(self.settings.faults, drawn=drawn)
        return self._counted(fate) if fate.kind in faults.POLL_FAULTS else faults.FINE

    def fate_of_batch_call(self, name: str) -> Fate:
        """What befalls the call `name` of the files' and batches' API."""
        if name not in self.settings.batches.faults_on:
            return faults.FINE
        self._batch_call_number += 1
        drawn = faults.draw(self.settings.seed, number=self._batch_call_number, stream=Stream.BATCH_CALLS)
        fate = faults.decide(self.settings.faults, drawn=drawn)
        return self._counted(fate) if fate.kind in faults.POLL_FAULTS else faults.FINE

    def draw_line(self) -> float:
        """A number in [0, 1) for the next line of any batch."""
        self._line_number += 1
        return faults.draw(self.settings.seed, number=self._line_number, stream=Stream.LINES)

    def unknown(self, detail: str) -> RefusalError:
        """How an id that is not known is refused."""
        settings = self.settings
        return RefusalError(settings.unknown_task_code, detail=detail, http_status=settings.unknown_task_status)

    def _counted(self, fate: Fate) -> Fate:
        if fate.kind is not None:
            self.meter.faults[fate.kind.value] += 1
        return fate

    def refuse(self, fate: Fate) -> None:
        """Raises RefusalError if `fate` turns the call away before the model runs."""
        if fate.kind is FaultKind.RATE_LIMIT:
            code = self.settings.rate_limit_code
            raise RefusalError(None if code == "none" else code, http_status=429)
        if fate.kind is FaultKind.SENSITIVE:
            raise RefusalError("1301")
        if fate.kind is FaultKind.CODE and CODES[fate.code or ""][0] < 500:
            raise RefusalError(fate.code)

    def bills(self, fate: Fate) -> bool:
        """Whether a call of this fate computes an answer, and so is billed."""
        return fate.kind not in faults.UNBILLED or self.settings.bill_errors

    def latency_s(self, call: ChatCall, *, number: int) -> float:
        """Seconds before the call's first token."""
        if call.hooks.latency_s is not None:
            return call.hooks.latency_s
        return faults.latency_s(self.settings, number=number)

    def generation_s(self, used: TokenUsage) -> float:
        """Seconds from the first token to the last."""
        speed = self.settings.tokens_per_second
        return used.completion_tokens / speed if speed else 0.0

    def charge(
        self, used: TokenUsage, *, model: str, request_id: str, identifier: str, created: int, batch_id: str = ""
    ) -> None:
        """Bill a computed answer at the price in force now; a batch's line at the batch price."""
        self.bill.add(
            used,
            price=self.price_of(model),
            model=model,
            request_id=request_id,
            identifier=identifier,
            created=created,
            batch_id=batch_id,
        )


CLOUD = web.AppKey("cloud", Cloud)

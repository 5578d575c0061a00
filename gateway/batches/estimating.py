"""An estimate of what a batch's lines will use and cost: they are read, checked and summed as the batch would, and
nothing is kept of them."""

from __future__ import annotations

from collections.abc import AsyncIterable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from gateway.batches import assumptions, lines
from gateway.batches.lines import InvalidLineError, LineCode, LineDefaults
from gateway.batches.reader import RawLine
from gateway.batches.tokens import Counter
from gateway.services import Services
from gateway.turns import Turn
from tollgate.domain import admission, estimates
from tollgate.domain.batches import Via
from tollgate.domain.errors import RequestError, SettingsError
from tollgate.domain.estimates import ModelEstimate, Speed, Tally
from tollgate.domain.experience import Experience, Spread
from tollgate.domain.lanes import place_of
from tollgate.domain.prices import PriceTable
from tollgate.domain.routing import Model
from tollgate.domain.tasks import Key, TaskRequest
from tollgate.domain.usage import estimate_prompt_tokens
from tollgate.store import batch_intake, leases, measurements, price_list

SHOWN = 20
"""Invalid lines that are told; the rest is counted."""
KEPT_IDS = 500_000
"""custom_ids that later lines are compared with: 40 MB."""


@dataclass(slots=True, kw_only=True)
class Estimate:
    lines: int = 0
    invalid: int = 0
    shown: list[tuple[int, InvalidLineError]] = field(default_factory=list)
    """The first invalid lines, by number."""
    models: list[ModelEstimate] = field(default_factory=list)
    assumptions: list[str] = field(default_factory=list)
    """Of all models together."""


async def estimate(
    services: Services, key: Key, given: AsyncIterable[RawLine], *, defaults: LineDefaults, via: Via
) -> Estimate:
    """In turns with the loop's other work, and with the memory of one line and KEPT_IDS, however many there are."""
    work = Estimating(services, key, defaults=defaults, via=via)
    turn = Turn()
    async for line in given:
        await work.add(line)
        await turn.pause()
    return await work.result()


class Estimating:
    """One that is under way."""

    def __init__(self, services: Services, key: Key, *, defaults: LineDefaults, via: Via) -> None:
        self._services = services
        self._key = key
        self._defaults = defaults
        self._via = via
        self._found = Estimate()
        self._prices: PriceTable | None = None
        self._tallies: dict[str, Tally] = {}
        self._counters: dict[str, Counter] = {}
        self._broken: dict[str, str] = {}
        self._ids: set[int] = set()
        """Hashes, of 64 bits and another salt in each process: nobody can make two lines be one."""

    async def add(self, line: RawLine) -> None:
        self._found.lines += 1
        try:
            asked, model = self._checked(line)
        except InvalidLineError as error:
            self._found.invalid += 1
            if len(self._found.shown) < SHOWN:
                self._found.shown.append((line.number, error))
            return
        tally = self._tallies.get(model.name) or await self._begin(model)
        if counter := self._counters.get(model.name):
            counter.look(asked.body)
            tally.prompt_ratio = Spread(counter.ratio, counter.ratio, counter.ratio)
        tally.add(estimate_prompt_tokens(asked.body), max_tokens=_bound(asked))

    async def result(self) -> Estimate:
        speeds = await self._speeds()
        for tally in self._tallies.values():
            name = tally.model.name
            told = assumptions.of(tally, self._counters.get(name), broken=self._broken.get(name), speeds=speeds)
            self._found.models.append(tally.estimate(speeds=speeds, assumptions=told))
        self._found.assumptions += assumptions.of_all(kept_ids=len(self._ids), most=KEPT_IDS)
        return self._found

    def _checked(self, line: RawLine) -> tuple[TaskRequest, Model]:
        """Raises InvalidLineError."""
        if line.raw is None:
            raise lines.too_long(self._services.settings.max_line_bytes)
        asked = lines.parse(line.raw, defaults=self._defaults, upstream_kind=self._services.upstream_kind)
        try:
            model = admission.line_model(asked, via=self._via, key=self._key, catalog=self._services.catalog)
        except RequestError as error:
            raise lines.refused(error, custom_id=asked.custom_id) from None
        if asked.custom_id is not None:
            self._require_new(asked.custom_id)
        return asked, model

    def _require_new(self, custom_id: str) -> None:
        """Raises InvalidLineError. The first valid line of a custom_id has it, as in the batch."""
        hashed = hash(custom_id)
        if hashed in self._ids:
            message = batch_intake.repeated(custom_id)
            raise InvalidLineError(LineCode.DUPLICATE_CUSTOM_ID, message, field="custom_id", custom_id=custom_id)
        if len(self._ids) < KEPT_IDS:
            self._ids.add(hashed)

    async def _begin(self, model: Model) -> Tally:
        """With the first of its lines: what is known of it."""
        now = datetime.now(UTC)
        async with self._services.database.read() as connection:
            self._prices = self._prices or await price_list.load(connection)
            names = (model.name, *model.aliases)
            samples = await measurements.answers(connection, project_id=self._key.project_id, models=names, now=now)
        ways = estimates.ways(model, catalog=self._services.catalog, prices=self._prices, now=now)
        experience = Experience(samples, assumed_max_tokens=model.assumed_max_tokens)
        tally = self._tallies[model.name] = Tally(model, ways=ways, experience=experience)
        try:
            if counter := await self._services.tokenizers.counter(model):
                self._counters[model.name] = counter
        except SettingsError as error:
            self._broken[model.name] = str(error)
        return tally

    async def _speeds(self) -> dict[str, Speed]:
        """By route; of one that no worker has met, as many calls as the catalog allows if there is one to serve it. A
        model on one's own device is met by whoever has it."""
        async with self._services.database.read() as connection:
            workers = await leases.alive(connection)
        speeds, catalog = measurements.speeds(workers), self._services.catalog
        cloud_served = any(place_of(lane) == "cloud" for worker in workers for lane in worker.lanes)
        for tally in self._tallies.values():
            for route in tally.model.routes:
                if cloud_served and catalog.place(route) == "cloud":
                    slots = catalog.upstreams[route.upstream].max_in_flight
                    speeds.setdefault(route.id, Speed(free=slots, assumed=True))
        return speeds


def _bound(asked: TaskRequest) -> int | None:
    """Of its answer, by either of its names."""
    for name in ("max_tokens", "max_completion_tokens"):
        if isinstance(given := asked.body.get(name), int):
            return given
    return None

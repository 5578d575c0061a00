"""What the lines of a batch will use, cost and take, before any of it is bought. Pure.

Of each model there are its lines (`Tally`), its past answers (`Experience`) and the ways to buy it (`Way`). What comes
out is never one figure but a spread: low, likely, high. Costs are in nano-units.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction

from tollgate.domain import engine_time
from tollgate.domain.batches import Via
from tollgate.domain.experience import NOTHING, Experience, Spread
from tollgate.domain.prices import PRICED_TOKENS, Price, PriceTable, tier_of, worst_case_nano
from tollgate.domain.routing import Catalog, Model, Route
from tollgate.domain.usage import MAX_TOKENS

UPSTREAM_BATCH_S = "as long as the upstream's batches take: up to 24 hours"


@dataclass(frozen=True, slots=True, kw_only=True)
class Speed:
    """Of a route now, all of its workers together."""

    settled_per_s: float = 0.0
    """Calls that ended, in the last seconds."""
    free: int = 0
    """Slots that nothing waits for."""
    workers: int = 0
    """That have met the route; of a local one each is an engine."""
    assumed: bool = False
    """No worker has met the route yet: its slots are those that the catalog allows it."""

    def lines_per_s(self, seconds_a_call: float | None) -> float:
        """What it settles, and what its free slots would; 0: not known."""
        spare = self.free / max(seconds_a_call, 0.001) if seconds_a_call is not None else 0.0
        return self.settled_per_s + spare


@dataclass(frozen=True, slots=True, kw_only=True)
class Way:
    """How a model's lines can be bought; `route` None: they cannot, and `why_not` says why."""

    via: Via
    route: Route | None
    price: Price | None
    factor: Fraction = Fraction(1)
    """Of the price."""
    local: bool = False
    """On an engine of this installation, whose time was measured."""
    why_not: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A way, and what it comes to. What is None has a reason."""

    via: Via
    cost: Spread | None
    most_of_a_line: int | None
    route: str = ""
    """What must be left in a budget for any one of the lines to be begun."""
    why_no_cost: str = ""
    seconds: float | None = None
    why_no_seconds: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelEstimate:
    model: str
    route: str
    lines: int
    prompt_tokens: Spread
    completion_tokens: Spread
    courses: tuple[Course, ...]
    """One for each Via, in its order."""
    assumptions: tuple[str, ...]


def ways(model: Model, *, catalog: Catalog, prices: PriceTable, now: datetime) -> tuple[Way, ...]:
    """One for each Via."""
    first = model.routes[0]
    price = prices.find(first.upstream, first.model, at=now)
    direct = Way(via=Via.DIRECT, route=first, price=price, local=catalog.place(first) == "local")
    if catalog.upstreams[first.upstream].kind == "zhipu":
        factor = price.batch_factor if price else Fraction(1)
        batch = Way(via=Via.UPSTREAM_BATCH, route=first, price=price, factor=factor)
    else:
        why = f"upstream {first.upstream!r} has no batches of its own"
        batch = Way(via=Via.UPSTREAM_BATCH, route=None, price=None, why_not=why)
    local = next((route for route in model.routes if catalog.place(route) == "local"), None)
    if local is None:
        why = f"no route of {model.name} is on a GPU of this installation"
        return direct, batch, Way(via=Via.LOCAL, route=None, price=None, why_not=why)
    price = prices.find(local.upstream, local.model, at=now)
    return direct, batch, Way(via=Via.LOCAL, route=local, price=price, local=True)


class Tally:
    """The lines of one model. `prompt_ratio`: real prompt tokens for each estimated one; it may be set as long as lines
    are added."""

    def __init__(self, model: Model, *, ways: Sequence[Way], experience: Experience) -> None:
        self.model = model
        self.lines = 0
        self.experience = experience
        self.prompt_ratio = experience.prompt_ratio
        self._answers = "chat" in model.endpoints
        self.ways = ways
        self._bills = {way.price.id: _Bill(way.price) for way in ways if way.price is not None and way.price.tiers}
        self._prompts = self._longest_prompt = self._longest_answer = 0
        self._completions = [0.0, 0.0, 0.0]

    def add(self, prompt_tokens_estimate: int, *, max_tokens: int | None) -> None:
        """A line: what `estimate_prompt_tokens` says of it, and the bound that it sets on its answer."""
        completions = self.experience.completion(max_tokens) if self._answers else NOTHING
        self.lines += 1
        self._prompts += prompt_tokens_estimate
        for i, tokens in enumerate(completions):
            self._completions[i] += tokens
        for bill in self._bills.values():
            bill.add(prompt_tokens_estimate, self.prompt_ratio, completions)
        self._longest_prompt = max(self._longest_prompt, prompt_tokens_estimate)
        most = self.experience.assumed_max_tokens if max_tokens is None else max_tokens
        self._longest_answer = max(self._longest_answer, min(most, MAX_TOKENS) if self._answers else 0)

    def estimate(self, *, speeds: Mapping[str, Speed], assumptions: Sequence[str] = ()) -> ModelEstimate:
        """`speeds`: by route; one that is not there is called by no worker."""
        return ModelEstimate(
            model=self.model.name,
            route=self.model.routes[0].id,
            lines=self.lines,
            prompt_tokens=self._prompt_tokens,
            completion_tokens=Spread(*self._completions),
            courses=tuple(self._course(way, speeds) for way in self.ways),
            assumptions=tuple(assumptions),
        )

    @property
    def _prompt_tokens(self) -> Spread:
        return Spread(*(self._prompts * ratio for ratio in self.prompt_ratio))

    def engine_s(self, way: Way) -> Spread | None:
        """What the lines will take of an engine, all of them; None: of that nothing is known."""
        measured = self.experience.engine_us_per_token if way.local else None
        rate = way.price.engine if way.price is not None else None
        return engine_time.likely_s(self._prompt_tokens, Spread(*self._completions), us_per_token=measured, rate=rate)

    def engines(self, way: Way, speed: Speed | None) -> int:
        """That share the lines, where what they work says how long it takes; else 0."""
        return speed.workers if way.local and speed is not None and self.engine_s(way) is not None else 0

    def _course(self, way: Way, speeds: Mapping[str, Speed]) -> Course:
        if way.route is None:
            return Course(
                via=way.via, cost=None, most_of_a_line=None, why_no_cost=way.why_not, why_no_seconds=way.why_not
            )
        seconds, why_no_seconds = self._seconds(way, way.route.id, speeds.get(way.route.id))
        if way.price is None:
            why = f"{way.route.id} has no price"
            return Course(
                via=way.via, route=way.route.id, cost=None, most_of_a_line=None, why_no_cost=why, seconds=seconds,
                why_no_seconds=why_no_seconds,
            )  # fmt: skip
        most = worst_case_nano(way.price, prompt_tokens=self._longest_prompt, completion_tokens=self._longest_answer)
        return Course(
            via=way.via,
            route=way.route.id,
            cost=self._cost(way, way.price),
            most_of_a_line=round(most * way.factor),
            seconds=seconds,
            why_no_seconds=why_no_seconds,
        )

    def _cost(self, way: Way, price: Price) -> Spread:
        engine_s = self.engine_s(way)
        if price.engine is None or engine_s is None:
            return self._bills[price.id].cost(self.prompt_ratio, way.factor)
        return Spread(*(seconds * price.engine.second_nano * float(way.factor) for seconds in engine_s))

    def _seconds(self, way: Way, route: str, speed: Speed | None) -> tuple[float | None, str]:
        if way.via is Via.UPSTREAM_BATCH:
            return None, UPSTREAM_BATCH_S
        if speed is None:
            return None, f"no worker calls {route} now"
        if (engines := self.engines(way, speed)) and (engine_s := self.engine_s(way)):
            return engine_s.likely / engines, ""
        rate = speed.lines_per_s(self.experience.seconds)
        if not rate:
            return None, f"{self.model.name} has answered nothing yet in this project, or all slots are taken"
        return self.lines / rate, ""


class _Bill:
    """Lines at one price. The tier is that of each line; prompts are scaled at the end, when their ratio is known
    best."""

    def __init__(self, price: Price) -> None:
        self._price = price
        self._input = [0.0, 0.0, 0.0]
        self._output = [0.0, 0.0, 0.0]

    def add(self, prompt_tokens_estimate: int, ratio: Spread, completions: Spread) -> None:
        price, tier = self._price, self._price.tiers[0]
        for i in range(3):
            if len(price.tiers) > 1:
                prompt = round(prompt_tokens_estimate * ratio[i])
                tier = tier_of(price, prompt_tokens=prompt, completion_tokens=round(completions[i]))
            self._input[i] += prompt_tokens_estimate * tier.input_nano
            self._output[i] += completions[i] * tier.output_nano

    def cost(self, ratio: Spread, factor: Fraction) -> Spread:
        scale = float(factor) / PRICED_TOKENS
        return Spread(*((self._input[i] * ratio[i] + self._output[i]) * scale for i in range(3)))


def total(estimates: Sequence[ModelEstimate]) -> tuple[Course, ...]:
    """Of all models together, for each Via: costs add up, and so do the times of those that share a route."""
    return tuple(_total(via, estimates) for via in Via)


def _total(via: Via, estimates: Sequence[ModelEstimate]) -> Course:
    courses = [(one, next(course for course in one.courses if course.via is via)) for one in estimates]
    no_cost = next((course.why_no_cost for _, course in courses if course.cost is None), "")
    no_seconds = next((course.why_no_seconds for _, course in courses if course.seconds is None), "")
    by_route: dict[str, float] = {}
    for _, course in courses:
        by_route[course.route] = by_route.get(course.route, 0.0) + (course.seconds or 0.0)
    return Course(
        via=via,
        cost=None if no_cost else added(course.cost for _, course in courses),
        most_of_a_line=None if no_cost else max((course.most_of_a_line or 0 for _, course in courses), default=0),
        why_no_cost=no_cost,
        seconds=None if no_seconds else max(by_route.values(), default=0.0),
        why_no_seconds=no_seconds,
    )


def added(spreads: Iterable[Spread | None]) -> Spread:
    """Low to low, likely to likely, high to high: the ends are those where all of them err the same way."""
    known = [spread for spread in spreads if spread is not None]
    return Spread(*(sum(spread[i] for spread in known) for i in range(3)))

"""How much each route may have in flight here, and which upstreams are usable at all."""

from __future__ import annotations

import time
from collections.abc import Collection, Iterable, Mapping, Sequence

from tollgate.domain import reach
from tollgate.domain.routing import Catalog, upstream_of
from tollgate.domain.states import Priority
from tollgate.store.leases import RouteLoad
from worker.lease import Heartbeat, Load
from worker.pausing import Pauses
from worker.slots import Slots
from worker.upstreams.registry import Connected
from worker.upstreams.zhipu import ZhipuUpstream


class Capacity:
    """The slots of every route this worker has met, and the pauses of the upstreams it has keys for."""

    def __init__(self, upstreams: Mapping[str, Connected], *, lanes: Sequence[str], catalog: Catalog) -> None:
        self._upstreams = upstreams
        self._lanes = frozenset(lanes)
        self._catalog = catalog
        self._slots: dict[str, Slots] = {}
        self._own_slots = {
            name: Slots(connected.slots, known=True) for name, connected in upstreams.items() if connected.slots
        }
        self._sharers = 1
        self._stuck: Mapping[Priority, Collection[str]] = dict.fromkeys(Priority, ())
        self.pauses = Pauses({name: connected.credentials for name, connected in upstreams.items()})
        self._meet_its_own()

    def _meet_its_own(self) -> None:
        """The routes of the models that only this worker and its like hold: whoever looks for one finds it at once."""
        for route in (route for model in self._catalog.models.values() for route in model.routes):
            if route.upstream in self._upstreams and self._catalog.place(route) == "local":
                self.slots(route.id)

    def slots(self, route: str) -> Slots:
        if route not in self._slots:
            self._slots[route] = self._own(route) or Slots(self._share(route))
        return self._slots[route]

    def routes(self) -> tuple[str, ...]:
        """Those met so far that can be called now."""
        return tuple(route for route in self._slots if not self.blocked(route))

    def blocked(self, route: str) -> bool:
        """Its upstream is paused, or has no key here, or is down: a task of it would only be given back."""
        return self.pauses.blocked(upstream_of(route)) or self.down(route)

    def avoids(self, route: str, priority: Priority) -> bool:
        """Whether a task is not to be sent to `route`. What this worker serves it knows itself; of other lanes, and of
        a model on another's device, heartbeats tell."""
        lane = f"{reach.place_of(route, self._catalog)}.{priority}"
        if lane in self._lanes and not self._is_anothers(route):
            return self.blocked(route)
        return route in self._stuck[priority]

    def down(self, route: str) -> bool:
        """Its last calls from here all met an outage, the last of them just now."""
        return route in self._slots and self._slots[route].down(time.monotonic())

    def heed(self, heartbeat: Heartbeat) -> None:
        """A configured maximum is the fleet's: each live worker of these lanes takes its part, and learns below it."""
        self.pauses.replace(heartbeat.pauses)
        self._sharers = max(1, sum(1 for worker in heartbeat.workers if self._lanes & set(worker.lanes)))
        self._stuck = {priority: reach.stuck(heartbeat.workers, self._catalog, priority) for priority in Priority}
        for route, slots in self._slots.items():
            if self._own(route) is None:
                slots.ceiling = self._share(route)

    def polled(self, routes: Iterable[str]) -> dict[str, str | None]:
        """The upstreams of `routes` that can be asked by submit and poll, and the key to submit with; None where a
        paused one is to be tried, which is decided by the call."""
        names = {upstream_of(route) for route in routes}
        zhipu = [n for n in names if n in self._upstreams and isinstance(self._upstreams[n].upstream, ZhipuUpstream)]
        return {name: None if self.pauses.probe_due(name) else self.pauses.working(name) for name in zhipu}

    def load(self, waiting: Mapping[str, int]) -> Load:
        """What the announcer feeds by; the numbers less the ids that wait here already."""
        now_s = time.monotonic()
        load = {}
        for route, slots in self._slots.items():
            if self._is_anothers(route):
                continue
            waits = waiting.get(route, 0)
            blocked = self.blocked(route)
            free = 0 if blocked else slots.free(Priority.BULK)
            load[route] = RouteLoad(max(0, slots.settled_lately(now_s) - waits), max(0, free - waits), blocked)
        return load

    def _is_anothers(self, route: str) -> bool:
        """A model on another worker's device: this one's word of it says nothing."""
        return upstream_of(route) not in self._upstreams and reach.place_of(route, self._catalog) == "local"

    def _own(self, route: str) -> Slots | None:
        """Of an upstream in this process: all its routes have the same ones."""
        return self._own_slots.get(upstream_of(route))

    def _share(self, route: str) -> int:
        connected = self._upstreams.get(upstream_of(route))
        return 1 if connected is None else max(1, -(-connected.spec.max_in_flight // self._sharers))

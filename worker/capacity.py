"""How much each route may have in flight here, and which upstreams are usable at all."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from tollgate.domain.states import Priority
from worker.lease import Heartbeat, Load
from worker.pausing import Pauses
from worker.slots import Slots
from worker.upstreams.registry import Connected


def upstream_of(route: str) -> str:
    return route.partition("/")[0]


class Capacity:
    """The slots of every route this worker has met, and the pauses of the upstreams it has keys for."""

    def __init__(self, upstreams: Mapping[str, Connected], *, lanes: Sequence[str]) -> None:
        self._upstreams = upstreams
        self._lanes = frozenset(lanes)
        self._slots: dict[str, Slots] = {}
        self._sharers = 1
        self.pauses = Pauses({name: connected.credentials for name, connected in upstreams.items()})

    def slots(self, route: str) -> Slots:
        if route not in self._slots:
            self._slots[route] = Slots(self._share(route))
        return self._slots[route]

    def heed(self, heartbeat: Heartbeat) -> None:
        """A configured maximum is the fleet's: each live worker of these lanes takes its part."""
        self.pauses.replace(heartbeat.pauses)
        self._sharers = max(1, sum(1 for lanes in heartbeat.lanes_of_workers if self._lanes & set(lanes)))
        self.share_anew()

    def share_anew(self) -> None:
        for route, slots in self._slots.items():
            slots.limit = self._share(route)

    def load(self, waiting: Mapping[str, int]) -> Load:
        """Route -> (calls ended lately, slots that no waiting id will take): what the announcer feeds by."""
        now_s = time.monotonic()
        load = {}
        for route, slots in list(self._slots.items()):
            blocked = self.pauses.blocked(upstream_of(route))
            free = 0 if blocked else slots.free(Priority.BULK) - waiting.get(route, 0)
            load[route] = (slots.settled_lately(now_s), max(0, free))
        return load

    def _share(self, route: str) -> int:
        connected = self._upstreams.get(upstream_of(route))
        if connected is None or self.pauses.probing(connected.spec.name):
            return 1
        return max(1, -(-connected.spec.max_in_flight // self._sharers))

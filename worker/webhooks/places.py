"""Who may have how many deliveries in flight. Belongs to one courier; what it knows of hosts dies with the process.

A few at once for a host, and one at a time for a host whose last try failed. All hosts that are not known to answer
share half of the places: however many names of nowhere somebody tells, the other half is for those that answer.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

IN_FLIGHT = 64
PER_HOST = 8
UNPROVEN = IN_FLIGHT // 2
"""For all hosts together whose last try failed, or that were not tried yet: names cost nothing, so a new one is no
better than one that hangs."""
HOSTS_KNOWN = 10_000
"""Of more than these the process forgets all, and finds out again."""


class Places:
    """IN_FLIGHT places, taken by hosts."""

    def __init__(self) -> None:
        self._taken: Counter[str] = Counter()
        self._answers: dict[str, bool] = {}
        """Host -> whether its last try was answered, and without trouble of its own."""

    def take(self, host: str) -> None:
        self._taken[host] += 1

    def give_back(self, host: str) -> None:
        self._taken[host] -= 1
        if not self._taken[host]:
            del self._taken[host]

    def learn(self, host: str, *, answers: bool) -> None:
        if host not in self._answers and len(self._answers) >= HOSTS_KNOWN:
            self._answers.clear()
        self._answers[host] = answers

    def room(self, *, proven: bool) -> int:
        """Places for hosts that are known to answer, or for all others."""
        room = IN_FLIGHT - self._taken.total()
        if proven:
            return room
        return min(room, UNPROVEN - sum(count for host, count in self._taken.items() if not self._proven(host)))

    def shares(self, hosts: Iterable[str], *, proven: bool) -> dict[str, int]:
        """Of these hosts, in their order, the proven ones or the others -> how many more each may have."""
        shares = {host: self._bound(host) - self._taken[host] for host in hosts if self._proven(host) is proven}
        return {host: share for host, share in shares.items() if share > 0}

    def _bound(self, host: str) -> int:
        return PER_HOST if self._answers.get(host, True) else 1

    def _proven(self, host: str) -> bool:
        return self._answers.get(host, False)

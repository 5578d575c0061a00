"""This worker's picture of paused credentials: which one to call with, and when a paused one is tried again.

Who tries it is decided in the store (`worker.credentials`): one task of the whole fleet.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tollgate.store.pauses import Pause

PROBE_AFTER = timedelta(seconds=60)
"""A paused credential is tried with one task so often, however many workers there are."""


def _now() -> datetime:
    return datetime.now(UTC)


class Pauses:
    """`credentials`: upstream -> the names of its credentials, in the order of their use."""

    def __init__(self, credentials: Mapping[str, Sequence[str]], *, clock: Callable[[], datetime] = _now) -> None:
        self._credentials = credentials
        self._clock = clock
        self._until: dict[tuple[str, str], datetime] = {}

    def replace(self, rows: Iterable[Pause]) -> None:
        """As the store has them."""
        self._until = {(row.upstream, row.credential): row.until for row in rows}

    def pause(self, upstream: str, credential: str) -> datetime:
        """From now; returns until when."""
        self._until[upstream, credential] = self._clock() + PROBE_AFTER
        return self._until[upstream, credential]

    def lift(self, upstream: str, credential: str) -> bool:
        """Whether there was a pause to lift."""
        return self._until.pop((upstream, credential), None) is not None

    def probe(self, upstream: str) -> str | None:
        """A paused credential whose probe is due. No other task here is told of it for PROBE_AFTER: whether this one
        has the turn is for the store to say, and the next heartbeat brings what came of it."""
        for name in self._credentials.get(upstream, ()):
            if (upstream, name) in self._until and self._may_try(upstream, name):
                self._until[upstream, name] = self._clock() + PROBE_AFTER
                return name
        return None

    def probe_due(self, upstream: str) -> bool:
        """Whether `probe` would give one."""
        names = self._credentials.get(upstream, ())
        return any((upstream, name) in self._until and self._may_try(upstream, name) for name in names)

    def probe_due_of(self, upstream: str, name: str) -> bool:
        """Whether this very one is paused, and may be tried again."""
        return (upstream, name) in self._until and self._may_try(upstream, name)

    def paused(self, upstream: str, name: str) -> bool:
        return (upstream, name) in self._until

    def working(self, upstream: str) -> str | None:
        """The first credential that is not paused."""
        return next((name for name in self._credentials.get(upstream, ()) if (upstream, name) not in self._until), None)

    def last(self, upstream: str, name: str) -> bool:
        """Whether no other credential works."""
        names = self._credentials.get(upstream, ())
        return all(other == name or (upstream, other) in self._until for other in names)

    def blocked(self, upstream: str) -> bool:
        """No call can be made: every credential is paused and no probe is due, or none is known here."""
        return not any(self._may_try(upstream, name) for name in self._credentials.get(upstream, ()))

    def _may_try(self, upstream: str, name: str) -> bool:
        until = self._until.get((upstream, name))
        return until is None or until <= self._clock()

"""This worker's picture of paused credentials: which one to call with, and when a paused one is tried again."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from tollgate.store.pauses import Pause

PROBE_AFTER = timedelta(seconds=60)
"""A paused credential is tried with one task so often."""


def _now() -> datetime:
    return datetime.now(UTC)


class Pauses:
    """`credentials`: upstream -> the names of its credentials, in the order of their use."""

    def __init__(self, credentials: Mapping[str, Sequence[str]], *, clock: Callable[[], datetime] = _now) -> None:
        self._credentials = credentials
        self._clock = clock
        self._until: dict[tuple[str, str], datetime] = {}
        self._probed_until: dict[tuple[str, str], datetime] = {}
        """Of credentials that a task of this worker is trying just now: nobody else tries them before."""

    def replace(self, rows: Iterable[Pause]) -> None:
        """As the store has them."""
        self._until = {(row.upstream, row.credential): row.until for row in rows}
        self._probed_until = {key: until for key, until in self._probed_until.items() if key in self._until}

    def pause(self, upstream: str, credential: str) -> datetime:
        """From now; returns until when."""
        self._probed_until.pop((upstream, credential), None)
        self._until[upstream, credential] = self._clock() + PROBE_AFTER
        return self._until[upstream, credential]

    def lift(self, upstream: str, credential: str) -> bool:
        """Whether there was a pause to lift."""
        self._probed_until.pop((upstream, credential), None)
        return self._until.pop((upstream, credential), None) is not None

    def choose(self, upstream: str) -> str | None:
        """The credential to call with: a paused one whose probe is due, else the first that is not paused."""
        for name in self._credentials.get(upstream, ()):
            if (upstream, name) in self._until and self._may_try(upstream, name):
                self._probed_until[upstream, name] = self._clock() + PROBE_AFTER
                return name
        return self._first_usable(upstream)

    def blocked(self, upstream: str) -> bool:
        """No call can be made: every credential is paused, or none is known here."""
        return self._first_usable(upstream) is None

    def _first_usable(self, upstream: str) -> str | None:
        return next((name for name in self._credentials.get(upstream, ()) if self._may_try(upstream, name)), None)

    def _may_try(self, upstream: str, name: str) -> bool:
        waits = (self._until.get((upstream, name)), self._probed_until.get((upstream, name)))
        return all(until is None or until <= self._clock() for until in waits)

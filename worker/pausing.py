"""This worker's picture of paused credentials: which one to use, and whether an upstream is on probation."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from tollgate.store.pauses import Pause


class Pauses:
    """`credentials`: upstream -> the names of its credentials, in the order of their use."""

    def __init__(self, credentials: Mapping[str, Sequence[str]]) -> None:
        self._credentials = credentials
        self._until: dict[tuple[str, str], datetime] = {}

    def replace(self, rows: Iterable[Pause]) -> None:
        """As the store has them."""
        self._until = {(row.upstream, row.credential): row.until for row in rows}

    def pause(self, upstream: str, credential: str, *, until: datetime) -> None:
        self._until[upstream, credential] = until

    def lift(self, upstream: str, credential: str) -> bool:
        """Whether there was a pause to lift."""
        return self._until.pop((upstream, credential), None) is not None

    def usable(self, upstream: str) -> str | None:
        """The credential to call with: one that is not paused, else one whose pause is due for a probe."""
        names = self._credentials.get(upstream, ())
        free = [name for name in names if (upstream, name) not in self._until]
        now = datetime.now(UTC)
        due = [name for name in names if (upstream, name) in self._until and self._until[upstream, name] <= now]
        return next(iter((*free, *due)), None)

    def blocked(self, upstream: str) -> bool:
        """Known here, but without a usable credential."""
        return upstream in self._credentials and self.usable(upstream) is None

    def probing(self, upstream: str) -> bool:
        """Only a paused credential is left: one task at a time finds out."""
        names = self._credentials.get(upstream, ())
        return bool(names) and all((upstream, name) in self._until for name in names)

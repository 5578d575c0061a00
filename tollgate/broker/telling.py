"""What is told of a streamed task on its channel: a part of the record of one of its attempts."""

from __future__ import annotations

from dataclasses import dataclass
from uuid import UUID

import orjson

from tollgate.domain.record import START, TEXTS, Delta, Offset
from tollgate.domain.routing import MODEL_NAME, UPSTREAM_NAME


def channel_of(task_id: UUID) -> str:
    return f"stream:{task_id}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Telling:
    """`delta` is what the record of `attempt` has from `start` on."""

    attempt: int
    start: Offset
    delta: Delta
    route: str | None = None
    """Where the attempt runs, `zhipu/glm-4.7`; told with a record's start."""

    def dump(self) -> bytes:
        route = (self.route,) if self.route and self.start == START else ()
        return orjson.dumps([self.attempt, str(self.start), self.delta, *route])

    @classmethod
    def parse(cls, payload: bytes) -> Telling | None:
        """None for what is none: anybody may write to a Redis."""
        try:
            attempt, start, delta, *route = orjson.loads(payload)
            offset = Offset.parse(start)
        except (ValueError, TypeError):
            return None
        if not isinstance(attempt, int) or offset is None or not _is_delta(delta):
            return None
        return cls(attempt=attempt, start=offset, delta=delta, route=_route_in(route))


def _route_in(given: list[object]) -> str | None:
    """It goes into a header: nothing else may."""
    route = given[0] if given else None
    if not isinstance(route, str):
        return None
    upstream, _, model = route.partition("/")
    return route if UPSTREAM_NAME.fullmatch(upstream) and MODEL_NAME.fullmatch(model) else None


def _is_delta(given: object) -> bool:
    if not isinstance(given, dict) or not all(isinstance(given.get(name, ""), str) for name in TEXTS):
        return False
    calls = given.get("tool_calls", [])
    return isinstance(calls, list) and all(_is_call(call) for call in calls)


def _is_call(given: object) -> bool:
    function = given.get("function") if isinstance(given, dict) else None
    return (
        isinstance(given, dict)
        and isinstance(given.get("index"), int)
        and isinstance(function, dict)
        and isinstance(function.get("arguments"), str)
    )

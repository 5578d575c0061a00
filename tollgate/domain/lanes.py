"""Lanes: the Celery queues. A place (cloud, local) and a priority; interactive is served first."""

from __future__ import annotations

from tollgate.domain.errors import SettingsError
from tollgate.domain.states import Priority

PLACES = ("cloud", "local")
LANES = tuple(f"{place}.{priority}" for place in PLACES for priority in Priority)


def expand(text: str) -> tuple[str, ...]:
    """ "cloud", "local,cloud.bulk" -> lanes, interactive ones first. Raises SettingsError."""
    wanted = {name.strip() for name in text.split(",") if name.strip()}
    unknown = wanted - set(LANES) - set(PLACES)
    if unknown or not wanted:
        raise SettingsError(
            f"TOLLGATE_LANES: {', '.join(sorted(unknown)) or 'empty'} is not a lane; "
            f"write a comma-separated list of {', '.join((*PLACES, *LANES))}"
        )
    chosen = [lane for lane in LANES if lane in wanted or lane.partition(".")[0] in wanted]
    return tuple(sorted(chosen, key=lambda lane: (priority_of(lane) is Priority.BULK, lane)))


def priority_of(lane: str) -> Priority:
    return Priority(lane.partition(".")[2])


def place_of(lane: str) -> str:
    return lane.partition(".")[0]


def at_place(lane: str, place: str) -> str:
    """The lane of the same priority there."""
    return f"{place}.{priority_of(lane)}"

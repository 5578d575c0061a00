"""How much a route may have in flight: learned and shared for the cloud, this process's own for a local upstream."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import cast

from tollgate.domain.ids import new_id
from tollgate.domain.routing import Catalog, Model, Route, UpstreamSpec
from tollgate.domain.states import Priority
from tollgate.store.leases import UNMET, RouteLoad, WorkerRow
from worker.capacity import Capacity
from worker.lease import Heartbeat
from worker.upstreams.registry import Connected
from worker.upstreams.upstream import Upstream

NOBODY = cast(Upstream, None)
LANES = ("local.interactive", "local.bulk")
SPECS = [
    UpstreamSpec(name="gpu", kind="local"),
    UpstreamSpec(name="gpu-2", kind="local"),
    UpstreamSpec(name="vllm", kind="openai"),
]
ROUTES = tuple(Route(upstream=spec.name, model="a") for spec in SPECS)
CATALOG = Catalog(upstreams={spec.name: spec for spec in SPECS}, models={"a": Model(name="a", routes=ROUTES)})


def connected(name: str, *, slots: int | None = None) -> Connected:
    spec = UpstreamSpec(name=name, kind="local" if slots else "openai", max_in_flight=30)
    return Connected(spec=spec, upstream=NOBODY, credentials=("",), slots=slots)


def capacity() -> Capacity:
    """Of a worker among three of the same lanes."""
    upstreams = {"gpu": connected("gpu", slots=40), "vllm": connected("vllm")}
    made = Capacity(upstreams, lanes=LANES, catalog=CATALOG)
    made.slots("gpu/a"), made.slots("vllm/a")
    made.heed(Heartbeat(cancelled=[], pauses=[], workers=[a_worker() for _ in range(3)]))
    return made


def a_worker(load: Mapping[str, RouteLoad] = UNMET, *, lanes: tuple[str, ...] = LANES) -> WorkerRow:
    now = datetime.now(UTC)
    return WorkerRow(
        id=new_id(), name="w", lanes=lanes, load=load, heartbeat=1, dead=False, started_at=now, seen_at=now
    )


def test_a_local_upstreams_slots_are_neither_learned_nor_shared() -> None:
    assert capacity().slots("gpu/a").free(Priority.INTERACTIVE) == 40
    assert capacity().slots("gpu/a").free(Priority.BULK) == 36
    assert capacity().slots("vllm/a").ceiling == 10


def test_all_its_models_have_the_same_ones() -> None:
    one = capacity()
    one.slots("gpu/a").take(35)
    assert one.slots("gpu/b").free(Priority.INTERACTIVE) == 5


def test_it_says_from_the_first_what_it_holds_and_nothing_of_anothers_model() -> None:
    one = Capacity({"gpu": connected("gpu", slots=40)}, lanes=LANES, catalog=CATALOG)
    one.slots("gpu-2/a")
    assert one.load({}) == {"gpu/a": RouteLoad(0, 36)}


def test_where_else_a_task_may_go_is_known_here_or_told_by_heartbeats() -> None:
    one, urgent = capacity(), Priority.INTERACTIVE
    assert not one.avoids("gpu/a", urgent)
    assert one.avoids("gpu-2/a", urgent), "nobody says that he has it"
    assert one.avoids("vllm/a", urgent), "nobody serves its lane"
    others = [a_worker({"gpu-2/a": RouteLoad(0, 4)}), a_worker(lanes=("cloud.interactive",))]
    one.heed(Heartbeat(cancelled=[], pauses=[], workers=[a_worker({"gpu/a": RouteLoad(0, 36)}), *others]))
    assert not one.avoids("gpu-2/a", urgent)
    assert not one.avoids("vllm/a", urgent)
    assert one.avoids("vllm/a", Priority.BULK)

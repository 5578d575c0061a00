"""Which routes nobody can call, and why."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import pytest

from tollgate.domain import reach
from tollgate.domain.routing import Catalog, Model, Route, UpstreamSpec
from tollgate.domain.states import Priority

GPU, OTHER_GPU, CLOUD = "gpu/m", "gpu-2/m", "zhipu/m"
LOCAL = ("local.interactive", "local.bulk")
IN_CLOUD = ("cloud.interactive", "cloud.bulk")


@dataclass(frozen=True)
class Said:
    blocked: bool


CALLED, BLOCKED = Said(blocked=False), Said(blocked=True)


@dataclass(frozen=True)
class Worker:
    lanes: tuple[str, ...]
    load: Mapping[str, Said] = field(default_factory=dict)


def a_catalog(**models: tuple[str, ...]) -> Catalog:
    specs = [
        UpstreamSpec(name="gpu", kind="local"),
        UpstreamSpec(name="gpu-2", kind="local"),
        UpstreamSpec(name="zhipu", kind="zhipu"),
    ]

    def a_model(name: str, ids: tuple[str, ...]) -> Model:
        return Model(name=name, routes=tuple(Route(upstream=i.partition("/")[0], model="m") for i in ids))

    return Catalog(
        upstreams={spec.name: spec for spec in specs}, models={name: a_model(name, ids) for name, ids in models.items()}
    )


BOTH = a_catalog(both=(GPU, CLOUD))
NO_GPU = "no worker has upstream gpu"
NO_CLOUD = "no worker serves cloud.interactive"
REFUSED = "upstream zhipu is paused, without a key, or down"


@pytest.mark.parametrize(
    ("workers", "stuck"),
    [
        ([], {GPU: NO_GPU, CLOUD: NO_CLOUD}),
        ([Worker(IN_CLOUD)], {GPU: NO_GPU}),
        ([Worker(LOCAL)], {GPU: NO_GPU, CLOUD: NO_CLOUD}),
        ([Worker(LOCAL, {OTHER_GPU: CALLED}), Worker(IN_CLOUD)], {GPU: NO_GPU}),
        ([Worker(LOCAL, {GPU: CALLED}), Worker(IN_CLOUD)], {}),
        ([Worker(("local.bulk",), {GPU: CALLED}), Worker(IN_CLOUD)], {GPU: NO_GPU}),
        ([Worker(LOCAL, {GPU: CALLED}), Worker(IN_CLOUD, {CLOUD: BLOCKED})], {CLOUD: REFUSED}),
        ([Worker(LOCAL, {GPU: CALLED}), Worker(IN_CLOUD, {CLOUD: BLOCKED}), Worker(IN_CLOUD, {CLOUD: CALLED})], {}),
        ([Worker((*LOCAL, *IN_CLOUD), {GPU: CALLED})], {}),
    ],
    ids=[
        "nobody", "cloud only", "a local one without it", "of another local upstream", "both", "not for this priority",
        "cloud without a key", "one with a key is enough", "one for all",
    ],
)  # fmt: skip
def test_a_route_is_stuck_for_a_reason(workers: list[Worker], stuck: dict[str, str]) -> None:
    found = {
        route: why for route, why in reach.stuck(workers, BOTH, Priority.INTERACTIVE).items() if route != OTHER_GPU
    }
    assert found == stuck


def test_a_model_on_a_device_that_is_down_is_stuck() -> None:
    found = reach.stuck([Worker(LOCAL, {GPU: BLOCKED})], BOTH, Priority.BULK)
    assert found[GPU] == "upstream gpu is paused, without a key, or down"


def test_people_are_told_what_becomes_of_the_tasks_of_each_model() -> None:
    catalog = a_catalog(both=(GPU, CLOUD), here=(GPU,))
    [gpu] = reach.told([Worker(IN_CLOUD)], catalog)
    assert (gpu.route, gpu.why, gpu.fates) == (GPU, NO_GPU, {"both": CLOUD, "here": None})


def test_a_lane_that_nobody_serves_is_not_told_route_by_route() -> None:
    assert [one.route for one in reach.told([], a_catalog(both=(GPU, CLOUD), cloud=(CLOUD,)))] == [GPU]


def test_it_is_where_its_tasks_go_to_ones_own_device() -> None:
    [cloud] = reach.told([Worker(LOCAL, {GPU: CALLED})], a_catalog(both=(CLOUD, GPU)))
    assert (cloud.route, cloud.fates) == (CLOUD, {"both": GPU})


def test_fates_of_one_priority_are_not_lost_to_the_other() -> None:
    [gpu] = reach.told([Worker(("cloud.bulk", *LOCAL))], BOTH)
    assert gpu.fates == {"both": CLOUD}

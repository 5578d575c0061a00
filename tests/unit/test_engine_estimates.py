"""What a batch will take of a local engine, and cost by the second of it, beside what the cloud asks."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from tests.unit.test_estimates import BOTH, CLOUD, GPU, SHORT, courses, tally
from tests.unit.test_estimates import price as by_tokens
from tollgate.domain import estimates
from tollgate.domain.batches import Via
from tollgate.domain.engine_rates import EngineRate
from tollgate.domain.estimates import Speed, Tally
from tollgate.domain.experience import Sample
from tollgate.domain.prices import Price, PriceTable, charge, worst_case_nano
from tollgate.domain.routing import Model
from tollgate.domain.usage import TokenUsage

RATE = EngineRate(second_nano=1_000_000, tokens_per_second=1_000, alone_tokens_per_second=100)
BY_THE_SECOND = Price(
    upstream=GPU.upstream, model=GPU.model, valid_from=datetime(2024, 1, 1, tzinfo=UTC), currency="CNY", engine=RATE
)
PRICES = PriceTable([by_tokens(CLOUD, SHORT), BY_THE_SECOND])
FREE = {GPU.id: Speed(free=8, workers=1)}
MEASURED = [Sample(60, 60, 40, 2.0, engine_us=50_000)] * 20
"""Half a millisecond a token."""


def lines(samples: list[Sample], *, count: int = 10, model: Model = BOTH, prices: PriceTable = PRICES) -> Tally:
    """Of 60 tokens, and as long an answer as there was, or 160."""
    one = tally(model, samples=samples, prices=prices)
    for _ in range(count):
        one.add(60, max_tokens=160)
    return one


def test_as_past_answers_took_so_the_next_will_take() -> None:
    local = courses(lines(MEASURED))[Via.LOCAL]
    spent = TokenUsage(prompt_tokens=60, completion_tokens=40, engine_us=50_000)
    assert local.cost == pytest.approx((10 * charge(BY_THE_SECOND, spent).cost_nano,) * 3)


def test_the_spread_of_what_they_took_is_the_spread_of_the_cost() -> None:
    samples = [Sample(60, 60, 40, 2.0, engine_us=us) for us in (*[20_000] * 5, *[50_000] * 10, *[80_000] * 5)]
    assert courses(lines(samples))[Via.LOCAL].cost == pytest.approx((200_000, 500_000, 800_000))


def test_before_anything_was_measured_it_is_by_the_rate_of_the_price() -> None:
    """A busy engine for low and likely; high is what budgets reserve for lines that run alone."""
    local = courses(lines([], count=1))[Via.LOCAL]
    low, likely, high = local.cost or (0, 0, 0)
    assert (low, likely) == pytest.approx(((42 + 10) * 1_000, (51 + 40) * 1_000))
    assert local.most_of_a_line == worst_case_nano(BY_THE_SECOND, prompt_tokens=60, completion_tokens=160)
    assert high == pytest.approx(local.most_of_a_line)


def test_answers_of_the_cloud_say_nothing_of_the_engine() -> None:
    cloud = [Sample(60, 60, 40, 2.0)] * 20
    assert courses(lines([*cloud, *MEASURED]))[Via.LOCAL].cost == courses(lines(MEASURED))[Via.LOCAL].cost


def test_the_ways_stand_side_by_side() -> None:
    found = courses(lines(MEASURED))
    likely = {via: course.cost.likely for via, course in found.items() if course.cost is not None}
    assert likely == pytest.approx({
        Via.DIRECT: 10 * (60 * 4_000 + 40 * 16_000),
        Via.UPSTREAM_BATCH: 5 * (60 * 4_000 + 40 * 16_000),
        Via.LOCAL: 500_000,
    })  # fmt: skip
    assert {via: course.route for via, course in found.items()} == {
        Via.DIRECT: CLOUD.id, Via.UPSTREAM_BATCH: CLOUD.id, Via.LOCAL: GPU.id,
    }  # fmt: skip


def test_where_the_gpu_comes_first_it_is_also_the_direct_way() -> None:
    one = lines(MEASURED, model=replace(BOTH, routes=(GPU, CLOUD)))
    direct, batch, local = one.estimate(speeds=FREE).courses
    assert (direct.cost, direct.seconds) == (local.cost, local.seconds)
    assert batch.why_no_cost == "upstream 'gpu' has no batches of its own"


@pytest.mark.parametrize("samples", [MEASURED, []])
def test_most_of_a_line_is_what_is_reserved_for_it(samples: list[Sample]) -> None:
    reserved = worst_case_nano(BY_THE_SECOND, prompt_tokens=60, completion_tokens=160)
    assert courses(lines(samples))[Via.LOCAL].most_of_a_line == reserved


class TestTime:
    """An engine that works is all there is: its seconds are the batch's, and engines share them."""

    @pytest.mark.parametrize(("workers", "seconds"), [(1, 0.5), (2, 0.25)])
    def test_it_is_what_the_engines_work(self, workers: int, seconds: float) -> None:
        speeds = {GPU.id: Speed(settled_per_s=100.0, free=8, workers=workers)}
        assert lines(MEASURED).estimate(speeds=speeds).courses[2].seconds == pytest.approx(seconds)

    def test_it_is_told_without_a_price_too(self) -> None:
        local = lines(MEASURED, prices=PriceTable([])).estimate(speeds=FREE).courses[2]
        assert (local.cost, local.why_no_cost) == (None, "gpu/glm-4-9b has no price")
        assert local.seconds == pytest.approx(0.5)

    def test_a_worker_that_has_not_met_the_route_may_have_no_engine_for_it(self) -> None:
        local = lines([]).estimate(speeds={GPU.id: Speed(free=8, assumed=True)}).courses[2]
        assert local.seconds is None

    def test_models_on_one_engine_wait_for_each_other_however_their_routes_begin(self) -> None:
        other = replace(BOTH, name="other", routes=(replace(CLOUD, model="glm-4-air"), GPU))
        found = [lines(MEASURED, model=model).estimate(speeds=FREE) for model in (BOTH, other)]
        assert estimates.total(found)[2].seconds == pytest.approx(1.0)


def test_a_server_of_ones_own_may_have_a_price_by_the_second_too() -> None:
    """It tells no time of its engine, so the rate of the price is all there is, whatever others measured."""
    route = replace(CLOUD, upstream="vllm")
    price = replace(BY_THE_SECOND, upstream="vllm", model=route.model)
    one = lines(MEASURED, model=replace(BOTH, routes=(route,)), prices=PriceTable([price]))
    assert courses(one)[Via.DIRECT].cost == pytest.approx((1_000_000, 1_000_000, 10 * (60_000 + 40 * 10_000)))

"""What a batch's lines will use, cost and take."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import pytest

from tollgate.domain import estimates
from tollgate.domain.batches import Via
from tollgate.domain.estimates import Course, Speed, Tally
from tollgate.domain.experience import Experience, Sample, Spread
from tollgate.domain.prices import Price, PriceTable, Tier, charge
from tollgate.domain.routing import Catalog, Credential, Model, Route, UpstreamSpec
from tollgate.domain.usage import TokenUsage

NOW = datetime(2026, 3, 1, tzinfo=UTC)
UPSTREAMS = {
    "zhipu": UpstreamSpec(name="zhipu", kind="zhipu", base_url="http://z", credentials=(Credential(variables=("K",)),)),
    "vllm": UpstreamSpec(name="vllm", kind="openai", base_url="http://v"),
    "gpu": UpstreamSpec(name="gpu", kind="local"),
}
CLOUD = Route(upstream="zhipu", model="glm-4.7")
GPU = Route(upstream="gpu", model="glm-4-9b")
GLM = Model(name="glm-4.7", routes=(CLOUD,))
BOTH = Model(name="both", routes=(CLOUD, GPU))
EMBEDDING = Route(upstream="zhipu", model="embedding-3")
VECTORS = Model(name="embedding-3", routes=(EMBEDDING,), endpoints=frozenset({"embeddings"}))
OPEN = Model(name="open", routes=(Route(upstream="vllm", model="open"),))
SINCE = datetime(2024, 1, 1, tzinfo=UTC)
SHORT = Tier(name="short", max_prompt_tokens=1_000, input_nano=4_000_000_000, output_nano=16_000_000_000)
LONG = Tier(name="long", min_prompt_tokens=1_000, input_nano=8_000_000_000, output_nano=32_000_000_000)


def price(route: Route, *tiers: Tier) -> Price:
    return Price(
        upstream=route.upstream,
        model=route.model,
        valid_from=datetime(2024, 1, 1, tzinfo=UTC),
        currency="CNY",
        tiers=tiers,
    )


PRICES = PriceTable([price(CLOUD, SHORT, LONG), price(EMBEDDING, SHORT), price(OPEN.routes[0], SHORT)])
ANSWERS = [Sample(100, 100, 50, 2.0)] * 20
"""As if the estimate of prompts were right, and each answer the same."""


def tally(model: Model = GLM, *, samples: list[Sample] = ANSWERS, prices: PriceTable = PRICES) -> Tally:
    catalog = Catalog(upstreams=UPSTREAMS, models={model.name: model})
    ways = estimates.ways(model, catalog=catalog, prices=prices, now=NOW)
    return Tally(model, ways=ways, experience=Experience(samples, assumed_max_tokens=model.assumed_max_tokens))


def courses(of: Tally, **speeds: Speed) -> dict[Via, Course]:
    known = {name.replace("_", "/", 1): speed for name, speed in speeds.items()}
    return {course.via: course for course in of.estimate(speeds=known).courses}


class TestCosts:
    def test_they_are_what_the_lines_are_charged(self) -> None:
        """Each by the tier it falls into, as its attempt will be."""
        one = tally()
        lines = [(10, 50), (999, 50), (1_000, 50), (5_000, 20)]
        for prompt, most in lines:
            one.add(prompt, max_tokens=most)
        charged = sum(
            charge(price(CLOUD, SHORT, LONG), TokenUsage(prompt_tokens=prompt, completion_tokens=answer)).cost_nano
            for prompt, answer in lines
        )
        assert courses(one)[Via.DIRECT].cost == pytest.approx((charged, charged, charged))

    def test_a_batch_of_the_upstream_costs_its_factor(self) -> None:
        half = replace(price(CLOUD, SHORT), batch_factor=Fraction(3, 10))
        one = tally(prices=PriceTable([half]))
        one.add(1_000, max_tokens=None)
        found = courses(one)
        direct, batch = found[Via.DIRECT].cost, found[Via.UPSTREAM_BATCH].cost
        assert direct == pytest.approx((4_800_000,) * 3)
        assert batch == pytest.approx((1_440_000,) * 3)

    def test_the_spread_of_tokens_is_the_spread_of_the_cost(self) -> None:
        one = tally(samples=[], prices=PriceTable([price(CLOUD, SHORT)]))
        one.add(100, max_tokens=160)
        estimate = one.estimate(speeds={})
        assert estimate.prompt_tokens == pytest.approx((70, 85, 100))
        assert estimate.completion_tokens == (10, 40, 160)
        cost = courses(one)[Via.DIRECT].cost
        assert cost == pytest.approx((70 * 4_000 + 10 * 16_000, 85 * 4_000 + 40 * 16_000, 100 * 4_000 + 160 * 16_000))

    def test_a_ratio_that_is_found_on_the_way_holds_for_all_lines(self) -> None:
        one = tally(prices=PriceTable([price(CLOUD, SHORT)]))
        one.add(100, max_tokens=None)
        one.prompt_ratio = Spread(0.5, 0.5, 0.5)
        one.add(100, max_tokens=None)
        assert one.estimate(speeds={}).prompt_tokens == (100, 100, 100)
        assert courses(one)[Via.DIRECT].cost == pytest.approx((100 * 4_000 + 100 * 16_000,) * 3)

    def test_vectors_have_no_completion(self) -> None:
        one = tally(VECTORS, samples=[])
        one.add(100, max_tokens=None)
        estimate = one.estimate(speeds={})
        assert estimate.completion_tokens == (0, 0, 0)
        assert courses(one)[Via.DIRECT].most_of_a_line == 400_000

    def test_the_most_of_a_line_is_what_a_budget_reserves_for_it(self) -> None:
        one = tally(prices=PriceTable([price(CLOUD, SHORT)]))
        one.add(10, max_tokens=30)
        one.add(100, max_tokens=20)
        assert courses(one)[Via.DIRECT].most_of_a_line == 100 * 4_000 + 30 * 16_000
        one.add(10, max_tokens=None)
        assert courses(one)[Via.DIRECT].most_of_a_line == 100 * 4_000 + 4_096 * 16_000


class TestWhatIsNotKnown:
    def test_a_model_without_a_price(self) -> None:
        one = tally(prices=PriceTable([]))
        one.add(10, max_tokens=None)
        for via in (Via.DIRECT, Via.UPSTREAM_BATCH):
            assert courses(one)[via].cost is None
            assert courses(one)[via].why_no_cost == "zhipu/glm-4.7 has no price"

    def test_a_model_without_a_local_route(self) -> None:
        course = courses(tally())[Via.LOCAL]
        assert (course.cost, course.seconds) == (None, None)
        assert course.why_no_cost == course.why_no_seconds == "no route of glm-4.7 is on a GPU of this installation"

    def test_an_upstream_without_batches(self) -> None:
        course = courses(tally(OPEN))[Via.UPSTREAM_BATCH]
        assert course.cost is None
        assert course.why_no_cost == "upstream 'vllm' has no batches of its own"

    def test_a_local_route_has_a_price_and_a_pace_of_its_own(self) -> None:
        one = tally(
            BOTH, prices=PriceTable([price(CLOUD, SHORT), price(GPU, replace(SHORT, input_nano=0, output_nano=0))])
        )
        one.add(10, max_tokens=None)
        speeds = {"gpu/glm-4-9b": Speed(settled_per_s=0.5)}
        found = {course.via: course for course in one.estimate(speeds=speeds).courses}
        assert found[Via.LOCAL].cost == (0, 0, 0)
        assert found[Via.LOCAL].seconds == 2
        assert found[Via.DIRECT].why_no_seconds == "no worker calls zhipu/glm-4.7 now"


class TestTime:
    def lines(self, samples: list[Sample] = ANSWERS) -> Tally:
        one = tally(samples=samples)
        for _ in range(90):
            one.add(10, max_tokens=None)
        return one

    def test_by_what_ends_now_and_by_what_the_free_slots_would_do(self) -> None:
        """At 2 s a call, 8 free slots settle 4 a second."""
        speeds = {CLOUD.id: Speed(settled_per_s=5.0, free=8)}
        (direct, batch, _) = self.lines().estimate(speeds=speeds).courses
        assert direct.seconds == pytest.approx(10)
        assert (batch.seconds, batch.why_no_seconds) == (None, estimates.UPSTREAM_BATCH_S)

    @pytest.mark.parametrize(
        ("samples", "speed"), [([], Speed(free=8)), (ANSWERS, Speed()), ([Sample(1, 1, 1, 0.0)], Speed())]
    )
    def test_where_nothing_is_known_there_is_none(self, samples: list[Sample], speed: Speed) -> None:
        direct = self.lines(samples).estimate(speeds={CLOUD.id: speed}).courses[0]
        assert direct.seconds is None
        assert "nothing yet" in direct.why_no_seconds


class TestTotal:
    def test_costs_add_up_and_what_is_unknown_of_one_is_unknown_of_all(self) -> None:
        one, other = tally(), tally(VECTORS)
        one.add(100, max_tokens=None)
        other.add(100, max_tokens=None)
        speeds = {CLOUD.id: Speed(settled_per_s=0.5)}
        found = [one.estimate(speeds=speeds), other.estimate(speeds=speeds)]
        direct, _, local = estimates.total(found)
        assert direct.cost == pytest.approx((1_600_000,) * 3)
        assert direct.most_of_a_line == max(course.most_of_a_line or 0 for e in found for course in e.courses)
        assert (direct.seconds, direct.why_no_seconds) == (None, "no worker calls zhipu/embedding-3 now")
        assert (local.cost, local.why_no_cost) == (None, "no route of glm-4.7 is on a GPU of this installation")

    def test_models_of_one_route_wait_for_each_other_and_others_do_not(self) -> None:
        twin = replace(GLM, name="twin")
        made = []
        for model in (GLM, twin, OPEN):
            one = tally(model)
            one.add(10, max_tokens=None)
            made.append(
                one.estimate(speeds={CLOUD.id: Speed(settled_per_s=1.0), "vllm/open": Speed(settled_per_s=1.0)})
            )
        assert estimates.total(made)[0].seconds == 2

    def test_of_nothing(self) -> None:
        direct, *_ = estimates.total([])
        assert (direct.cost, direct.seconds, direct.most_of_a_line) == ((0, 0, 0), 0, 0)

"""The rule of a model's fallbacks: which route is next, when, and that it never leaves the list."""

from __future__ import annotations

from collections.abc import Collection

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import fallbacks, verdicts
from tollgate.domain.errors import UpstreamError
from tollgate.domain.fallbacks import CAUSES
from tollgate.domain.routing import Catalog, Cause, Mode, Model, Route, UpstreamSpec
from tollgate.domain.states import OnUncertain
from tollgate.domain.verdicts import Action, Verdict

A, B, C = "a/m", "b/m", "c/m"
ZHIPU = UpstreamSpec(name="a", kind="zhipu")
VLLM = UpstreamSpec(name="b", kind="openai")


def model(*routes: str, on: Collection[Cause] = Model(name="", routes=()).fallback_on, after: int = 2) -> Model:
    made = tuple(Route(upstream=route.partition("/")[0], model="m") for route in routes)
    return Model(name="m", routes=made, fallback_on=frozenset(on), fallback_after=after)


def goes(
    of: Model, tried: str, cause: Cause | None, *, failures: int = 1, avoid: Collection[str] = ()
) -> tuple[str, bool] | None:
    step = fallbacks.next_route(of, tried=tried, cause=cause, failures=failures, avoid=avoid)
    return None if step is None else (step.route.id, step.at_once)


@pytest.mark.parametrize(
    ("tried", "cause", "failures", "expected"),
    [
        (A, Cause.OVERLOAD, 1, None),
        (A, Cause.OVERLOAD, 2, (B, True)),
        (A, Cause.OUTAGE, 2, (B, True)),
        (B, Cause.OUTAGE, 2, (C, True)),
        (C, Cause.OUTAGE, 2, (A, False)),
        (A, Cause.OUTAGE, 3, (B, True)),
        (A, Cause.PAUSE, 1, (B, True)),
        (C, Cause.PAUSE, 1, (A, False)),
        (A, Cause.RATE_LIMIT, 99, None),
        (A, None, 99, None),
        ("gone/m", Cause.OUTAGE, 2, None),
    ],
)
def test_the_next_route_is_tried_after_the_second_failure_or_at_once_after_a_pause(
    tried: str, cause: Cause | None, failures: int, expected: tuple[str, bool] | None
) -> None:
    assert goes(model(A, B, C), tried, cause, failures=failures) == expected


def test_routes_that_nobody_can_call_are_stepped_over() -> None:
    assert goes(model(A, B, C), A, Cause.PAUSE, avoid={A, B}) == (C, True)
    assert goes(model(A, B, C), B, Cause.PAUSE, avoid={B, C}) == (A, False)
    assert goes(model(A, B, C), A, Cause.PAUSE, avoid={B, C}) is None


def test_the_model_says_what_moves_its_tasks_and_after_how_many_tries() -> None:
    assert goes(model(A, B, on=(), after=1), A, Cause.PAUSE) is None
    assert goes(model(A, B, on={Cause.RATE_LIMIT}, after=1), A, Cause.RATE_LIMIT) == (B, True)
    assert goes(model(A, B, on={Cause.RATE_LIMIT}, after=1), A, Cause.OVERLOAD, failures=9) is None
    assert goes(model(A, B, after=5), A, Cause.OVERLOAD, failures=4) is None
    assert goes(model(A, B, after=5), A, Cause.OVERLOAD, failures=5) == (B, True)


@given(
    routes=st.lists(st.sampled_from([f"{name}/m" for name in "abcdef"]), min_size=1, unique=True),
    tries=st.lists(st.tuples(st.sampled_from([*Cause, None]), st.integers(1, 4)), max_size=40),
    avoid=st.sets(st.sampled_from([f"{name}/m" for name in "abcdef"])),
    on=st.sets(st.sampled_from(list(Cause))),
    after=st.integers(1, 4),
)
def test_a_task_never_leaves_the_list_nor_goes_where_nobody_can_call(
    routes: list[str], tries: list[tuple[Cause | None, int]], avoid: set[str], on: set[Cause], after: int
) -> None:
    of, at = model(*routes, on=on, after=after), routes[0]
    for cause, failures in tries:
        step = fallbacks.next_route(of, tried=at, cause=cause, failures=failures, avoid=avoid)
        if step is None:
            continue
        assert cause in on
        assert len(routes) > 1
        assert step.route.id in routes
        assert step.route.id != at
        assert step.route.id not in avoid
        assert step.at_once == (routes.index(step.route.id) > routes.index(at))
        at = step.route.id


@given(routes=st.lists(st.sampled_from([f"{name}/m" for name in "abcdef"]), min_size=2, unique=True))
def test_without_a_wait_a_task_goes_to_each_route_once_at_most(routes: list[str]) -> None:
    """However fast all of them refuse: a round ends with a back-off."""
    at, moves = routes[0], 0
    while (step := fallbacks.next_route(model(*routes), tried=at, cause=Cause.PAUSE, failures=1)) and step.at_once:
        at, moves = step.route.id, moves + 1
    assert moves == len(routes) - 1


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (UpstreamError("", code="1305", http_status=429), Cause.OVERLOAD),
        (UpstreamError("", code="1312", http_status=429), Cause.OVERLOAD),
        (UpstreamError("", http_status=503), Cause.OVERLOAD),
        (UpstreamError("", kind="connect"), Cause.OUTAGE),
        (UpstreamError("", http_status=500), Cause.OUTAGE),
        (UpstreamError("", kind="timeout"), Cause.OUTAGE),
        (UpstreamError("", code="1113", http_status=429), Cause.PAUSE),
        (UpstreamError("", http_status=401), Cause.PAUSE),
        (UpstreamError("", code="1304", http_status=429), Cause.PAUSE),
        (UpstreamError("", code="1308", http_status=429), Cause.PAUSE),
        (UpstreamError("", code="1302", http_status=429), Cause.RATE_LIMIT),
        (UpstreamError("", http_status=429), Cause.RATE_LIMIT),
        (UpstreamError("", code="1301", http_status=400), None),
        (UpstreamError("", code="1211", http_status=400), None),
        (UpstreamError("", code="1231", http_status=400), None),
    ],
)
def test_what_an_error_is_to_the_rule(error: UpstreamError, cause: Cause | None) -> None:
    assert fallbacks.cause_of(verdicts.judge(error)) is cause


def test_what_failed_after_it_was_taken_in_is_an_outage_whatever_it_is_called() -> None:
    assert fallbacks.cause_of(Verdict(action=Action.RETRY_UNCERTAIN, reason="no_balance")) is Cause.OUTAGE


def test_every_reason_of_the_rule_is_a_verdicts() -> None:
    tables = (verdicts._ZHIPU, verdicts._OPENAI, verdicts._STATUSES)
    known = {verdict.reason for table in tables for verdict in table.values()} | {"unreachable", "no_answer"}
    assert set(CAUSES) <= known


def test_pauses_and_what_does_not_move_a_task_are_not_counted() -> None:
    overload, paused = Verdict(action=Action.RETRY, reason="overloaded"), Verdict(action=Action.PAUSE, reason="bad_key")
    assert fallbacks.counts(model(A, B), overload)
    assert not fallbacks.counts(model(A), overload)
    assert not fallbacks.counts(model(A, B), paused)
    assert not fallbacks.counts(model(A, B, on={Cause.OUTAGE}), overload)


@pytest.mark.parametrize(
    ("upstream", "mode", "endpoint", "streamed", "expected"),
    [
        ("a", "async", "chat", False, "async"),
        ("a", "direct", "chat", False, "direct"),
        ("a", "async", "chat", True, "direct"),
        ("a", "async", "embeddings", False, "direct"),
        ("b", "async", "chat", False, "direct"),
    ],
)
def test_a_fallback_is_asked_as_its_route_says_where_the_task_can_be(
    upstream: str, mode: Mode, endpoint: str, streamed: bool, expected: str
) -> None:
    catalog = Catalog(upstreams={"a": ZHIPU, "b": VLLM}, models={})
    route = Route(upstream=upstream, model="m", mode=mode)
    assert fallbacks.mode_on(route, catalog=catalog, endpoint=endpoint, streamed=streamed) == expected


def test_a_second_purchase_that_was_forbidden_once_stays_forbidden() -> None:
    fail, retry = OnUncertain.FAIL, OnUncertain.RETRY
    assert fallbacks.stricter(retry, retry) is retry
    assert {fallbacks.stricter(fail, retry), fallbacks.stricter(retry, fail), fallbacks.stricter(fail, fail)} == {fail}

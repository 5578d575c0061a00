"""Which credential is used, and when a paused one is probed."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from tollgate.store.pauses import Pause
from worker.pausing import PROBE_AFTER, Pauses


class Clock:
    def __init__(self) -> None:
        self.now = datetime(2026, 3, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def pauses(clock: Clock) -> Pauses:
    return Pauses({"zhipu": ("A", "B"), "vllm": ("",)}, clock=clock)


def stored(credential: str, *, until: datetime) -> Pause:
    return Pause(upstream="zhipu", credential=credential, reason="why", since=until, until=until)


def test_the_first_credential_is_used_while_it_works(pauses: Pauses) -> None:
    assert [pauses.choose("zhipu") for _ in range(3)] == ["A"] * 3


def test_an_upstream_without_keys_has_one_nameless_credential(pauses: Pauses) -> None:
    assert pauses.choose("vllm") == ""
    assert not pauses.blocked("vllm")


def test_an_upstream_that_is_not_known_here_is_blocked(pauses: Pauses) -> None:
    assert pauses.blocked("elsewhere")
    assert pauses.choose("elsewhere") is None


def test_the_next_credential_takes_over_and_when_all_are_paused_nothing_is_called(pauses: Pauses) -> None:
    pauses.pause("zhipu", "A")
    assert pauses.choose("zhipu") == "B"
    assert not pauses.blocked("zhipu")
    pauses.pause("zhipu", "B")
    assert pauses.choose("zhipu") is None
    assert pauses.blocked("zhipu")


def test_one_task_probes_a_paused_credential_and_the_others_go_on(pauses: Pauses, clock: Clock) -> None:
    pauses.pause("zhipu", "A")
    clock.now += PROBE_AFTER
    assert [pauses.choose("zhipu") for _ in range(3)] == ["A", "B", "B"]


def test_a_lone_credential_is_probed_by_one_task_a_minute(pauses: Pauses, clock: Clock) -> None:
    pauses.pause("vllm", "")
    clock.now += PROBE_AFTER
    assert [pauses.choose("vllm") for _ in range(2)] == ["", None]
    assert pauses.blocked("vllm")
    clock.now += PROBE_AFTER
    assert pauses.choose("vllm") == ""


def test_a_heartbeat_does_not_let_a_second_task_probe(pauses: Pauses, clock: Clock) -> None:
    pauses.replace([stored("A", until=clock.now), stored("B", until=clock.now + timedelta(hours=1))])
    assert pauses.choose("zhipu") == "A"
    pauses.replace([stored("A", until=clock.now), stored("B", until=clock.now + timedelta(hours=1))])
    assert pauses.choose("zhipu") is None


def test_a_pause_that_another_worker_lifted_is_over_here(pauses: Pauses, clock: Clock) -> None:
    pauses.replace([stored("A", until=clock.now)])
    assert pauses.choose("zhipu") == "A"
    pauses.replace([])
    assert [pauses.choose("zhipu") for _ in range(2)] == ["A", "A"]


def test_lifting_says_whether_there_was_a_pause(pauses: Pauses) -> None:
    pauses.pause("zhipu", "A")
    assert pauses.lift("zhipu", "A")
    assert not pauses.lift("zhipu", "A")
    assert pauses.choose("zhipu") == "A"

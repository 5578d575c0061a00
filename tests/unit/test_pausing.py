"""Which credential is used, and when a paused one is probed."""

from __future__ import annotations

from datetime import UTC, datetime

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
    assert [pauses.working("zhipu") for _ in range(3)] == ["A"] * 3
    assert pauses.probe("zhipu") is None


def test_an_upstream_without_keys_has_one_nameless_credential(pauses: Pauses) -> None:
    assert pauses.working("vllm") == ""
    assert not pauses.blocked("vllm")


def test_an_upstream_that_is_not_known_here_is_blocked(pauses: Pauses) -> None:
    assert pauses.blocked("elsewhere")
    assert pauses.working("elsewhere") is None
    assert pauses.probe("elsewhere") is None


def test_the_next_credential_takes_over_and_when_all_are_paused_nothing_is_called(pauses: Pauses) -> None:
    pauses.pause("zhipu", "A")
    assert pauses.working("zhipu") == "B"
    assert not pauses.blocked("zhipu")
    pauses.pause("zhipu", "B")
    assert pauses.working("zhipu") is None
    assert pauses.blocked("zhipu")


def test_one_task_here_asks_for_the_turn_to_probe_and_the_others_go_on(pauses: Pauses, clock: Clock) -> None:
    pauses.pause("zhipu", "A")
    clock.now += PROBE_AFTER
    assert [pauses.probe("zhipu") for _ in range(2)] == ["A", None]
    assert pauses.working("zhipu") == "B"


def test_each_credential_is_probed_by_itself(pauses: Pauses, clock: Clock) -> None:
    pauses.pause("zhipu", "A")
    pauses.pause("zhipu", "B")
    clock.now += PROBE_AFTER
    assert [pauses.probe("zhipu") for _ in range(3)] == ["A", "B", None]
    assert pauses.working("zhipu") is None


def test_a_lone_credential_is_blocked_but_for_its_probe_once_a_minute(pauses: Pauses, clock: Clock) -> None:
    pauses.pause("vllm", "")
    assert pauses.blocked("vllm")
    clock.now += PROBE_AFTER
    assert not pauses.blocked("vllm")
    assert [pauses.probe("vllm") for _ in range(2)] == ["", None]
    assert pauses.blocked("vllm")
    clock.now += PROBE_AFTER
    assert pauses.probe("vllm") == ""


def test_a_heartbeat_brings_the_turn_that_another_worker_took(pauses: Pauses, clock: Clock) -> None:
    pauses.replace([stored("A", until=clock.now + PROBE_AFTER), stored("B", until=clock.now)])
    assert [pauses.probe("zhipu") for _ in range(2)] == ["B", None]


def test_a_pause_that_another_worker_lifted_is_over_here(pauses: Pauses, clock: Clock) -> None:
    pauses.replace([stored("A", until=clock.now)])
    assert pauses.probe("zhipu") == "A"
    pauses.replace([])
    assert [pauses.working("zhipu"), pauses.probe("zhipu")] == ["A", None]


def test_lifting_says_whether_there_was_a_pause(pauses: Pauses) -> None:
    pauses.pause("zhipu", "A")
    assert pauses.lift("zhipu", "A")
    assert not pauses.lift("zhipu", "A")
    assert pauses.working("zhipu") == "A"

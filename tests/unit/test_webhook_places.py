"""Which hosts may have how many deliveries in flight."""

from __future__ import annotations

import pytest

from worker.webhooks import places
from worker.webhooks.places import IN_FLIGHT, PER_HOST, UNPROVEN, Places


def fill(given: Places, *hosts: str) -> None:
    for host in hosts:
        given.take(host)


def test_a_host_has_eight_places_and_one_after_a_try_that_failed() -> None:
    given = Places()
    assert given.shares(["a", "b"], proven=False) == {"a": PER_HOST, "b": PER_HOST}
    given.learn("a", answers=True)
    given.learn("b", answers=False)
    assert given.shares(["a", "b"], proven=True) == {"a": PER_HOST}
    assert given.shares(["a", "b"], proven=False) == {"b": 1}
    fill(given, "a", "b")
    assert given.shares(["a", "b"], proven=True) == {"a": PER_HOST - 1}
    assert given.shares(["a", "b"], proven=False) == {}
    given.give_back("b")
    given.learn("b", answers=True)
    assert given.shares(["b"], proven=True) == {"b": PER_HOST}


@pytest.mark.parametrize("failed", [True, False])
def test_hosts_that_are_not_known_to_answer_share_half(failed: bool) -> None:
    given = Places()
    hosts = [f"host-{number}" for number in range(UNPROVEN)]
    if failed:
        for host in hosts:
            given.learn(host, answers=False)
    fill(given, *hosts)
    assert (given.room(proven=False), given.room(proven=True)) == (0, IN_FLIGHT - UNPROVEN)
    given.learn(hosts[0], answers=True)
    assert given.room(proven=False) == 1
    given.give_back(hosts[1])
    assert (given.room(proven=False), given.room(proven=True)) == (2, IN_FLIGHT - UNPROVEN + 1)


def test_those_that_answer_may_have_all() -> None:
    given = Places()
    for number in range(IN_FLIGHT // PER_HOST):
        given.learn(f"host-{number}", answers=True)
        fill(given, *[f"host-{number}"] * PER_HOST)
    assert (given.room(proven=False), given.room(proven=True)) == (0, 0)


def test_of_too_many_hosts_all_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(places, "HOSTS_KNOWN", 2)  # ten thousand in earnest
    given = Places()
    for host in ("a", "b", "b"):
        given.learn(host, answers=True)
    assert list(given.shares(["a", "b"], proven=True)) == ["a", "b"]
    given.learn("c", answers=True)
    assert list(given.shares(["a", "b", "c"], proven=True)) == ["c"]

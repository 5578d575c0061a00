"""Lanes: what TOLLGATE_LANES may say."""

from __future__ import annotations

import pytest

from tollgate.domain.errors import SettingsError
from tollgate.domain.lanes import LANES, expand, priority_of
from tollgate.domain.states import Priority
from tollgate.store import schema


@pytest.mark.parametrize(
    ("text", "lanes"),
    [
        ("cloud", ("cloud.interactive", "cloud.bulk")),
        ("local", ("local.interactive", "local.bulk")),
        ("cloud.bulk", ("cloud.bulk",)),
        (" cloud.bulk , cloud.interactive,", ("cloud.interactive", "cloud.bulk")),
        ("cloud,cloud.bulk", ("cloud.interactive", "cloud.bulk")),
        ("local,cloud.bulk", ("local.interactive", "cloud.bulk", "local.bulk")),
        ("cloud,local", ("cloud.interactive", "local.interactive", "cloud.bulk", "local.bulk")),
    ],
)
def test_places_and_lanes_expand_with_interactive_ones_first(text: str, lanes: tuple[str, ...]) -> None:
    assert expand(text) == lanes


@pytest.mark.parametrize("text", ["", " , ", "cluod", "cloud,bulk"])
def test_what_is_no_lane_is_refused_with_the_lanes_there_are(text: str) -> None:
    with pytest.raises(SettingsError, match=r"TOLLGATE_LANES.*cloud\.interactive"):
        expand(text)


def test_every_lane_has_a_priority() -> None:
    assert [priority_of(lane) for lane in LANES] == [Priority.INTERACTIVE, Priority.BULK] * 2


def test_the_database_knows_the_same_lanes() -> None:
    assert set(schema.LANES) == set(LANES)

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest

from tollgate.domain.ids import first_of, new_id, parse_id


def test_an_id_is_a_uuid_of_version_7() -> None:
    made = new_id()
    assert type(made) is uuid.UUID
    assert (made.version, made.variant) == (7, uuid.RFC_4122)


def test_later_ids_sort_after_earlier_ones() -> None:
    made = [new_id() for _ in range(50_000)]
    assert made == sorted(made)
    assert [str(one) for one in made] == sorted(str(one) for one in made)


def test_a_moment_stands_between_the_ids_before_and_after_it() -> None:
    made, now = new_id(), datetime.now(UTC)
    assert first_of(now - timedelta(seconds=1)) < made < first_of(now + timedelta(seconds=1))
    assert first_of(now) < first_of(now + timedelta(milliseconds=1))


def test_threads_never_make_the_same_id() -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [one for share in pool.map(lambda _: [new_id() for _ in range(5_000)], range(4)) for one in share]
    assert len(set(made)) == 20_000


def test_an_id_is_read_back_from_its_text() -> None:
    made = new_id()
    assert parse_id(str(made)) == made
    assert parse_id(str(made).upper()) == made


@pytest.mark.parametrize(
    "text",
    [
        "",
        "task",
        "0190163d8694739baea5966c26f8ad91",
        "{0190163d-8694-739b-aea5-966c26f8ad91}",
        "urn:uuid:0190163d-8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad9g",
        "0190163d8694739baea5966c26f8ad91----",
        "-0190163d8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad9\uff11",
        " 190163d-8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad91\n",
    ],
)
def test_any_other_text_is_no_id(text: str) -> None:
    assert parse_id(text) is None

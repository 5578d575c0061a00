"""What webhooks tell, how it is signed, and when it is tried again."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain import webhooks
from tollgate.domain.batches import BatchState
from tollgate.domain.keys import MasterKey, derive_secret
from tollgate.domain.states import TaskState
from tollgate.domain.webhook_retries import LONGEST_RETRY_AFTER_S, TRIED_FOR, WAITS_S, next_try
from tollgate.domain.webhooks import SUBSCRIBED, Endpoint, Event

NOW = datetime(2026, 3, 1, 12, 30, tzinfo=UTC)
MASTER = MasterKey(value=b"a-master-key-of-the-unit-tests-0123456789")
OTHER = MasterKey(value=b"another-master-key-of-the-tests-0123456789")
PROJECT, WEBHOOK = UUID(int=1), UUID(int=2)


def endpoint(*events: str, number: int = 2) -> Endpoint:
    chosen = frozenset(events) if events else None
    return Endpoint(id=UUID(int=number), project_id=PROJECT, url=f"https://r{number}.example/x", events=chosen)


def after(tries: int, *, jitter: float = 0, retry_after_s: float | None = None, age: timedelta = timedelta(0)) -> float:
    """Seconds from a failed try to the next one."""
    at = next_try(tries=tries, first_tried_at=NOW - age, now=NOW, retry_after_s=retry_after_s, jitter=jitter)
    assert at is not None
    return (at - NOW).total_seconds()


def test_every_end_of_a_task_and_of_a_batch_has_its_event() -> None:
    of_tasks = {webhooks.ended_event(state) for state in TaskState if state.ended}
    assert of_tasks | {webhooks.ended_batch_event(state) for state in BatchState if state.ended} == set(SUBSCRIBED)


def test_the_callback_url_and_every_endpoint_that_wants_it_get_one_each() -> None:
    told = list(
        webhooks.deliveries(
            Event.TASK_FAILED,
            project_id=PROJECT,
            now=NOW,
            callback_url="https://Own.example:8443/cb",
            endpoints=[endpoint(), endpoint("task.succeeded", number=3), endpoint("task.failed", number=4)],
            task_id=UUID(int=9),
        )
    )
    assert [(one.webhook_id, one.url, one.host) for one in told] == [
        (None, "https://Own.example:8443/cb", f"own.example:8443 {PROJECT.hex}"),
        (UUID(int=2), None, f"r2.example {PROJECT.hex}"),
        (UUID(int=4), None, f"r4.example {PROJECT.hex}"),
    ]
    assert {one.task_id for one in told} == {UUID(int=9)}
    assert len({one.id for one in told}) == 3


def test_a_test_is_for_an_endpoint_whatever_it_chose() -> None:
    assert webhooks.wants(endpoint("task.failed"), Event.WEBHOOK_TEST)
    assert not webhooks.wants(endpoint("task.failed"), Event.TASK_SUCCEEDED)


def test_a_secret_is_256_bits_of_its_own() -> None:
    secrets = {
        webhooks.endpoint_secret(MASTER, webhook_id=WEBHOOK),
        webhooks.endpoint_secret(OTHER, webhook_id=WEBHOOK),
        webhooks.endpoint_secret(MASTER, webhook_id=PROJECT),
        webhooks.callback_secret(MASTER, project_id=PROJECT, version=1),
        webhooks.callback_secret(MASTER, project_id=PROJECT, version=2),
        webhooks.callback_secret(MASTER, project_id=WEBHOOK, version=1),
    }
    assert len(secrets) == 6
    for secret in secrets:
        assert len(base64.b64decode(secret.removeprefix("whsec_"), validate=True)) == 32
        assert derive_secret(MASTER, key_id=str(WEBHOOK), version=1) not in secret


def test_a_secret_stays_what_it_is() -> None:
    # Receivers keep it: another derivation would break all of them.
    assert webhooks.endpoint_secret(MASTER, webhook_id=WEBHOOK) == "whsec_5JIQlDCSHob0nBYMF8VjDtq5CjFTGvGW094GO+wYdiU="
    assert (
        webhooks.callback_secret(MASTER, project_id=PROJECT, version=1)
        == "whsec_6GVEOF9pLHWTN+GAX2ukLZFOVYJVeRXIfIrRFrDS81A="
    )


def test_a_body_says_what_when_and_the_rest() -> None:
    body = json.loads(webhooks.body_of("task.failed", at=NOW, data={"id": "1", "metadata": {"a": "电池"}}))
    assert body == {
        "type": "task.failed",
        "timestamp": "2026-03-01T12:30:00Z",
        "data": {"id": "1", "metadata": {"a": "电池"}},
    }


@pytest.mark.parametrize(("tries", "wait_s"), [(1, 5), (2, 30), (5, 1_800), (9, 28_800), (10, 28_800), (10**6, 28_800)])
def test_tries_grow_ever_more_seldom(tries: int, wait_s: int) -> None:
    assert after(tries) == wait_s
    assert after(tries, jitter=0.5) == pytest.approx(wait_s * 1.1)


def test_a_receiver_may_ask_for_more_time_within_bounds() -> None:
    assert after(1, retry_after_s=100) == 100
    assert after(2, retry_after_s=1) == 30
    assert after(1, retry_after_s=10**9) == LONGEST_RETRY_AFTER_S
    for nonsense in (-5.0, float("nan")):
        assert after(1, retry_after_s=nonsense) == 5


def test_the_last_try_is_a_day_after_the_first() -> None:
    assert after(9, age=TRIED_FOR - timedelta(hours=1)) == 3_600
    assert after(9, age=TRIED_FOR - timedelta(seconds=1), retry_after_s=600) == 1
    for age in (TRIED_FOR, TRIED_FOR + timedelta(days=3)):
        assert next_try(tries=9, first_tried_at=NOW - age, now=NOW, retry_after_s=None, jitter=0) is None


@given(st.floats(0, 1, exclude_max=True))
def test_a_round_of_tries_ends_after_a_day_and_some_ten_tries(jitter: float) -> None:
    def follows(tries: int, at: datetime) -> datetime | None:
        return next_try(tries=tries, first_tried_at=NOW, now=at, retry_after_s=None, jitter=jitter)

    at, tries = NOW, 1
    while (following := follows(tries, at)) is not None:
        assert following > at
        at, tries = following, tries + 1
    assert at == NOW + TRIED_FOR
    assert len(WAITS_S) <= tries <= len(WAITS_S) + 3

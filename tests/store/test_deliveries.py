"""Deliveries are written with the ends they tell of, whichever way a task ends."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

from tests.store import seeds
from tollgate.domain.errors import InvalidRequestError, NotFoundError
from tollgate.domain.settling import Settlement
from tollgate.domain.states import AttemptOutcome, TaskState
from tollgate.domain.tasks import Key
from tollgate.domain.webhooks import MAX_ENDPOINTS, DeliveryState, place_of
from tollgate.store import cancels, deliveries, sending, settlements, webhooks
from tollgate.store.database import Database, WriteConnection
from tollgate.store.deliveries import Delivery, Filter
from tollgate.store.schema import webhook_deliveries
from tollgate.store.schema import webhooks as webhook_table
from tollgate.store.webhooks import Webhook

URL = "https://hooks.example/cb"


async def an_endpoint(database: Database, key: Key, *events: str, url: str = "https://r.example/x") -> Webhook:
    async with database.write() as connection:
        return await webhooks.add(
            connection,
            project_id=key.project_id,
            url=url,
            events=events or None,
            description=None,
            master=seeds.MASTER,
            now=seeds.NOW,
        )


async def listed(database: Database, key: Key, **where: Any) -> list[Delivery]:
    async with database.read() as connection:
        return await deliveries.page(connection, project_id=key.project_id, where=Filter(**where), limit=100)


async def end(database: Database, key: Key, way: str, **changes: Any) -> UUID:
    """A new task that ends that way."""
    if way in ("cancelled", "given up"):
        (task_id,) = await seeds.queued(database, key, **changes)
        async with database.write() as connection:
            if way == "cancelled":
                await cancels.cancel(connection, task_id, project_id=key.project_id, now=seeds.later(9))
            else:
                await cancels.give_up(
                    connection, task_id, project_id=key.project_id, code="no_balance", message="", now=seeds.later(9)
                )
        return task_id
    if way == "expired":
        (task_id,) = await seeds.queued(database, key, **changes)
        expiry = Settlement(
            task_id=task_id, fence=0, attempt=1, held=TaskState.QUEUED, outcome=AttemptOutcome.ABANDONED,
            state=TaskState.EXPIRED, error_code="expired",
        )  # fmt: skip
        await seeds.settle(database, expiry, now=seeds.later(9))
        return task_id
    task = await seeds.running(database, key, **changes)
    settlement = seeds.success(task) if way == "succeeded" else seeds.failure(task)
    await seeds.settle(database, settlement, now=seeds.later(9))
    return task.id


@contextmanager
def statements_of(database: Database) -> Iterator[list[str]]:
    """The SQL that the writer executes."""
    told: list[str] = []

    def keep(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        told.append(statement)

    engine = database._writer.sync_engine
    sa.event.listen(engine, "before_cursor_execute", keep)
    try:
        yield told
    finally:
        sa.event.remove(engine, "before_cursor_execute", keep)


WAYS = {
    "succeeded": "task.succeeded",
    "failed": "task.failed",
    "cancelled": "task.cancelled",
    "given up": "task.failed",
    "expired": "task.expired",
}


@pytest.mark.parametrize("way", WAYS)
async def test_every_way_to_end_writes_one_for_the_callback_url_and_one_for_the_endpoint(
    database: Database, way: str
) -> None:
    key = await seeds.a_key(database)
    endpoint = await an_endpoint(database, key)
    task_id = await end(database, key, way, callback_url=URL)
    found = await listed(database, key)
    assert {(one.webhook_id, one.url) for one in found} == {(None, URL), (endpoint.id, endpoint.url)}
    for one in found:
        assert (one.event, one.task_id, one.state, one.tries) == (WAYS[way], task_id, DeliveryState.PENDING, 0)
        assert one.not_before == one.created_at == seeds.later(9), "due at once"


async def test_a_task_that_goes_on_tells_nothing(database: Database) -> None:
    key = await seeds.a_key(database)
    await an_endpoint(database, key)
    task = await seeds.running(database, key, callback_url=URL)
    await seeds.settle(database, seeds.refusal(task))
    assert await listed(database, key) == []


async def test_an_end_is_told_once_however_often_it_is_settled(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key, callback_url=URL)
    for _ in range(2):
        await seeds.settle(database, seeds.success(task), seeds.failure(task))
    (one,) = await listed(database, key)
    assert one.event == "task.succeeded"


async def test_a_rolled_back_settlement_tells_nothing(database: Database) -> None:
    key = await seeds.a_key(database)
    task = await seeds.running(database, key, callback_url=URL)

    async def settle_and_break() -> None:
        async with database.write() as connection:
            await settlements.settle(connection, [seeds.success(task)], now=seeds.NOW)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await settle_and_break()
    assert await listed(database, key) == []


async def test_an_endpoint_is_told_what_it_chose(database: Database) -> None:
    key = await seeds.a_key(database)
    await an_endpoint(database, key, "task.failed", "task.expired")
    for way in ("succeeded", "failed", "cancelled", "expired"):
        await end(database, key, way)
    assert sorted(one.event for one in await listed(database, key)) == ["task.expired", "task.failed"]


async def test_endpoints_that_are_deleted_or_disabled_or_anothers_are_told_nothing(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    gone, closed = await an_endpoint(database, key), await an_endpoint(database, key)
    await an_endpoint(database, other)
    async with database.write() as connection:
        await webhooks.delete(connection, gone.id, project_id=key.project_id, now=seeds.NOW)
        await webhooks.disable(connection, closed.id, why="it was", now=seeds.NOW)
    await end(database, key, "succeeded")
    assert await listed(database, key) == await listed(database, other) == []


async def test_who_has_no_webhook_pays_no_statement_for_it(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    await an_endpoint(database, other)
    task = await seeds.running(database, key)
    with statements_of(database) as told:
        await seeds.settle(database, seeds.success(task))
    asking = [one for one in told if "webhook" in one]
    assert len(asking) == 1, "the one that locks asks whether anybody listens"
    assert "FROM tasks" in asking[0]


async def test_pages_are_the_newest_first_and_filtered(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    endpoint = await an_endpoint(database, key)
    ids = [await end(database, key, "succeeded") for _ in range(3)]
    await end(database, other, "failed", callback_url=URL)
    await end(database, key, "failed", callback_url=URL)
    found = await listed(database, key)
    assert [one.id for one in found] == sorted((one.id for one in found), reverse=True)
    assert len(found) == 5
    assert [one.task_id for one in await listed(database, key, task_id=ids[1])] == [ids[1]]
    assert len(await listed(database, key, webhook_id=endpoint.id)) == 4
    assert len(await listed(database, key, state=DeliveryState.PENDING)) == 5
    assert await listed(database, key, state=DeliveryState.FAILED) == []
    async with database.read() as connection:
        page = await deliveries.page(connection, project_id=key.project_id, where=Filter(), limit=2, after=found[1].id)
    assert page == found[2:4]


async def test_anothers_delivery_is_not_there(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    await end(database, key, "succeeded", callback_url=URL)
    (one,) = await listed(database, key)
    with pytest.raises(NotFoundError):
        async with database.write() as connection:
            await deliveries.redeliver(connection, one.id, project_id=other.project_id, now=seeds.NOW)
    assert await listed(database, key) == [one]


async def test_one_asked_for_again_while_it_is_sent_is_sent_again(database: Database) -> None:
    key = await seeds.a_key(database)
    await end(database, key, "succeeded", callback_url=URL)
    async with database.write() as connection:
        (claimed,) = await sending.claim(
            connection,
            {place_of("https://hooks.example/", key.project_id): 1},
            limit=1,
            now=seeds.later(9),
            master=seeds.MASTER,
        )
        await deliveries.redeliver(connection, claimed.id, project_id=key.project_id, now=seeds.later(10))
        tried = sending.Tried(
            id=claimed.id, tries=1, state=DeliveryState.FAILED, not_before=seeds.NOW, ended_at=seeds.NOW
        )
        await sending.settle(connection, [tried])
        (again,) = await sending.claim(
            connection,
            {place_of("https://hooks.example/", key.project_id): 1},
            limit=1,
            now=seeds.later(11),
            master=seeds.MASTER,
        )
    assert (again.id, again.tries, again.round_tries, again.first_tried_at) == (claimed.id, 2, 1, seeds.later(11))


async def test_hosts_are_found_by_what_is_due_and_take_turns(database: Database) -> None:
    key = await seeds.a_key(database)
    a, b, c = (place_of(f"https://{name}.example/", key.project_id) for name in "abc")
    for host in "acb":
        for _ in range(3):
            await end(database, key, "succeeded", callback_url=f"https://{host}.example/")
    async with database.write() as connection:
        await sending.claim(connection, {b: 3}, limit=3, now=seeds.later(9), master=seeds.MASTER)
        assert await sending.hosts_due(connection, now=seeds.later(8)) == []
        assert await sending.hosts_due(connection, now=seeds.later(9)) == [a, c]
        assert await sending.hosts_due(connection, now=seeds.later(9), after=a) == [c, a]
        later = seeds.later(9 + sending.LEASE.total_seconds())
        assert await sending.hosts_due(connection, now=later) == [a, b, c]


async def test_a_claim_takes_no_more_than_its_limit_and_each_hosts_share(database: Database) -> None:
    key = await seeds.a_key(database)
    a, b, c = (place_of(f"https://{name}.example/", key.project_id) for name in "abc")
    for host in "aabbbcc":
        await end(database, key, "succeeded", callback_url=f"https://{host}.example/")
    shares = {b: 2, a: 9, c: 9}
    async with database.write() as connection:
        claimed = await sending.claim(connection, shares, limit=5, now=seeds.later(9), master=seeds.MASTER)
    assert sorted(one.host[0] for one in claimed) == ["a", "a", "b", "b", "c"]


async def test_two_that_claim_of_the_same_new_projects_do_not_wait_for_each_other(postgres: Database) -> None:
    low, high = sorted([await seeds.a_key(postgres, project=name) for name in "ab"], key=lambda key: key.project_id)
    a, b = place_of("https://a.example/", high.project_id), place_of("https://b.example/", low.project_id)
    for key, host in ((high, "a.example"), (low, "b.example")):
        for _ in range(2):
            await end(postgres, key, "succeeded", callback_url=f"https://{host}/")

    async def claim(connection: WriteConnection, *hosts: str) -> list[sending.Claimed]:
        shares = dict.fromkeys(hosts, 1)
        return await sending.claim(connection, shares, limit=2, now=seeds.later(9), master=seeds.MASTER)

    async def claim_both() -> list[sending.Claimed]:
        async with postgres.write() as connection:
            return await claim(connection, a, b)

    async with postgres.write() as connection:
        assert [one.project_id for one in await claim(connection, b)] == [low.project_id]
        other = asyncio.create_task(claim_both())
        await seeds.until_waiting(postgres)
        assert [one.project_id for one in await claim(connection, a)] == [high.project_id]
    assert {one.project_id for one in await other} == {low.project_id, high.project_id}


async def test_what_waits_is_counted_from_when_it_was_due(database: Database) -> None:
    key = await seeds.a_key(database)
    for _ in range(2):
        await end(database, key, "succeeded", callback_url=URL)
    async with database.read() as connection:
        assert await deliveries.waiting(connection, now=seeds.later(8)) == deliveries.Waiting(count=0, since=None)
        waiting = await deliveries.waiting(connection, now=seeds.later(60))
    assert waiting == deliveries.Waiting(count=2, since=seeds.later(9))


async def test_a_project_has_so_many_endpoints(database: Database) -> None:
    key = await seeds.a_key(database)
    made = [await an_endpoint(database, key) for _ in range(MAX_ENDPOINTS)]
    with pytest.raises(InvalidRequestError, match="delete one first"):
        await an_endpoint(database, key)
    async with database.write() as connection:
        await webhooks.delete(connection, made[0].id, project_id=key.project_id, now=seeds.NOW)
    await an_endpoint(database, key)
    assert await seeds.size(database, webhook_table) == MAX_ENDPOINTS + 1


async def test_a_secrets_signer_is_made_once_a_project(database: Database) -> None:
    key = await seeds.a_key(database)
    for master in (seeds.MASTER, "fedcba9876543210"):
        async with database.write() as connection:
            signer = await webhooks.callback_signer(connection, key.project_id, master=master, now=seeds.NOW)
        assert (signer.master, signer.version) == (seeds.MASTER, 1)
    async with database.write() as connection:
        renewed = await webhooks.renew_callback_signer(
            connection, key.project_id, master="fedcba9876543210", now=seeds.NOW
        )
    assert (renewed.master, renewed.version) == ("fedcba9876543210", 2)


async def test_deliveries_settle_in_one_statement_and_only_while_their_lease_stands(database: Database) -> None:
    key = await seeds.a_key(database)
    for _ in range(3):
        await end(database, key, "succeeded", callback_url=URL)
    async with database.write() as connection:
        claimed = await sending.claim(
            connection,
            {place_of("https://hooks.example/", key.project_id): 9},
            limit=9,
            now=seeds.later(9),
            master=seeds.MASTER,
        )
        tried = [
            sending.Tried(
                id=one.id,
                tries=one.tries + (number == 2),
                state=DeliveryState.DELIVERED,
                not_before=seeds.later(9),
                ended_at=seeds.later(10),
                http_status=200,
            )
            for number, one in enumerate(claimed)
        ]
        await sending.settle(connection, tried)
    states = {row.id: row.state for row in await seeds.rows_of(database, webhook_deliveries)}
    assert [states[one.id] for one in claimed] == ["delivered", "delivered", "pending"]


async def test_projects_do_not_share_what_they_may_send_to_one_host(database: Database) -> None:
    keys = [await seeds.a_key(database, project=name) for name in "ab"]
    for key in keys:
        await end(database, key, "succeeded", callback_url="https://same.example/")
    places = sorted(place_of("https://same.example/", key.project_id) for key in keys)
    async with database.read() as connection:
        assert await sending.hosts_due(connection, now=seeds.later(9)) == places

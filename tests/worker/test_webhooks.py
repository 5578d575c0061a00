"""Webhooks on their way: a real receiver, which checks them with the library of Standard Webhooks."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from aiohttp.abc import AbstractResolver, ResolveResult
from standardwebhooks import WebhookVerificationError

from tests.store import seeds
from tests.worker.receiver import Receiver, receiving, talking
from tollgate.domain.addresses import CallbackRules
from tollgate.domain.errors import SettingsError
from tollgate.domain.keys import MasterKey
from tollgate.domain.routing import Catalog
from tollgate.domain.tasks import Key
from tollgate.domain.webhooks import (
    DeliveryState,
    Event,
    callback_secret,
    deliveries,
    endpoint_secret,
    message_id,
    place_of,
)
from tollgate.settings import load
from tollgate.store import deliveries as delivery_store
from tollgate.store import rows, sending, webhooks
from tollgate.store.database import Database
from tollgate.store.schema import webhook_deliveries
from tollgate.store.webhooks import Webhook
from worker.process import open_beat
from worker.webhooks.courier import DELIVERED_KEPT, EVERY_S, FAILED_KEPT, Courier
from worker.webhooks.places import IN_FLIGHT, PER_HOST, UNPROVEN
from worker.webhooks.post import Post

MASTER = MasterKey(value=b"a-master-key-of-the-couriers-tests-0123456789")
NO_MODELS = Catalog(upstreams={}, models={})
NEW_MASTER = MasterKey(value=b"a-newer-key-of-the-couriers-tests-0123456789")
INSIDE = CallbackRules(allow_http=True, allow_private=True)
"""The receivers are on this machine."""
LIMIT_S = 30.0


class Clock:
    """The courier's, which the test moves on."""

    def __init__(self) -> None:
        self.now = datetime.now(UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_by(self, **time: float) -> None:
        self.now += timedelta(**time)


class Says(AbstractResolver):
    """A DNS in which every name means these addresses. A double: what public names mean is not the tests' to say, and
    an attacker's DNS says what it likes."""

    def __init__(self, *addresses: str) -> None:
        self._addresses = addresses

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in self._addresses
        ]

    async def close(self) -> None:
        pass


class Hangs(Says):
    """A DNS that answers for no name until `answers` is set. A double, as there is none of its kind on the machine."""

    def __init__(self, url: str) -> None:
        super().__init__("127.0.0.1")
        self._port = url.rpartition(":")[2]
        self.asked = asyncio.Semaphore(0)
        self.answers = asyncio.Event()

    def url(self, number: int) -> str:
        return f"http://host-{number}.example:{self._port}/"

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        self.asked.release()
        await self.answers.wait()
        return await super().resolve(host, port, family)


class Station:
    """A project with one ended task at a time, and a courier."""

    def __init__(self, database: Database, key: Key, receiver: Receiver) -> None:
        self.database = database
        self.key = key
        self.receiver = receiver
        self.clock = Clock()
        self.couriers: list[Courier] = []
        self.courier = self.another()

    def another(
        self,
        *masters: MasterKey,
        rules: CallbackRules = INSIDE,
        timeout_s: float = LIMIT_S,
        resolver: AbstractResolver | None = None,
    ) -> Courier:
        courier = Courier(
            self.database,
            masters=masters or (MASTER,),
            post=Post(rules, timeout_s=timeout_s, resolver=resolver),
            currency="CNY",
            now=self.clock,
        )
        self.couriers.append(courier)
        return courier

    async def send(self, courier: Courier | None = None) -> int:
        """One round to its end. Returns how many tries it made."""
        courier = courier or self.courier
        begun = await courier.round()
        await courier.drain()
        return begun

    async def ended(self, *, callback: str | None = "/cb", **changes: Any) -> UUID:
        """A task that succeeded."""
        url = None if callback is None else callback if "//" in callback else self.receiver.url + callback
        task = await seeds.running(self.database, self.key, callback_url=url, **changes)
        await seeds.settle(self.database, seeds.success(task), now=self.clock.now)
        return task.id

    async def endpoint(self, path: str = "/hook", *, master: MasterKey = MASTER, url: str | None = None) -> Webhook:
        async with self.database.write() as connection:
            return await webhooks.add(
                connection,
                project_id=self.key.project_id,
                url=url or self.receiver.url + path,
                events=None,
                description=None,
                master=master.fingerprint,
                now=self.clock.now,
            )

    async def rows(self) -> list[Any]:
        async with self.database.read() as connection:
            order = webhook_deliveries.c.id
            return list((await connection.execute(sa.select(webhook_deliveries).order_by(order))).all())

    async def row(self) -> Any:
        (row,) = await self.rows()
        return row


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with receiving() as opened:
        yield opened


@pytest.fixture
async def station(database: Database, receiver: Receiver) -> AsyncIterator[Station]:
    made = Station(database, await seeds.a_key(database), receiver)
    yield made
    for courier in made.couriers:
        await courier.stop()


class TestMessages:
    async def test_a_task_with_a_callback_url_is_told_of_at_its_end(self, station: Station) -> None:
        task_id = await station.ended(
            custom_id="row-1", label="nightly", metadata='{"user":"电池"}', body='{"messages":"secret prompt"}'
        )
        assert await station.send() == 1
        (received,) = station.receiver.received
        secret = callback_secret(MASTER, project_id=station.key.project_id, version=1)
        told = received.verified(secret)
        (row,) = await station.rows()
        assert (row.state, row.http_status, row.error, row.response, row.tries) == ("delivered", 200, None, "thanks", 1)
        assert received.id == message_id(row.id)
        assert (told["type"], datetime.fromisoformat(told["timestamp"])) == ("task.succeeded", station.clock.now)
        data = told["data"]
        assert {
            "id": str(task_id), "state": "succeeded", "status": "SUCCESS", "model": "glm-4.7",
            "upstream": "zhipu", "upstream_model": "glm-4.7", "custom_id": "row-1",
            "label": "nightly", "metadata": {"user": "电池"}, "error": None, "cost": "0.0006", "currency": "CNY",
            "usage": {"prompt_tokens": 100, "cached_tokens": 20, "completion_tokens": 50, "total_tokens": 150},
        }.items() <= data.items()  # fmt: skip
        assert "result" not in data
        assert "secret prompt" not in received.body
        assert received.headers["content-type"] == "application/json"

    async def test_each_endpoint_is_told_and_signed_for_with_its_own_secret(self, station: Station) -> None:
        one, two = await station.endpoint("/one"), await station.endpoint("/two")
        await station.ended(callback=None)
        assert await station.send() == 2
        told = {received.path: received for received in station.receiver.received}
        for path, endpoint, other in (("/one", one, two), ("/two", two, one)):
            told[path].verified(endpoint_secret(MASTER, webhook_id=endpoint.id))
            with pytest.raises(WebhookVerificationError):
                told[path].verified(endpoint_secret(MASTER, webhook_id=other.id))
        assert told["/one"].id != told["/two"].id

    async def test_a_test_names_the_endpoint(self, station: Station) -> None:
        endpoint = await station.endpoint()
        new = deliveries(
            Event.WEBHOOK_TEST,
            project_id=station.key.project_id,
            now=station.clock.now,
            endpoints=[webhooks.as_endpoint(endpoint)],
        )
        async with station.database.write() as connection:
            await rows.execute_together(connection, delivery_store.written(list(new)))
        await station.send()
        told = station.receiver.received[0].verified(endpoint_secret(MASTER, webhook_id=endpoint.id))
        assert (told["type"], told["data"]) == ("webhook.test", {"webhook_id": str(endpoint.id)})

    async def test_a_secret_of_an_old_master_key_signs_as_long_as_that_is_listed(self, station: Station) -> None:
        await station.endpoint()
        await station.ended(callback=None)
        rotated, forgetful = station.another(NEW_MASTER, MASTER), station.another(NEW_MASTER)
        assert await station.send(forgetful) == 1
        assert (await station.row()).state == "pending"
        assert MASTER.fingerprint in (await station.row()).error
        assert station.receiver.received == []
        station.clock.pass_by(minutes=1)
        await station.send(rotated)
        (received,) = station.receiver.received
        endpoint_id = (await station.row()).webhook_id
        received.verified(endpoint_secret(MASTER, webhook_id=endpoint_id))

    async def test_the_callback_secret_of_a_project_outlives_a_rotation_until_it_is_made_anew(
        self, station: Station
    ) -> None:
        project_id = station.key.project_id
        rotated = station.another(NEW_MASTER, MASTER)
        for courier in (station.courier, rotated):
            await station.ended()
            await station.send(courier)
        async with station.database.write() as connection:
            await webhooks.renew_callback_signer(
                connection, project_id, master=NEW_MASTER.fingerprint, now=station.clock.now
            )
        await station.ended()
        await station.send(rotated)
        first, second, third = station.receiver.received
        for received in (first, second):
            received.verified(callback_secret(MASTER, project_id=project_id, version=1))
        third.verified(callback_secret(NEW_MASTER, project_id=project_id, version=2))


class TestRetries:
    async def test_a_failed_try_is_repeated_under_the_same_id(self, station: Station) -> None:
        station.receiver.status = 500
        await station.ended()
        await station.send()
        row = await station.row()
        assert (row.state, row.tries, row.http_status, row.error) == ("pending", 1, 500, "answered 500")
        assert await station.send() == 0, "not yet"
        station.clock.pass_by(seconds=10)
        station.receiver.status = 204
        assert await station.send() == 1
        first, second = station.receiver.received
        assert (first.id, first.body) == (second.id, second.body)
        row = await station.row()
        assert (row.state, row.tries, row.error, row.ended_at) == ("delivered", 2, None, station.clock.now)

    async def test_a_day_of_failed_tries_ends_it_and_it_can_be_sent_again(self, station: Station) -> None:
        station.receiver.status = 503
        await station.ended()
        tries = 0
        while (await station.row()).state == "pending":
            assert await station.send() == 1
            tries += 1
            row = await station.row()
            station.clock.now = max(row.not_before, station.clock.now)
        assert tries == len(station.receiver.received) == row.tries
        assert row.ended_at - row.created_at == timedelta(hours=24)
        assert await station.send() == 0
        async with station.database.write() as connection:
            await delivery_store.redeliver(connection, row.id, project_id=station.key.project_id, now=station.clock.now)
        await station.send()
        assert (await station.row()).state == "pending", "with a day of tries again"
        assert len({received.id for received in station.receiver.received}) == 1

    async def test_a_receiver_that_asks_for_time_gets_it(self, station: Station) -> None:
        station.receiver.status, station.receiver.headers = 429, {"Retry-After": "600"}
        await station.ended()
        await station.send()
        assert (await station.row()).not_before == station.clock.now + timedelta(seconds=600)

    async def test_nobody_at_the_address_is_a_failed_try(self, station: Station) -> None:
        async with receiving() as gone:
            url = gone.url
        await station.ended(callback=f"{url}/")
        await station.send()
        row = await station.row()
        assert (row.state, row.http_status) == ("pending", None)
        assert row.error.startswith("no connection to 127.0.0.1: ")

    async def test_a_receiver_that_does_not_answer_is_a_failed_try(self, station: Station) -> None:
        station.receiver.gate.clear()
        await station.ended()
        await station.send(station.another(timeout_s=0.05))
        assert (await station.row()).error == "no answer within 0.05 s"

    async def test_a_redirect_is_not_followed(self, station: Station) -> None:
        async with receiving() as inner:
            station.receiver.status, station.receiver.headers = 307, {"Location": inner.url}
            await station.ended()
            await station.send()
            row = await station.row()
            assert (row.state, row.http_status, inner.received) == ("pending", 307, [])
            assert "redirect" in row.error

    async def test_of_a_long_answer_only_the_beginning_is_kept(self, station: Station) -> None:
        station.receiver.text = "\x00<b>\x1b[31m" + "x" * 1_000_000
        await station.ended()
        await station.send()
        row = await station.row()
        assert row.state == "delivered"
        assert row.response == (" <b> [31m" + "x" * 1_000)[:200]

    @pytest.mark.parametrize(("status", "state"), [(200, "delivered"), (410, "failed")])
    async def test_of_an_answer_that_never_ends_the_status_decides(
        self, station: Station, status: int, state: str
    ) -> None:
        async with talking(f"HTTP/1.1 {status} So\r\nContent-Length: 99\r\n\r\nthanks") as (url, left):
            await station.ended(callback=f"{url}/")
            async with asyncio.timeout(LIMIT_S):
                await station.send()
                await left.wait()
        row = await station.row()
        assert (row.state, row.http_status, row.response) == (state, status, "thanks")

    @pytest.mark.parametrize(
        ("answer", "kind"),
        [
            ("nonsense", "ClientResponseError: "),
            ("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", "ClientResponseError: "),
            ("POST /hook?token=s3cret HTTP/1.1 https://hooks.example/?token=s3cret", "ClientResponseError: "),
            ("", "ServerDisconnectedError: "),
        ],
        ids=["no HTTP", "malformed", "an echo", "hangs up"],
    )
    async def test_an_error_tells_no_url(
        self, station: Station, caplog: pytest.LogCaptureFixture, answer: str, kind: str
    ) -> None:
        async with talking(f"{answer}\r\n\r\n" if answer else "", hangs_up=True) as (url, _):
            await station.ended(callback=f"{url}/hook?token=s3cret")
            await station.send()
            station.clock.pass_by(hours=25)
            await station.send()
        row = await station.row()
        assert (row.state, row.error[: len(kind)], row.http_status) == ("failed", kind, None)
        (told,) = [record for record in caplog.records if record.name == "tollgate.webhooks"]
        assert vars(told)["error"] == row.error
        assert "s3cret" not in row.error
        assert "hook" not in row.error


class TestGone:
    async def test_a_410_disables_the_endpoint(self, station: Station) -> None:
        endpoint = await station.endpoint()
        await station.ended(callback=None)
        await station.ended(callback=None)
        station.receiver.status = 410
        await station.send()
        assert {row.state for row in await station.rows()} == {"failed"}
        async with station.database.read() as connection:
            found = await webhooks.find(connection, endpoint.id, project_id=station.key.project_id)
        assert (found.disabled_at, found.disabled_why) == (station.clock.now, "its receiver answered 410 Gone")
        await station.ended(callback=None)
        assert len(await station.rows()) == 2, "it is told of nothing any more"

    async def test_a_410_of_a_callback_url_ends_that_delivery(self, station: Station) -> None:
        station.receiver.status = 410
        await station.ended()
        await station.send()
        assert (await station.row()).state == "failed"
        station.receiver.status = 200
        await station.ended()
        await station.send()
        assert [row.state for row in await station.rows()] == ["failed", "delivered"]

    async def test_nothing_is_sent_to_an_endpoint_that_was_deleted(self, station: Station) -> None:
        endpoint = await station.endpoint()
        await station.ended(callback=None)
        async with station.database.write() as connection:
            await webhooks.delete(connection, endpoint.id, project_id=station.key.project_id, now=station.clock.now)
        await station.send()
        row = await station.row()
        assert (row.state, row.error) == ("failed", "its webhook was deleted")
        assert station.receiver.received == []


class TestGuard:
    """The receiver is on a loopback address: what reaches it, got past the guard."""

    @pytest.mark.parametrize("addresses", [("127.0.0.1",), ("::1",), ("169.254.169.254", "10.0.0.1", "127.0.0.1")])
    async def test_a_name_that_means_inner_addresses_is_refused(
        self, station: Station, addresses: tuple[str, ...]
    ) -> None:
        post = Post(CallbackRules(allow_http=True), resolver=Says(*addresses))
        port = station.receiver.url.rpartition(":")[2]
        try:
            answer = await post.send(f"http://hooks.example:{port}/", body="{}", headers={})
        finally:
            await post.close()
        assert "TOLLGATE_WEBHOOKS_ALLOW_PRIVATE" in (answer.error or "")
        assert station.receiver.received == []

    async def test_the_machines_own_resolver_is_asked(self, station: Station) -> None:
        await station.ended(callback=station.receiver.url.replace("127.0.0.1", "localhost") + "/")
        await station.send()
        assert (await station.row()).state == "delivered"

    @pytest.mark.parametrize("host", ["2130706433", "0x7f.1", "127.1", "0", "[::1]", "localhost"])
    async def test_odd_spellings_of_an_inner_address_are_refused(self, station: Station, host: str) -> None:
        post = Post(CallbackRules(allow_http=True))
        port = station.receiver.url.rpartition(":")[2]
        try:
            answer = await post.send(f"http://{host}:{port}/", body="{}", headers={})
        finally:
            await post.close()
        assert answer.error
        assert answer.http_status is None
        assert station.receiver.received == []

    async def test_a_url_that_the_settings_allow_no_more_is_not_called(self, station: Station) -> None:
        await station.ended()
        await station.send(station.another(rules=CallbackRules(allow_private=True)))
        row = await station.row()
        assert (row.state, station.receiver.received) == ("pending", [])
        assert "TOLLGATE_WEBHOOKS_ALLOW_HTTP" in row.error

    async def test_proxies_of_the_environment_are_passed_by(
        self, station: Station, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        async with receiving() as proxy:
            for name in ("http_proxy", "HTTP_PROXY", "ALL_PROXY"):
                monkeypatch.setenv(name, proxy.url)
            await station.ended()
            await station.send()
            assert (len(station.receiver.received), proxy.received) == (1, [])


class TestSideBySide:
    async def test_many_couriers_deliver_each_once(self, station: Station) -> None:
        ids = {str(await station.ended()) for _ in range(30)}
        couriers = [station.another() for _ in range(3)]

        async def work(courier: Courier) -> None:
            while await station.send(courier):
                pass

        await asyncio.gather(*map(work, couriers))
        assert {row.state for row in await station.rows()} == {"delivered"}
        told = [received.told["data"]["id"] for received in station.receiver.received]
        assert (len(told), set(told)) == (30, ids)

    async def test_what_a_dead_courier_had_is_sent_again_when_its_lease_has_passed(self, station: Station) -> None:
        await station.ended()
        async with station.database.write() as connection:
            (claimed,) = await sending.claim(
                connection,
                {place_of(f"{station.receiver.url}/hook", station.key.project_id): 9},
                limit=9,
                now=station.clock.now,
                master=MASTER.fingerprint,
            )
        assert await station.send() == 0, "it is in other hands"
        station.clock.pass_by(seconds=sending.LEASE.total_seconds())
        assert await station.send() == 1
        assert station.receiver.received[0].id == message_id(claimed.id)
        assert (await station.row()).tries == 2

    async def test_what_a_late_courier_says_of_a_lease_it_lost_changes_nothing(self, station: Station) -> None:
        await station.ended()
        async with station.database.write() as connection:
            (claimed,) = await sending.claim(
                connection,
                {place_of(f"{station.receiver.url}/hook", station.key.project_id): 9},
                limit=9,
                now=station.clock.now,
                master=MASTER.fingerprint,
            )
        station.clock.pass_by(seconds=sending.LEASE.total_seconds())
        await station.send()
        late = sending.Tried(
            id=claimed.id,
            tries=claimed.tries,
            state=DeliveryState.FAILED,
            not_before=station.clock.now,
            ended_at=station.clock.now,
            error="late",
        )
        async with station.database.write() as connection:
            await sending.settle(connection, [late])
        assert ((await station.row()).state, (await station.row()).error) == ("delivered", None)

    async def test_a_receiver_that_hangs_holds_up_no_other(self, station: Station) -> None:
        async with receiving("127.0.0.2") as hanging:
            hanging.gate.clear()
            for _ in range(3 * PER_HOST):
                await station.ended(callback=f"{hanging.url}/")
            await station.ended()
            await station.courier.round()
            async with asyncio.timeout(LIMIT_S):
                await station.receiver.arrived.acquire()
                for _ in range(PER_HOST):
                    await hanging.arrived.acquire()
            assert await station.courier.round() == 0, "it has what it may have"
            hanging.gate.set()

    async def test_hosts_that_hang_never_take_the_places_of_those_that_answer(self, station: Station) -> None:
        dns = Hangs(station.receiver.url)
        courier = station.another(resolver=dns)
        await station.ended()
        assert await station.send(courier) == 1, "its host is known to answer"
        for number in range(UNPROVEN + 2):
            await station.ended(callback=dns.url(number))
        await station.ended()
        assert await courier.round() == UNPROVEN + 1
        async with asyncio.timeout(LIMIT_S):
            for _ in range(2):
                await station.receiver.arrived.acquire()
            for _ in range(UNPROVEN):
                await dns.asked.acquire()
        assert await courier.round() == 0, "two have to wait for the others"
        dns.answers.set()
        await courier.drain()
        assert await station.send(courier) == 2
        assert {row.state for row in await station.rows()} == {"delivered"}

    async def test_names_that_no_nameserver_answers_for_hold_up_no_look_up(
        self, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        asked, answered = asyncio.Semaphore(0), threading.Event()
        loop, look_up = asyncio.get_running_loop(), socket.getaddrinfo

        def hang(host: Any, *args: Any, **options: Any) -> Any:
            if str(host).endswith(".example"):
                loop.call_soon_threadsafe(asked.release)
                answered.wait(2 * LIMIT_S)
            return look_up("127.0.0.1" if str(host).endswith(".example") else host, *args, **options)

        # Patched: no machine of the tests' has a nameserver that is dead.
        monkeypatch.setattr(socket, "getaddrinfo", hang)
        post, port = Post(INSIDE, timeout_s=2 * LIMIT_S), receiver.url.rpartition(":")[2]
        try:
            async with asyncio.timeout(LIMIT_S), asyncio.TaskGroup() as group:
                for number in range(IN_FLIGHT - 1):
                    group.create_task(post.send(f"http://dead-{number}.example:{port}/", body="{}", headers={}))
                    await asked.acquire()
                answer = await post.send(f"http://localhost:{port}/", body="{}", headers={})
                answered.set()
        finally:
            answered.set()
            await post.close()
        assert (answer.http_status, answer.error) == (200, None)

    async def test_one_that_failed_gets_one_at_a_time_until_it_answers(self, station: Station) -> None:
        station.receiver.status = 500
        for _ in range(4):
            await station.ended()
        assert await station.send() == 4
        station.clock.pass_by(minutes=1)
        assert await station.send() == 1
        station.receiver.status = 200
        assert await station.send() == 1
        assert await station.send() == 2

    async def test_a_courier_stops_after_what_is_on_its_way(self, station: Station) -> None:
        station.receiver.gate.clear()
        await station.ended()
        courier = station.another()
        await courier.round()
        await station.receiver.arrived.acquire()
        stopping = asyncio.create_task(courier.stop())
        await asyncio.sleep(0)
        station.receiver.gate.set()
        await stopping
        assert (await station.row()).state == "delivered"

    async def test_it_rests_until_there_is_room_or_a_second_is_over(self, station: Station) -> None:
        await station.ended()
        begun = await station.courier.round()
        async with asyncio.timeout(LIMIT_S):
            await station.courier.rest(begun)
            await station.courier.rest(0)
        assert begun == 1
        assert EVERY_S <= 2, "a webhook leaves within two seconds"


class TestBeat:
    async def test_a_beat_without_a_master_key_does_not_start_and_says_so(self) -> None:
        settings = load({"TOLLGATE_REDIS_URL": "redis://127.0.0.1:9/0"}, dotenv_path=Path("absent"))
        with pytest.raises(SettingsError, match=r"TOLLGATE_MASTER_KEY is not set(.|\n)*token_urlsafe"):
            await open_beat(settings, NO_MODELS).__aenter__()

    async def test_a_beat_with_a_wrong_master_key_does_not_start(self, database_url: str, station: Station) -> None:
        environ = {
            "TOLLGATE_DATABASE_URL": database_url,
            "TOLLGATE_REDIS_URL": "redis://127.0.0.1:9/0",
            "TOLLGATE_MASTER_KEY": NEW_MASTER.value.decode(),
        }
        settings = load(environ, dotenv_path=Path("absent"))
        with pytest.raises(SettingsError, match=f"{seeds.MASTER} .* is missing"):
            await open_beat(settings, NO_MODELS).__aenter__()


class TestForgetting:
    async def test_what_ended_long_ago_is_removed(self, station: Station) -> None:
        await station.ended()
        station.receiver.status = 410
        await station.send()
        station.receiver.status = 200
        await station.ended()
        await station.send()
        await station.ended()
        assert [row.state for row in await station.rows()] == ["failed", "delivered", "pending"]
        station.clock.pass_by(days=DELIVERED_KEPT.days, seconds=-1)
        assert await station.courier.forget() == 0
        station.clock.pass_by(seconds=2)
        assert await station.courier.forget() == 1
        station.clock.pass_by(days=FAILED_KEPT.days)
        assert await station.courier.forget() == 1
        assert (await station.row()).state == "pending", "what was not sent yet stays"

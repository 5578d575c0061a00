"""The database, Redis and an upstream go away under load, and come back: nothing is lost, nothing is bought twice."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import httpx2
import pytest

from tests.chaos.books import hex_of
from tests.chaos.conftest import Settle
from tests.chaos.deployment import MODELS, Deployment, prompts, until
from tollgate.broker.celery_app import RUN, create_celery
from tollgate.domain.lanes import LANES

OUTAGE_S = 30.0
BACK_WITHIN_S = 60.0
"""From the return of a server until all that was accepted has ended."""
PATIENCE_S = 90
OTHERS_WITHIN_S = 45.0
"""They take a second or two alone; who waits for the calls that hang waits PATIENCE_S."""

pytestmark = pytest.mark.timeout(240)


def bought_once(town: Deployment, ids: list[str]) -> bool:
    """Each task has one attempt, which succeeded, and one charge."""
    books = town.books()
    asked = {hex_of(i) for i in ids}
    rows = [row for row in books.attempts if hex_of(row["task_id"]) in asked]
    charges = [len(books.bill.get(row["request_id"], ())) for row in rows]
    return len(rows) == len(asked) and {row["outcome"] for row in rows} == {"succeeded"} and set(charges) == {1}


def in_flight(town: Deployment, count: int) -> None:
    until(lambda: town.simulator_stats()["in_flight"] >= count, f"{count} calls are in flight", limit_s=60)


@contextmanager
def load(town: Deployment) -> Iterator[list[str]]:
    """Submits go on for as long as the block runs; refused ones are not tried again. Gives the accepted ids."""
    ids: list[str] = []
    over = threading.Event()

    def submit_on() -> None:
        while not over.wait(0.05):
            try:
                ids.extend(town.submit(*prompts(5, about="under load")))
            except (AssertionError, httpx2.TransportError):
                continue

    with ThreadPoolExecutor(1) as pool:
        submitting = pool.submit(submit_on)
        try:
            yield ids
        finally:
            over.set()
        submitting.result()


def test_30_s_without_the_database(deployment: Deployment, settle: Settle) -> None:
    """Submits are told when to come again. Answers that come meanwhile are held, and stored when it is back."""
    deployment.set_simulator(latency_s=4.0)
    # Small lists: one message's ids stay with one worker, which calls no more at once than its share.
    ids = [i for n in range(15) for i in deployment.submit(*prompts(4, about=f"answered without a database {n}"))]
    in_flight(deployment, 50)
    deployment.postgres.stop(immediate=True)
    gone_at = time.monotonic()
    with deployment.client() as client:
        while time.monotonic() - gone_at < OUTAGE_S:
            began = time.monotonic()
            refused = client.post("/tasks", json={"model": MODELS[0], "prompt": "into nothing"})
            assert (refused.status_code, refused.json()["error"]["type"]) == (503, "unavailable")
            assert int(refused.headers["Retry-After"]) > 0
            assert time.monotonic() - began < 10, "a client is told, not kept waiting"
            time.sleep(1)  # the outage is the time itself
    deployment.postgres.start()
    again_s = deployment.until_ended(ids, limit_s=BACK_WITHIN_S)
    settle(deployment, limit_s=BACK_WITHIN_S, outage_s=OUTAGE_S, ended_after_s=round(again_s, 1))
    assert bought_once(deployment, ids)
    assert not [worker for worker in deployment.books().workers if worker["dead"]], "an outage kills nobody"


def test_30_s_without_redis(deployment: Deployment, settle: Settle) -> None:
    """Submits are accepted, and who waits is answered from the database."""
    ids = deployment.submit(*prompts(100, about="before"))
    deployment.redis.stop()
    gone_at = time.monotonic()
    while time.monotonic() - gone_at < OUTAGE_S:
        ids += deployment.submit("without redis")
        assert deployment.show(ids[-1], wait_s=4)["status"] in ("PROCESSING", "SUCCESS")
        ids += deployment.submit(*prompts(20, about="without redis"))
    deployment.redis.start()
    again_s = deployment.until_ended(ids, limit_s=BACK_WITHIN_S)
    settle(deployment, outage_s=OUTAGE_S, accepted_meanwhile=len(ids) - 100, ended_after_s=round(again_s, 1))
    assert bought_once(deployment, ids)


def test_restarts_under_load(deployment: Deployment, settle: Settle) -> None:
    """PostgreSQL twice, once as in a crash, and Redis, which forgets all it had."""
    with load(deployment) as ids:
        for immediate in (False, True):
            until(lambda: len(ids) > 20, "there is load", limit_s=60)
            deployment.postgres.stop(immediate=immediate)
            deployment.postgres.start()
            seen = len(ids)
            until(lambda seen=seen: len(ids) > seen + 20, "submits go on", limit_s=30)  # type: ignore[misc]
        deployment.redis.stop()
        deployment.redis.start()
        seen = len(ids)
        until(lambda: len(ids) > seen + 20, "submits go on", limit_s=30)
    settle(deployment, limit_s=BACK_WITHIN_S, restarts=3)
    assert deployment.states(ids) == {"succeeded"}


def test_connections_that_break_under_load(deployment: Deployment, settle: Settle) -> None:
    """In the middle of claims, settlements and commits: whether they were stored is not known at first."""
    with load(deployment) as ids:
        for _ in range(8):
            seen = len(ids)
            until(lambda seen=seen: len(ids) > seen, "submits go on", limit_s=30)  # type: ignore[misc]
            deployment.store.drop()
            deployment.broker.drop()
    settle(deployment, limit_s=BACK_WITHIN_S, cuts=8)
    assert deployment.states(ids) == {"succeeded"}


def test_a_network_that_hangs_for_a_while(deployment: Deployment, settle: Settle) -> None:
    """Nothing is refused, nothing breaks, nothing comes: 8 s of it."""
    with load(deployment) as ids:
        until(lambda: len(ids) > 20, "there is load", limit_s=60)
        deployment.store.hang()
        deployment.broker.hang()
        time.sleep(8)  # the outage is the time itself
        deployment.store.heal()
        deployment.broker.heal()
        seen = len(ids)
        until(lambda: len(ids) > seen + 20, "submits go on", limit_s=30)
    settle(deployment, limit_s=BACK_WITHIN_S, hung_s=8)
    assert deployment.states(ids) == {"succeeded"}


def test_messages_lost_repeated_and_out_of_order(deployment: Deployment, settle: Settle) -> None:
    """FLUSHALL again and again under load; and every id told four times, on every lane, in any order."""
    app = create_celery(deployment.redis.url, lanes=LANES)
    with load(deployment) as ids, deployment.broker_client() as redis:
        for _ in range(10):
            seen = len(ids)
            until(lambda seen=seen: len(ids) > seen, "submits go on", limit_s=30)  # type: ignore[misc]
            redis.flushall()
            repeated = random.sample(ids * 4, k=min(len(ids), 200) * 4)
            for lane in LANES:
                app.send_task(RUN, args=[lane, {f"zhipu/{MODELS[0]}": repeated}], queue=lane, ignore_result=True)
    app.close()
    settle(deployment, limit_s=BACK_WITHIN_S, flushes=10)
    assert bought_once(deployment, ids)


def test_an_upstream_that_hangs_stops_no_other_model(deployment: Deployment, settle: Settle) -> None:
    """More hanging calls than their route has slots; then their owner gives them up."""
    hung = [i for _ in range(15) for i in deployment.submit(*["[[fault:hang]] never"] * 10)]
    in_flight(deployment, 50)
    others = deployment.submit(*prompts(100, about="others"), model=MODELS[1])
    took_s = deployment.until_ended(others, limit_s=OTHERS_WITHIN_S)
    assert "running" in deployment.states(hung)
    with deployment.client() as client:
        for task_id in hung:
            client.post(f"/tasks/{task_id}/cancel").raise_for_status()
    settle(deployment, hung=len(hung), others_ended_after_s=round(took_s, 1))
    assert deployment.states(hung) == {"cancelled"}
    assert bought_once(deployment, others)

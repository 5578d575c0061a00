"""Lines of a batch that are bought by the upstream's own batches, at half the price."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store import ledgers, seeds
from tests.worker.batch_world import BatchWorld
from tests.worker.world import KEYS, World, until
from tollgate.domain.batches import BatchState, PauseCode
from tollgate.domain.money import to_nano
from tollgate.domain.prices import worst_case_nano
from tollgate.domain.states import OnUncertain
from tollgate.store import batches
from tollgate.store.schema import attempts, pauses, tasks
from worker.upstream_batches.cloud import Cloud


def prompts(count: int) -> list[str]:
    return [f"prompt {number}" for number in range(count)]


async def test_lines_are_bought_once_and_at_half_the_price(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch(*prompts(30))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert (batch.state, batch.sums.tasks_succeeded) == (BatchState.COMPLETED, 30)
    assert await bw.modes(batch_id) == {("batch", "succeeded"): 30}
    assert (bw.simulator.bill.charges, bw.simulator.bill.batch_charges) == (30, 30)
    assert batch.sums.cost_nano == bw.simulator.bill.cost_nano > 0
    assert bw.simulator.stats.requests["chat"] == 0
    assert bw.simulator.stats.requests["batch_create"] == 1
    await bw.assert_books_agree()
    results = await bw.results(batch_id)
    assert results[1]["choices"][0]["message"]["content"].startswith("Simulated answer")
    (bought,) = await bw.bought(batch_id)
    assert (bought.state, bought.lines, bought.succeeded) == ("ended", 30, 30)


async def test_lines_are_split_and_several_run_at_once(world: World) -> None:
    bw = await BatchWorld.begin(world, latency_s=0.5)
    batch_id = await bw.batch(*prompts(35))
    bw.buyer(lines_max=10)
    bought = await bw.until_bought(batch_id, "running", "harvesting", "ended")
    assert sorted(row.lines for row in bought) == [5, 10, 10, 10]
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 35
    assert bw.simulator.stats.requests["batch_create"] == 4
    await bw.assert_books_agree()


async def test_a_file_is_not_larger_than_its_limit(world: World) -> None:
    bw = await BatchWorld.begin(world, bytes_max=2_000)
    batch_id = await bw.batch(*("x" * 700 for _ in range(6)))
    bw.buyer(bytes_max=2_000)
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, await bw.modes(batch_id)) == (6, {("batch", "succeeded"): 6})
    assert [row.lines for row in await bw.bought(batch_id)] == [2, 2, 2]


async def test_no_more_are_open_than_allowed(world: World) -> None:
    bw = await BatchWorld.begin(world, latency_s=0.3)
    batch_id = await bw.batch(*prompts(30))
    bw.buyer(lines_max=10, open_max=1)
    await bw.until_bought(batch_id, "running")
    assert len(await bw.bought(batch_id)) == 1
    batch = await bw.ended(batch_id)
    rows = await bw.bought(batch_id)
    assert (batch.sums.tasks_succeeded, [row.lines for row in rows]) == (30, [10, 10, 10])
    apart = [later.created_at - earlier.created_at for earlier, later in itertools.pairwise(rows)]
    assert all(gap > timedelta(seconds=0.3) for gap in apart)  # each began when the one before was done


async def test_each_model_has_its_own(world: World) -> None:
    bw = await BatchWorld.begin(world, settings={"extra_models": ("glm-5",)})
    batch_id = await bw.batch(*prompts(4))
    async with world.database.write() as connection:
        even = sa.update(tasks).where(tasks.c.batch_id == batch_id, tasks.c.line % 2 == 0)
        await connection.execute(even.values(route="zhipu/glm-5"))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 4
    assert {(row.upstream_model, row.lines) for row in await bw.bought(batch_id)} == {("glm-4.7", 2), ("glm-5", 2)}
    assert {line: answer["model"] for line, answer in (await bw.results(batch_id)).items()} == {
        1: "glm-4.7", 2: "glm-5", 3: "glm-4.7", 4: "glm-5",
    }  # fmt: skip


async def test_lines_that_fail_there_run_directly_at_the_full_price(world: World) -> None:
    bw = await BatchWorld.begin(world, failed=0.4)
    batch_id = await bw.batch(*prompts(40))
    bw.buyer()
    batch = await bw.ended(batch_id)
    modes = await bw.modes(batch_id)
    direct = modes["direct", "succeeded"]
    assert batch.sums.tasks_succeeded == 40
    assert modes == {
        ("batch", "succeeded"): 40 - direct,
        ("batch", "failed"): direct,
        ("direct", "succeeded"): direct,
    }
    assert 5 < direct < 30
    assert (bw.simulator.bill.charges, bw.simulator.bill.batch_charges) == (40, 40 - direct)
    await bw.assert_books_agree()


async def test_a_direct_call_decides_what_a_line_failed_with(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch("[[fault:1261]]", "well")
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, batch.sums.tasks_failed) == (1, 1)
    rows = {row.line: row for row in await seeds.rows_of(world.database, tasks)}
    failed = await world.task(rows[1].id)
    assert (failed.error_code, rows[1].tries, rows[1].refused_attempts) == ("1261", 0, 1)
    await bw.assert_books_agree()


async def test_what_the_upstream_does_not_finish_in_time_runs_directly(world: World) -> None:
    bw = await BatchWorld.begin(world, unfinished=0.4, window_s=0.2)
    batch_id = await bw.batch(*prompts(40))
    bw.buyer()
    batch = await bw.ended(batch_id)
    direct = (await bw.modes(batch_id))["direct", "succeeded"]
    assert (batch.sums.tasks_succeeded, bw.simulator.bill.batch_charges) == (40, 40 - direct)
    assert direct > 0
    await bw.assert_books_agree()


async def test_lines_that_vanish_run_directly(world: World) -> None:
    bw = await BatchWorld.begin(world, missing=0.4)
    batch_id = await bw.batch(*prompts(40))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 40
    assert batch.sums.attempts_uncertain == 0
    await bw.assert_books_agree()


async def test_a_line_that_cannot_be_read_is_uncertain_and_alone(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch("[[fault:once:cut]]", "well")
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert await bw.modes(batch_id) == {
        ("batch", "uncertain"): 1,
        ("batch", "succeeded"): 1,
        ("direct", "succeeded"): 1,
    }
    assert batch.sums.tasks_succeeded == 2
    row = next(row for row in await seeds.rows_of(world.database, attempts) if row.outcome == "uncertain")
    (cut,) = [one for one in bw.bill() if one["request_id"] == row.request_id]
    assert row.possible_cost_nano >= to_nano(Decimal(cut["cost"])) > 0
    assert await ledgers.differing(world.database) == {}


async def test_where_answers_cannot_be_told_apart_nothing_is_called_unbilled(world: World) -> None:
    bw = await BatchWorld.begin(world, garbled=0.3)
    batch_id = await bw.batch(*prompts(40))
    bw.buyer()
    batch = await bw.ended(batch_id)
    modes = await bw.modes(batch_id)
    assert batch.sums.tasks_succeeded == 40
    assert modes["batch", "uncertain"] == modes["direct", "succeeded"] > 0
    assert modes["batch", "failed"] == 0


async def test_a_policy_against_second_purchases_holds(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch("[[fault:cut]]", "well", on_uncertain=OnUncertain.FAIL)
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, batch.sums.tasks_failed) == (1, 1)
    assert await bw.modes(batch_id) == {("batch", "uncertain"): 1, ("batch", "succeeded"): 1}


async def test_a_failure_inside_an_answer_is_billed_and_tried_again(world: World) -> None:
    bw = await BatchWorld.begin(world)
    batch_id = await bw.batch("[[fault:once:network_error]]")
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert await bw.modes(batch_id) == {("batch", "failed"): 1, ("direct", "succeeded"): 1}
    assert batch.sums.tasks_succeeded == 1
    await bw.assert_books_agree()


@pytest.mark.parametrize("behaviour", [{"lines_max": 3}, {"bytes_max": 200}], ids=["failed", "435"])
async def test_a_file_that_is_refused_costs_nothing_and_runs_directly(world: World, behaviour: dict[str, Any]) -> None:
    bw = await BatchWorld.begin(world, **behaviour)
    batch_id = await bw.batch(*prompts(5))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 5
    assert await bw.modes(batch_id) == {("batch", "failed"): 5, ("direct", "succeeded"): 5}
    (bought,) = await bw.bought(batch_id)
    assert bought.error
    await bw.assert_books_agree()


QUIRKS: list[dict[str, Any]] = [
    {"times": "milliseconds"},
    {"no_file": "empty"},
    {"no_file": "empty", "failed": 1.0},
    {"counts": "integer"},
    {"counts": "null"},
    {"order": "shuffled"},
    *({"error_form": form, "failed": 0.5} for form in ("response", "error", "flat", "text", "mixed")),
    {"expired_lines": "missing", "unfinished": 0.5, "window_s": 0.2},
]


@pytest.mark.parametrize("behaviour", QUIRKS, ids=lambda quirk: ",".join(f"{k}={v}" for k, v in quirk.items()))
async def test_every_form_that_was_seen_is_understood(sqlite_world: World, behaviour: dict[str, Any]) -> None:
    bw = await BatchWorld.begin(sqlite_world, **behaviour)
    batch_id = await bw.batch(*prompts(20))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 20
    spoiled = batch.sums.attempts - 20
    assert bw.simulator.bill.batch_charges == 20 - spoiled
    assert (spoiled > 0) == bool({"failed", "unfinished"} & behaviour.keys())
    await bw.assert_books_agree()


async def test_a_max_cost_holds_at_the_batch_price_and_the_rest_waits(world: World) -> None:
    bw = await BatchWorld.begin(world)
    one = worst_case_nano(seeds.PRICE, prompt_tokens=10, completion_tokens=100, batch=True)
    batch_id = await bw.batch(*prompts(10), max_cost_nano=3 * one, max_tokens=100, body={"max_tokens": 100})
    bw.buyer()

    async def is_paused() -> bool:
        return (await bw.stands(batch_id)).paused_code is PauseCode.MAX_COST

    await until(is_paused)
    batch, amounts = await bw.stands(batch_id), await bw.amounts(batch_id)
    assert 3 <= batch.sums.tasks_succeeded < 10
    assert amounts.spent_nano == batch.sums.cost_nano <= 3 * one
    assert (amounts.reserved_nano, amounts.reserved_tasks) == (0, 0)
    await bw.assert_books_agree()
    async with world.database.write() as connection:
        await batches.resume(connection, batch, max_cost_nano=100 * one, now=datetime.now(UTC))
    assert (await bw.ended(batch_id)).sums.tasks_succeeded == 10
    await bw.assert_books_agree()


async def test_what_runs_directly_reserves_at_the_full_price(world: World) -> None:
    bw = await BatchWorld.begin(world, failed=1.0)
    whole = worst_case_nano(seeds.PRICE, prompt_tokens=10, completion_tokens=100)
    batch_id = await bw.batch("one", max_cost_nano=whole - 1, max_tokens=100, body={"max_tokens": 100})
    bw.buyer()
    announcer = bw.announcer()

    async def is_paused() -> bool:
        await announcer.announce()
        return (await bw.stands(batch_id)).paused_code is PauseCode.MAX_COST

    await until(is_paused)
    amounts = await bw.amounts(batch_id)
    assert (amounts.reserved_nano, amounts.reserved_tasks, amounts.spent_nano) == (0, 0, 0)
    assert bw.simulator.bill.charges == 0
    await bw.assert_books_agree()


async def test_a_key_without_balance_pauses_its_upstream_and_the_lines_wait(world: World) -> None:
    bw = await BatchWorld.begin(world, settings={"refuse_keys": {"*": "1113"}})
    batch_id = await bw.batch(*prompts(3))
    bw.buyer()

    async def is_paused() -> bool:
        return "KEY_A" in await world.paused()

    await until(is_paused)
    assert "no_balance (1113)" in (await world.paused())["KEY_A"].reason
    assert (await bw.stands(batch_id)).sums.ended == 0
    bw.simulator.change(refuse_keys={})

    async def is_taken() -> bool:
        # Its minute is over. A call that was on its way may have paused it once more.
        async with world.database.write() as connection:
            await connection.execute(sa.update(pauses).values(until=datetime.now(UTC)))
        return any(row.state in ("running", "harvesting", "ended") for row in await bw.bought(batch_id))

    await until(is_taken)
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, await bw.modes(batch_id)) == (3, {("batch", "succeeded"): 3})
    assert await world.paused() == {}
    await bw.assert_books_agree()


async def test_another_key_buys_what_the_first_may_not(world: World) -> None:
    bw = await BatchWorld.begin(world, keys=("KEY_A", "KEY_B"), settings={"refuse_keys": {"alpha": "1113"}})
    batch_id = await bw.batch(*prompts(3))
    bw.buyer()
    batch = await bw.ended(batch_id)
    assert (batch.sums.tasks_succeeded, await bw.modes(batch_id)) == (3, {("batch", "succeeded"): 3})
    assert [row.credential for row in await bw.bought(batch_id)] == ["KEY_B"]
    assert list(await world.paused()) == ["KEY_A"]
    await bw.assert_books_agree()


async def test_a_key_that_fails_after_the_upload_is_left_for_another(world: World) -> None:
    bw = await BatchWorld.begin(world, keys=("KEY_A", "KEY_B"))
    batch_id = await bw.batch(*prompts(3))

    class Broke(Cloud):
        """Its balance ends with the upload."""

        async def upload(self, *args: Any, **kwargs: Any) -> str:
            file_id = await super().upload(*args, **kwargs)
            bw.simulator.change(refuse_keys={"alpha": "1113"})
            return file_id

    clouds = {
        ("zhipu", name): kind(base_url=bw.simulator.base_url, secret=KEYS[name])
        for name, kind in (("KEY_A", Broke), ("KEY_B", Cloud))
    }
    bw.buyer(clouds=clouds)
    batch = await bw.ended(batch_id)
    assert batch.sums.tasks_succeeded == 3
    assert [row.credential for row in await bw.bought(batch_id)] == ["KEY_B"]
    assert bw.simulator.stats.requests["file_upload"] == 2
    await bw.assert_books_agree()

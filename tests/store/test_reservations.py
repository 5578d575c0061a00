"""What a submission reserves, and what fits."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa

from tests.store import seeds, spending
from tests.store.spending import NANO, RESERVED, TOKENS
from tollgate.domain.budgets import Amounts, Period
from tollgate.domain.errors import BudgetExceededError, RequestIdConflictError
from tollgate.domain.prices import PriceTable
from tollgate.domain.tasks import Accepted
from tollgate.store.database import Database
from tollgate.store.schema import budget_periods, labels, task_requests, tasks

DAY_BEFORE, DAY_AFTER = (datetime(2026, 1, day, tzinfo=UTC) for day in (30, 31))


def is_accepted(outcome: Any) -> bool:
    return not isinstance(outcome, Exception)


async def test_a_task_reserves_the_most_that_it_can_come_to(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key)
    task = spending.a_task(key)
    assert await spending.submit(database, [task]) == [(Accepted(id=task.id),)]
    assert await spending.stands(database, budget_id) == {"1970-01-01": RESERVED}
    row = await seeds.row(database, task.id)
    assert (row.reserved_nano, row.reserved_tokens) == (NANO, TOKENS)


async def test_without_max_tokens_the_models_assumed_ones_are_reserved(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=10**12)
    await spending.submit(database, [spending.a_task(key, max_tokens=None, assumed_max_tokens=1_000)])
    assert await spending.in_total(database, budget_id) == Amounts(
        reserved_nano=8_020_000, reserved_tokens=1_010, reserved_tasks=1
    )


async def test_without_a_budget_nothing_is_kept(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="other")
    await spending.a_budget(database, other)
    task = spending.a_task(key)
    await spending.submit(database, [task])
    row = await seeds.row(database, task.id)
    assert (row.reserved_nano, row.reserved_tokens, row.charged_to) == (None, None, None)
    assert await seeds.size(database, budget_periods) == 0


async def test_what_does_not_fit_is_refused_with_what_is_left(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=2 * NANO - 1)
    task = spending.a_task(key)
    accepted, refused = await spending.submit(database, [task], [spending.a_task(key, request_id="again-1")])
    assert is_accepted(accepted)
    assert isinstance(refused, BudgetExceededError)
    assert (refused.budget_id, refused.left) == (str(budget_id), {"cost": "0.000739999"})
    assert await seeds.size(database, tasks) == await seeds.size(database, task_requests) == 1
    assert await spending.in_total(database, budget_id) == RESERVED, "as before"


async def test_the_last_unit_of_a_budget_can_be_reserved(database: Database) -> None:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key, limit_nano=2 * NANO, limit_tokens=2 * TOKENS)
    (outcome,) = await spending.submit(database, [spending.a_task(key), spending.a_task(key)])
    assert is_accepted(outcome)


async def test_a_list_fits_as_a_whole_or_not_at_all(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key)
    (refused,) = await spending.submit(database, [spending.a_task(key) for _ in range(6)])
    assert isinstance(refused, BudgetExceededError)
    assert await seeds.size(database, tasks) == 0
    (accepted,) = await spending.submit(database, [spending.a_task(key) for _ in range(5)])
    assert is_accepted(accepted)
    assert (await spending.in_total(database, budget_id)).nano == 5 * NANO


async def test_a_refused_neighbour_harms_nobody(database: Database) -> None:
    rich, poor = await seeds.a_key(database), await seeds.a_key(database, project="poor")
    await spending.a_budget(database, poor, limit_nano=NANO)
    large = [spending.a_task(poor), spending.a_task(poor)]
    outcomes = await spending.submit(
        database, [spending.a_task(rich)], large, [spending.a_task(poor)], [spending.a_task(rich)]
    )
    assert [is_accepted(outcome) for outcome in outcomes] == [True, False, True, True]
    assert await seeds.size(database, tasks) == 3


async def test_who_was_given_a_refused_neighbours_task_gets_one_of_its_own(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=NANO)
    large = [spending.a_task(key, request_id="shared-1"), spending.a_task(key)]
    small = spending.a_task(key, request_id="shared-1")
    refused, accepted = await spending.submit(database, large, [small])
    assert isinstance(refused, BudgetExceededError)
    assert accepted == (Accepted(id=small.id),)
    assert await spending.in_total(database, budget_id) == RESERVED


async def test_the_same_request_again_reserves_nothing_and_is_never_refused(database: Database) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, limit_nano=NANO)
    first = spending.a_task(key, request_id="request-1")
    await spending.submit(database, [first])
    (again,) = await spending.submit(database, [spending.a_task(key, request_id="request-1")])
    assert again == (Accepted(id=first.id, duplicate=True),)
    (other,) = await spending.submit(database, [spending.a_task(key, request_id="request-1", digest="1" * 64)])
    assert isinstance(other, RequestIdConflictError)
    assert await spending.in_total(database, budget_id) == RESERVED


async def test_a_refused_request_id_can_be_used_once_there_is_room(database: Database) -> None:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key, limit_nano=0)
    assert not is_accepted((await spending.submit(database, [spending.a_task(key, request_id="request-1")]))[0])
    await spending.a_budget(database, key)
    (accepted,) = await spending.submit(database, [spending.a_task(key, request_id="request-1", digest="1" * 64)])
    assert is_accepted(accepted)


async def test_a_refused_submission_uses_up_no_label(database: Database) -> None:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key, limit_nano=NANO)
    wanted = [spending.a_task(key, label="new"), spending.a_task(key, label="kept")]
    refused, accepted = await spending.submit(database, wanted, [spending.a_task(key, label="kept")])
    assert [is_accepted(refused), is_accepted(accepted)] == [False, True]
    assert [row.label for row in await seeds.rows_of(database, labels)] == ["kept"]


async def test_a_projects_budget_counts_all_its_keys_and_a_keys_its_own(database: Database) -> None:
    one, other = await seeds.a_key(database), await seeds.a_key(database)
    whole = await spending.a_budget(database, one, limit_nano=3 * NANO)
    own = await spending.a_budget(database, one, key_id=one.id, limit_nano=NANO)
    first, second, third = await spending.submit(
        database, [spending.a_task(one)], [spending.a_task(one)], [spending.a_task(other)]
    )
    assert [is_accepted(outcome) for outcome in (first, second, third)] == [True, False, True]
    assert second.budget_id == str(own)
    assert (await spending.in_total(database, whole)).nano == 2 * NANO
    assert await spending.in_total(database, own) == RESERVED
    (fourth,) = await spending.submit(database, [spending.a_task(other), spending.a_task(other)])
    assert fourth.budget_id == str(whole)


@pytest.mark.parametrize(("nano", "tokens", "left"), [(None, 150, {"tokens": 50}), (10**9, 150, {"tokens": 50})])
async def test_tokens_are_limited_beside_money(
    database: Database, nano: int | None, tokens: int, left: dict[str, int]
) -> None:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key, limit_nano=nano, limit_tokens=tokens)
    await spending.submit(database, [spending.a_task(key)])
    (refused,) = await spending.submit(database, [spending.a_task(key)])
    assert isinstance(refused, BudgetExceededError)
    assert left.items() <= refused.left.items()


async def test_a_model_without_a_price_is_refused_only_where_money_is_limited(database: Database) -> None:
    key, other = await seeds.a_key(database), await seeds.a_key(database, project="tokens-only")
    await spending.a_budget(database, key, limit_nano=10**12)
    budget_id = await spending.a_budget(database, other, limit_nano=None, limit_tokens=150)
    unpriced = {"model": "glm-new", "route": "zhipu/glm-new"}
    refused, accepted = await spending.submit(
        database, [spending.a_task(key, **unpriced)], [spending.a_task(other, **unpriced)]
    )
    assert isinstance(refused, BudgetExceededError)
    assert "'glm-new' has no price" in str(refused)
    assert is_accepted(accepted)
    assert await spending.in_total(database, budget_id) == Amounts(reserved_tokens=TOKENS, reserved_tasks=1)


async def test_a_free_model_goes_on_where_the_money_is_spent(database: Database) -> None:
    key = await seeds.a_key(database)
    await spending.a_budget(database, key)
    await spending.submit(database, [spending.a_task(key)])
    await spending.a_budget(database, key, limit_nano=0)
    free = replace(seeds.PRICE, tiers=(replace(seeds.PRICE.tiers[0], input_nano=0, output_nano=0),))
    (accepted,) = await spending.submit(database, [spending.a_task(key)], prices=PriceTable([free]))
    assert is_accepted(accepted)


@pytest.mark.parametrize(
    ("period", "starts"), [(Period.DAY, ("2026-01-30", "2026-01-31")), (Period.MONTH, ("2026-01-01", "2026-02-01"))]
)
async def test_each_period_has_room_of_its_own(database: Database, period: Period, starts: tuple[str, str]) -> None:
    key = await seeds.a_key(database)
    budget_id = await spending.a_budget(database, key, period=period, limit_nano=NANO)
    second = DAY_AFTER if period is Period.DAY else datetime(2026, 2, 1, tzinfo=UTC)
    for at in (DAY_BEFORE, second):
        (accepted,) = await spending.submit(database, [spending.a_task(key, created_at=at)])
        (refused,) = await spending.submit(database, [spending.a_task(key, created_at=at)])
        assert [is_accepted(accepted), is_accepted(refused)] == [True, False]
    assert await spending.stands(database, budget_id) == dict.fromkeys(starts, RESERVED)


async def test_a_project_without_a_budget_costs_an_intake_one_select(database: Database) -> None:
    key = await seeds.a_key(database)
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "budget" in statement:
            asked.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        await spending.submit(database, [spending.a_task(key)], [spending.a_task(key)])
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert len(asked) == 1

"""/budgets: what a project or a key may use, and what it has. Set by admins, read by the project they are for."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated

import fastapi
import pydantic
from pydantic_core import PydanticCustomError

from gateway import validation
from gateway.authentication import require_admin
from gateway.bodies import read_json, require_object
from gateway.dialects.native import render
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.native.keys import NAME_RULE, Name
from gateway.dialects.native.queries import BudgetsQuery
from gateway.dialects.route import KeyDep, json_response, require_id, route_class
from gateway.openapi import body_of
from gateway.querying import project_asked
from gateway.services import ServicesDep
from tollgate.domain.budgets import COST_PATTERN, MAX_LIMIT_TASKS, MAX_LIMIT_TOKENS, Budget, Period
from tollgate.domain.ids import new_id
from tollgate.domain.money import to_nano
from tollgate.store import budgets, keys

router = fastapi.APIRouter(tags=["accounts"], route_class=route_class(answer), responses=RESPONSES)

Cost = Annotated[str, pydantic.StringConstraints(pattern=COST_PATTERN)]
KeyId = Annotated[str, pydantic.StringConstraints(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class BudgetBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    project: Name = pydantic.Field(description=NAME_RULE)
    key: KeyId | None = pydantic.Field(None, description="the id of one of its keys, or null for the whole project")
    period: Annotated[Period, pydantic.Field(strict=False)] = pydantic.Field(
        description="'day', 'month' or 'total'; 'in_flight' for limit_tasks"
    )
    limit_cost: Cost | None = pydantic.Field(
        None, description='an amount as a decimal string, "12.50", below 1000000000; null: not limited'
    )
    limit_tokens: int | None = pydantic.Field(
        None, ge=0, le=MAX_LIMIT_TOKENS, description=f"an integer from 0 to {MAX_LIMIT_TOKENS}; null: not limited"
    )

    limit_tasks: int | None = pydantic.Field(
        None,
        ge=0,
        le=MAX_LIMIT_TASKS,
        description=f"an integer from 0 to {MAX_LIMIT_TASKS}, of period in_flight; null: not limited",
    )

    @pydantic.model_validator(mode="after")
    def _limits_something(self) -> BudgetBody:
        if self.period is Period.IN_FLIGHT:
            if self.limit_tasks is None:
                raise PydanticCustomError("missing", "in_flight limits tasks: give them", {"field": "limit_tasks"})
            for field in ("limit_cost", "limit_tokens"):
                if getattr(self, field) is not None:
                    raise PydanticCustomError("beside", "in_flight limits tasks and nothing else", {"field": field})
        elif self.limit_tasks is not None:
            told = "tasks are limited as they are in flight: write period in_flight"
            raise PydanticCustomError("beside", told, {"field": "limit_tasks"})
        elif self.limit_cost is None and self.limit_tokens is None:
            raise PydanticCustomError("missing", "give limit_cost or limit_tokens, or both", {"field": "limit_cost"})
        return self


@router.get("/budgets")
async def list_budgets(
    services: ServicesDep, key: KeyDep, asked: Annotated[BudgetsQuery, fastapi.Query()]
) -> fastapi.Response:
    """The project's budgets and its keys', each with what stands in its present period."""
    project_id, now = await project_asked(services, key, asked.project), datetime.now(UTC)
    async with services.database.read() as connection:
        found = await budgets.balances(connection, now=now, project_id=project_id)
    currency = services.settings.currency
    data = [render.budget(one, currency=currency, today=now.date()) for one in found]
    return json_response({"object": "list", "data": data})


@router.put("/budgets", openapi_extra=body_of(BudgetBody))
async def put_budget(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Set the limits of a project or a key for a period; what stands there already stays. Answers the budget."""
    require_admin(key)
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked, now = validation.check(body, BudgetBody), datetime.now(UTC)
    async with services.database.write() as connection:
        wanted = Budget(
            id=new_id(),
            project_id=(await keys.project_named(connection, asked.project)).id,
            key_id=asked.key,
            period=asked.period,
            limit_nano=None if asked.limit_cost is None else to_nano(Decimal(asked.limit_cost)),
            limit_tokens=asked.limit_tokens,
            limit_tasks=asked.limit_tasks,
        )
        one = await budgets.balance(connection, (await budgets.put(connection, wanted, now=now)).id, now=now)
    return json_response(render.budget(one, currency=services.settings.currency, today=now.date()))


@router.delete("/budgets/{budget_id}")
async def remove_budget(budget_id: str, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """Nothing is limited by it from then on. Answers the budget as it was."""
    require_admin(key)
    removed_id, now = require_id(budget_id, kind="budget"), datetime.now(UTC)
    async with services.database.write() as connection:
        one = await budgets.balance(connection, removed_id, now=now)
        await budgets.remove(connection, removed_id)
    return json_response(render.budget(one, currency=services.settings.currency, today=now.date()))

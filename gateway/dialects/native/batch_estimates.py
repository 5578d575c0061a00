"""POST /batches/estimate: what a batch would use, cost and take, before it is made."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import fastapi
import orjson
import pydantic

from gateway import batch_body, validation
from gateway.batch_body import BatchBody
from gateway.batches import creation, estimating
from gateway.batches.estimating import Estimate
from gateway.batches.lines import LineDefaults
from gateway.batches.reader import LineReader, RawLine
from gateway.bodies import read_json, require_object
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.route import KeyDep, json_response, route_class
from gateway.leaving import unless_left
from gateway.openapi import body_of
from gateway.services import Services, ServicesDep
from tollgate.domain import estimates
from tollgate.domain.budgets import remaining, told
from tollgate.domain.estimates import Course, ModelEstimate
from tollgate.domain.experience import Spread
from tollgate.domain.money import format_nano
from tollgate.domain.tasks import Key
from tollgate.store import budgets, files
from tollgate.store.budgets import Balance

router = fastapi.APIRouter(prefix="/batches", tags=["batches"], route_class=route_class(answer), responses=RESPONSES)


class EstimateBody(BatchBody):
    """As POST /batches has it, so that the same body can be sent to both. What concerns neither lines nor cost is only
    checked."""

    model_config = pydantic.ConfigDict(title="Estimate")


@router.post("/estimate", openapi_extra=body_of(EstimateBody))
async def estimate(request: fastapi.Request, services: ServicesDep, key: KeyDep) -> fastapi.Response:
    """What the lines of a file would use, cost and take. Every line is checked, as the batch would; nothing is kept."""
    body = require_object(await read_json(request, max_bytes=services.settings.max_body_bytes))
    asked = validation.check(body, EstimateBody)
    return json_response(await unless_left(request, _estimated(services, key, asked)))


async def _estimated(services: Services, key: Key, asked: EstimateBody) -> dict[str, Any]:
    creation.require_runnable(services, endpoint=asked.endpoint, via=asked.via)
    defaults = LineDefaults(endpoint=asked.endpoint, **asked.defaults())
    given = await _lines(services, key, asked)
    found = await estimating.estimate(services, key, given, defaults=defaults, via=asked.via)
    async with services.database.read() as connection:
        balances = await budgets.balances(connection, now=datetime.now(UTC), project_id=key.project_id)
    courses = estimates.total(found.models)
    chosen = next(course for course in courses if course.via is asked.via)
    limit_nano = batch_body.nano_of(asked.max_cost)
    return {
        "object": "batch.estimate",
        "via": asked.via,
        "currency": services.settings.currency,
        "lines": found.lines,
        "invalid": found.invalid,
        "invalid_lines": _invalid(found),
        "models": [_model(one) for one in found.models],
        "total": _total(found.models, courses),
        "max_cost": None if limit_nano is None else format_nano(limit_nano),
        "fits_max_cost": _fits(chosen.cost, limit_nano),
        "budget_left": [_left(one, chosen, found.models) for one in balances if _limits(one, key)],
        "assumptions": found.assumptions,
    }


async def _lines(services: Services, key: Key, asked: EstimateBody) -> AsyncGenerator[RawLine]:
    """Raises NotFoundError for the file."""
    if asked.input_file_id is None:
        return _inline(asked.tasks or [], most=services.settings.max_line_bytes)
    async with services.database.read() as connection:
        file = await files.find(connection, asked.input_file_id, project_id=key.project_id, now=datetime.now(UTC))
    creation.require_input(file)
    return _of_file(services, file.id)


async def _of_file(services: Services, file_id: UUID) -> AsyncGenerator[RawLine]:
    reader = LineReader(max_line_bytes=services.settings.max_line_bytes)
    async for chunk in services.files.open_at(file_id):
        for line in reader.feed(chunk):
            yield line
    for line in reader.finish():
        yield line


async def _inline(tasks: list[dict[str, Any]], *, most: int) -> AsyncGenerator[RawLine]:
    for number, task in enumerate(tasks, start=1):
        raw = orjson.dumps(task)
        yield RawLine(number, raw if len(raw) <= most else None, 0, 0)


def _invalid(found: Estimate) -> list[dict[str, Any]]:
    return [
        {
            "line": number,
            "custom_id": error.custom_id,
            "code": error.code,
            "message": error.message,
            "field": error.field,
        }
        for number, error in found.shown
    ]


def _model(one: ModelEstimate) -> dict[str, Any]:
    return {
        "model": one.model,
        "route": one.route,
        "lines": one.lines,
        "prompt_tokens": _tokens(one.prompt_tokens),
        "completion_tokens": _tokens(one.completion_tokens),
        "via": {course.via.value: _course(course) for course in one.courses},
        "assumptions": list(one.assumptions),
    }


def _total(models: list[ModelEstimate], courses: tuple[Course, ...]) -> dict[str, Any]:
    return {
        "lines": sum(one.lines for one in models),
        "prompt_tokens": _tokens(estimates.added(one.prompt_tokens for one in models)),
        "completion_tokens": _tokens(estimates.added(one.completion_tokens for one in models)),
        "via": {course.via.value: _course(course) for course in courses},
    }


def _course(course: Course) -> dict[str, Any]:
    return {
        "cost": _cost(course.cost),
        "why_no_cost": course.why_no_cost or None,
        "most_of_a_line": None if course.most_of_a_line is None else format_nano(course.most_of_a_line),
        "seconds": None if course.seconds is None else round(course.seconds, 1),
        "why_no_seconds": course.why_no_seconds or None,
    }


def _tokens(spread: Spread) -> dict[str, int]:
    return {name: round(value) for name, value in spread._asdict().items()}


def _cost(spread: Spread | None) -> dict[str, str] | None:
    return None if spread is None else {name: format_nano(round(value)) for name, value in spread._asdict().items()}


def _fits(wanted: Spread | None, limit: int | None) -> dict[str, bool] | None:
    """Which of the three it has room for; None: there is no limit, or no figure."""
    if wanted is None or limit is None:
        return None
    return {name: value <= limit for name, value in wanted._asdict().items()}


def _limits(one: Balance, key: Key) -> bool:
    """What a batch of this key uses; tasks in flight are only slower for it."""
    return one.budget.covers(key.id) and one.budget.limit_tasks is None


def _left(one: Balance, chosen: Course, models: list[ModelEstimate]) -> dict[str, Any]:
    budget, stands = one.budget, one.stands
    tokens = estimates.added(spread for m in models for spread in (m.prompt_tokens, m.completion_tokens))
    cost_left = None if budget.limit_nano is None else max(0, budget.limit_nano - stands.nano)
    tokens_left = None if budget.limit_tokens is None else max(0, budget.limit_tokens - stands.tokens)
    return {
        "budget_id": str(budget.id),
        "told": told(budget),
        "period": budget.period,
        "left": remaining(budget, stands),
        "fits_cost": _fits(chosen.cost, cost_left),
        "fits_tokens": _fits(tokens, tokens_left),
    }

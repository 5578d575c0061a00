"""GET /batches/{id}/results: what the lines of a batch came to, also while it still runs."""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any, Literal

import fastapi
import pydantic

from gateway.batches import result_pages, results
from gateway.batches.result_pages import Pages, Place
from gateway.batches.result_table import TableLines
from gateway.batches.results import Form, NativeLines, OpenAILines
from gateway.dialects.native.errors import RESPONSES, answer
from gateway.dialects.route import KeyDep, require_id, route_class
from gateway.services import Services, ServicesDep
from tollgate.domain.batches import Batch
from tollgate.domain.errors import InvalidRequestError
from tollgate.store import batches
from tollgate.store.batch_intake import MAX_LINE
from tollgate.store.batch_results import Which

router = fastapi.APIRouter(prefix="/batches", tags=["batches"], route_class=route_class(answer), responses=RESPONSES)

LINES: dict[int | str, dict[str, Any]] = {
    200: {
        "description": "a line for each; `x-batch-state` says whether there will be more",
        "content": {"application/x-ndjson": {}, "application/jsonl": {}, "text/csv": {}},
    }
}


class Format(StrEnum):
    JSONL = "jsonl"
    CSV = "csv"
    OPENAI = "openai"


class Order(StrEnum):
    INPUT = "input"
    FINISHED = "finished"


class ResultsQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    format: Format = Format.JSONL
    order: Order = pydantic.Field(Order.INPUT, description="of the input, or as they finished")
    which: Which = Which.ALL
    after: str | None = pydantic.Field(
        None, description="go on after this line: its number, or with order=finished its cursor"
    )
    limit: int | None = pydantic.Field(None, ge=1, le=MAX_LINE, description="at most so many lines")
    include: Literal["input"] | None = pydantic.Field(None, description="'input': with what was asked")

    def line(self) -> int:
        """Of `after`, in the order of the input. Raises InvalidRequestError."""
        given = self.after or "0"
        if not (given.isascii() and given.isdigit() and int(given) <= MAX_LINE):
            allowed = "the number of the last line read"
            raise InvalidRequestError(f"after: {given[:64]!r} is no line", field="after", allowed=allowed)
        return int(given)


@router.get("/{batch_id}/results", response_class=fastapi.Response, responses=LINES)
async def read_results(
    batch_id: str, services: ServicesDep, key: KeyDep, asked: Annotated[ResultsQuery, fastapi.Query()]
) -> fastapi.Response:
    """What its lines came to, streamed: in the order of the input, up to the first line that has not ended, or as
    they finished."""
    if asked.include and asked.format is Format.OPENAI:
        raise InvalidRequestError("include: OpenAI's lines do not hold the input", field="include", code="1215")
    async with services.database.read() as connection:
        batch = await batches.find(connection, require_id(batch_id, kind="batch"), project_id=key.project_id)
    pages = _pages(services, batch, asked)
    if asked.limit is not None:
        pages = result_pages.limited(pages, asked.limit)
    ending = "csv" if asked.format is Format.CSV else "jsonl"
    headers = {
        "x-batch-state": batch.state,
        "content-disposition": f'attachment; filename="{batch.id}_results.{ending}"',
    }
    return await results.stream(pages, _form(services, batch, asked), headers=headers)


def _pages(services: Services, batch: Batch, asked: ResultsQuery) -> Pages:
    with_input = asked.include is not None
    if asked.order is Order.INPUT:
        return result_pages.by_line(
            services.database, batch, which=asked.which, after=asked.line(), with_input=with_input
        )
    place = Place.parse(asked.after) if asked.after else Place()
    now = datetime.now(UTC)
    return result_pages.by_end(services.database, batch, which=asked.which, place=place, now=now, with_input=with_input)


def _form(services: Services, batch: Batch, asked: ResultsQuery) -> Form:
    currency, with_input = services.settings.currency, asked.include is not None
    match asked.format:
        case Format.OPENAI:
            return OpenAILines(batch)
        case Format.JSONL:
            return NativeLines(currency=currency, with_input=with_input)
        case Format.CSV:
            with_cursor, resumed = asked.order is Order.FINISHED, asked.after is not None
            return TableLines(currency=currency, with_input=with_input, with_cursor=with_cursor, resumed=resumed)

"""The query parameters of GET /tasks, /usage, /budgets, /keys, /webhooks/deliveries. A name that is none of them is
refused, not ignored."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Literal
from uuid import UUID

import pydantic

from gateway import times
from gateway.dialects.route import MAX_WAIT_S
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.states import STATUSES, TaskState
from tollgate.domain.webhooks import DeliveryState
from tollgate.store import deliveries, usage
from tollgate.store.tasks import Filter

MAX_IDS = 1_000
MAX_PAGE = 1_000
Word = Annotated[str, pydantic.StringConstraints(pattern=r"^\P{Cc}{1,256}$")]
"""PostgreSQL holds no text with a NUL, so it must not be asked for one."""


class TasksQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    id: str | None = pydantic.Field(None, description=f"up to {MAX_IDS} ids, comma-separated; no other filter then")
    wait: float = pydantic.Field(
        0, ge=0, le=MAX_WAIT_S, description="with id: hold the answer so many seconds, or until one of them ends"
    )
    state: str | None = pydantic.Field(None, description="a state, or PROCESSING, SUCCESS, FAIL")
    model: Word | None = None
    label: Word | None = None
    batch_id: UUID | None = None
    custom_id: Word | None = None
    request_id: Word | None = None
    created_from: times.QueryTime | None = pydantic.Field(None, description=f"inclusive: {times.QUERY_RULE}")
    created_to: times.QueryTime | None = pydantic.Field(None, description=f"exclusive: {times.QUERY_RULE}")
    limit: int = pydantic.Field(50, ge=1, le=MAX_PAGE)
    after: UUID | None = pydantic.Field(None, description="the last id of the page before")
    include: Literal["result"] | None = pydantic.Field(None, description="'result': with the answers")

    def ids(self) -> list[str]:
        """Of `id`. Raises InvalidRequestError for none, too many, or a filter beside them."""
        names = [name.strip() for name in (self.id or "").split(",") if name.strip()]
        if not 1 <= len(names) <= MAX_IDS:
            raise InvalidRequestError(
                f"id: {len(names)} ids", field="id", allowed=f"1 to {MAX_IDS} ids, comma-separated"
            )
        beside = sorted(self.model_fields_set - {"id", "wait"})
        if beside:
            raise InvalidRequestError(f"{beside[0]}: not together with id", field=beside[0], code="1215")
        return names

    def filter(self) -> Filter:
        """Raises InvalidRequestError."""
        return Filter(
            states=_states(self.state),
            model=self.model,
            label=self.label,
            batch_id=self.batch_id,
            custom_id=self.custom_id,
            request_id=self.request_id,
            created_from=self.created_from,
            created_to=self.created_to,
        )


def _states(text: str | None) -> frozenset[TaskState] | None:
    if text is None:
        return None
    if text in STATUSES:
        return STATUSES[text]
    try:
        return frozenset({TaskState(text)})
    except ValueError:
        allowed = ", ".join((*TaskState, *STATUSES))
        raise InvalidRequestError(f"state: unknown state {text!r}", field="state", allowed=allowed) from None


class KeysQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    project: Word | None = pydantic.Field(None, description="only this project's")


class BudgetsQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    project: Word | None = pydantic.Field(None, description="admins: another project's name, or * for all")


class UsageQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    by: str = pydantic.Field("model", description="comma-separated: " + ", ".join(usage.DIMENSIONS))
    since: times.QueryTime | None = pydantic.Field(
        None, alias="from", description=f"inclusive, default: this month's start; {times.QUERY_RULE}"
    )
    until: times.QueryTime | None = pydantic.Field(
        None, alias="to", description=f"exclusive, default: now; {times.QUERY_RULE}"
    )
    project: Word | None = pydantic.Field(None, description="admins: another project's name, or * for all")
    key: Word | None = pydantic.Field(None, description="only this key's id")
    format: Literal["json", "csv"] = "json"

    def groups(self) -> list[str]:
        """Raises InvalidRequestError."""
        groups = list(dict.fromkeys(name.strip() for name in self.by.split(",") if name.strip()))
        unknown = [name for name in groups if name not in usage.DIMENSIONS]
        if unknown or not groups:
            raise InvalidRequestError(
                f"by: unknown dimension {', '.join(unknown) or '(none)'}",
                field="by",
                allowed=", ".join(usage.DIMENSIONS),
            )
        return groups

    def span(self, now: datetime) -> tuple[datetime, datetime]:
        """Whole hours, the roll-up's smallest unit, that hold all that was asked for. Raises InvalidRequestError."""
        start = _hour(self.since or now.replace(day=1, hour=0))
        end = _hour((self.until or now) + timedelta(hours=1, microseconds=-1))
        if start >= end:
            raise InvalidRequestError("from: not before to", field="from", allowed="a time before `to`")
        return start, end


class DeliveriesQuery(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid")

    webhook: UUID | None = pydantic.Field(None, description="only those to this endpoint")
    task: UUID | None = pydantic.Field(None, description="only those that tell of this task")
    state: DeliveryState | None = None
    limit: int = pydantic.Field(50, ge=1, le=MAX_PAGE)
    after: UUID | None = pydantic.Field(None, description="the last id of the page before")

    def filter(self) -> deliveries.Filter:
        return deliveries.Filter(webhook_id=self.webhook, task_id=self.task, state=self.state)


def _hour(at: datetime) -> datetime:
    return at.replace(minute=0, second=0, microsecond=0)

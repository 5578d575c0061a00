"""POST /batches in the native API's words."""

from __future__ import annotations

import re
from decimal import Decimal
from typing import Annotated, Any, Self
from uuid import UUID

import orjson
import pydantic
from pydantic_core import PydanticCustomError

from gateway import chat_body, validation
from gateway.batches.creation import DEFAULT_WINDOW_S, BatchRequest
from gateway.batches.defaults import check_parameters
from gateway.batches.lines import URLS
from gateway.chat_body import RequestId, Text
from gateway.task_body import MAX_METADATA_BYTES, Label
from tollgate.domain.batches import Via
from tollgate.domain.budgets import COST_PATTERN
from tollgate.domain.errors import InvalidRequestError
from tollgate.domain.money import to_nano
from tollgate.domain.states import Priority

Cost = Annotated[str, pydantic.StringConstraints(pattern=COST_PATTERN)]
Name = Annotated[str, pydantic.StringConstraints(pattern=r"^\P{Cc}{1,256}$")]
WINDOW = re.compile(r"([1-9][0-9]{0,5})([mhd])")
UNITS_S = {"m": 60, "h": 3_600, "d": 86_400}
MAX_WINDOW_S = 30 * 86_400
WINDOW_RULE = "minutes, hours or days, at most 30 days: '90m', '24h', '7d'"
COST_RULE = 'an amount as a decimal string, "12.50", below 1000000000'


class LineDefaultsBody(pydantic.BaseModel):
    """What a batch says for lines that do not say it themselves."""

    model_config = pydantic.ConfigDict(extra="forbid", strict=True)

    model: Text | None = pydantic.Field(None, description="the model of lines that name none")
    label: Label | None = pydantic.Field(None, description="1 to 64 characters: a dimension of the accounts")
    system: str | None = pydantic.Field(None, min_length=1, description="the system message of chats without one")
    parameters: dict[str, Any] | None = pydantic.Field(
        None, description="an object of parameters such as temperature and max_tokens"
    )
    endpoint: str | None = pydantic.Field(None, description=" or ".join(URLS) + "; null: as each line says")

    def defaults(self) -> dict[str, Any]:
        """Raises InvalidRequestError."""
        parameters = chat_body.without_nulls(self.parameters or {})
        check_parameters(parameters, endpoint=self.endpoint)
        told = {"model": self.model, "label": self.label, "system": self.system, "parameters": parameters}
        return {name: value for name, value in told.items() if value}


class BatchBody(LineDefaultsBody):
    model_config = pydantic.ConfigDict(title="Batch")

    input_file_id: Annotated[UUID, pydantic.Field(strict=False)] | None = pydantic.Field(
        None, description="the id of an uploaded file (POST /files); or tasks"
    )
    tasks: list[dict[str, Any]] | None = pydantic.Field(
        None, min_length=1, description="a list of lines, as they would stand in the file; or input_file_id"
    )
    name: Name | None = pydantic.Field(None, description="1 to 256 characters; default: the file's name")
    via: Annotated[Via, pydantic.Field(strict=False)] = pydantic.Field(
        Via.DIRECT, description="'direct', 'upstream_batch' (half the price, in the upstream's time) or 'local'"
    )
    priority: Annotated[Priority, pydantic.Field(strict=False)] = pydantic.Field(
        Priority.BULK, description="'bulk' or 'interactive'"
    )
    strict: bool = pydantic.Field(False, description="true: one invalid line refuses the whole file")
    max_cost: Cost | None = pydantic.Field(None, description=COST_RULE)
    completion_window: str | None = pydantic.Field(None, description=WINDOW_RULE)
    metadata: dict[str, Any] | None = pydantic.Field(
        None, description=f"a JSON object of at most {MAX_METADATA_BYTES} bytes, returned as it came"
    )
    callback_url: str | None = pydantic.Field(None, description="an https URL that is told of the batch's end")
    request_id: RequestId | None = pydantic.Field(None, description="6 to 64 characters: makes it idempotent")
    delete_input: bool = pydantic.Field(False, description="true: the file goes when it was taken in")

    @pydantic.model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.tasks is not None and self.input_file_id is not None:
            raise PydanticCustomError("beside", "give a file or tasks, not both", {"field": "tasks"})
        if self.tasks is None and self.input_file_id is None:
            raise PydanticCustomError("missing", "give the id of a file, or tasks", {"field": "input_file_id"})
        return self


class ResumeBody(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", strict=True, title="Resume")

    max_cost: Cost | None = pydantic.Field(None, description=COST_RULE + ": another limit from now on")


def request_of(body: dict[str, Any], *, key_of_header: str | None) -> BatchRequest:
    """Raises InvalidRequestError."""
    checked = validation.check(body, BatchBody)
    if checked.metadata and len(orjson.dumps(checked.metadata)) > MAX_METADATA_BYTES:
        raise InvalidRequestError("metadata: too long", field="metadata", allowed=f"{MAX_METADATA_BYTES} bytes")
    return BatchRequest(
        input_file_id=checked.input_file_id,
        tasks=checked.tasks,
        endpoint=checked.endpoint,
        defaults=checked.defaults(),
        via=checked.via,
        priority=checked.priority,
        strict=checked.strict,
        max_cost_nano=nano_of(checked.max_cost),
        metadata=checked.metadata,
        callback_url=checked.callback_url,
        window_s=window_s(checked.completion_window),
        request_id=checked.request_id or key_of_header,
        delete_input=checked.delete_input,
        name=checked.name,
    )


def nano_of(cost: str | None) -> int | None:
    return None if cost is None else to_nano(Decimal(cost))


def window_s(text: str | None) -> int:
    """Of a completion_window; null is a day. Raises InvalidRequestError."""
    if text is None:
        return DEFAULT_WINDOW_S
    told = WINDOW.fullmatch(text)
    seconds = int(told[1]) * UNITS_S[told[2]] if told else 0
    if not 0 < seconds <= MAX_WINDOW_S:
        raise InvalidRequestError(f"completion_window: {text[:40]!r}", field="completion_window", allowed=WINDOW_RULE)
    return seconds

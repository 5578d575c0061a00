"""From a request to the row of its task: route, lane, deadline. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from tollgate.domain.addresses import STRICT, CallbackRules, check_url
from tollgate.domain.errors import InvalidRequestError, PermissionDeniedError
from tollgate.domain.ids import new_id
from tollgate.domain.routing import Catalog, Mode, Model, Route
from tollgate.domain.states import OnUncertain, Priority
from tollgate.domain.tasks import Key, NewTask, TaskRequest
from tollgate.domain.usage import MAX_TOKENS, estimate_prompt_tokens

BULK_OVER = 100
"""A list longer than this is bulk work unless it says otherwise."""
HINTED_AT_ONCE = 500
"""Of a bulk list so many are announced with the commit; the announcer feeds the rest by what its routes settle,
so that a long list neither floods the broker nor starves a neighbour."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The installation's bounds. Seconds."""

    task_timeout_s: float = 86_400.0
    callbacks: CallbackRules = STRICT
    """Where a callback_url may lead."""


def admit(
    requests: Sequence[TaskRequest], *, key: Key, catalog: Catalog, now: datetime, limits: Limits
) -> tuple[NewTask, ...]:
    """The rows of one submission. Raises UnknownModelError, PermissionDeniedError, InvalidRequestError."""
    return tuple(admitted(requests, key=key, catalog=catalog, now=now, limits=limits))


def admitted(
    requests: Sequence[TaskRequest], *, key: Key, catalog: Catalog, now: datetime, limits: Limits
) -> Iterator[NewTask]:
    """The same, each as it is asked for."""
    default = Priority.BULK if len(requests) > BULK_OVER else Priority.INTERACTIVE
    if default is Priority.INTERACTIVE and not key.may_interactive:
        default = Priority.BULK
    for index, request in enumerate(requests):
        yield _row(request, index, key=key, catalog=catalog, now=now, limits=limits, default=default)


def _row(
    request: TaskRequest,
    index: int,
    *,
    key: Key,
    catalog: Catalog,
    now: datetime,
    limits: Limits,
    default: Priority,
) -> NewTask:
    model = _allowed_model(request, key=key, catalog=catalog)
    route = model.routes[0]
    mode = _mode(request, route, catalog=catalog)
    priority = _allowed_priority(request, key=key, default=default)
    start = max(request.run_after or now, now)
    deadline = request.expires_at or start + timedelta(seconds=request.timeout_s or limits.task_timeout_s)
    # With a request_id it may be a repeat of one accepted in time: a new one expires as soon as it is queued.
    if deadline <= start and request.request_id is None:
        raise InvalidRequestError(
            "expires_at is not after the task's start", field="expires_at", allowed="a later time"
        )
    retry_until = deadline if request.retry_for_s is None else start + timedelta(seconds=request.retry_for_s)
    hinted = start == now and (priority is Priority.INTERACTIVE or index < HINTED_AT_ONCE)
    return NewTask(
        id=new_id(),
        project_id=key.project_id,
        key_id=key.id,
        custom_id=request.custom_id,
        request_id=request.request_id,
        digest=request.digest,
        label=request.label,
        endpoint=request.endpoint,
        model=request.model,
        route=route.id,
        lane=f"{catalog.place(route)}.{priority}",
        mode=mode,
        streamed=request.stream,
        feed=key.project_id,
        not_before=start,
        deadline=deadline,
        retry_until=min(retry_until, deadline),
        on_uncertain=request.on_uncertain or route.on_uncertain or OnUncertain.RETRY,
        prompt_tokens_estimate=estimate_prompt_tokens(request.body),
        max_tokens=_bound(request.body.get("max_tokens")),
        created_at=now,
        announced_at=now if hinted else None,
        callback_url=_allowed_callback(request, limits.callbacks),
        assumed_max_tokens=0 if request.endpoint == "embeddings" else model.assumed_max_tokens,
        body=orjson.dumps(request.body).decode(),
        metadata=orjson.dumps(request.metadata).decode() if request.metadata else None,
    )


def _allowed_model(request: TaskRequest, *, key: Key, catalog: Catalog) -> Model:
    model = catalog.find(request.model)
    if not key.may_use(model.name, *model.aliases):
        theirs = ", ".join(sorted(key.models or ()))
        raise PermissionDeniedError(f"this key may not use model {request.model!r}; it may use: {theirs}")
    if request.endpoint not in model.endpoints:
        raise InvalidRequestError(
            f"model {request.model!r} does not serve {request.endpoint}",
            field="model",
            allowed=f"a model for {request.endpoint}",
            code="1212",
        )
    asked = request.body.get("max_tokens")
    if model.max_output_tokens and isinstance(asked, int) and asked > model.max_output_tokens:
        raise InvalidRequestError(
            f"max_tokens is over the limit of {request.model}",
            field="max_tokens",
            allowed=f"an integer from 1 to {model.max_output_tokens}",
        )
    return model


def _mode(request: TaskRequest, route: Route, *, catalog: Catalog) -> Mode:
    """Only ZhipuAI's wire can be asked by submit and poll, and only for chat completions."""
    if request.stream:
        return "direct"
    if (request.mode or route.mode) == "direct" or (request.mode is None and request.endpoint != "chat"):
        return "direct"
    if catalog.upstreams[route.upstream].kind != "zhipu" or request.endpoint != "chat":
        raise InvalidRequestError(
            f"model {request.model!r} cannot be asked in mode async", field="mode", allowed="direct, or leave it out"
        )
    return "async"


def _allowed_callback(request: TaskRequest, rules: CallbackRules) -> str | None:
    """Of a repeat, too: an URL that is refused was meant to be told something."""
    if request.callback_url is not None:
        check_url(request.callback_url, rules=rules, field="callback_url")
    return request.callback_url


def _bound(max_tokens: object) -> int | None:
    """For the reservation; where the catalog has no limit the upstream refuses what is absurd."""
    if isinstance(max_tokens, bool) or not isinstance(max_tokens, int):
        return None
    return min(max_tokens, MAX_TOKENS)


def _allowed_priority(request: TaskRequest, *, key: Key, default: Priority) -> Priority:
    if request.priority is Priority.INTERACTIVE and not key.may_interactive:
        raise PermissionDeniedError(
            "this key may not submit with priority interactive; leave priority out, or write bulk"
        )
    return request.priority or default

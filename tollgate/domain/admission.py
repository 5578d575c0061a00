"""From a request to the row of its task: route, lane, deadline. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import orjson

from tollgate.domain import fallbacks
from tollgate.domain.addresses import STRICT, CallbackRules, check_url
from tollgate.domain.batches import Terms, Via
from tollgate.domain.errors import InvalidRequestError, PermissionDeniedError
from tollgate.domain.ids import new_id
from tollgate.domain.reach import ALL_SERVED, Unserved
from tollgate.domain.routing import Catalog, Mode, Model, Route
from tollgate.domain.states import OnUncertain, Priority
from tollgate.domain.tasks import Key, NewTask, TaskRequest
from tollgate.domain.upstream_batches import can_be_batched
from tollgate.domain.usage import MAX_TOKENS, estimate_prompt_tokens

BULK_OVER = 100
"""A list longer than this is bulk work unless it says otherwise."""
NO_DIGEST = ""
"""Of what is never compared: without a request_id nothing can be its repeat, and of lines their batch has one."""
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
    requests: Sequence[TaskRequest],
    *,
    key: Key,
    catalog: Catalog,
    now: datetime,
    limits: Limits,
    unserved: Unserved = ALL_SERVED,
) -> tuple[NewTask, ...]:
    """The rows of one submission. Raises UnknownModelError, PermissionDeniedError, InvalidRequestError."""
    return tuple(admitted(requests, key=key, catalog=catalog, now=now, limits=limits, unserved=unserved))


def admitted(
    requests: Sequence[TaskRequest],
    *,
    key: Key,
    catalog: Catalog,
    now: datetime,
    limits: Limits,
    unserved: Unserved = ALL_SERVED,
) -> Iterator[NewTask]:
    """The same, each as it is asked for. `unserved`: routes that an interactive task need not wait for."""
    default = Priority.BULK if len(requests) > BULK_OVER else Priority.INTERACTIVE
    if default is Priority.INTERACTIVE and not key.may_interactive:
        default = Priority.BULK
    for index, request in enumerate(requests):
        yield _row(request, index, key=key, catalog=catalog, now=now, limits=limits, default=default, unserved=unserved)


def admit_line(
    request: TaskRequest, *, line: int, terms: Terms, key: Key, catalog: Catalog, now: datetime, limits: Limits
) -> NewTask:
    """The row of a batch's line. Nothing is told of it: the announcer feeds it. Raises as `admit`."""
    return _row(request, line, key=key, catalog=catalog, now=now, limits=limits, default=terms.priority, of=terms)


def line_model(request: TaskRequest, *, via: Via, key: Key, catalog: Catalog) -> Model:
    """That a batch's line asks for. Raises as `admit`, for what concerns the model."""
    model = _allowed_model(request, key=key, catalog=catalog)
    _route(model, via, catalog=catalog)
    return model


def _row(
    request: TaskRequest,
    index: int,
    *,
    key: Key,
    catalog: Catalog,
    now: datetime,
    limits: Limits,
    default: Priority,
    of: Terms | None = None,
    unserved: Unserved = ALL_SERVED,
) -> NewTask:
    """`index`: of the list, or with `of` the batch's line."""
    model = _allowed_model(request, key=key, catalog=catalog)
    priority = _allowed_priority(request, key=key, default=default)
    start = max(request.run_after or now, now)
    waited_for = priority is Priority.INTERACTIVE and of is None and start == now
    route, mode, on_uncertain = _place(
        request, model, via=of.via if of else None, catalog=catalog, unserved=unserved if waited_for else ALL_SERVED
    )
    deadline = _deadline(request, of, start=start, limits=limits)
    # With a request_id it may be a repeat of one accepted in time: a new one expires as soon as it is queued.
    if deadline <= start and request.request_id is None and of is None:
        raise InvalidRequestError(
            "expires_at is not after the task's start", field="expires_at", allowed="a later time"
        )
    retry_until = deadline if request.retry_for_s is None else start + timedelta(seconds=request.retry_for_s)
    hinted = of is None and start == now and (priority is Priority.INTERACTIVE or index < HINTED_AT_ONCE)
    return NewTask(
        id=new_id(),
        project_id=key.project_id,
        key_id=key.id,
        custom_id=request.custom_id,
        request_id=request.request_id,
        digest=request.digest if of is None and request.request_id is not None else NO_DIGEST,
        label=request.label,
        endpoint=request.endpoint,
        model=request.model,
        route=route.id,
        lane=f"{catalog.place(route)}.{priority}",
        mode=mode,
        streamed=request.stream,
        feed=of.batch_id if of else key.project_id,
        not_before=_due(request, route, of, start=start, catalog=catalog),
        deadline=deadline,
        retry_until=min(retry_until, deadline),
        on_uncertain=on_uncertain,
        prompt_tokens_estimate=estimate_prompt_tokens(request.body),
        max_tokens=_bound(request.body.get("max_tokens")),
        created_at=now,
        announced_at=now if hinted else None,
        callback_url=_allowed_callback(request, limits.callbacks),
        assumed_max_tokens=0 if request.endpoint == "embeddings" else model.assumed_max_tokens,
        body=orjson.dumps(request.body).decode(),
        metadata=orjson.dumps(request.metadata).decode() if request.metadata else None,
        batch_id=of.batch_id if of else None,
        line=index if of else None,
    )


def _route(model: Model, via: Via | None, *, catalog: Catalog) -> Route:
    """The model's first; of a batch that runs here, the first local one."""
    if via is not Via.LOCAL:
        return model.routes[0]
    local = next((route for route in model.routes if catalog.place(route) == "local"), None)
    if local is None:
        raise InvalidRequestError(
            f"model {model.name!r} has no local route, and the batch is via local", field="model",
            allowed="a model that runs on this installation's GPUs, or via direct", code="1211",
        )  # fmt: skip
    return local


def _place(
    request: TaskRequest, model: Model, *, via: Via | None, catalog: Catalog, unserved: Unserved
) -> tuple[Route, Mode, OnUncertain]:
    """Where a task begins, and how it is asked there. While nobody is there to run it on its model's first route it is
    where the beat would send it seconds later."""
    route = _route(model, via, catalog=catalog)
    mode, on_uncertain = _mode(request, route, catalog=catalog), request.on_uncertain or route.on_uncertain
    step = fallbacks.after_pause(model, route.id, stuck=unserved.stuck) if route.id in unserved.absent else None
    if step is None:
        return route, mode, on_uncertain
    mode = fallbacks.mode_on(step.route, catalog=catalog, endpoint=request.endpoint, streamed=request.stream)
    return step.route, mode, fallbacks.stricter(on_uncertain, step.route.on_uncertain)


def _due(request: TaskRequest, route: Route, of: Terms | None, *, start: datetime, catalog: Catalog) -> datetime:
    """What is bought by the upstream's own batches is not due here: it is when it comes back without an answer."""
    if of is not None and of.via is Via.UPSTREAM_BATCH and can_be_batched(request, route, catalog=catalog):
        return of.expires_at
    return start


def _deadline(request: TaskRequest, of: Terms | None, *, start: datetime, limits: Limits) -> datetime:
    if of is not None:
        return of.expires_at
    return request.expires_at or start + timedelta(seconds=request.timeout_s or limits.task_timeout_s)


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

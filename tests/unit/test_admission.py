from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest

from tollgate.domain.admission import BULK_OVER, HINTED_AT_ONCE, Limits, admit, admit_line
from tollgate.domain.batches import Terms, Via
from tollgate.domain.errors import InvalidRequestError, PermissionDeniedError, UnknownModelError
from tollgate.domain.reach import Unserved
from tollgate.domain.routing import Catalog, Model, Route, UpstreamSpec
from tollgate.domain.states import OnUncertain, Priority, Role
from tollgate.domain.tasks import Key, NewTask, TaskRequest

NOW = datetime(2026, 3, 1, tzinfo=UTC)
CATALOG = Catalog(
    upstreams={
        "zhipu": UpstreamSpec(name="zhipu", kind="zhipu"),
        "gpu": UpstreamSpec(name="gpu", kind="local"),
        "vllm": UpstreamSpec(name="vllm", kind="openai"),
    },
    models={
        "glm": Model(
            name="glm",
            routes=(Route(upstream="zhipu", model="glm-4.7"), Route(upstream="vllm", model="glm")),
            max_output_tokens=100,
            aliases=("chat",),
        ),
        "careful": Model(name="careful", routes=(Route(upstream="vllm", model="m", on_uncertain=OnUncertain.FAIL),)),
        "both": Model(
            name="both",
            routes=(
                Route(upstream="gpu", model="m"),
                Route(upstream="zhipu", model="glm-4.7", mode="async", on_uncertain=OnUncertain.FAIL),
            ),
        ),
        "mine": Model(
            name="mine",
            routes=(Route(upstream="gpu", model="m"), Route(upstream="zhipu", model="glm-4.7")),
            fallback_on=frozenset(),
        ),
        "own": Model(name="own", routes=(Route(upstream="gpu", model="m"),)),
        "vectors": Model(
            name="vectors", routes=(Route(upstream="zhipu", model="v"),), endpoints=frozenset({"embeddings"})
        ),
    },
)
KEY = Key(id="k", project_id=UUID(int=1), project="p", name="n", role=Role.USER)
BULK_KEY = Key(id="b", project_id=UUID(int=1), project="p", name="n", role=Role.USER, may_interactive=False)


def request(model: str = "glm", **changes: Any) -> TaskRequest:
    body = {"model": model, "messages": [{"role": "user", "content": "hi"}], **changes.pop("body", {})}
    return TaskRequest(model=model, body=body, **changes)


def admitted(*requests: TaskRequest, key: Key = KEY) -> tuple[NewTask, ...]:
    return admit(requests, key=key, catalog=CATALOG, now=NOW, limits=Limits(task_timeout_s=3600))


def one(model: str = "glm", *, key: Key = KEY, **changes: Any) -> NewTask:
    (task,) = admitted(request(model, **changes), key=key)
    return task


def test_a_task_goes_by_the_first_route_of_its_model() -> None:
    task = one("chat")
    assert (task.model, task.route, task.lane) == ("chat", "zhipu/glm-4.7", "cloud.interactive")
    assert (task.project_id, task.key_id) == (KEY.project_id, "k")


@pytest.mark.parametrize(("model", "lane"), [("own", "local.interactive"), ("careful", "cloud.interactive")])
def test_only_a_workers_own_model_is_local(model: str, lane: str) -> None:
    assert one(model).lane == lane


def placed(model: str, unserved: Unserved, **changes: Any) -> NewTask:
    asked = [request(model, **changes)]
    (task,) = admit(asked, key=KEY, catalog=CATALOG, now=NOW, limits=Limits(), unserved=unserved)
    return task


NO_GPU = Unserved(absent={"gpu/m"}, stuck={"gpu/m"})


def test_what_somebody_waits_for_begins_where_somebody_is() -> None:
    """As the beat would send it there, seconds later."""
    task = placed("both", NO_GPU)
    assert (task.route, task.lane, task.mode) == ("zhipu/glm-4.7", "cloud.interactive", "async")
    assert task.on_uncertain is OnUncertain.FAIL
    assert placed("both", NO_GPU, stream=True).mode == "direct"


@pytest.mark.parametrize(
    ("model", "unserved", "changes"),
    [
        ("both", Unserved(), {}),
        ("both", Unserved(stuck={"gpu/m"}), {}),
        ("both", Unserved(absent={"gpu/m"}, stuck={"gpu/m", "zhipu/glm-4.7"}), {}),
        ("both", NO_GPU, {"priority": Priority.BULK}),
        ("both", NO_GPU, {"run_after": NOW + timedelta(hours=1)}),
        ("own", NO_GPU, {}),
        ("mine", NO_GPU, {}),
    ],
    ids=["served", "down", "nobody anywhere", "bulk", "later", "nowhere else", "never elsewhere"],
)
def test_else_a_task_begins_with_its_models_first_route(model: str, unserved: Unserved, changes: Any) -> None:
    task = placed(model, unserved, **changes)
    assert (task.route, task.lane.partition(".")[0], task.mode) == ("gpu/m", "local", "direct")


def test_a_line_via_local_stays_local_and_one_of_a_model_without_such_a_route_is_refused() -> None:
    terms = Terms(batch_id=UUID(int=7), priority=Priority.BULK, via=Via.LOCAL, expires_at=NOW + timedelta(days=1))
    given: dict[str, Any] = {"line": 1, "terms": terms, "key": KEY, "catalog": CATALOG, "now": NOW, "limits": Limits()}
    assert admit_line(request("both"), **given).route == "gpu/m"
    with pytest.raises(InvalidRequestError, match="no local route"):
        admit_line(request("glm"), **given)


@pytest.mark.parametrize(("count", "lane"), [(BULK_OVER, "cloud.interactive"), (BULK_OVER + 1, "cloud.bulk")])
def test_a_long_list_is_bulk(count: int, lane: str) -> None:
    assert {task.lane for task in admitted(*[request()] * count)} == {lane}


@pytest.mark.parametrize("priority", Priority)
def test_a_request_may_choose_its_priority(priority: Priority) -> None:
    tasks = admitted(*[request(priority=priority)] * (BULK_OVER + 1))
    assert {task.lane for task in tasks} == {f"cloud.{priority}"}


def test_a_key_without_the_right_is_bulk_and_may_not_say_otherwise() -> None:
    assert one(key=BULK_KEY).lane == "cloud.bulk"
    with pytest.raises(PermissionDeniedError, match="interactive"):
        one(key=BULK_KEY, priority=Priority.INTERACTIVE)


def test_a_list_may_have_the_same_body_many_times() -> None:
    tasks = admitted(request(), request())
    assert tasks[0].id < tasks[1].id
    assert tasks[0].digest == tasks[1].digest


def test_times_follow_from_now_and_the_limits() -> None:
    task = one()
    assert (task.created_at, task.not_before) == (NOW, NOW)
    assert task.deadline == task.retry_until == NOW + timedelta(hours=1)


def test_the_time_of_a_later_start_counts_from_there() -> None:
    start = NOW + timedelta(days=2)
    task = one(run_after=start, retry_for_s=60)
    assert (task.not_before, task.deadline) == (start, start + timedelta(hours=1))
    assert task.retry_until == start + timedelta(minutes=1)


def test_a_start_in_the_past_is_now() -> None:
    assert one(run_after=NOW - timedelta(days=1)).not_before == NOW


def test_no_retry_outlasts_the_deadline() -> None:
    task = one(expires_at=NOW + timedelta(seconds=5), retry_for_s=60)
    assert task.deadline == task.retry_until == NOW + timedelta(seconds=5)


@pytest.mark.parametrize("late_s", [0, 1])
def test_a_task_must_start_before_it_expires(late_s: int) -> None:
    start = NOW + timedelta(hours=1)
    with pytest.raises(InvalidRequestError) as caught:
        one(run_after=start, expires_at=start - timedelta(seconds=late_s))
    assert caught.value.field == "expires_at"


def test_an_interactive_task_is_hinted_with_its_commit() -> None:
    assert one().announced_at == NOW


def test_a_task_that_starts_later_is_not_hinted() -> None:
    assert one(run_after=NOW + timedelta(seconds=1)).announced_at is None


def test_only_the_head_of_a_bulk_list_is_hinted() -> None:
    tasks = admitted(*[request()] * (HINTED_AT_ONCE + 10))
    assert [task.announced_at for task in tasks] == [NOW] * HINTED_AT_ONCE + [None] * 10


@pytest.mark.parametrize(
    ("model", "asked", "expected"),
    [
        ("glm", None, OnUncertain.RETRY),
        ("glm", OnUncertain.FAIL, OnUncertain.FAIL),
        ("careful", None, OnUncertain.FAIL),
        ("careful", OnUncertain.RETRY, OnUncertain.RETRY),
    ],
)
def test_the_task_decides_about_doubt_before_its_route(
    model: str, asked: OnUncertain | None, expected: OnUncertain
) -> None:
    assert one(model, on_uncertain=asked).on_uncertain is expected


@pytest.mark.parametrize(
    ("given", "kept"), [(7, 7), (None, None), (2**62, 2**31 - 1), (True, None), ("7", None), (1.5, None)]
)
def test_what_is_kept_of_max_tokens_fits_its_column(given: object, kept: int | None) -> None:
    assert one("careful", body={"max_tokens": given}).max_tokens == kept


def test_max_tokens_over_the_models_limit_are_refused() -> None:
    assert one(body={"max_tokens": 100}).max_tokens == 100
    with pytest.raises(InvalidRequestError, match="max_tokens") as caught:
        one(body={"max_tokens": 101})
    assert caught.value.allowed == "an integer from 1 to 100"


def test_an_unknown_model_is_refused() -> None:
    with pytest.raises(UnknownModelError):
        one("nothing")


def test_a_key_uses_its_own_models_only() -> None:
    key = Key(id="k", project_id=UUID(int=1), project="p", name="n", role=Role.USER, models=frozenset({"own"}))
    assert one("own", key=key).model == "own"
    with pytest.raises(PermissionDeniedError, match="own"):
        one("glm", key=key)


@pytest.mark.parametrize(("model", "endpoint"), [("glm", "embeddings"), ("vectors", "chat")])
def test_a_model_serves_its_endpoints_only(model: str, endpoint: str) -> None:
    with pytest.raises(InvalidRequestError) as caught:
        one(model, endpoint=endpoint)
    assert (caught.value.field, caught.value.code) == ("model", "1212")


def test_one_bad_request_refuses_the_whole_list() -> None:
    with pytest.raises(UnknownModelError):
        admitted(request(), request("nothing"))


def test_body_and_metadata_are_kept_as_json() -> None:
    task = one(metadata={"a": "你"})
    assert task.metadata == '{"a":"你"}'
    assert task.body == '{"model":"glm","messages":[{"role":"user","content":"hi"}]}'
    assert one().metadata is None


@pytest.mark.parametrize(
    ("changes", "same"),
    [
        ({"body": {"temperature": 1}}, False),
        ({"custom_id": "c"}, False),
        ({"label": "l"}, False),
        ({"metadata": {"a": 1}}, False),
        ({"priority": Priority.BULK}, False),
        ({"run_after": NOW}, False),
        ({"expires_at": NOW}, False),
        ({"on_uncertain": OnUncertain.FAIL}, False),
        ({"retry_for_s": 1.0}, True),
        ({"timeout_s": 1.0}, True),
        ({"request_id": "r"}, True),
    ],
)
def test_the_digest_is_all_that_the_client_said_and_nothing_of_the_gateways(
    changes: dict[str, Any], same: bool
) -> None:
    assert (request(**changes).digest == request().digest) is same


def test_the_digest_does_not_depend_on_the_order_of_fields() -> None:
    one_way = TaskRequest(model="m", body={"a": 1, "b": {"c": 2, "d": 3}})
    other_way = TaskRequest(model="m", body={"b": {"d": 3, "c": 2}, "a": 1})
    assert one_way.digest == other_way.digest


def test_an_embedding_is_not_expected_to_write_anything() -> None:
    asked = request("vectors", endpoint="embeddings")
    (task,) = admitted(asked)
    assert task.most_tokens == task.prompt_tokens_estimate

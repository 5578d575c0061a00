"""The main job, through real processes and the unmodified zhipuai SDK, in both ways to run Tollgate."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import zhipuai
from zhipuai.types.chat.async_chat_completion import AsyncCompletion

from tests.acceptance.conftest import Deployment

MESSAGES = [{"role": "user", "content": "What is a tollgate?"}]
FAULTS = {"rate_limit": 0.10, "server_error": 0.02, "garbage": 0.01}


def sdk(deployment: Deployment, **options: Any) -> zhipuai.ZhipuAI:
    return zhipuai.ZhipuAI(api_key=deployment.key, base_url=f"{deployment.url}/api/paas/v4", **options)


def wait_until_ended(deployment: Deployment, ids: list[str]) -> list[Any]:
    """Poll many at once, with `wait`, as a batch of a user's would."""
    ended: dict[str, Any] = {}
    while len(ended) < len(ids):
        asked = [i for i in ids if i not in ended][:1000]
        listed = deployment.get("/tasks", id=",".join(asked), wait=20)
        assert listed["missing"] == []
        ended |= {task["id"]: task for task in listed["data"] if task["status"] != "PROCESSING"}
    return [ended[i] for i in ids]


def test_the_sdk_submits_asynchronously_and_polls_to_success(deployment: Deployment) -> None:
    with sdk(deployment) as client:
        submitted = client.chat.asyncCompletions.create(model="glm-4-air", messages=MESSAGES)
        assert submitted.task_status == "PROCESSING"
        deployment.get(f"/tasks/{submitted.id}", wait=20)
        result = client.chat.asyncCompletions.retrieve_completion_result(id=submitted.id)
    assert isinstance(result, AsyncCompletion)
    assert result.task_status == "SUCCESS"
    assert result.id == submitted.id
    assert result.choices[0].message.content
    assert result.usage.total_tokens > 0


def test_the_sdk_calls_synchronously_by_key_and_by_jwt(deployment: Deployment) -> None:
    for by_key in (True, False):
        with sdk(deployment, disable_token_cache=by_key) as client:
            answer = client.chat.completions.create(model="glm-4-air", messages=MESSAGES)
        assert answer.choices[0].message.content
        shown = deployment.get(f"/tasks/{answer.id}")
        assert shown["result"]["usage"]["total_tokens"] == answer.usage.total_tokens


def test_the_sdk_raises_what_its_users_catch(deployment: Deployment) -> None:
    with sdk(deployment, max_retries=0) as client:
        with pytest.raises(zhipuai.APIRequestFailedError):
            client.chat.completions.create(model="no-such-model", messages=MESSAGES)
        with pytest.raises(zhipuai.APIStatusError):
            client.chat.asyncCompletions.retrieve_completion_result(id="00000000-0000-7000-8000-000000000000")
    wrong = deployment.key.partition(".")[0] + "." + "0" * 32
    with (
        zhipuai.ZhipuAI(api_key=wrong, base_url=f"{deployment.url}/api/paas/v4", max_retries=0) as client,
        pytest.raises(zhipuai.APIAuthenticationError),
    ):
        client.chat.completions.create(model="glm-4-air", messages=MESSAGES)


@pytest.mark.timeout(300)
def test_a_thousand_tasks_cost_what_the_upstream_billed_to_the_last_unit(deployment: Deployment) -> None:
    """10 % of the calls are refused (429/1302), 2 % fail (500), 1 % answer garbage; none of these is billed here."""
    deployment.set_simulator(faults=FAULTS, seed=7)
    models = ("glm-4-air", "glm-4.7", "glm-4-plus")
    given = [{"model": models[i % 3], "prompt": f"Label text number {i}. " * (i % 7 + 1)} for i in range(1000)]
    ids = [task["id"] for task in deployment.post("/tasks", given[:900])["data"]]
    with ThreadPoolExecutor(8) as pool:
        ids += [task["id"] for task in pool.map(lambda one: deployment.post("/tasks", one), given[900:])]
    ended = wait_until_ended(deployment, ids)

    bill = deployment.bill()
    usage = deployment.get("/usage", by="model")
    assert [task["status"] for task in ended] == ["SUCCESS"] * 1000
    assert usage["total"]["tasks_succeeded"] == 1000
    assert bill["charges"] == 1000
    for name in ("prompt_tokens", "cached_tokens", "completion_tokens", "cost"):
        assert usage["total"][name] == bill[name], name
        by_model = {row["model"]: row[name] for row in usage["data"]}
        assert by_model == {model: counted[name] for model, counted in bill["by_model"].items()}, name
    assert usage["total"]["attempts_uncertain"] > 0, "the 500s and the garbage may have been billed: they are shown"
    assert sum(task["tries"] for task in ended) > 50, "the faults were there"
    for process in deployment.processes.started:
        assert "Label text" not in process.output, "prompts are never logged"
        assert "Simulated answer" not in process.output, "answers are never logged"


def test_a_request_id_makes_one_task_however_often_it_is_sent(deployment: Deployment) -> None:
    one = {"model": "glm-4-air", "prompt": "once", "request_id": "order-0001"}
    with ThreadPoolExecutor(8) as pool:
        ids = set(pool.map(lambda _: deployment.post("/tasks", one, status=None)["id"], range(16)))
    (task,) = wait_until_ended(deployment, list(ids))
    assert deployment.post("/tasks", one, status=200)["id"] == task["id"]
    conflict = deployment.post("/tasks", {**one, "prompt": "another"}, status=409)
    assert conflict["error"]["task_id"] == task["id"]
    assert deployment.bill()["charges"] == 1

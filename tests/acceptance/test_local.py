"""A model on one's own device behind real processes: the SDKs, the accounts, and what becomes of it all at a stop."""

from __future__ import annotations

import contextlib
import json
import sqlite3
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import openai
import pytest

from tests.acceptance.conftest import MASTER_KEY, Deployment
from tests.acceptance.processes import START_S, Process, Processes
from tests.acceptance.test_clients import by_zai, by_zhipuai, by_zhipuai_1
from tests.worker.local import models

MODEL = "tiny-glm"
MESSAGES: Any = [{"role": "user", "content": "你好 hello"}]
GREEDY: dict[str, Any] = {"model": MODEL, "messages": MESSAGES, "max_tokens": 24}
LONG: dict[str, Any] = {**GREEDY, "max_tokens": 1_900, "temperature": 0}
MODELS = """
[[upstream]]
name = "local"
kind = "local"

[[model]]
name = "tiny-glm"
routes = ["local/tiny-glm"]
"""
PRICES = """
currency = "CNY"

[[price]]
upstream = "local"
model = "tiny-glm"
valid_from = 2024-01-01
input = "1"
output = "3"
"""
TOLLGATE = ("tollgate",)
NEVER = 1_000_000
"""A token that is not in the vocabulary."""
BREAKING = ("python", "-m", "tests.acceptance.breaking_up")


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Its answers are the likeliest ones, and go on until they are as long as they may be."""
    folder = models.checkpoint(tmp_path_factory.mktemp("checkpoints") / MODEL)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [NEVER], "do_sample": False}))
    return folder


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> dict[str, str]:
    prices = tmp_path_factory.mktemp("prices") / "prices.toml"
    prices.write_text(PRICES)
    return {
        "TOLLGATE_PRICES_FILE": str(prices),
        "TOLLGATE_LOCAL_THREADS": "1",
        "TOLLGATE_LOCAL_SLOTS": "8",
        "TOLLGATE_MODEL": str(checkpoint),
    }


def start_up(processes: Processes, environment: dict[str, str], *, command: tuple[str, ...] = TOLLGATE) -> Deployment:
    """`tollgate up` with the model; once more on the same data where there was one before."""
    environment = {**environment, "TOLLGATE_DATA": str(processes.folder / "data")}
    server = processes.start(*command, "up", "--port", "0", environment=environment)
    url = server.wait_for(r"Tollgate serves on (http://\S+)").group(1)
    return deployment_of(server, url, (processes.folder / "data" / "admin.key").read_text().strip(), processes)


def deployment_of(server: Process, url: str, key: str, processes: Processes) -> Deployment:
    return Deployment(url=url, key=key, processes=processes, environment={}, server=server, simulator_url="none")


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory, environment: dict[str, str]) -> Iterator[Deployment]:
    """One for all tests that only talk to it."""
    processes = Processes(tmp_path_factory.mktemp("up"))
    try:
        yield start_up(processes, environment)
    finally:
        assert list(processes.stop_all()) == [0]


@pytest.fixture
def distributed_local(
    processes: Processes, environment: dict[str, str], empty_postgres_url: str, redis_url: str
) -> Deployment:
    """Gateway, and `tollgate worker --lanes local --model`."""
    models_file = processes.folder / "models.toml"
    models_file.write_text(MODELS)
    checkpoint = environment["TOLLGATE_MODEL"]
    environment = {
        **{name: value for name, value in environment.items() if name != "TOLLGATE_MODEL"},
        "TOLLGATE_DATABASE_URL": empty_postgres_url,
        "TOLLGATE_REDIS_URL": redis_url,
        "TOLLGATE_MASTER_KEY": MASTER_KEY,
        "TOLLGATE_MODELS_FILE": str(models_file),
    }
    assert processes.run("tollgate", "migrate", environment=environment).returncode == 0
    command = ("keys", "create", "--project", "default", "--role", "admin", "--json")
    made = processes.run("tollgate", *command, environment=environment)
    worker = processes.start("tollgate", "worker", "--lanes", "local", "--model", checkpoint, environment=environment)
    server = processes.start("tollgate", "gateway", "--port", "0", environment=environment)
    url = server.wait_for(r"serves on (http://\S+)").group(1)
    worker.wait_for("the local model is loaded")
    return deployment_of(server, url, json.loads(made.stdout)["key"], processes)


def by_openai(deployment: Deployment) -> Iterator[tuple[str, int]]:
    with openai.OpenAI(api_key=deployment.key, base_url=f"{deployment.url}/v1", max_retries=0) as client:
        create: Any = client.chat.completions.create
        whole = create(**GREEDY)
        yield whole.choices[0].message.content, whole.usage.total_tokens
        chunks = list(create(**GREEDY, stream=True, stream_options={"include_usage": True}))
        assert len(chunks) > 3
        yield "".join(c.choices[0].delta.content or "" for c in chunks if c.choices), chunks[-1].usage.total_tokens


def by_all(deployment: Deployment) -> Iterator[tuple[str, int]]:
    yield from by_openai(deployment)
    for sdk in (by_zhipuai, by_zai, by_zhipuai_1):
        yield from sdk(deployment, GREEDY)


def check_accounts(local: Deployment, answers: list[tuple[str, int]]) -> None:
    """One text, and its tokens and cost to the last unit."""
    assert len({text for text, _ in answers}) == 1
    total = local.get("/usage")["total"]
    tokens = total["prompt_tokens"] + total["completion_tokens"]
    assert tokens == sum(tokens for _, tokens in answers)
    cost = (total["prompt_tokens"] * 1 + total["completion_tokens"] * 3) / Decimal(1_000_000)
    assert (total["tasks_succeeded"], Decimal(total["cost"])) == (len(answers), cost)


def test_the_sdks_read_one_answer_whole_streamed_and_later_and_it_is_accounted_for(up: Deployment) -> None:
    check_accounts(up, list(by_all(up)))


def test_so_they_do_of_a_worker_of_the_local_lanes(distributed_local: Deployment) -> None:
    check_accounts(distributed_local, list(by_all(distributed_local)))


def test_what_the_engine_does_not_know_is_the_clients_mistake(up: Deployment) -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    with openai.OpenAI(api_key=up.key, base_url=f"{up.url}/v1", max_retries=0) as client:
        create: Any = client.chat.completions.create
        with pytest.raises(openai.BadRequestError, match="tools: the local engine does not know it"):
            create(**GREEDY, tools=tools)


def test_a_running_task_is_cancelled_and_its_tokens_are_known(up: Deployment) -> None:
    with openai.OpenAI(api_key=up.key, base_url=f"{up.url}/v1", max_retries=0) as client:
        create: Any = client.chat.completions.create
        stream = create(**LONG, stream=True)
        first = next(chunk for chunk in stream if chunk.choices and chunk.choices[0].delta.content)
        up.post(f"/tasks/{first.id}/cancel", {}, status=None)
    task = up.get(f"/tasks/{first.id}", wait=30)
    assert task["state"] == "cancelled"
    assert 0 < task["usage"]["completion_tokens"] < 1_900
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["failed"], "nothing about it is uncertain"


def long_task(local: Deployment) -> str:
    """One that runs for a second or more, and has begun."""
    task: str = local.post("/tasks", LONG)["id"]
    while local.get(f"/tasks/{task}")["state"] == "queued":
        pass
    return task


def test_what_was_killed_runs_again_and_a_stop_lets_what_runs_end(
    processes: Processes, environment: dict[str, str]
) -> None:
    local = start_up(processes, environment)
    killed = long_task(local)
    local.server.kill()
    local = start_up(processes, environment)
    task = local.get(f"/tasks/{killed}", wait=60)
    assert (task["state"], len(task["attempts"])) == ("succeeded", 2)
    long_task(local)
    assert local.server.stop() == 0
    with contextlib.closing(sqlite3.connect(processes.folder / "data" / "tollgate.db")) as database:
        assert database.execute("SELECT state, fence FROM tasks ORDER BY id").fetchall()[1] == ("succeeded", 1)


def test_a_broken_device_fails_nothing_for_good_and_the_process_starts_anew(
    processes: Processes, environment: dict[str, str]
) -> None:
    broken = processes.folder / "break"
    breaking = {**environment, "BREAK_FILE": str(broken), "PYTHONPATH": str(Path(__file__).parents[2])}
    local = start_up(processes, breaking, command=BREAKING)
    task_id = long_task(local)
    broken.touch()
    anew = r"(?s)the local engine is dead.*Tollgate serves on (http://\S+)"
    local.url = local.server.wait_for(anew, timeout_s=2 * START_S).group(1)  # a stop and a start
    task = local.get(f"/tasks/{task_id}", wait=60)
    assert task["state"] == "succeeded"
    assert [attempt["outcome"] for attempt in task["attempts"]] == ["failed", "succeeded"]
    assert "CUDA error" in task["attempts"][0]["error"]["message"]

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tests.cli.conftest import Tollgate, Up
from tests.inference_server import SGLANG_METRICS, InferenceServer
from tollgate import configuration, settings
from tollgate.cli.doctor import configured, routes, store, uploads, upstreams, workers
from tollgate.cli.doctor.report import Check
from tollgate.domain.ids import new_id
from tollgate.domain.prices import PriceTable
from tollgate.domain.reach import Stuck
from tollgate.domain.routing import Catalog, Model, Route, UpstreamSpec
from tollgate.settings import Settings
from tollgate.simulator import Simulator, SimulatorSettings
from tollgate.store import leases
from tollgate.store.database import Database
from tollgate.store.leases import RouteLoad, WorkerRow

NOW = datetime(2026, 1, 31, tzinfo=UTC)
MASTER = "a-master-key-of-the-tests-0123456789abcdef"


def by_name(report: Any) -> dict[str, Any]:
    return {check["name"]: check for check in report["checks"]}


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://user:secret@host:5432/db", "postgresql://user:***@host:5432/db"),
        ("redis://:se/cr@et@host/0", "redis://:***@host/0"),
        ("postgresql://host/db?user=u&password=secret&ssl=1", "postgresql://host/db?user=u&password=***&ssl=1"),
        ("sqlite:////data/tollgate.db", "sqlite:////data/tollgate.db"),
        ("redis://host/0", "redis://host/0"),
    ],
)
def test_a_urls_password_is_not_shown(url: str, shown: str) -> None:
    assert configured.masked_url(url) == shown


def test_every_setting_is_shown_with_its_source_and_no_secret() -> None:
    environ = {"TOLLGATE_MASTER_KEY": MASTER, "ZHIPUAI_API_KEY": "id.zhipu-secret", "TOLLGATE_LANES": "local"}
    shown = {one.variable: one for one in configured.shown(settings.load(environ, dotenv_path=Path("absent")))}
    assert len(shown) == len(settings.field_names())
    assert (shown["TOLLGATE_LANES"].value, shown["TOLLGATE_LANES"].source) == ("local", "environment")
    assert (shown["TOLLGATE_REDIS_URL"].value, shown["TOLLGATE_REDIS_URL"].source) == ("-", "default")
    assert shown["TOLLGATE_ZHIPU_API_KEY"].source == "ZHIPUAI_API_KEY"
    assert shown["TOLLGATE_MASTER_KEY"].value == "set, 42 characters"
    assert not any(secret in repr(shown) for secret in (MASTER, "zhipu-secret"))


def test_a_variable_that_nobody_reads_is_named_with_its_neighbour() -> None:
    known = configured.known_names(configuration.load_catalog(settings.load({})))
    given = [
        "TOLLGATE_REDIS_URI",
        "TOLLGATE_QQQQ",
        "TOLLGATE_URL",
        "TOLLGATE_ZHIPU_BASE_URL",
        "TOLLGATE_TEST_X",
        "HOME",
    ]
    assert configured.unknown_names(given, known=known) == {
        "TOLLGATE_QQQQ": None,
        "TOLLGATE_REDIS_URI": "TOLLGATE_REDIS_URL",
    }


def test_a_files_folder_must_be_one_and_have_room(tmp_path: Path) -> None:
    def look(path: Path, **changes: Any) -> tuple[str, str]:
        found = uploads.check(Settings(files=path, **changes))
        return found.state, found.found

    assert look(tmp_path, max_file_bytes=1)[0] == "ok"
    state, found = look(tmp_path / "new" / "files", max_file_bytes=1)
    assert (state, "the first upload makes it" in found) == ("ok", True)
    assert not (tmp_path / "new").exists(), "a doctor changes nothing"
    assert look(tmp_path, max_file_bytes=2**60)[0] == "warn"
    (tmp_path / "file").write_text("x")
    assert look(tmp_path / "file" / "files") == ("fail", f"{tmp_path / 'file'} is no folder")


def worker(*lanes: str, seen_s: float) -> WorkerRow:
    return WorkerRow(
        id=new_id(),
        name=f"w{seen_s:g}",
        lanes=lanes,
        load={},
        heartbeat=1,
        dead=False,
        started_at=NOW,
        seen_at=NOW - timedelta(seconds=seen_s),
    )


@pytest.fixture(scope="module")
def catalog() -> Catalog:
    return configuration.load_catalog(settings.load({}))


@pytest.mark.parametrize(
    ("alive", "states"),
    [
        ([], ["fail", "fail"]),
        ([worker("cloud.bulk", seen_s=2)], ["fail", "ok"]),
        ([worker("cloud.interactive", "cloud.bulk", seen_s=99)], ["warn", "warn"]),
        ([worker("cloud.bulk", seen_s=99), worker("cloud.bulk", "cloud.interactive", seen_s=1)], ["ok", "ok"]),
    ],
)
def test_each_lane_that_is_needed_wants_a_live_worker(
    alive: list[WorkerRow], states: list[str], catalog: Catalog
) -> None:
    checks = workers.check(alive, catalog, now=NOW, advanced=None, start="tollgate worker --lanes")
    assert [(check.name, check.state) for check in checks] == list(
        zip(["worker cloud.interactive", "worker cloud.bulk"], states, strict=True)
    )


def test_a_watched_heartbeat_is_believed_whatever_the_clock_says(catalog: Catalog) -> None:
    one = worker("cloud.interactive", "cloud.bulk", seen_s=9_999)
    moving = workers.check([one], catalog, now=NOW, advanced=frozenset({one.id}), start="tollgate up")
    assert {check.state for check in moving} == {"ok"}
    still = workers.check([replace(one, seen_at=NOW)], catalog, now=NOW, advanced=frozenset(), start="tollgate up")
    assert {(check.state, check.fix) for check in still} == {("fail", "it hangs or is gone: tollgate up")}


@pytest.mark.parametrize(
    ("status", "code", "state"),
    [
        (200, None, "ok"),
        (401, "1002", "fail"),
        (401, None, "fail"),
        (429, "1113", "fail"),
        (403, None, "fail"),
        (200, "1004", "fail"),
        (404, "1222", "ok"),
        (400, "1214", "ok"),
        (429, "1302", "warn"),
        (500, None, "warn"),
        (502, None, "warn"),
        (302, None, "fail"),
    ],
)
def test_only_a_refused_credential_is_a_failure(status: int, code: str | None, state: str) -> None:
    body = json.dumps({"error": {"code": code, "message": "m"}}) if code else "<html>"
    assert upstreams.judged("u", "http://x", status=status, body=body).state == state


def test_a_stuck_route_is_told_with_why_and_what_becomes_of_the_tasks_of_each_model() -> None:
    assert routes.check([]).state == "ok"
    fates = {"both": "b/m", "one": None, "also": "b/m", "never": None}
    one = routes.check([Stuck(route="a/m", why="no worker has upstream a", fates=fates)])
    told = "nobody can call a/m (no worker has upstream a): tasks of both, also go to b/m, tasks of one, never wait"
    assert (one.state, one.found) == ("warn", told)
    assert one.fix
    both = [Stuck(route=route, why="it is down", fates={}) for route in ("a/m", "b/m")]
    assert routes.check(both).found == "nobody can call a/m (it is down); nobody can call b/m (it is down)"


async def test_a_route_is_stuck_by_what_the_workers_say_whatever_is_paused(
    database: Database, database_url: str
) -> None:
    async with database.write() as connection:
        here = new_id()
        await leases.register(connection, here, name="w", lanes=("cloud.bulk",), now=NOW)
        load = {"a/m": RouteLoad(settled=0, free=1, blocked=True), "b/m": RouteLoad(settled=0, free=1)}
        await leases.renew(connection, here, load=load, now=NOW)
    loaded = settings.load({"TOLLGATE_DATABASE_URL": database_url}, dotenv_path=Path("absent"))
    checks = {check.name: check for check in await store.check(loaded, None, slow=False)}
    assert checks["routes"].found == "nobody can call a/m (upstream a is paused, without a key, or down)"
    assert checks["pauses"].found == "no upstream is paused"


Ask = Callable[..., list[Check]]


@pytest.fixture
def zhipu(catalog: Catalog) -> Ask:
    """The doctor's question to a real simulator with these settings, in a loop of its own."""

    def ask(key: str, **changes: Any) -> list[Check]:
        async def run() -> list[Check]:
            prices = PriceTable([])
            async with Simulator(SimulatorSettings(**changes), prices=prices) as simulator:
                environ = {"TOLLGATE_ZHIPU_API_KEY": key, "TOLLGATE_ZHIPU_BASE_URL": simulator.base_url}
                loaded = settings.load(environ, dotenv_path=Path("absent"))
                checks = await asyncio.to_thread(upstreams.check, catalog, loaded)
                assert simulator.bill.cost_nano == 0
                return checks

        return asyncio.run(run())

    return ask


def test_a_good_key_is_found_good_by_zhipuais_own_sdk(zhipu: Ask) -> None:
    (check,) = zhipu("good.secret")
    assert (check.name, check.state) == ("upstream zhipu TOLLGATE_ZHIPU_API_KEY", "ok"), check


@pytest.mark.parametrize(("code", "fix"), [("1000", "set a valid key"), ("1113", "top up the account")])
def test_a_refused_key_says_what_to_do_and_is_not_shown(code: str, fix: str, zhipu: Ask) -> None:
    (check,) = zhipu("bad.secret-of-mine", refuse_keys={"bad": code})
    assert (check.state, check.fix) == ("fail", fix), check
    assert "secret-of-mine" not in repr(check)


def doctored(server: InferenceServer, *, model: str = "glm-4-9b") -> dict[str, Check]:
    """What is said of a running server that models.toml asks for `model`."""

    async def run() -> list[Check]:
        async with server:
            spec = UpstreamSpec(name="vllm", kind="openai", base_url=server.base_url)
            routed = Model(name="m", routes=(Route(upstream="vllm", model=model),))
            catalog = Catalog(upstreams={"vllm": spec}, models={"m": routed})
            return await asyncio.to_thread(upstreams.check, catalog, settings.load({}, dotenv_path=Path("absent")))

    return {check.name: check for check in asyncio.run(run())}


def test_an_inference_server_tells_its_load() -> None:
    found = doctored(InferenceServer())
    assert {check.state for check in found.values()} == {"ok"}
    assert found["load of upstream vllm"].found == "vLLM: 3 running, 1 waiting, key-value cache 42% used"


def test_one_that_has_more_than_it_can_take_is_warned_of() -> None:
    load = doctored(InferenceServer(metrics=SGLANG_METRICS))["load of upstream vllm"]
    assert (load.state, load.found) == ("warn", "SGLang: 14 running, 20 waiting, key-value cache 74% used")
    assert "max_in_flight" in load.fix


def test_one_that_tells_no_load_is_asked_no_more() -> None:
    assert set(doctored(InferenceServer(metrics=None))) == {"upstream vllm"}


def test_one_whose_engine_is_dead_fails() -> None:
    check = doctored(InferenceServer(health=503))["health of upstream vllm"]
    assert (check.state, check.found.endswith("/health says that it is not well: HTTP 503")) == ("fail", True)


def test_one_that_does_not_serve_what_is_asked_of_it_says_what_it_serves() -> None:
    check = doctored(InferenceServer(), model="zai-org/GLM-4-9B-0414")["upstream vllm"]
    assert (check.state, "it serves glm-4-9b" in check.found) == ("warn", True)
    assert "--served-model-name" in check.fix


def test_an_upstream_that_is_away_fails_soon(catalog: Catalog) -> None:
    environ = {"TOLLGATE_ZHIPU_API_KEY": "a.b", "TOLLGATE_ZHIPU_BASE_URL": "http://127.0.0.1:9/v4"}
    (check,) = upstreams.check(catalog, settings.load(environ, dotenv_path=Path("absent")))
    assert (check.state, check.fix) == ("fail", "is the address right, and the network open?")


def test_a_running_installation_is_healthy(up: Up, tollgate: Tollgate) -> None:
    ended = tollgate("doctor", "--json", TOLLGATE_DATA=str(up.data))
    assert ended.code == 0, ended.stdout
    checks = by_name(ended.json)
    assert ended.json["ok"]
    assert {name for name, check in checks.items() if check["state"] != "ok"} == {"upstream zhipu"}
    assert "on the simulator" in checks["gateway"]["found"]
    assert checks["client key"]["found"] == f"the key of {up.data} is accepted"


def test_the_tables_say_the_same(up: Up, tollgate: Tollgate) -> None:
    shown = tollgate("doctor", "--slow", TOLLGATE_DATA=str(up.data)).stdout
    assert "heartbeat moves" in shown
    assert shown.rstrip().endswith("1 warning, 0 failed")
    assert (up.data / "admin.key").read_text().strip() not in shown


def test_an_empty_folder_is_told_how_to_begin_and_stays_empty(tollgate: Tollgate, tmp_path: Path) -> None:
    ended = tollgate("doctor", "--json", TOLLGATE_URL="http://127.0.0.1:9", TOLLGATE_REDIS_URI="redis://x")
    assert ended.code == 1
    checks = by_name(ended.json)
    assert "did you mean TOLLGATE_REDIS_URL?" in checks["settings"]["fix"]
    assert (checks["database"]["state"], checks["gateway"]["state"]) == ("warn", "fail")
    assert list(tmp_path.iterdir()) == []


def test_a_wrong_setting_is_a_check_not_a_crash(tollgate: Tollgate) -> None:
    ended = tollgate("doctor", "--json", TOLLGATE_DATABASE_POOL="many", TOLLGATE_URL="http://127.0.0.1:9")
    assert ended.code == 1
    assert "TOLLGATE_DATABASE_POOL" in by_name(ended.json)["settings"]["found"]


def test_a_distributed_installation_without_a_worker(tollgate: Tollgate, postgres_url: str, redis_url: str) -> None:
    environ = {"TOLLGATE_DATABASE_URL": postgres_url, "TOLLGATE_REDIS_URL": redis_url, "TOLLGATE_MASTER_KEY": MASTER}
    ended = tollgate("doctor", "--json", **environ, TOLLGATE_URL="http://127.0.0.1:9")
    states = {name: check["state"] for name, check in by_name(ended.json).items()}
    assert states | {"broker": "ok", "event bus": "ok", "migrations": "ok", "master key": "warn"} == states
    assert by_name(ended.json)["worker cloud.bulk"]["fix"] == "tollgate worker --lanes cloud"


def test_a_broker_that_accepts_and_never_answers_is_given_up_soon(tollgate: Tollgate, sqlite_url: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"redis://:pw-secret@127.0.0.1:{silent.getsockname()[1]}/0"
        environ = {"TOLLGATE_DATABASE_URL": sqlite_url, "TOLLGATE_REDIS_URL": url, "TOLLGATE_MASTER_KEY": MASTER}
        ended = tollgate("doctor", "--json", **environ, TOLLGATE_URL="http://127.0.0.1:9")
    checks = by_name(ended.json)
    assert (checks["broker"]["state"], checks["event bus"]["state"]) == ("fail", "fail")
    assert "pw-secret" not in ended.stdout

"""keys, projects, prices, models: on a database of each kind, without a server."""

from __future__ import annotations

import re
import stat
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.cli.conftest import Tollgate
from tollgate.cli.data_folder import DataFolder

MASTER = "a-master-key-of-the-tests-0123456789abcdef"


@pytest.fixture
def on_database(tollgate: Tollgate, database_url: str) -> Tollgate:
    return lambda *arguments, **more: tollgate(
        *arguments, **{"TOLLGATE_DATABASE_URL": database_url, "TOLLGATE_MASTER_KEY": MASTER, **more}
    )


def test_a_key_is_printed_once_and_alone_on_stdout(on_database: Tollgate) -> None:
    made = on_database("keys", "create", "--project", "search")
    assert made.code == 0, made.stderr
    assert re.fullmatch(r"[0-9a-f]{32}\.[0-9a-f]{32}\n", made.stdout)
    listed = on_database("keys", "list", "--json")
    secret = made.stdout.strip().partition(".")[2]
    assert secret not in listed.stdout + listed.stderr
    assert [(key["project"], key["role"], key["models"]) for key in listed.json] == [("search", "user", None)]


def test_a_key_is_made_with_what_is_asked(on_database: Tollgate) -> None:
    options = ("--name", "alice", "--role", "admin", "--models", "glm-4-flash,glm-4-air", "--expires", "30d", "--json")
    made = on_database("keys", "create", "--project", "运维", *options).json
    assert made["key"].startswith(made["id"] + ".")
    assert (made["project"], made["name"], made["role"]) == ("运维", "alice", "admin")
    assert made["models"] == ["glm-4-air", "glm-4-flash"]
    left = datetime.fromisoformat(made["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=29, hours=23) < left <= timedelta(days=30)


def test_a_project_is_made_once_and_counts_its_active_keys(on_database: Tollgate) -> None:
    first = on_database("keys", "create", "--project", "search", "--json").json
    on_database("keys", "create", "--project", "search")
    on_database("keys", "create", "--project", "other")
    assert on_database("keys", "revoke", first["key"]).stdout == f"key {first['id']} is revoked\n"
    found = on_database("projects", "--json").json
    assert [(one["name"], one["active_keys"]) for one in found] == [("other", 1), ("search", 1)]
    table = on_database("keys", "list", "--project", "search").stdout
    assert (table.count("revoked"), table.count("active")) == (1, 1)


def test_what_a_project_keeps_is_set_and_listed(on_database: Tollgate) -> None:
    on_database("keys", "create", "--project", "search")
    done = on_database("projects", "set", "search", "--keep-prompts", "30d", "--keep-results", "36h")
    assert (done.code, done.stdout) == (0, "project search keeps prompts for 30d and results for 36h\n"), done.stderr
    changed = on_database("projects", "set", "search", "--keep-results", "forever", "--json").json
    assert (changed["keep_prompts"], changed["keep_results"]) == ("30d", None)
    (listed,) = on_database("projects", "--json").json
    assert listed == {**changed, "active_keys": 1}
    assert re.search(r"search\b.*\b30d\b.*\bforever\b", on_database("projects").stdout)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["search"], "give --keep-prompts or --keep-results"),
        (["search", "--keep-prompts", "30"], "write hours or days, from '1h' to '3650d', or forever"),
        (["nobody", "--keep-prompts", "30d"], "no project 'nobody'"),
    ],
)
def test_what_a_project_cannot_keep_is_told(on_database: Tollgate, arguments: list[str], told: str) -> None:
    refused = on_database("projects", "set", *arguments)
    assert refused.code != 0
    assert told in " ".join(refused.stderr.replace("│", " ").split())


def test_an_unknown_key_or_project_is_an_error(on_database: Tollgate) -> None:
    assert on_database("keys", "revoke", "nobody").stderr == "tollgate: no key 'nobody'\n"
    assert on_database("keys", "list", "--project", "nobody").code == 1


def test_another_master_key_makes_no_key(on_database: Tollgate) -> None:
    on_database("keys", "create", "--project", "search")
    refused = on_database("keys", "create", "--project", "search", TOLLGATE_MASTER_KEY=MASTER[::-1])
    assert (refused.code, refused.stdout) == (2, "")
    assert "TOLLGATE_MASTER_KEY is not the one" in refused.stderr
    assert len(on_database("keys", "list", "--json").json) == 1


def test_a_database_without_tables_says_to_migrate(tollgate: Tollgate, tmp_path: Path) -> None:
    ended = tollgate("keys", "list", TOLLGATE_DATABASE_URL=f"sqlite:///{tmp_path}/empty.db")
    assert ended.code == 2
    assert "tollgate migrate" in ended.stderr


def test_a_database_that_is_away_is_exit_code_3(tollgate: Tollgate) -> None:
    ended = tollgate("projects", TOLLGATE_DATABASE_URL="postgresql://nobody:pw-secret@127.0.0.1:9/none")
    assert ended.code == 3
    assert "the database does not answer" in ended.stderr
    assert "pw-secret" not in ended.stderr


def test_a_shared_database_is_not_given_a_folders_new_master_key(tollgate: Tollgate, database_url: str) -> None:
    ended = tollgate("keys", "create", "--project", "search", TOLLGATE_DATABASE_URL=database_url)
    assert ended.code == 2
    assert "there is no master key" in ended.stderr


def test_the_folders_own_database_gets_a_master_key(tollgate: Tollgate, tmp_path: Path) -> None:
    assert tollgate("migrate").code == 0
    assert tollgate("keys", "create", "--project", "search").code == 0
    folder = DataFolder(tmp_path / ".tollgate")
    assert folder.master_key()
    assert stat.S_IMODE((folder.path / "master.key").stat().st_mode) == 0o600


PRICES = """
[[price]]
upstream = "zhipu"
model = "glm-4-air"
valid_from = 2025-01-01
input = "7"
output = "9"
"""


def test_a_published_price_is_in_force_and_published_once(on_database: Tollgate, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(PRICES)
    assert "1 price for 1 model in CNY" in on_database("prices", "check", "mine.toml").stdout
    assert on_database("prices", "publish").code == 0
    assert on_database("prices", "publish", "mine.toml").stdout.startswith("1 new price version published")
    assert on_database("prices", "publish", "mine.toml").stdout.startswith(
        "0 new price versions published, 1 known before"
    )
    (air,) = [price for price in on_database("prices", "--json").json if price["model"] == "glm-4-air"]
    assert air["tiers"] == [{"name": "flat", "input": "7", "output": "9", "cached": "7"}]
    offline = on_database("prices", "--offline", "--json").json
    assert [price["tiers"][0]["input"] for price in offline if price["model"] == "glm-4-air"] == ["0.5"]


def test_a_bad_price_file_says_where(tollgate: Tollgate, tmp_path: Path) -> None:
    (tmp_path / "bad.toml").write_text(PRICES.replace("input", "imput"))
    ended = tollgate("prices", "check", "bad.toml")
    assert ended.code == 2
    assert "bad.toml: price 1 (glm-4-air): unknown key 'imput'" in ended.stderr


def test_the_price_table_names_the_currency_and_the_tiers(tollgate: Tollgate) -> None:
    shown = tollgate("prices", "--offline").stdout
    assert "CNY per million tokens" in shown
    assert re.search(r"zhipu/glm-4-flash +flat +free +free +free", shown)
    assert "prompt 32000+" in shown


BY_THE_SECOND = """
[[price]]
upstream = "gpu"
model = "glm-4-9b"
valid_from = 2025-01-01
engine_second = "0.0025"
tokens_per_second = 1500
"""
GPU = '[[upstream]]\nname = "gpu"\nkind = "local"\n[[model]]\nname = "mine"\nroutes = ["gpu/glm-4-9b"]\n'


def test_a_price_by_the_second_is_checked_published_and_shown(on_database: Tollgate, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(BY_THE_SECOND)
    (tmp_path / "models.toml").write_text(GPU)
    files = {"TOLLGATE_MODELS_FILE": str(tmp_path / "models.toml"), "TOLLGATE_PRICES_FILE": str(tmp_path / "mine.toml")}
    assert "1 price for 1 model in CNY" in on_database("prices", "check", **files).stdout
    assert on_database("models", "check", **files).stdout.splitlines() == ["1 model, 1 upstream, 1 price: good"]
    assert on_database("prices", "publish", **files).stdout.startswith("1 new price version published")
    (price,) = on_database("prices", "--json", **files).json
    engine = {"second": "0.0025", "tokens_per_second": 1_500, "alone_tokens_per_second": 150}
    assert (price["tiers"], price["engine"]) == ([], engine)
    assert re.search(r"gpu/glm-4-9b +0\.0025 a second of the engine +-", on_database("prices", **files).stdout)
    (model,) = on_database("models", "list", "--offline", "--json", **files).json
    assert model["price"] == {"currency": "CNY", "tiers": [], "engine": engine}
    assert re.search(r"mine +chat +gpu/glm-4-9b +0\.0025/s", on_database("models", "list", "--offline", **files).stdout)


def test_a_price_by_the_second_of_what_tells_no_time_is_named(tollgate: Tollgate, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(GPU.replace('kind = "local"', 'kind = "openai"\nbase_url = "http://x/v1"'))
    (tmp_path / "mine.toml").write_text(BY_THE_SECOND)
    told = tollgate("models", "check", "models.toml", "--prices", "mine.toml").stdout.splitlines()[1]
    assert told.startswith("by the second, but not local: gpu/glm-4-9b (it tells no time of its engine")


def test_models_without_price_or_key_are_named(tollgate: Tollgate, tmp_path: Path) -> None:
    (tmp_path / "models.toml").write_text(
        '[[upstream]]\nname = "zhipu"\nkind = "zhipu"\nbase_url = "https://x/v4"\nkeys = ["TOLLGATE_ZHIPU_API_KEY"]\n'
        '[[model]]\nname = "new"\nroutes = ["zhipu/new"]\n'
    )
    (tmp_path / "mine.toml").write_text(PRICES)
    ended = tollgate("models", "check", "models.toml", "--prices", "mine.toml")
    assert ended.code == 0
    assert ended.stdout.splitlines() == [
        "1 model, 1 upstream, 1 price: good",
        "unpriced: new (counts as costing nothing)",
        "no key: upstream zhipu (set TOLLGATE_ZHIPU_API_KEY); its tasks wait",
        "priced, but no model's route: zhipu/glm-4-air",
    ]


def test_models_are_listed_from_the_files(tollgate: Tollgate) -> None:
    found = {model["id"]: model for model in tollgate("models", "list", "--offline", "--json").json}
    assert found["glm-4-air"]["price"]["tiers"][0]["input"] == "0.5"
    assert found["embedding-3"]["endpoint"] == "embeddings"
    assert re.search(r"glm-5\.1 +chat +zhipu/glm-5\.1 +6\.00\+", tollgate("models", "list", "--offline").stdout)


def test_models_check_says_where_tasks_fall_back_to(tollgate: Tollgate, tmp_path: Path) -> None:
    upstreams = "".join(f'[[upstream]]\nname = "{n}"\nkind = "openai"\nbase_url = "http://h/v1"\n' for n in "ab")
    (tmp_path / "models.toml").write_text(
        f'{upstreams}[[model]]\nname = "m"\nroutes = ["a/m", "b/m"]\n'
        '[[model]]\nname = "n"\nroutes = ["a/n", "b/n"]\nfallback_on = []\n'
    )
    told = tollgate("models", "check", "models.toml").stdout
    assert "fallback: model m goes from a/m to b/m on outage, overload, pause (after 2 tries)" in told
    assert "no fallback: model n stays on a/n (fallback_on is empty)" in told

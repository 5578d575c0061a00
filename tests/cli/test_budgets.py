"""`tollgate budgets`, and a submit over one."""

from __future__ import annotations

import re
import uuid
from typing import Any

import pytest

from tests.cli.conftest import Tollgate, Up
from tests.gateway.test_budgets import BUDGET

MASTER = "a-master-key-of-the-tests-0123456789abcdef"


@pytest.fixture
def on_database(tollgate: Tollgate, database_url: str) -> Tollgate:
    return lambda *arguments, **more: tollgate(
        *arguments, **{"TOLLGATE_DATABASE_URL": database_url, "TOLLGATE_MASTER_KEY": MASTER, **more}
    )


@pytest.fixture
def key(on_database: Tollgate) -> Any:
    """Of the project search."""
    return on_database("keys", "create", "--project", "search", "--json").json


def test_a_budget_is_set_listed_changed_and_removed(on_database: Tollgate, key: Any) -> None:
    made = on_database("budgets", "set", "--project", "search", "--period", "month", "--cost", "12.50")
    assert made.code == 0, made.stderr
    found = re.fullmatch(r"budget (\S+): search may use 12\.50 CNY a month\n", made.stdout)
    assert found
    changed = on_database("budgets", "set", "--project", "search", "--period", "month", "--tokens", "2000000")
    assert changed.stdout == f"budget {found[1]}: search may use 2,000,000 tokens a month\n"
    (one,) = on_database("budgets", "list", "--json").json
    assert set(one) == BUDGET, "as GET /budgets shows it"
    assert (one["id"], one["limit_cost"], one["limit_tokens"]) == (found[1], None, 2_000_000)
    assert on_database("budgets", "remove", found[1]).stdout == f"budget {found[1]} is removed\n"
    assert on_database("budgets", "list", "--json").json == []
    assert on_database("budgets", "remove", found[1]).code == 1


def test_a_key_is_named_by_its_id_or_pasted_whole(on_database: Tollgate, key: Any) -> None:
    arguments = ("budgets", "set", "--project", "search", "--period", "day", "--tokens", "7", "--key")
    first, again = on_database(*arguments, key["id"]), on_database(*arguments, key["key"])
    assert first.stdout == again.stdout
    assert first.stdout.endswith(f": search, key {key['id']} may use 7 tokens a day\n")
    assert key["key"].partition(".")[2] not in again.stdout + again.stderr


def test_the_table_has_a_row_for_each_limit(on_database: Tollgate, key: Any) -> None:
    on_database("budgets", "set", "--project", "search", "--period", "total", "--cost", "0.5", "--tokens", "1234")
    on_database("keys", "create", "--project", "other")
    on_database("budgets", "set", "--project", "other", "--period", "day", "--tokens", "5")
    shown = on_database("budgets", "list", "--project", "search").stdout
    assert re.search(r"search +total +CNY +0\.50 +0\.00 +0\.00 +0\.00 +0\.50 +never", shown)
    assert re.search(r"^ +tokens +1,234 +0 +0 +0 +1,234 +never", shown, flags=re.MULTILINE)
    assert "other" not in shown
    assert "other" in on_database("budgets", "list").stdout


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--project", "search", "--period", "day"), 2, "give --cost or --tokens"),
        (("--project", "search", "--period", "week", "--cost", "1"), 2, "write day, month, total or in_flight"),
        (("--project", "search", "--period", "day", "--cost", "1e3"), 2, "such as 12.50"),
        (("--project", "search", "--period", "day", "--cost", "-1"), 2, "such as 12.50"),
        (("--project", "search", "--period", "day", "--tokens", "-1"), 2, "--tokens"),
        (("--project", "search", "--period", "day", "--tokens", "9" * 16), 2, "at most"),
        (("--project", "typo", "--period", "day", "--cost", "1"), 1, "no project 'typo'"),
        (("--project", "search", "--period", "day", "--cost", "1", "--key", "nobody"), 1, "no key 'nobody'"),
    ],
)
def test_what_is_wrong_is_told_and_sets_nothing(
    on_database: Tollgate, key: Any, arguments: tuple[str, ...], code: int, told: str
) -> None:
    ended = on_database("budgets", "set", *arguments)
    assert (ended.code, ended.stdout) == (code, "")
    assert told in ended.stderr
    assert on_database("budgets", "list", "--json").json == []


def test_what_is_no_id_names_no_budget(on_database: Tollgate) -> None:
    ended = on_database("budgets", "remove", "abc")
    assert (ended.code, ended.stderr) == (1, "tollgate: no budget 'abc'\n")


def test_a_submit_over_the_budget_says_what_is_left(up: Up, tollgate: Tollgate) -> None:
    where, project = {"TOLLGATE_DATA": str(up.data)}, f"test-{uuid.uuid4().hex[:12]}"
    key = tollgate("keys", "create", "--project", project, **where).stdout.strip()
    tollgate("budgets", "set", "--project", project, "--period", "day", "--tokens", "200", **where)
    options = ("--model", "glm-4-air", "--max-tokens", "100", "--key", key)
    assert tollgate("submit", "one", *options, **where).code == 0
    ended = tollgate("submit", "one", "two", *options, **where)
    assert (ended.code, ended.stdout) == (1, "")
    assert re.match(
        r"tollgate: this project's budget for the day does not have room: tokens left \d+, wanted up to 2\d\d\. "
        r"Lower max_tokens, send less at once, or have it raised\n$",
        ended.stderr,
    )

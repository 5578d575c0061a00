"""`tollgate reconcile` on a small store of each kind, and against the bill of a running simulator."""

from __future__ import annotations

import asyncio
import io
import json
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx2
import pytest
import sqlalchemy as sa

from tests.cli.conftest import Tollgate, Up
from tests.databases import Loop
from tests.store import seeds
from tollgate.cli.reconcile import spinning
from tollgate.store.claims import Claimed
from tollgate.store.database import Database
from tollgate.store.reconcile import CHECKS
from tollgate.store.schema import usage_hourly

HEAD = "request_id,cost\n"


class Store:
    """Two tasks of which one succeeded (0.0006) and one is uncertain (perhaps 0.0007)."""

    def __init__(self, url: str, loop: Loop) -> None:
        self.url, self._loop = url, loop
        self.ids: list[str] = []
        loop.run(self._fill())

    async def _fill(self) -> None:
        database = Database.connect(self.url)
        try:
            key = await seeds.a_key(database)
            leased: list[Claimed] = await seeds.claim(database, *await seeds.queued(database, key, count=2))
            await seeds.settle(database, seeds.success(leased[0]), seeds.doubt(leased[1]))
            self.ids = [one.upstream_request_id for one in leased]
        finally:
            await database.close()

    def change(self, statement: sa.Executable) -> None:
        """Behind the accounts' back."""

        async def work() -> None:
            database = Database.connect(self.url)
            try:
                async with database.write() as connection:
                    await connection.execute(statement)
            finally:
                await database.close()

        self._loop.run(work())


@pytest.fixture
def store(database_url: str, loop: Loop) -> Store:
    return Store(database_url, loop)


@pytest.fixture
def on_store(tollgate: Tollgate, store: Store) -> Tollgate:
    return lambda *arguments, **more: tollgate(*arguments, **{"TOLLGATE_DATABASE_URL": store.url, **more})


@pytest.fixture
def bill(tmp_path: Path, store: Store) -> Path:
    """Bills the first task right and the uncertain one at 0.0005."""
    path = tmp_path / "bill.csv"
    path.write_text(f"{HEAD}{store.ids[0]},0.0006\n{store.ids[1]},0.0005\n")
    return path


def counted(answer: Any) -> dict[str, int]:
    """Kind -> attempts, of those that there are."""
    return {kind: group["count"] for kind, group in answer["bill"]["groups"].items() if group["count"]}


def test_equal_books_are_exit_code_0(on_store: Tollgate) -> None:
    ended = on_store("reconcile")
    assert (ended.code, ended.stderr) == (0, "")
    assert ended.stdout.splitlines()[-1] == f"{len(CHECKS)} checks: all equal"
    assert all(check.name in ended.stdout for check in CHECKS)


def test_a_difference_is_told_in_words_and_exit_code_1(on_store: Tollgate, store: Store) -> None:
    at = usage_hourly.c.attempts == 2
    store.change(sa.update(usage_hourly).where(at).values(cost_nano=600_001))
    ended = on_store("reconcile")
    assert ended.code == 1
    assert "roll-up: 1 difference:\n  hour 2026-03-01T12:00:00Z, project acme, key " in ended.stdout
    assert "model glm-4.7, upstream zhipu, label '': cost_nano 600001, should be 600000\n" in ended.stdout
    assert ended.stdout.splitlines()[-1] == f"{len(CHECKS)} checks: 3 with differences"


def test_json_has_every_check_with_its_differences(on_store: Tollgate, store: Store) -> None:
    store.change(sa.update(usage_hourly).where(usage_hourly.c.attempts == 2).values(attempts_failed=1))
    ended = on_store("reconcile", "--json")
    answer = ended.json
    assert (ended.code, answer["ok"], answer["bill"]) == (1, False, None)
    assert [check["name"] for check in answer["checks"]] == [check.name for check in CHECKS]
    wrong, *_ = [check for check in answer["checks"] if check["differences"]]
    assert (wrong["name"], wrong["differences"]) == ("roll-up", 1)
    assert wrong["first"][0]["found"] == {"attempts_failed": 1}
    assert wrong["first"][0]["expected"] == {"attempts_failed": 0}


def test_a_bill_is_compared_applied_and_then_agrees(on_store: Tollgate, bill: Path) -> None:
    looked = on_store("reconcile", "--bill", str(bill), "--json")
    assert looked.code == 1
    assert counted(looked.json) == {"equal": 1, "settles": 1}
    assert looked.json["bill"]["groups"]["settles"]["billed"] == "0.0005"
    assert looked.json["bill"]["settled"] is None
    applied = on_store("reconcile", "--bill", str(bill), "--apply")
    assert applied.code == 0, applied.stdout
    last = applied.stdout.splitlines()[-1]
    assert last.endswith("all equal; settled 1 attempt as billed (0.0005) and 0 as not billed; the bill agrees")
    again = on_store("reconcile", "--bill", str(bill), "--json")
    assert (again.code, counted(again.json)) == (0, {"equal": 2})


def test_a_bill_is_told_in_words(on_store: Tollgate, store: Store, bill: Path) -> None:
    bill.write_text(f"{HEAD}{store.ids[0]},0.0003\n{store.ids[0]},0.0003\nstranger,1.5\n{store.ids[1]},free\n")
    shown = on_store("reconcile", "--bill", str(bill)).stdout
    assert f"{bill}:3chargesofzhipu,1.5006CNY" in "".join(shown.split()), "a long path is wrapped"
    assert "billed, no such attempt here: 1 attempt:\n  stranger: billed 1.50\n" in shown
    assert "not read: 1 line:\n  line 5: cost 'free' is no decimal number\n" in shown
    assert f"  {store.ids[0]}: billed 0.0006, booked 0.0006, started 2026-03-01 12:30:00, billed 2 times\n" in shown
    assert f"  {store.ids[1]}: perhaps 0.0007, started 2026-03-01 12:30:00\n" in shown
    assert shown.splitlines()[-1].endswith("all equal; the bill differs")


def test_what_a_complete_bill_does_not_list_is_settled_so(on_store: Tollgate, store: Store, bill: Path) -> None:
    bill.write_text(f"{HEAD}{store.ids[0]},0.0006\n")
    applied = on_store("reconcile", "--bill", str(bill), "--apply", "--json")
    assert counted(applied.json) == {"equal": 1, "unsettled": 1}
    of_march = ("--from", "2026-03-01", "--to", "2026-04-01")
    applied = on_store("reconcile", "--bill", str(bill), *of_march, "--apply", "--json")
    assert (applied.code, counted(applied.json)) == (0, {"equal": 1, "unbilled": 1})
    assert applied.json["bill"]["settled"] == {"billed": 0, "cost": "0", "unbilled": 1, "settled_meanwhile": 0}


def test_a_line_that_cannot_be_read_is_exit_code_1(on_store: Tollgate, bill: Path) -> None:
    on_store("reconcile", "--bill", str(bill), "--apply")
    bill.write_text(bill.read_text() + "third,free\n")
    ended = on_store("reconcile", "--bill", str(bill), "--json")
    assert (ended.code, ended.json["bill"]["bad_lines"]) == (1, 1)
    assert ended.json["bill"]["first_bad_lines"] == [{"line": 4, "reason": "cost 'free' is no decimal number"}]


def test_a_bill_may_come_from_stdin(on_store: Tollgate, bill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # In this process there is no pipe: a file of bytes stands for it.
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"\xef\xbb\xbf" + bill.read_bytes())))
    ended = on_store("reconcile", "--bill", "-", "--json")
    assert counted(ended.json) == {"equal": 1, "settles": 1}


@pytest.mark.parametrize(
    ("arguments", "content", "told"),
    [
        (("--bill", "absent.csv"), None, "absent.csv: No such file"),
        (("--bill", "."), None, "Is a directory"),
        (("--bill", "bill.csv"), "id;price\n1;2\n", "names: id;price"),
        (("--bill", "bill.csv"), "", "it names: none"),
        (("--bill", "bill.csv", "--from", "yesterday"), HEAD, "is no time"),
        (("--apply",), None, "are about a --bill"),
        (("--limit", "0"), None, "--limit"),
    ],
)
def test_a_wrong_bill_or_option_is_exit_code_2(
    tollgate: Tollgate, tmp_path: Path, arguments: tuple[str, ...], content: str | None, told: str
) -> None:
    if content is not None:
        (tmp_path / "bill.csv").write_text(content)
    ended = tollgate("reconcile", *arguments)
    assert (ended.code, ended.stdout) == (2, "")
    assert told in " ".join(ended.stderr.replace("│", " ").split())


async def test_what_takes_a_while_is_said_on_stderr(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # A patch, so that no test waits for two seconds to pass.
    monkeypatch.setattr(spinning, "AFTER_S", 0.0)
    with spinning.spinner("roll-up"):
        for _ in range(3):
            await asyncio.sleep(0)
    with spinning.spinner("budgets"):
        pass
    await asyncio.sleep(0)
    assert capsys.readouterr().err == "roll-up ...\n"


@pytest.fixture
def simulator(up: Up) -> Iterator[httpx2.Client]:
    """The embedded gateway's simulator, with an empty bill; answers without faults again after."""
    url = up.server.wait_for(r"simulator \((http://[\d.]+:\d+)").group(1)
    with httpx2.Client(base_url=url) as client:
        client.delete("/simulator/bill")
        yield client
        assert client.put("/simulator/settings", content=json.dumps({"faults": {"cut": 0}})).status_code == 200


def test_a_live_gateway_and_its_upstreams_bill_agree_to_the_last_unit(
    up: Up, tollgate: Tollgate, simulator: httpx2.Client, tmp_path: Path
) -> None:
    """A third of the connections break in the middle of an answer that was computed, and is billed."""
    started = datetime.now(UTC).isoformat()
    simulator.put("/simulator/settings", content=json.dumps({"faults": {"cut": 0.34}, "seed": 3}))
    here = {"TOLLGATE_DATA": str(up.data)}
    submitted = tollgate("submit", *(f"prompt {n}" for n in range(9)), "--model", "glm-4-air", "--wait", **here)
    assert submitted.code == 0, submitted.stderr
    (tmp_path / "bill.csv").write_bytes(simulator.get("/simulator/bill.csv").content)
    question = ("reconcile", "--bill", "bill.csv", "--from", started, "--json")
    looked = tollgate(*question, **here)
    assert looked.code == 1
    assert counted(looked.json)["equal"] >= 9
    lost = counted(looked.json)["settles"]
    assert lost > 0, "some connections broke"
    applied = tollgate(*question, "--apply", **here)
    assert (applied.code, applied.json["bill"]["settled"]["billed"]) == (0, lost)
    again = tollgate(*question, **here).json
    groups = again["bill"]["groups"]
    assert again["ok"]
    assert groups["equal"]["booked"] == again["bill"]["cost"] == simulator.get("/simulator/bill").json()["cost"]

"""What the database and the upstream's bill say, read with plain SQL: none of the code under test is asked."""

from __future__ import annotations

import asyncio
import contextlib
import csv
import io
import sqlite3
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import asyncpg

Row = Mapping[str, Any]

QUERIES = {
    "tasks": (
        "SELECT id, project_id, key_id, batch_id, line, model, label, lane, state, attempt, tries, worker_id,"
        " not_before, announced_at, ended_at FROM tasks"
    ),
    "attempts": "SELECT * FROM attempts",
    "results": "SELECT task_id, attempt, body IS NOT NULL AS answered, error_code FROM task_results",
    "usage": "SELECT * FROM usage_hourly",
    "days": "SELECT * FROM usage_daily",
    "totals": "SELECT * FROM usage_daily_totals",
    "workers": "SELECT id, name, dead FROM workers",
}
ENDED = frozenset({"succeeded", "failed", "cancelled", "expired"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Books:
    """Rows as they stand, ids as 32 hex digits; and the bill: our request_id -> the nano-units of each charge."""

    tasks: Mapping[str, Row]
    attempts: list[Row]
    results: list[Row]
    usage: list[Row]
    days: list[Row]
    totals: list[Row]
    workers: list[Row]
    bill: Mapping[str, list[int]]

    def states(self) -> dict[str, int]:
        """State -> tasks."""
        counted: dict[str, int] = defaultdict(int)
        for task in self.tasks.values():
            counted[task["state"]] += 1
        return dict(counted)

    def worker_ids(self, pid: int) -> set[str]:
        """The registrations of one process, which may have lost some."""
        return {hex_of(row["id"]) for row in self.workers if row["name"].endswith(f":{pid}")}

    def held_by(self, pids: set[int]) -> set[str]:
        """Tasks that run under a lease of these processes."""
        holders = {one for pid in pids for one in self.worker_ids(pid)}
        running = {i: task for i, task in self.tasks.items() if task["state"] == "running"}
        return {i for i, task in running.items() if hex_of(task["worker_id"]) in holders}

    def summary(self) -> dict[str, Any]:
        """What a person wants to know of a run."""
        charges: dict[str, int] = defaultdict(int)
        for row in self.attempts:
            charges[hex_of(row["task_id"])] += len(self.bill.get(row["request_id"], ()))
        polled = {hex_of(row["task_id"]) for row in self.attempts if row["mode"] == "async"}
        return {
            "tasks": len(self.tasks),
            "states": self.states(),
            "lost": sum(task["state"] not in ENDED for task in self.tasks.values()),
            "charges": sum(map(len, self.bill.values())),
            "tasks_billed_more_than_once": sum(count > 1 for count in charges.values()),
            "polled_tasks": len(polled),
            "polled_tasks_billed_more_than_once": sum(charges[task_id] > 1 for task_id in polled),
            "attempts_uncertain": len(self.with_outcome("uncertain")),
        }

    def with_outcome(self, outcome: str) -> list[Row]:
        return [row for row in self.attempts if row["outcome"] == outcome]


def read(database_url: str, *bills: str) -> Books:
    """`bills`: the text of each simulator's bill.csv."""
    found = _sqlite(database_url) if database_url.startswith("sqlite") else asyncio.run(_postgres(database_url))
    tasks = {hex_of(row["id"]): row for row in found.pop("tasks")}
    return Books(tasks=tasks, bill=_charges(bills), **found)


def hex_of(value: object) -> str:
    """A UUID of either database."""
    return str(value).replace("-", "")


def hour_of(value: object) -> str:
    """The hour of an instant of either database, both of which keep UTC."""
    return str(value)[:13]


async def _postgres(url: str) -> dict[str, list[Row]]:
    """All at one moment."""
    connection = await asyncpg.connect(url, timeout=10)
    try:
        async with connection.transaction(isolation="repeatable_read", readonly=True):
            return {name: [dict(row) for row in await connection.fetch(sql)] for name, sql in QUERIES.items()}
    finally:
        await connection.close()


def _sqlite(url: str) -> dict[str, list[Row]]:
    with contextlib.closing(sqlite3.connect(url.removeprefix("sqlite:///"), timeout=10)) as connection:
        connection.row_factory = sqlite3.Row
        connection.execute("BEGIN")
        return {name: [dict(row) for row in connection.execute(sql)] for name, sql in QUERIES.items()}


def _charges(bills: Iterable[str]) -> dict[str, list[int]]:
    charges: dict[str, list[int]] = defaultdict(list)
    for row in (row for text in bills for row in csv.DictReader(io.StringIO(text))):
        charges[row["request_id"]].append(int(Decimal(row["cost"]) * 10**9))
    return dict(charges)

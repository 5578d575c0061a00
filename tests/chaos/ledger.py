"""What must be true when all has ended, whatever was killed, lost or repeated on the way.

`PROOFS` is the list: each says what is wrong, one sentence a fault. All by `books`, so by SQL and the bill.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from tests.chaos.books import ENDED, Books, Row, hex_of, hour_of

SHOWN = 10
"""Faults that an assertion prints."""
BOUGHT = frozenset({"succeeded", "failed", "uncertain"})
"""Outcomes of attempts that the roll-up counts."""
DIMENSIONS = ("project_id", "key_id", "model", "label")
SUMMED = ("prompt_tokens", "cached_tokens", "completion_tokens", "cost_nano", "possible_cost_nano")
COUNTED = ("attempts", "attempts_failed", "attempts_uncertain", "attempts_unpriced", "attempts_estimated", *SUMMED)


def require_balance(books: Books, *, accepted: set[str]) -> None:
    """Raises AssertionError with what is wrong. `accepted`: every id that a client was answered."""
    faults = [fault for proof in PROOFS for fault in proof(books)]
    faults += [f"task {i} was answered to a client and is not there" for i in sorted(accepted - books.tasks.keys())]
    assert not faults, f"{len(faults)} faults, such as:\n" + "\n".join(faults[:SHOWN])


def _every_task_has_ended(books: Books) -> Iterator[str]:
    for task_id, task in books.tasks.items():
        if task["state"] not in ENDED:
            yield f"task {task_id} is {task['state']}"


def _every_end_has_one_result(books: Books) -> Iterator[str]:
    results = {hex_of(row["task_id"]): row for row in books.results}
    if len(results) != len(books.results):
        yield "a task has two results"
    for task_id, task in books.tasks.items():
        if (task["state"] in ENDED) != (task_id in results):
            yield f"task {task_id} is {task['state']}, and its results: {results.get(task_id)}"
        elif task_id in results and (task["state"] == "succeeded") != bool(results[task_id]["answered"]):
            yield f"task {task_id} is {task['state']} with {results[task_id]}"


def _no_attempt_is_open_under_an_end(books: Books) -> Iterator[str]:
    for row in books.with_outcome("open"):
        if books.tasks[hex_of(row["task_id"])]["state"] in ENDED:
            yield f"attempt {row['request_id']} is open under a task that has ended"


def _every_attempt_costs_what_was_billed(books: Books) -> Iterator[str]:
    """Certain <= billed <= certain + uncertain; attempt by attempt, so also task by task."""
    for row in books.attempts:
        billed = sum(books.bill.get(row["request_id"], ()))
        certain = row["cost_nano"] or 0
        most = certain + (row["possible_cost_nano"] or 0 if row["outcome"] == "uncertain" else 0)
        if not certain <= billed <= most:
            told = f"costs {certain} to {most} here"
            yield f"attempt {row['request_id']} ({row['outcome']}) was billed {billed} nano-units and {told}"


def _nothing_was_billed_that_no_task_knows(books: Books) -> Iterator[str]:
    known = {row["request_id"] for row in books.attempts}
    for request_id in sorted(books.bill.keys() - known):
        yield f"{request_id} was billed {len(books.bill[request_id])} times, and no attempt has that request_id"


def _no_purchase_was_charged_twice(books: Books) -> Iterator[str]:
    """An attempt is one purchase: a second charge for its request_id was a call nobody recorded."""
    for request_id, charges in books.bill.items():
        if len(charges) > 1:
            yield f"{request_id} was billed {len(charges)} times"


def _the_roll_up_is_the_sum_of_the_attempts(books: Books) -> Iterator[str]:
    expected: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for row in books.attempts:
        if row["outcome"] in BOUGHT:
            task = books.tasks[hex_of(row["task_id"])]
            expected[hour_of(row["started_at"]), *_dimensions(task), row["upstream"]].update(_counts(row))
    found: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for row in books.usage:
        counts = {name: int(row[name]) for name in COUNTED}
        found[hour_of(row["hour"]), *_dimensions(row), row["upstream"]].update(counts)
    yield from _differences(expected, found, of="attempts")


def _the_roll_up_counts_every_end_once(books: Books) -> Iterator[str]:
    expected: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for task in books.tasks.values():
        if task["state"] in ENDED:
            name = "tasks_succeeded" if task["state"] == "succeeded" else "tasks_failed"
            expected[hour_of(task["ended_at"]), *_dimensions(task)][name] += 1
    found: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for row in books.usage:
        counts = {name: int(row[name]) for name in ("tasks_succeeded", "tasks_failed")}
        found[hour_of(row["hour"]), *_dimensions(row)].update(counts)
    yield from _differences(expected, found, of="ends of tasks")


def _days_are_the_sums_of_their_hours(books: Books) -> Iterator[str]:
    for rows, dimensions in ((books.days, DIMENSIONS), (books.totals, ("project_id", "model"))):
        expected, found = (_by_day(one, dimensions) for one in (books.usage, rows))
        yield from _differences(expected, found, of="days")


def _by_day(rows: list[Row], dimensions: Sequence[str]) -> dict[tuple[str, ...], Counter[str]]:
    sums: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for row in rows:
        day = hour_of(row["hour"] if "hour" in row else row["day"])[:10]
        names = (*COUNTED, "tasks_succeeded", "tasks_failed")
        sums[day, row["upstream"], *_dimensions(row, dimensions)].update({name: int(row[name]) for name in names})
    return sums


def _dimensions(row: Row, names: Sequence[str] = DIMENSIONS) -> tuple[str, ...]:
    return tuple(hex_of(row[name]) if name == "project_id" else str(row[name] or "") for name in names)


def _counts(attempt: Row) -> dict[str, int]:
    return {
        "attempts": 1,
        "attempts_failed": int(attempt["outcome"] == "failed"),
        "attempts_uncertain": int(attempt["outcome"] == "uncertain"),
        "attempts_unpriced": int(attempt["prompt_tokens"] is not None and attempt["cost_nano"] is None),
        "attempts_estimated": int(attempt["cost_estimated"]),
        **{name: int(attempt[name] or 0) for name in SUMMED},
    }


def _differences(expected: dict[Any, Counter[str]], found: dict[Any, Counter[str]], *, of: str) -> Iterator[str]:
    for key in sorted(expected.keys() | found.keys()):
        wrong = {n for n in expected[key].keys() | found[key].keys() if expected[key][n] != found[key][n]}
        for name in sorted(wrong):
            yield f"roll-up of {of} {key}: {name} is {found[key][name]}, the rows' sum is {expected[key][name]}"


def _no_polled_purchase_was_made_twice(books: Books) -> Iterator[str]:
    """The simulator replays a repeated request_id: an answer that is there is fetched, whoever asked for it."""
    bought = {(hex_of(row["task_id"]), row["number"]) for row in books.attempts}
    for row in books.attempts:
        task_id, number = hex_of(row["task_id"]), row["number"]
        if row["mode"] == "async" and row["outcome"] == "uncertain" and (task_id, number + 1) in bought:
            yield f"attempt {row['request_id']} was submitted and is in doubt, and its task was bought once more"


PROOFS: tuple[Callable[[Books], Iterator[str]], ...] = (
    _every_task_has_ended,
    _every_end_has_one_result,
    _no_attempt_is_open_under_an_end,
    _every_attempt_costs_what_was_billed,
    _nothing_was_billed_that_no_task_knows,
    _no_purchase_was_charged_twice,
    _no_polled_purchase_was_made_twice,
    _the_roll_up_is_the_sum_of_the_attempts,
    _the_roll_up_counts_every_end_once,
    _days_are_the_sums_of_their_hours,
)

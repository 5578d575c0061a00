"""The course of a submit: hand in the lines, wait if asked to, report, and say how it went."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TextIO

from tollgate.cli import answers, exits, output, progress, submissions, waiting
from tollgate.cli.client import Gateway, Json
from tollgate.cli.fitting import Fitting
from tollgate.cli.prompts import Line
from tollgate.cli.submissions import Submitted
from tollgate.cli.waiting import Tally
from tollgate.domain.errors import SettingsError

RESULTS_SHOWN = 200
"""Rows of the result table; more scroll away unread, and --out or --json keeps them all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What is wanted of a submit."""

    wait: bool
    as_json: bool
    out: TextIO | None


@dataclass(slots=True, kw_only=True)
class Course:
    """What has happened so far, so that an interrupted submit can say it."""

    submitted: list[Submitted] = field(default_factory=list)
    ended: dict[str, Json] = field(default_factory=dict)
    tally: Tally = field(default_factory=Tally)

    @property
    def ids(self) -> list[str]:
        """Accepted tasks, in the order of their lines."""
        ordered = sorted(self.submitted, key=lambda one: one.line.number)
        return list(dict.fromkeys(one.accepted["id"] for one in ordered if one.accepted))

    @property
    def refused(self) -> list[Submitted]:
        return [one for one in self.submitted if one.accepted is None]


@contextlib.contextmanager
def open_out(path: Path | None) -> Iterator[TextIO | None]:
    """The file of --out, opened before anything is submitted: what cannot be kept is not bought."""
    if path is None:
        yield None
        return
    try:
        file = path.open("w", encoding="utf-8", newline="\n")
    except OSError as error:
        raise SettingsError(f"--out: cannot write {path}: {error.strerror}") from error
    with file:
        yield file


def run(gateway: Gateway, lines: Iterable[Line], plan: Plan) -> int:
    """Submit `lines` and do what `plan` says. Returns the exit code."""
    course = Course()
    try:
        _hand_in(gateway, lines, course)
        if plan.wait:
            _wait(gateway, course)
    except KeyboardInterrupt:
        _report(course, plan)
        _tell_interrupted(course)
        return exits.INTERRUPTED
    except Exception:
        if course.ids:
            _report(course, plan)
            output.note(f"{output.count(len(course.ids), 'task')} accepted before this: {output.listed(course.ids)}")
        raise
    _report(course, plan)
    lost = [one for one in course.ids if one not in course.ended] if plan.wait else []
    return exits.FAILED if course.refused or course.tally.failed or lost else exits.OK


def _hand_in(gateway: Gateway, lines: Iterable[Line], course: Course) -> None:
    fitting = Fitting()
    for group in submissions.in_lists(lines):
        for one in submissions.submit(gateway, group, fitting=fitting):
            course.submitted.append(one)
            if one.accepted is None:
                output.note(f"{one.line.place}: {one.line.problem}")


def _wait(gateway: Gateway, course: Course) -> None:
    ids = course.ids
    with progress.shown(len(ids), course.tally) as advance:
        for task in waiting.until_ended(gateway, ids):
            course.ended[task["id"]] = task
            course.tally.add(task)
            advance()


def _report(course: Course, plan: Plan) -> None:
    rows = list(_rows(course))
    if plan.out is not None:
        for row in rows:
            plan.out.write(json.dumps(row, ensure_ascii=False) + "\n")
    if plan.as_json:
        for row in rows:
            output.json_line(row)
    elif plan.wait:
        _show_results(course)
    else:
        for row in rows:
            if "id" in row:
                print(row["id"])


def _rows(course: Course) -> Iterator[Json]:
    """One JSON object a line that was given, in its order: the task as it is known, or why there is none."""
    for one in sorted(course.submitted, key=lambda one: one.line.number):
        if one.accepted is None:
            error = {"code": "refused", "message": one.line.problem}
            yield {"line": one.line.number, "status": "FAIL", "custom_id": one.line.custom_id, "error": error}
        else:
            yield {**course.ended.get(one.accepted["id"], one.accepted), "line": one.line.number}


def _show_results(course: Course) -> None:
    console = output.console()
    ended = [course.ended[task_id] for task_id in course.ids if task_id in course.ended]
    if ended:
        console.print(_result_table(ended[:RESULTS_SHOWN]))
    if len(ended) > RESULTS_SHOWN:
        output.note(f"{len(ended) - RESULTS_SHOWN:,} more are not shown; --out FILE or --json keeps all of them")
    console.print(summary(course.tally, refused=len(course.refused)))


def _result_table(tasks: list[Json]) -> object:
    named = any(answers.name_of(task) for task in tasks)
    columns = ("id", *(("name",) if named else ()), "status", "answer", ("tokens", "right"), ("cost", "right"))
    table = output.table(*columns)
    for task in tasks:
        table.add_row(
            task["id"],
            *((output.shortened(answers.name_of(task), width=24),) if named else ()),
            output.state(task["state"]),
            output.shortened(answers.answer_of(task) or answers.error_of(task), width=40),
            answers.tokens_of(task),
            output.money(task.get("cost")) + ("?" if task.get("unpriced") else ""),
        )
    return table


def summary(tally: Tally, *, refused: int) -> str:
    """One line: how many, how it went, what it came to."""
    parts = [f"{tally.succeeded:,} succeeded", f"{tally.failed:,} failed"]
    if refused:
        parts.append(f"{refused:,} refused")
    cost = f"{output.money(tally.cost)} {tally.currency}".rstrip()
    text = f"{', '.join(parts)}; {tally.tokens:,} tokens, cost {cost}, {tally.elapsed_s:.1f} s"
    if tally.possible_cost:
        text += f"; up to {output.money(tally.possible_cost)} more for attempts without an answer"
    if tally.unpriced:
        text += f"; {tally.unpriced:,} without a known price (?)"
    return text


def _tell_interrupted(course: Course) -> None:
    still_open = [task_id for task_id in course.ids if task_id not in course.ended]
    if not still_open:
        output.note("interrupted; no task is left open")
        return
    output.note(
        f"interrupted; {output.count(len(still_open), 'task')} not ended yet, and going on without this command.\n"
        f"  see them:   tollgate get {' '.join(still_open[:3])}{' ...' if len(still_open) > 3 else ''}\n"
        "              tollgate tasks list --state PROCESSING\n"
        "  stop them:  tollgate tasks cancel ID..."
    )

"""The life of a batch: validating, in_progress, finalizing, completed; or failed, expired, cancelled."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Iterator
from contextlib import suppress

from tollgate.simulator import batch_line_runs, batch_lines
from tollgate.simulator.batch_book import Batch, Status
from tollgate.simulator.batch_line_runs import LineFate
from tollgate.simulator.batch_lines import BadLineError, Line
from tollgate.simulator.cloud import Cloud
from tollgate.simulator.codes import RefusalError
from tollgate.simulator.stored_files import StoredFile

SLICE = 100
"""Lines between two turns of the event loop: 100 take about 5 ms."""
ERRORS_MAX = 1_000
"""Errors of validation that a batch lists."""
_EDGE = 0.1
"""Share of the latency spent on validating, and on finalizing."""

Place = tuple[int, int, int]
"""Number, offset and length of a line of the input."""


async def live(cloud: Cloud, batch: Batch) -> None:
    """Take `batch` through its life; ends when it has ended."""
    places = list(_places(batch.input))
    await _validate(batch, places)
    await _pause(batch, batch.behaviour.latency_s * _EDGE)
    if batch.errors:
        batch.enter(Status.FAILED)
    else:
        await _run(cloud, batch, places)
    if batch.deletes_input:
        cloud.files.remove(batch.input.identifier)


def _places(file: StoredFile) -> Iterator[Place]:
    """The lines that are not blank. A byte order mark belongs to none."""
    number, offset, rest = 0, 0, b""
    for piece in [*file.pieces(), b"\n"]:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            number += 1
            mark = 3 if number == 1 and line.startswith(b"\xef\xbb\xbf") else 0
            if line[mark:].strip():
                yield number, offset + mark, len(line) - mark
            offset += len(line) + 1


async def _validate(batch: Batch, places: list[Place]) -> None:
    """Count the lines; where bad ones fail the whole batch, list them."""
    batch.total = len(places)
    if not places:
        batch.errors.append(_error("empty_file", "The input file has no lines."))
    if len(places) > batch.behaviour.lines_max:
        batch.errors.append(_error("too_many_lines", f"At most {batch.behaviour.lines_max} lines are allowed."))
        return
    if batch.behaviour.bad_lines == "error_file":
        return
    seen: set[str] = set()
    for turn, place in enumerate(places):
        try:
            _read(batch, place, seen=seen)
        except BadLineError as bad:
            batch.errors.append(_error(bad.code, str(bad), line=place[0], param=bad.param))
            if len(batch.errors) >= ERRORS_MAX:
                return
        if turn % (SLICE * 10) == 0:
            await asyncio.sleep(0)


def _error(code: str, message: str, *, line: int | None = None, param: str | None = None) -> dict[str, object]:
    return {"code": code, "message": message, "line": line, "param": param}


def _read(batch: Batch, place: Place, *, seen: set[str]) -> Line:
    """The request at `place`. Raises BadLineError, also for a custom_id in `seen`."""
    number, offset, size = place
    raw = batch.input.read(offset=offset, size=size)
    line = batch_lines.parse(raw, number=number, endpoint=batch_lines.endpoint_of(batch.endpoint) or "")
    if line.custom_id in seen:
        raise BadLineError("duplicate_custom_id", f"custom_id {line.custom_id} is not unique.", param="custom_id")
    seen.add(line.custom_id)
    return line


async def _run(cloud: Cloud, batch: Batch, places: list[Place]) -> None:
    """Every line, until all are done, the window ends or a cancel comes; then the files."""
    if batch.behaviour.order == "shuffled":
        random.Random(cloud.settings.seed).shuffle(places)
    if not batch.stop.is_set():
        batch.enter(Status.IN_PROGRESS)
    files = _files(cloud, batch)
    left = await _run_lines(cloud, batch, places, files=files)
    if left and not batch.stop.is_set():
        await _pause(batch, batch.created + batch.behaviour.window_s - time.time())
    stopped = batch.stop.is_set()
    if not stopped:
        batch.enter(Status.FINALIZING)
    await asyncio.sleep(batch.behaviour.latency_s * _EDGE)
    if left and not stopped and batch.behaviour.expired_lines == "error_file":
        for line in left:
            files[1].append(line)
    _publish(cloud, batch, files)
    batch.enter(Status.CANCELLED if stopped else Status.EXPIRED if left else Status.COMPLETED)


async def _run_lines(
    cloud: Cloud, batch: Batch, places: list[Place], *, files: tuple[StoredFile, StoredFile]
) -> list[bytes]:
    """Run the lines, evenly over the latency's middle; returns the error lines of those that were not finished."""
    span = batch.behaviour.latency_s * (1 - 2 * _EDGE)
    begun = time.time()
    size = max(1, min(SLICE, len(places) // 20)) if span else SLICE
    seen: set[str] = set()
    left: list[bytes] = []
    for done in range(0, len(places), size):
        if batch.stop.is_set():
            return left
        if time.time() > batch.created + batch.behaviour.window_s:
            return left + [_given_up(cloud, batch, place) for place in places[done:]]
        for place in places[done : done + size]:
            _run_line(cloud, batch, place, files=files, seen=seen, left=left)
        await _pause(batch, begun + span * min(done + size, len(places)) / len(places) - time.time())
    return left


def _given_up(cloud: Cloud, batch: Batch, place: Place) -> bytes:
    """The error line of one that the window's end found waiting."""
    try:
        custom_id = _read(batch, place, seen=set()).custom_id
    except BadLineError as bad:
        custom_id = bad.custom_id or ""
    return batch_lines.unfinished(f"batch_req_{cloud.next_identifier()}", custom_id=custom_id)


def _run_line(
    cloud: Cloud,
    batch: Batch,
    place: Place,
    *,
    files: tuple[StoredFile, StoredFile],
    seen: set[str],
    left: list[bytes],
) -> None:
    output, errors = files
    try:
        line = _read(batch, place, seen=seen)
    except BadLineError as bad:
        line = Line(number=place[0], custom_id=bad.custom_id or "", body={})
        outcome = batch_line_runs.refuse(cloud, batch, line, refusal=RefusalError("1210", detail=str(bad)))
    else:
        outcome = batch_line_runs.run(cloud, batch, line)
    match outcome.fate:
        case LineFate.UNFINISHED:
            left.append(outcome.raw)
        case LineFate.FAILED:
            batch.failed += 1
            errors.append(outcome.raw)
        case _:
            batch.completed += 1
            output.append(outcome.raw)


def _files(cloud: Cloud, batch: Batch) -> tuple[StoredFile, StoredFile]:
    """The output file and the error file, not yet shown."""

    def made(kind: str) -> StoredFile:
        name = f"{batch.identifier}_{kind}.jsonl"
        identifier = f"file-{cloud.next_identifier()}"
        return StoredFile(identifier=identifier, key_id=batch.key_id, filename=name, purpose="batch")

    return made("output"), made("error")


def _publish(cloud: Cloud, batch: Batch, files: tuple[StoredFile, StoredFile]) -> None:
    """Show the files that have a line."""
    for file in files:
        if file.size:
            cloud.files.add(file)
    batch.output, batch.error = (file if file.size else None for file in files)


async def _pause(batch: Batch, seconds: float) -> None:
    """Let time pass, or less where a cancel comes; always at least a turn of the loop."""
    if seconds <= 0:
        await asyncio.sleep(0)
        return
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await batch.stop.wait()

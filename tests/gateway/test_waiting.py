"""Who waits for a task: until it ends, or the time is over, whatever the bus loses."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from uuid import UUID

import pytest

from gateway.reading import Reader
from gateway.waiting import Waiters
from tests.gateway.conftest import OpenGate
from tests.gateway.gate import LIMIT_S, V4, Caller, Gate, until
from tollgate.broker.bus import MemoryBus
from tollgate.domain.errors import StoreUnavailableError
from tollgate.store import tasks
from tollgate.store.tasks import Task


class DeafBus(MemoryBus):
    """Loses every notice."""

    async def publish(self, channel: str, ids: Iterable[UUID]) -> None:
        pass


@pytest.fixture
async def deaf(gate_with: OpenGate) -> AsyncIterator[Gate]:
    async with gate_with(bus=DeafBus()) as opened:
        yield opened


async def until_somebody_waits(gate: Gate) -> None:
    await until(lambda: gate.services.waiters.waiting)


@pytest.fixture
async def blind(gate_with: OpenGate, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Gate]:
    """Never looks: it answers by the notice, or not at all."""
    monkeypatch.setattr("gateway.waiting.LOOK_EVERY_S", 3_600)
    async with gate_with() as opened:
        yield opened


@pytest.mark.parametrize("path", ["/tasks/{id}", "/tasks?id={id}", V4 + "/async-result/{id}"])
async def test_it_is_answered_by_the_notice_that_the_task_has_ended(blind: Gate, path: str) -> None:
    gate = blind
    caller = await gate.caller()
    task_id = await caller.id_of()
    claimed = await gate.claim(task_id)
    separator = "&" if "?" in path else "?"
    asking = asyncio.create_task(caller.get(path.format(id=task_id) + f"{separator}wait=100"))
    await until_somebody_waits(gate)
    await gate.end(claimed)
    answer = await asyncio.wait_for(asking, LIMIT_S)
    assert "SUCCESS" in str(answer)
    assert not gate.services.waiters.waiting


async def test_many_are_answered_when_any_of_them_ends(gate: Gate) -> None:
    caller = await gate.caller()
    ids = [await caller.id_of() for _ in range(3)]
    ended = await caller.id_of()
    await gate.succeed(ended)
    claimed = await gate.claim(ids[1])
    asking = asyncio.create_task(caller.get("/tasks", id=",".join([ended, *ids]), wait=100))
    await until_somebody_waits(gate)
    assert not asking.done(), "one that has ended before is nothing to wait for"
    await gate.end(claimed)
    answer = await asyncio.wait_for(asking, LIMIT_S)
    assert [task["status"] for task in answer["data"]] == ["SUCCESS", "PROCESSING", "SUCCESS", "PROCESSING"]


async def test_an_ended_task_is_answered_at_once(gate: Gate) -> None:
    caller = await gate.caller()
    task_id = await caller.id_of()
    await gate.succeed(task_id)
    assert (await asyncio.wait_for(caller.get(f"/tasks/{task_id}", wait=100), LIMIT_S))["status"] == "SUCCESS"


@pytest.mark.parametrize("wait", [0, 0.05])
async def test_when_the_time_is_over_it_is_answered_as_it_is(caller: Caller, gate: Gate, wait: float) -> None:
    shown = await caller.get(f"/tasks/{await caller.id_of()}", wait=wait)
    assert shown["status"] == "PROCESSING"
    assert not gate.services.waiters.waiting


async def test_a_bus_that_loses_every_notice_costs_a_look(deaf: Gate) -> None:
    caller = await deaf.caller()
    claimed = await deaf.claim(await caller.id_of())
    asking = asyncio.create_task(caller.get(f"/tasks/{claimed.id}", wait=100))
    await until_somebody_waits(deaf)
    await deaf.end(claimed)
    assert (await asyncio.wait_for(asking, LIMIT_S))["status"] == "SUCCESS"


async def test_an_end_between_reading_and_waiting_is_not_missed(blind: Gate) -> None:
    caller = await blind.caller()
    task_id = await caller.id_of()
    await blind.succeed(task_id)
    waiting = blind.services.waiters.wait([UUID(task_id)], timeout_s=100)
    await asyncio.wait_for(waiting, LIMIT_S)


async def test_an_end_while_the_task_is_read_is_not_missed(blind: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    caller = await blind.caller()
    claimed = await blind.claim(await caller.id_of())
    read = Reader.read

    # The reader is real; the task ends between its first answer and what is done with it.
    async def read_and_then_it_ends(self: Reader, task_id: UUID, *, project_id: UUID) -> Task | None:
        found = await read(self, task_id, project_id=project_id)
        if found is not None and not found.state.ended:
            await blind.end(claimed)
        return found

    monkeypatch.setattr(Reader, "read", read_and_then_it_ends)
    shown = await asyncio.wait_for(caller.get(f"/tasks/{claimed.id}", wait=100), LIMIT_S)
    assert shown["status"] == "SUCCESS"


async def test_the_look_survives_a_database_that_is_away(
    deaf: Gate, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    # The store is asked by this one function; what it raises while the database is away is the store's own test.
    asked = tasks.ended_among
    errors: list[Exception] = [StoreUnavailableError("away"), ValueError("odd")]

    async def failing(*arguments: object) -> set[UUID]:
        if errors:
            raise errors.pop()
        return await asked(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("gateway.waiting.LOOK_EVERY_S", 0.01)
    caller = await deaf.caller()
    claimed = await deaf.claim(await caller.id_of())
    waiters = Waiters(deaf.database, deaf.services.bus)
    waiters.start()
    waiting = asyncio.create_task(waiters.wait([claimed.id], timeout_s=100))
    await until(lambda: waiters.waiting)
    with caplog.at_level(logging.CRITICAL):
        monkeypatch.setattr(tasks, "ended_among", failing)
        await deaf.end(claimed)
        await asyncio.wait_for(waiting, LIMIT_S)
    assert not errors
    await waiters.stop()

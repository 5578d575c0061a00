"""The same mixed requests one by one, on the bare engine, and through the whole worker: queue, claim, call, settle."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import UUID

import torch

from benchmarks.local import checkpoints
from benchmarks.local.workload import ANSWER_TOKENS, CONTEXT_TOKENS, COUNT, PROMPT_TOKENS
from benchmarks.report import Figure, ratio
from tollgate.broker.bus import ENDED, MemoryBus
from tollgate.domain import admission
from tollgate.domain.admission import Limits
from tollgate.domain.ids import new_id
from tollgate.domain.model_file import parse_catalog
from tollgate.domain.prices import PriceTable
from tollgate.domain.routing import Catalog
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key, TaskRequest
from tollgate.settings import Settings
from tollgate.store import intake, keys, migrate
from tollgate.store.database import Database
from worker.billing import Rules
from worker.engine import Engine as Worker
from worker.upstreams.local import loading
from worker.upstreams.local.engine import Engine
from worker.upstreams.local.loading import Loaded
from worker.upstreams.local.requests import Ended, Event, Request, Sampling
from worker.upstreams.local.upstream import LocalUpstream
from worker.upstreams.registry import Connected

SLOTS = 32
PREFILL_TOKENS = 512
ONE_BY_ONE = 8
"""Of the requests, every eighth goes through `generate`: all of them would take as long as everything else."""
MODELS = """
[[upstream]]
name = "gpu"
kind = "local"

[[model]]
name = "m"
routes = ["gpu/m"]
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One request: its prompt, a byte a token, and how long its answer is."""

    prompt: str
    tokens: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Took:
    tokens: int
    cpu_s: float
    wall_s: float


def mixed() -> list[Asked]:
    """The same ones each time, of the lengths of L2's."""
    chance = random.Random(7)
    letters = "abcdefghijklmnopqrstuvwxyz "
    return [
        Asked(
            prompt="".join(chance.choices(letters, k=chance.randint(*PROMPT_TOKENS))),
            tokens=chance.randint(*ANSWER_TOKENS),
        )
        for _ in range(COUNT)
    ]


def figures(*, runs: int) -> list[Figure]:
    """L1: 64 mixed requests through the worker against one by one; L3: against the bare engine."""
    asked = mixed()
    with _loaded() as loaded:
        generate(loaded, asked[:1])
        alone = [generate(loaded, asked[::ONE_BY_ONE]) for _ in range(runs)]
        pairs = [(bare(loaded, asked), asyncio.run(whole(loaded, asked))) for _ in range(runs)]
    rate = [_by_cpu(w) for _, w in pairs]
    return [
        Figure(name="L1", what="through the worker", values=rate, unit="tokens/CPU s"),
        Figure(name="L1", what="`generate`, one by one", values=[_by_cpu(one) for one in alone], unit="tokens/CPU s"),
        ratio("L1", "through the worker against one by one", rate, [_by_cpu(one) for one in alone], target=4),
        Figure(
            name="L3", what="time through the worker beyond the bare engine's", unit="%", target=10, sense="<=",
            values=[100 * (w.wall_s / b.wall_s - 1) for b, w in pairs],
        ),
        Figure(
            name="L3", what="CPU through the worker beyond the bare engine's", unit="%",
            values=[100 * (w.cpu_s / b.cpu_s - 1) for b, w in pairs],
        ),
    ]  # fmt: skip


def _by_cpu(took: Took) -> float:
    return took.tokens / took.cpu_s


@contextmanager
def _loaded() -> Iterator[Loaded]:
    said = {"local_slots": SLOTS, "local_context_tokens": CONTEXT_TOKENS, "local_threads": 1, "local_device": "cpu"}
    with TemporaryDirectory() as folder:
        yield loading.load(str(checkpoints.write(Path(folder))), Settings.model_validate(said))


@contextmanager
def _timed(tokens: int) -> Iterator[list[Took]]:
    took: list[Took] = []
    cpu_s, wall_s = time.process_time(), time.perf_counter()
    yield took
    took.append(Took(tokens=tokens, cpu_s=time.process_time() - cpu_s, wall_s=time.perf_counter() - wall_s))


def generate(loaded: Loaded, asked: Sequence[Asked]) -> Took:
    """transformers' own, greedy, in fp32."""
    model = loaded.model
    with _timed(sum(one.tokens for one in asked)) as took, torch.inference_mode():
        for one in asked:
            ids = torch.tensor([loaded.tokenizer.encode(one.prompt)])
            model.generate(  # type: ignore[operator]
                ids, attention_mask=torch.ones_like(ids), max_new_tokens=one.tokens, do_sample=False
            )
    return took[0]


def bare(loaded: Loaded, asked: Sequence[Asked]) -> Took:
    """Token ids in, token ids out."""
    ended, left = threading.Event(), set[int]()

    def deliver(events: Sequence[Event]) -> None:
        left.difference_update(event.request.number for event in events if isinstance(event, Ended))
        if not left:
            ended.set()

    engine = Engine(
        loaded.model, slots=SLOTS, context_tokens=CONTEXT_TOKENS, ends=loaded.ends, prefill_tokens=PREFILL_TOKENS,
        deliver=deliver,
    )  # fmt: skip
    engine.start()
    greedy = Sampling(temperature=0)
    with _timed(sum(one.tokens for one in asked)) as took:
        requests = [
            Request(ids=loaded.tokenizer.encode(one.prompt), max_tokens=one.tokens, sampling=greedy) for one in asked
        ]
        left.update(request.number for request in requests)
        for request in requests:
            engine.submit(request)
        ended.wait()
    engine.stop(0.0)
    return took[0]


async def whole(loaded: Loaded, asked: Sequence[Asked]) -> Took:
    """From committed tasks, told to a worker, until the last one is settled."""
    async with AsyncExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory())
        url = f"sqlite:///{folder}/tollgate.db"
        database = Database.connect(url)
        stack.push_async_callback(database.close)
        await migrate.upgrade(database)
        bus, catalog = MemoryBus(), parse_catalog(MODELS, source="the benchmark")
        all_ended, left = asyncio.Event(), set[UUID]()

        def note(ids: Sequence[UUID]) -> None:
            left.difference_update(ids)
            if not left:
                all_ended.set()

        bus.subscribe(ENDED, note)
        worker = await _worker(stack, loaded, database, url, bus, catalog)
        submit = await _submitting(database, catalog)
        with _timed(sum(one.tokens for one in asked)) as took:
            left.update(ids := await submit(asked))
            worker.offer("local.interactive", {"gpu/m": ids})
            await all_ended.wait()
    return took[0]


async def _worker(
    stack: AsyncExitStack, loaded: Loaded, database: Database, url: str, bus: MemoryBus, catalog: Catalog
) -> Worker:
    upstream = LocalUpstream(loaded, prefill_tokens=PREFILL_TOKENS, on_dead=lambda _: None)
    connected = Connected(spec=catalog.upstreams["gpu"], upstream=upstream, credentials=("",), slots=SLOTS)
    worker = Worker(
        database=database, database_url=url, bus=bus, upstreams={"gpu": connected}, rules=Rules(prices=PriceTable([])),
        name="benchmark", lanes=("local.interactive", "local.bulk"), max_in_flight=1_000,
    )  # fmt: skip
    await worker.start()
    stack.push_async_callback(worker.stop, drain_timeout_s=0.0)
    return worker


async def _submitting(database: Database, catalog: Catalog) -> Callable[[Sequence[Asked]], Awaitable[list[UUID]]]:
    """Commits tasks as a gateway does."""
    now = datetime.now(UTC)
    async with database.write() as connection:
        project = await keys.add_project(connection, "benchmark", now=now)
        key = Key(id=new_id().hex, project_id=project.id, project=project.name, name="benchmark", role=Role.USER)
        await keys.add(connection, key, master="0123456789abcdef", now=now)

    async def submit(asked: Sequence[Asked]) -> list[UUID]:
        requests = [
            TaskRequest(
                model="m",
                body={
                    "model": "m",
                    "messages": [{"role": "user", "content": one.prompt}],
                    "max_tokens": one.tokens,
                    "temperature": 0,
                },
                expires_at=datetime.now(UTC) + timedelta(hours=1),
            )
            for one in asked
        ]
        new = admission.admit(requests, key=key, catalog=catalog, now=datetime.now(UTC), limits=Limits())
        async with database.write() as connection:
            await intake.submit(connection, [new])
        return [task.id for task in new]

    return submit

"""The steps at which a process can be made to die, or to freeze: each a place in the real code."""

from __future__ import annotations

import functools
import importlib
import inspect
import itertools
import signal
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

Function = Callable[..., Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """A passing of `function` in `module`."""

    module: str
    function: str
    """Qualified: Class.method."""
    when: Literal["before", "after"]
    grace_s: float = 0.0
    """From the passing to the death: what the step has begun gets so long."""
    of: str = ""
    """Only passings with this in an argument count."""


WRITTEN_S = 0.2
"""From the moment a call may be written to the moment the upstream surely has it, and has not answered yet."""

STEPS = {
    # worker: its claim is committed, and nothing was sent
    "claimed": Step(module="worker.runner", function="Runner.run", when="before"),
    # worker: the upstream has the call
    "sent": Step(module="worker.calling", function="Caller._note_sent", when="after", grace_s=WRITTEN_S),
    # worker: the answer is here and nobody has it but this process
    "answered": Step(module="worker.upstreams.chat", function="ChatUpstream.call", when="after"),
    # worker: the upstream has a call under an id that nobody has but this process
    "submitted": Step(module="worker.upstreams.zhipu", function="ZhipuUpstream.submit", when="after"),
    # worker: that id is committed, and its result was not asked for yet
    "polling": Step(module="worker.polling", function="Poller.answer", when="before"),
    # worker: the answer is about to be written
    "before_settle": Step(module="worker.settler", function="Settler._write", when="before"),
    # worker: it is committed, and nobody was told
    "after_settle": Step(module="worker.settler", function="Settler._notify", when="before"),
    # gateway: tasks are committed; their client has no answer, the workers no message
    "committed": Step(module="tollgate.broker.publisher", function="Publisher.announce", when="before"),
    # beat: hints are marked as given, and were not
    "announced": Step(module="tollgate.broker.publisher", function="Publisher.announce", when="before"),
}
DELIVERING = {
    # beat: deliveries are claimed, the receiver has one of them, and nothing is written
    "delivered": Step(module="worker.webhooks.courier", function="Courier._judge", when="before"),
}
READING = {
    # gateway: a step of a batch's lines is committed, and the rest of its file is not read
    "taken": Step(module="gateway.batches.intake", function="BatchIntake._commit", when="after"),
}
BUYING = {
    # worker: the upstream has a batch that nobody knows the id of
    "bought": Step(module="worker.upstream_batches.cloud", function="Cloud.create", when="after"),
    # worker: some of its answers are settled, and the rest is in a file on this process's disk
    "harvesting": Step(module="worker.upstream_batches.harvest", function="Harvest._settle_answers", when="after"),
}
IN_TRANSACTION = {
    # worker: tasks, attempts and results are written, the roll-up's rows are locked, nothing is committed
    "settling": Step(module="tollgate.store.settlements", function="settle", when="after"),
    # worker: it has the announcers' lock
    "feeding": Step(module="tollgate.store.announce", function="take_due", when="after"),
    # worker: it has that lock, and the server waits for the rest of a statement
    "preparing": Step(
        module="sqlalchemy.dialects.postgresql.asyncpg",
        function="AsyncAdapt_asyncpg_connection._prepare",
        when="after",
        of="SET announced_at",
    ),
}
"""Where a process has locks in the database. One that is killed there lets go of them; one that is frozen does not."""


def strike_at(name: str, *, passing: int = 1, with_signal: signal.Signals = signal.SIGKILL) -> None:
    """This process sends itself the signal at the `passing`-th passing of the step. Raises KeyError, AttributeError."""
    step = (STEPS | DELIVERING | READING | BUYING | IN_TRANSACTION)[name]
    module = importlib.import_module(step.module)
    path, _, attribute = step.function.rpartition(".")
    owner = functools.reduce(getattr, path.split(".") if path else [], module)
    original = getattr(owner, attribute)
    passings = itertools.count(1)

    def pass_it(*args: Any) -> None:
        counts = not step.of or any(step.of in str(arg) for arg in args)
        if counts and next(passings) == passing:
            _strike(step.grace_s, with_signal)

    setattr(owner, attribute, _struck(original, step, pass_it))


def _struck(original: Function, step: Step, pass_it: Function) -> Function:

    @functools.wraps(original)
    def before(*args: Any, **options: Any) -> Any:
        pass_it(*args)
        return original(*args, **options)

    @functools.wraps(original)
    def after(*args: Any, **options: Any) -> Any:
        result = original(*args, **options)
        pass_it(*args)
        return result

    @functools.wraps(original)
    async def after_awaiting(*args: Any, **options: Any) -> Any:
        result = await original(*args, **options)
        pass_it(*args)
        return result

    if step.when == "before":
        return before
    return after_awaiting if inspect.iscoroutinefunction(original) else after


def _strike(grace_s: float, with_signal: signal.Signals) -> None:
    """At once, in the middle of whatever its threads do; with a grace, from a thread beside the loop."""
    if grace_s:
        threading.Timer(grace_s, _strike, [0.0, with_signal]).start()
    else:
        # To this thread: sent to the process, another may take it, and this one runs on until that one has a core.
        signal.pthread_kill(threading.get_ident(), with_signal)

"""Hands lines to the gateway in lists, and finds the ones that it refuses, so that the rest goes on.

A list is taken whole or not at all. Where the answer names the task at fault it is set aside, else the list is
halved until it is found. What a limit of the key never takes at once is cut by `cli.fitting`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from tollgate.cli.client import Gateway, Json
from tollgate.cli.exits import GatewayUnreachableError, RefusedError
from tollgate.cli.fitting import NEVER_FITS, Fitting
from tollgate.cli.prompts import Line

LIST_MAX = 1_000
"""Tasks in one POST."""
LIST_MAX_BYTES = 8 * 1024 * 1024
"""And their bytes; the gateway takes 32 MiB by default, proxies before it often less."""
LOST_ANSWER_TRIES = 3
AT_FAULT = frozenset({400, 403, 404, 409, 413})
"""Statuses that blame a task, not the connection or the key."""
_TASK_FIELD = re.compile(r"tasks\.(\d+)(?:\.|$)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Submitted:
    """A line, and the task that the gateway made of it: None where the line was refused."""

    line: Line
    accepted: Json | None


def in_lists(lines: Iterable[Line]) -> Iterator[list[Line]]:
    """Lists of up to LIST_MAX lines and about LIST_MAX_BYTES; a longer line stands alone."""
    group: list[Line] = []
    size = 0
    for line in lines:
        length = len(json.dumps(line.task, ensure_ascii=False).encode("utf-8")) if line.task else 0
        if group and (len(group) == LIST_MAX or size + length > LIST_MAX_BYTES):
            yield group
            group, size = [], 0
        group.append(line)
        size += length
    if group:
        yield group


def submit(gateway: Gateway, lines: Sequence[Line], *, fitting: Fitting) -> Iterator[Submitted]:
    """Submit one list; an outcome for each line, as they become known. Raises for what blames no line."""
    yield from (Submitted(line=line, accepted=None) for line in lines if line.task is None)
    groups = fitting.cut([line for line in lines if line.task is not None])[::-1]
    while groups:
        group = groups.pop()
        if not group:
            continue
        try:
            accepted = _post(gateway, group)
        except RefusedError as error:
            if error.status not in AT_FAULT | {NEVER_FITS}:
                raise
            refused, rest = (fitting.part if error.status == NEVER_FITS else part)(group, error)
            yield from (Submitted(line=_refused(line, error), accepted=None) for line in refused)
            groups.extend(reversed(rest))
        else:
            yield from (Submitted(line=line, accepted=one) for line, one in zip(group, accepted, strict=True))


def part(group: list[Line], error: RefusedError) -> tuple[list[Line], list[list[Line]]]:
    """The lines that `error` refuses for sure, and the lists to try next."""
    if len(group) == 1:
        return group, []
    named = _TASK_FIELD.match(str(error.details.get("field", "")))
    if named and int(named[1]) < len(group):
        index = int(named[1])
        return [group[index]], [group[:index] + group[index + 1 :]]
    if error.kind in ("unknown_model", "forbidden"):
        return _part_by_model(group, whole=error.kind == "unknown_model")
    middle = len(group) // 2
    return [], [group[:middle], group[middle:]]


def _part_by_model(group: list[Line], *, whole: bool) -> tuple[list[Line], list[list[Line]]]:
    """A model that is refused is refused for all its lines: a list for each model; `whole` says that one is enough."""
    by_model: dict[str, list[Line]] = {}
    for line in group:
        by_model.setdefault(str((line.task or {}).get("model")), []).append(line)
    if len(by_model) > 1:
        return [], list(by_model.values())
    if whole:
        return group, []
    middle = len(group) // 2
    return [], [group[:middle], group[middle:]]


def _post(gateway: Gateway, group: Sequence[Line]) -> list[Json]:
    """Submit. A lost answer is asked for again only where every line has a request_id, which makes that safe."""
    tasks = [line.task for line in group if line.task is not None]
    tries = LOST_ANSWER_TRIES if all(task.get("request_id") for task in tasks) else 1
    while True:
        tries -= 1
        try:
            return gateway.submit(tasks)
        except GatewayUnreachableError as error:
            if not error.sent:
                raise
            if not tries:
                raise _lost(error, group) from error


def _lost(error: GatewayUnreachableError, group: Sequence[Line]) -> GatewayUnreachableError:
    where = group[0].place if len(group) == 1 else f"{group[0].place} to {group[-1].place}"
    return GatewayUnreachableError(
        f"{error}. It may have accepted {where} all the same: look with `tollgate tasks list` before you submit "
        "them again. Lines with a request_id can be repeated safely",
        sent=True,
    )


def _refused(line: Line, error: RefusedError) -> Line:
    return replace(line, task=None, problem=_TASK_PREFIX.sub("", str(error)))


_TASK_PREFIX = re.compile(r"^tasks\.\d+\.?:?\s*")

"""Commands of several ids: each has its turn, and one that is refused does not keep the others from theirs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from tollgate.cli import exits, output

Json = dict[str, Any]


def each(
    ids: Iterable[str],
    ask: Callable[[str], Json],
    *,
    told: Callable[[Json], str],
    as_json: bool,
    passed_over: tuple[int, ...] = (404, 409),
) -> int:
    """The exit code: FAILED if any was refused with a status of `passed_over`, which is noted on stderr.

    `ask` is given each id once, `told` says in a line what it answers. Raises RefusedError for any other status."""
    refused = False
    for one in dict.fromkeys(ids):
        try:
            answer = ask(one)
        except exits.RefusedError as error:
            if error.status not in passed_over:
                raise
            output.note(f"{one}: {error}")
            refused = True
            continue
        if as_json:
            output.json_line(answer)
        else:
            print(f"{answer['id']}  {told(answer)}")
    return exits.FAILED if refused else exits.OK

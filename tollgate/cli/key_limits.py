"""`tollgate keys limit`, and how the limits of a key are given and shown."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from tollgate.cli import installation, options

if TYPE_CHECKING:
    from tollgate.domain.rates import KeyLimits
    from tollgate.settings import Settings
    from tollgate.store.keys import StoredKey

LIFTED = "none"
Requests = Annotated[
    str | None,
    typer.Option("--requests-per-minute", metavar="N", help="Submits in any minute, a list being one."),
]
Tokens = Annotated[
    str | None,
    typer.Option("--tokens-per-minute", metavar="N", help="Prompt and max_tokens of interactive tasks, in any minute."),
]
InFlight = Annotated[
    str | None, typer.Option("--max-in-flight", metavar="N", help="Tasks that are accepted and have not ended.")
]


def limit(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="The part of the key before the dot.")],
    requests_per_minute: Requests = None,
    tokens_per_minute: Tokens = None,
    max_in_flight: InFlight = None,
    data: options.Data = None,
) -> None:
    """Change a key's limits; "none" lifts one, and one that is left out stays. In force everywhere within 5 s.

    A new limit of tasks in flight counts the tasks that are submitted from then on.

    Examples:
      tollgate keys limit 0199c2f06a4e7c31a0b752ab3e1f4d10 --requests-per-minute 60 --max-in-flight 20
      tollgate keys limit 0199c2f06a4e7c31a0b752ab3e1f4d10 --tokens-per-minute none
    """
    changes = given(requests_per_minute, tokens_per_minute, max_in_flight)
    if not changes:
        raise typer.BadParameter("give --requests-per-minute, --tokens-per-minute or --max-in-flight")
    # Whoever has only the whole key at hand may paste it: the secret is not needed, and not printed again.
    changed = options.run(_change(options.settings(data), key_id.partition(".")[0], changes))
    print(f"key {changed.key.id}: {told(changed.key.limits)}")


def given(
    requests_per_minute: str | None, tokens_per_minute: str | None, max_in_flight: str | None
) -> Mapping[str, int | None]:
    """By their names in KeyLimits, those that were given; None lifts one."""
    texts = {
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "max_in_flight": max_in_flight,
    }
    return {name: _number(name, text) for name, text in texts.items() if text is not None}


def _number(name: str, text: str) -> int | None:
    from tollgate.domain.rates import MAX_LIMIT

    if text == LIFTED:
        return None
    number = int(text) if text.isascii() and text.isdigit() else 0
    if not 1 <= number <= MAX_LIMIT:
        option = f"--{name.replace('_', '-')}"
        raise typer.BadParameter(f"{text!r}: write a number from 1 to {MAX_LIMIT}, or {LIFTED}", param_hint=option)
    return number


def told(limits: KeyLimits) -> str:
    """ "60 requests/min, 10 in flight"; "not limited"."""
    return ", ".join(_parts(limits)) or "not limited"


def _parts(limits: KeyLimits) -> Iterator[str]:
    if limits.requests_per_minute is not None:
        yield f"{limits.requests_per_minute:,} requests/min"
    if limits.tokens_per_minute is not None:
        yield f"{limits.tokens_per_minute:,} tokens/min"
    if limits.max_in_flight is not None:
        yield f"{limits.max_in_flight:,} in flight"


async def _change(settings: Settings, key_id: str, changes: Mapping[str, int | None]) -> StoredKey:
    from tollgate.store import key_limits, keys

    async with installation.store(settings) as database, database.write() as connection:
        await key_limits.change(connection, key_id, changes, now=datetime.now(UTC))
        return await keys.found(connection, key_id)

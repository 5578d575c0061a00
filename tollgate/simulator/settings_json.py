"""The simulator's settings as JSON: shown by GET, changed by PUT /simulator/settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace
from typing import Any

import orjson

from tollgate.domain.errors import SettingsError
from tollgate.simulator.settings import SimulatorSettings

_NAMES = frozenset(item.name for item in fields(SimulatorSettings))
_GROUPS = ("faults", "batches")
"""Settings that are objects of settings."""


def dump(settings: SimulatorSettings) -> bytes:
    """All settings as one JSON object."""
    return orjson.dumps(asdict(settings))


def parse(text: bytes) -> dict[str, object]:
    """The JSON object of changes; SettingsError if the text is none."""
    try:
        changes = orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise SettingsError(f"simulator settings: the body is not JSON: {error}") from error
    if not isinstance(changes, dict):
        raise SettingsError('simulator settings: write a JSON object, such as {"latency_s": 0.5}')
    return changes


def change(settings: SimulatorSettings, changes: Mapping[str, object]) -> SimulatorSettings:
    """`settings` with the named fields changed, the others as they were; `faults` and `batches` are merged likewise.

    Raises SettingsError naming a field that is not known or whose value is not allowed; then nothing changed.
    """
    _refuse_unknown(changes, known=_NAMES, prefix="")
    values = _tupled(changes)
    for group in _GROUPS:
        if isinstance(values.get(group), Mapping):
            values[group] = _change_group(getattr(settings, group), changes=values[group], prefix=f"{group}.")
    return replace(settings, **values)


def _change_group(holder: Any, *, changes: Mapping[str, object], prefix: str) -> object:
    _refuse_unknown(changes, known=frozenset(item.name for item in fields(holder)), prefix=prefix)
    return replace(holder, **_tupled(changes))


def _tupled(changes: Mapping[str, object]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}


def _refuse_unknown(changes: Mapping[str, object], *, known: frozenset[str], prefix: str) -> None:
    for name in changes:
        if name not in known:
            raise SettingsError(
                f"simulator setting {prefix}{name}: no such setting; known are {', '.join(sorted(known))}"
            )

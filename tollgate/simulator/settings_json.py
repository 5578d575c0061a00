"""The simulator's settings as JSON: shown by GET, changed by PUT /simulator/settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields, replace

import orjson

from tollgate.domain.errors import SettingsError
from tollgate.simulator.settings import Faults, SimulatorSettings

_NAMES = frozenset(item.name for item in fields(SimulatorSettings))
_RATES = frozenset(item.name for item in fields(Faults))


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
    """`settings` with the named fields changed, the others as they were; `faults` is merged in the same way.

    Raises SettingsError naming a field that is not known or whose value is not allowed; then nothing changed.
    """
    _refuse_unknown(changes, known=_NAMES, prefix="")
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in changes.items()}
    if isinstance(values.get("faults"), Mapping):
        values["faults"] = _change_faults(settings.faults, changes=values["faults"])  # type: ignore[arg-type]
    return replace(settings, **values)  # type: ignore[arg-type]


def _change_faults(faults: Faults, *, changes: Mapping[str, object]) -> Faults:
    _refuse_unknown(changes, known=_RATES, prefix="faults.")
    return replace(faults, **changes)  # type: ignore[arg-type]


def _refuse_unknown(changes: Mapping[str, object], *, known: frozenset[str], prefix: str) -> None:
    for name in changes:
        if name not in known:
            raise SettingsError(
                f"simulator setting {prefix}{name}: no such setting; known are {', '.join(sorted(known))}"
            )

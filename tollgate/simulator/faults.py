"""What befalls a call: drawn from (seed, number of the call), so that a run can be repeated.

The n-th call of a simulator has the same fate under the same seed and rates, whatever it asks. Calls are numbered
as they pass the checks; where many run at once their order, and so who meets which fault, is the client's.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from tollgate.simulator.settings import Faults, SimulatorSettings

_MASK = (1 << 64) - 1


class FaultKind(StrEnum):
    """The fields of `settings.Faults`, and CODE: a business code that a prompt's hook asks for."""

    RATE_LIMIT = "rate_limit"
    SERVER_ERROR = "server_error"
    GARBAGE = "garbage"
    CUT = "cut"
    HANG = "hang"
    STREAM_CUT = "stream_cut"
    SENSITIVE = "sensitive"
    FINISH_SENSITIVE = "finish_sensitive"
    NETWORK_ERROR = "network_error"
    TASK_FAIL = "task_fail"
    CODE = "code"


UNBILLED = frozenset({FaultKind.SERVER_ERROR, FaultKind.GARBAGE, FaultKind.HANG, FaultKind.CODE})
"""Billed only if `bill_errors`; every other fault comes after the answer was computed, or is a refusal."""

POLL_FAULTS = frozenset(
    {FaultKind.RATE_LIMIT, FaultKind.SERVER_ERROR, FaultKind.GARBAGE, FaultKind.CUT, FaultKind.HANG}
)
"""The faults that can befall GET /async-result, and the calls of the files' and batches' API."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fate:
    """What befalls one call; `kind` None is nothing. `code` goes with CODE."""

    kind: FaultKind | None = None
    code: str | None = None


FINE = Fate()
_FATES = {kind: Fate(kind=kind) for kind in FaultKind if kind is not FaultKind.CODE}


class Stream(StrEnum):
    """Independent series of random numbers under one seed."""

    FAULTS = "faults"
    LATENCY = "latency"
    POLLS = "polls"
    LINES = "lines"
    BATCH_CALLS = "batch_calls"


_SALTS = {
    Stream.FAULTS: 0x243F6A8885A308D3,
    Stream.LATENCY: 0x13198A2E03707344,
    Stream.POLLS: 0xA4093822299F31D0,
    Stream.LINES: 0x082EFA98EC4E6C89,
    Stream.BATCH_CALLS: 0x452821E638D01377,
}


def draw(seed: int, *, number: int, stream: Stream) -> float:
    """A number in [0, 1) for the call `number` of `stream`.

    SplitMix64 (Steele, Lea, Flood: Fast Splittable Pseudorandom Number Generators, 2014): half a microsecond,
    where seeding `random.Random` for each call takes five.
    """
    state = ((seed ^ _SALTS[stream]) + number * 0x9E3779B97F4A7C15) & _MASK
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & _MASK
    return ((state ^ (state >> 31)) >> 11) * 2.0**-53


def decide(faults: Faults, *, drawn: float) -> Fate:
    """The fault whose share of [0, 1) holds `drawn`, in the order of the fields; FINE beyond them."""
    edge = 0.0
    for kind, fate in _FATES.items():
        edge += getattr(faults, kind)
        if drawn < edge:
            return fate
    return FINE


def latency_s(settings: SimulatorSettings, *, number: int) -> float:
    """Seconds before the first token of the call `number`."""
    if not settings.latency_jitter_s:
        return settings.latency_s
    drawn = draw(settings.seed, number=number, stream=Stream.LATENCY)
    return max(0.0, settings.latency_s + (2.0 * drawn - 1.0) * settings.latency_jitter_s)

"""Hooks in a prompt that steer the simulator for this one call. Only the last user message is read.

    [[echo]]text         the answer is the text after the hook
    [[tokens:120]]       the answer is that many tokens long
    [[latency:2.5]]      this call's latency in seconds, instead of the settings'
    [[tool]]             call the first tool, as if tool_choice had asked for it
    [[fault:NAME]]       one of the faults in `settings.Faults`, or 429, 500, fail (short for task_fail),
                         or a business code such as 1113
    [[fault:once:NAME]]  only on the first try of this model, messages and seed; `3x` for the first three

In a batch's line, latency does nothing, hang leaves the line unfinished, garbage and cut spoil its output line, and
429, 500, fail, sensitive and the codes put it into the error file.

A hook that is not known is left in the text. Hooks count as prompt tokens like any other text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tollgate.simulator import tokens
from tollgate.simulator.codes import CODES
from tollgate.simulator.faults import Fate, FaultKind

_HOOK = re.compile(r"\[\[(?:(echo|tool)|(tokens|latency):(\d{1,9}(?:\.\d{1,6})?)|fault:(?:(once|\d{1,3}x):)?(\w+))\]\]")
_SHORT = {
    "429": FaultKind.RATE_LIMIT,
    "500": FaultKind.SERVER_ERROR,
    "fail": FaultKind.TASK_FAIL,
}
MAX_TOKENS = 131_072
"""The longest answer that [[tokens:N]] makes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """What the hooks of one prompt ask for; None: nothing asked."""

    echo: str | None = None
    tokens: int | None = None
    latency_s: float | None = None
    tool: bool = False
    fate: Fate | None = None
    fault_tries: int | None = None
    """The fault befalls only this many first tries; None: every one."""


NONE = Hooks()


def read(messages: list[dict[str, object]]) -> Hooks:
    """The hooks of the last user message."""
    for message in reversed(messages):
        if message.get("role") == "user":
            text = tokens.text_of(message.get("content"))
            return _parse(text) if "[[" in text else NONE
    return NONE


def _parse(text: str) -> Hooks:
    echo, length, latency_s, tool, fate, tries = None, None, None, False, None, None
    for match in _HOOK.finditer(text):
        word, measure, value, times, name = match.groups()
        if word == "echo":
            echo = _HOOK.sub("", text[match.end() :])
        elif word == "tool":
            tool = True
        elif measure == "tokens":
            length = min(int(float(value)), MAX_TOKENS)
        elif measure == "latency":
            latency_s = min(float(value), 86_400.0)
        elif (named := _fate(name)) is not None:
            fate, tries = named, _tries(times)
    return Hooks(echo=echo, tokens=length, latency_s=latency_s, tool=tool, fate=fate, fault_tries=tries)


def _fate(name: str) -> Fate | None:
    if name in _SHORT:
        return Fate(kind=_SHORT[name])
    if name in CODES:
        return Fate(kind=FaultKind.CODE, code=name)
    if name in FaultKind.__members__.values() and name != FaultKind.CODE:
        return Fate(kind=FaultKind(name))
    return None


def _tries(times: str | None) -> int | None:
    if times is None:
        return None
    return 1 if times == "once" else int(times[:-1])

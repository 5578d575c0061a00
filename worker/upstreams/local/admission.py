"""What the engine takes: every request is checked before a neighbour could be hurt by it."""

from __future__ import annotations

import math
from typing import NoReturn

from worker.upstreams.local.requests import Request, Sampling

MAX_TEMPERATURE = 100.0


class Refused(ValueError):
    """Nothing that could be run. Says what is wrong, and names its parameter."""

    def __init__(self, parameter: str, message: str) -> None:
        super().__init__(f"{parameter}: {message}")
        self.parameter = parameter


class EngineStopped(RuntimeError):
    """It takes nothing any more."""


class Busy(RuntimeError):
    """So many are waiting that another one would only wait longer."""


def check(request: Request, *, vocabulary: int, context_tokens: int) -> None:
    """Raises Refused."""
    _check_ids(request, vocabulary=vocabulary)
    if type(request.max_tokens) is not int or request.max_tokens < 1:
        raise Refused("max_tokens", f"{request.max_tokens!r} is no positive whole number")
    if len(request.ids) + request.max_tokens > context_tokens:
        _refuse_length(len(request.ids), request.max_tokens, context_tokens=context_tokens)
    _check_sampling(request.sampling)
    if request.deadline_s is not None and not math.isfinite(request.deadline_s):
        raise Refused("deadline_s", f"{request.deadline_s!r} is no time")


def _check_ids(request: Request, *, vocabulary: int) -> None:
    if not request.ids:
        raise Refused("ids", "the prompt is empty")
    if not all(type(token) is int for token in request.ids):
        raise Refused("ids", "not all are whole numbers")
    if min(request.ids) < 0 or max(request.ids) >= vocabulary:
        raise Refused("ids", f"not all are in the vocabulary of {vocabulary} tokens")


def _refuse_length(prompt: int, max_tokens: int, *, context_tokens: int) -> NoReturn:
    if prompt >= context_tokens:
        raise Refused("ids", f"a prompt of {prompt} tokens does not fit a context of {context_tokens}")
    raise Refused(
        "max_tokens", f"{max_tokens} after a prompt of {prompt} exceed the context of {context_tokens} tokens"
    )


def _check_sampling(sampling: Sampling) -> None:
    if not (_is_number(sampling.temperature) and 0 <= sampling.temperature <= MAX_TEMPERATURE):
        raise Refused("temperature", f"{sampling.temperature!r} is not between 0 and {MAX_TEMPERATURE:g}")
    if not (_is_number(sampling.top_p) and 0 < sampling.top_p <= 1):
        raise Refused("top_p", f"{sampling.top_p!r} is not above 0 and at most 1")
    if type(sampling.top_k) is not int or not 0 <= sampling.top_k < 2**31:
        raise Refused("top_k", f"{sampling.top_k!r} is no whole number from 0 (no limit)")
    if sampling.seed is not None and (type(sampling.seed) is not int or not -(2**63) <= sampling.seed < 2**63):
        raise Refused("seed", f"{sampling.seed!r} is no whole number of 64 bits")


def _is_number(value: object) -> bool:
    """NaN is among them, and fails every comparison."""
    return isinstance(value, int | float) and not isinstance(value, bool)

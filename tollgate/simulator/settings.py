"""The simulator's settings: how fast it is, what goes wrong and how often, and how it reads what is not known of
the real service. Values, built once and replaced whole; `settings_json` reads changes sent while it runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

from tollgate.domain.errors import SettingsError
from tollgate.simulator import settings_checks as checks
from tollgate.simulator.batch_settings import Batches
from tollgate.simulator.codes import CODES, KEY_CODES

Repeat = Literal["replay", "reject", "reject_running", "bill"]
"""What follows a request_id that was seen before under the same key.

replay: the first answer again, unbilled (async: the same id); reject: 1231; reject_running: 1231 while the first one
runs, after that as bill; bill: request_ids mean nothing, each call is a new purchase.
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Rates from 0 to 1 of each fault, together at most 1. One number per call, drawn from (seed, number of the
    call), decides which one, so the same calls in the same order meet the same faults.
    """

    rate_limit: float = 0.0
    """HTTP 429 with `rate_limit_code`, at once."""
    server_error: float = 0.0
    """`server_error_status` with `server_error_code`, after the latency."""
    garbage: float = 0.0
    """HTTP 200 with, by turns, no JSON, JSON of a wrong shape, JSON cut short, HTML."""
    cut: float = 0.0
    """The connection closes in the middle of the body. The answer was computed: billed."""
    hang: float = 0.0
    """No answer, until the client leaves."""
    stream_cut: float = 0.0
    """As `cut`, for streams only: some chunks come, then the connection closes. Billed."""
    sensitive: float = 0.0
    """Refused with 1301, unbilled."""
    finish_sensitive: float = 0.0
    """HTTP 200 with finish_reason "sensitive" and an empty content. Billed."""
    network_error: float = 0.0
    """HTTP 200 with finish_reason "network_error" and half of the content. Billed."""
    task_fail: float = 0.0
    """Async only: the task ends FAIL with 1234."""

    def __post_init__(self) -> None:
        names = [item.name for item in fields(self)]
        checks.check_fields(self, checks=dict.fromkeys(names, checks.number(0, 1)), prefix="faults.")
        total = sum(getattr(self, name) for name in names)
        if total > 1 + 1e-9:
            raise SettingsError(f"simulator setting faults: the rates add up to {total:g}; they are shares, at most 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class SimulatorSettings:
    """Everything that can be set; the defaults are an instant, faultless service that takes any key."""

    seed: int = 0
    """Of faults and of the latency's jitter."""
    latency_s: float = 0.0
    """Seconds before the first token, and before an async task can end."""
    latency_jitter_s: float = 0.0
    """The latency of a call lies evenly between latency_s - jitter and latency_s + jitter, never below 0."""
    tokens_per_second: float | None = None
    """Speed of the generation after the latency; None: instant."""
    faults: Faults = field(default_factory=Faults)
    batches: Batches = field(default_factory=Batches)
    fault_polls: bool = False
    """Whether rate_limit, server_error, garbage, cut and hang also befall GET /async-result."""
    rate_limit_code: str = "1302"
    """Business code of a rate limit; "none" is a plain 429 without ZhipuAI's body."""
    server_error_code: str = "500"
    """Business code of a server error; "none" is a plain status without ZhipuAI's body."""
    server_error_status: int = 500
    retry_after_s: float | None = None
    """If set, a Retry-After header with every 429 and 5xx, in seconds."""
    bill_errors: bool = False
    """Whether server errors, garbage, hangs and failed async tasks are billed, as if the model had run."""
    max_in_flight: int | None = None
    """Hidden limit on direct calls and processing async tasks together; above it 1302. None: no limit."""
    async_repeat: Repeat = "replay"
    """What a repeated request_id of an async submit does."""
    direct_repeat: Repeat = "bill"
    """The same for direct calls and streams."""
    accept_keys: tuple[str, ...] = ()
    """Keys (`id.secret`) or key ids that are let in; others are refused with 1000. Empty: any in the right form."""
    refuse_keys: Mapping[str, str] = field(default_factory=dict)
    """Key, key id or "*" for every key -> the code that refuses it: 1113 (no balance) or one of the 1000s."""
    extra_models: tuple[str, ...] = ()
    """Models known beside those that have a price; billed at 0."""
    context_tokens: int = 200_000
    """A longer prompt is refused with 1261."""
    check_request_id: bool = True
    """Whether a request_id outside 6 to 64 characters is refused with 1214."""
    unknown_task_status: int = 404
    """HTTP status for the id of an async task, file or batch that is not known; with code `unknown_task_code`."""
    unknown_task_code: str = "1200"
    omit_task_status: bool = False
    """Leave task_status out of a finished async result, as ZhipuAI's documentation shows it."""
    results_max: int = 100_000
    """Async tasks, and request_ids of direct calls, that are remembered; the oldest go first."""
    embedding_dimensions: int = 8
    """Length of a vector where the request names none."""

    def __post_init__(self) -> None:
        checks.check_fields(self, checks=CHECKS)


_REPEATS = checks.one_of("replay", "reject", "reject_running", "bill")
_LIMITS = sorted(code for code, (status, _) in CODES.items() if status == 429)
_ERRORS = sorted(code for code, (status, _) in CODES.items() if status >= 500)

CHECKS: Mapping[str, checks.Check] = {
    "seed": checks.whole(0, 2**63 - 1),
    "latency_s": checks.number(0, 86_400),
    "latency_jitter_s": checks.number(0, 86_400),
    "tokens_per_second": checks.optional(checks.number(0.001, 1e9)),
    "faults": checks.Check(accepts=lambda value: isinstance(value, Faults), allowed="an object of rates"),
    "batches": checks.Check(accepts=lambda value: isinstance(value, Batches), allowed="an object of settings"),
    "fault_polls": checks.boolean(),
    "rate_limit_code": checks.one_of(*_LIMITS, "none"),
    "server_error_code": checks.one_of(*_ERRORS, "none"),
    "server_error_status": checks.whole(500, 599),
    "retry_after_s": checks.optional(checks.number(0, 86_400)),
    "bill_errors": checks.boolean(),
    "max_in_flight": checks.optional(checks.whole(1, 10**9)),
    "async_repeat": _REPEATS,
    "direct_repeat": _REPEATS,
    "accept_keys": checks.strings(),
    "refuse_keys": checks.codes_by_key(KEY_CODES),
    "extra_models": checks.strings(),
    "context_tokens": checks.whole(1, 10**9),
    "check_request_id": checks.boolean(),
    "unknown_task_status": checks.whole(400, 599),
    "unknown_task_code": checks.one_of(*sorted(CODES)),
    "omit_task_status": checks.boolean(),
    "results_max": checks.whole(1, 10**7),
    "embedding_dimensions": checks.whole(1, 4096),
}
"""Field -> what it may be; tests hold this table against the fields."""

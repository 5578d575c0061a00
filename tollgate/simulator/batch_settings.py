"""How the simulator's batches behave: their time, what befalls their lines, and the forms seen in the wild."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from tollgate.domain.errors import SettingsError
from tollgate.simulator import settings_checks as checks

CALLS = (
    "file_upload",
    "file_list",
    "file_content",
    "file_delete",
    "batch_create",
    "batch_retrieve",
    "batch_list",
    "batch_cancel",
)
"""The calls of the files' and batches' API, as /simulator/stats counts them."""
ErrorForm = Literal["response", "error", "flat", "text", "mixed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Batches:
    """Of files and batches. `faults` do not befall a batch's lines: the shares below do, drawn from (seed, number of
    the line, counted over all batches), and so do the hooks in a prompt.
    """

    latency_s: float = 0.0
    """Seconds from creation to end. A tenth each is spent on validating and on finalizing or cancelling."""
    window_s: float = 86_400.0
    """Seconds from creation until a batch whose lines are not all finished is `expired`."""
    lines_max: int = 50_000
    """A file with more lines does not pass validation."""
    bytes_max: int = 100 * 1024 * 1024
    """A larger file is refused at upload with HTTP 435."""
    bad_lines: Literal["fail_batch", "error_file"] = "fail_batch"
    """What follows a line that is no request, or repeats a custom_id: the batch ends `failed`, or that line does."""
    failed: float = 0.0
    """Share of lines that fail with 1234. Unbilled, as every line without an answer."""
    unfinished: float = 0.0
    """Share of lines that are never finished: the batch ends `expired`."""
    missing: float = 0.0
    """Share of lines that stand in neither file."""
    garbled: float = 0.0
    """Share of output lines that are no JSON. Billed only if `bill_errors`."""
    times: Literal["seconds", "milliseconds"] = "seconds"
    """Unit of a batch's times; the SDK says seconds."""
    no_file: Literal["null", "empty"] = "null"
    """How a file id is told where there is no such file: null or ''."""
    counts: Literal["object", "integer", "null"] = "object"
    """The form of request_counts; an integer is the total, with the others beside it."""
    order: Literal["input", "shuffled"] = "input"
    """The order in which lines run, and so stand in the output."""
    error_form: ErrorForm = "response"
    """The keys of a failed line: response (status_code and body, as an answer), error (an object), flat (code and
    message beside custom_id), text (error is a string), or mixed: these by turns."""
    expired_lines: Literal["error_file", "missing"] = "error_file"
    """Whether unfinished lines stand in the error file, with batch_expired."""
    faults_on: tuple[str, ...] = ()
    """Which calls of this API the settings' `faults` befall (rate_limit, server_error, garbage, cut, hang). After a
    server error nothing was done; the others but rate_limit befall the answer: the file or batch is there."""

    def __post_init__(self) -> None:
        checks.check_fields(self, checks=CHECKS, prefix="batches.")
        total = self.failed + self.unfinished + self.missing + self.garbled
        if total > 1 + 1e-9:
            raise SettingsError(f"simulator setting batches: the shares of lines add up to {total:g}; at most 1")


_SHARE = checks.number(0, 1)

CHECKS: Mapping[str, checks.Check] = {
    "latency_s": checks.number(0, 86_400),
    "window_s": checks.number(0, 604_800),
    "lines_max": checks.whole(1, 10**7),
    "bytes_max": checks.whole(1, 10**10),
    "bad_lines": checks.one_of("fail_batch", "error_file"),
    "failed": _SHARE,
    "unfinished": _SHARE,
    "missing": _SHARE,
    "garbled": _SHARE,
    "times": checks.one_of("seconds", "milliseconds"),
    "no_file": checks.one_of("null", "empty"),
    "counts": checks.one_of("object", "integer", "null"),
    "order": checks.one_of("input", "shuffled"),
    "error_form": checks.one_of("response", "error", "flat", "text", "mixed"),
    "expired_lines": checks.one_of("error_file", "missing"),
    "faults_on": checks.strings_of(*CALLS),
}
"""Field -> what it may be; tests hold this table against the fields."""

"""A batch as a person reads it: its state, its summary, what its lines fail of. Pure."""

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING, Any

from tollgate.cli import output

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

Json = dict[str, Any]
ENDED = frozenset({"completed", "failed", "expired", "cancelled"})
RESUMED_BY = {
    "owner": "tollgate batch resume {id}",
    "max_cost": "tollgate batch resume {id} --max-cost AMOUNT",
    "budget": "tollgate budgets list; then tollgate batch resume {id}",
    "unpriced": "tollgate models check; then tollgate batch resume {id}",
}
"""By the code of a pause: what to type."""


def has_ended(batch: Json) -> bool:
    return batch["state"] in ENDED


def all_good(batch: Json) -> bool:
    """Whether every line has its answer."""
    counts = batch["counts"]
    return bool(batch["state"] == "completed" and counts["succeeded"] == counts["total"])


def done(batch: Json) -> int:
    """Lines that have ended, well or not, and those that are refused."""
    counts = batch["counts"]
    return sum(counts[name] for name in ("succeeded", "failed", "cancelled", "expired", "invalid"))


def state(batch: Json) -> str:
    """ "in_progress", "paused (in_progress)"."""
    return f"paused ({batch['state']})" if batch["paused"] and not has_ended(batch) else str(batch["state"])


def styled_state(batch: Json) -> Text:
    from rich.text import Text

    return Text(state(batch), style="yellow" if batch["paused"] else output.STATE_STYLES.get(batch["state"], ""))


def why_paused(batch: Json) -> str | None:
    """With what to type; None: it is not paused."""
    pause = batch["paused"]
    if not pause or has_ended(batch):
        return None
    typed = RESUMED_BY.get(pause["code"], RESUMED_BY["owner"]).format(id=batch["id"])
    return f"paused: {pause['reason']}. To go on: {typed}"


def cost(batch: Json) -> str:
    """ "1.25 CNY", with what is not sure of it."""
    text = f"{output.money(batch['cost'])} {batch['currency']}"
    if batch["possible_cost"] and Decimal(batch["possible_cost"]):
        text += f", up to {output.money(batch['possible_cost'])} more for calls without an answer"
    if batch["unpriced"]:
        text += f"; {output.count(batch['unpriced'], 'call')} without a known price"
    return text


def counted(batch: Json) -> str:
    """ "98 succeeded, 1 failed, 1 invalid": what there is none of is left out, but for these first two."""
    counts = batch["counts"]
    rest = [name for name in ("cancelled", "expired", "invalid", "running", "queued") if counts[name]]
    return ", ".join(f"{counts[name]:,} {name}" for name in ("succeeded", "failed", *rest))


def summary(batch: Json, *, elapsed_s: float | None) -> str:
    """One line: how many, how it went, what it came to."""
    took = "" if elapsed_s is None else f", {output.duration(elapsed_s)}"
    tokens = batch["usage"]["total_tokens"]
    return f"{state(batch)}: {counted(batch)}; {tokens:,} tokens, cost {cost(batch)}{took}"


def pace(batch: Json) -> str:
    """ "12 failed · 1,234 tokens · 0.56 CNY · 45.2/s · 3 min left": what stands beside a bar."""
    counts, rate, eta = batch["counts"], batch.get("lines_per_second"), batch.get("eta_s")
    wrong = counts["failed"] + counts["cancelled"] + counts["expired"]
    parts = [f"{wrong:,} failed", f"{batch['usage']['total_tokens']:,} tokens"]
    parts.append(f"{output.rough_money(batch['cost'])} {batch['currency']}")
    if counts["invalid"]:
        parts.insert(1, f"{counts['invalid']:,} invalid")
    if rate is not None:
        parts.append(f"{rate:.1f}/s")
    if eta is not None:
        parts.append(f"{output.duration(eta)} left")
    return " · ".join(parts)


def facts(batch: Json) -> list[tuple[str, str]]:
    """Name and value of what there is to say about one."""
    usage, limit = batch["usage"], batch["max_cost"]
    tokens = f"{usage['prompt_tokens']:,} prompt ({usage['cached_tokens']:,} cached) + "
    tokens += f"{usage['completion_tokens']:,} completion = {usage['total_tokens']:,}"
    rate, eta, ended = batch.get("lines_per_second"), batch.get("eta_s"), has_ended(batch)
    named = [
        ("batch", batch["id"]),
        ("name", batch["name"]),
        ("state", state(batch)),
        ("pause", why_paused(batch)),
        ("error", f"{batch['error']['code']}: {batch['error']['message']}" if batch["error"] else None),
        ("lines", f"{done(batch):,} of {batch['counts']['total']:,} ended: {counted(batch)}"),
        ("tokens", tokens),
        ("engine", f"{usage['engine_seconds']:,.1f} s of its time" if usage["engine_seconds"] else None),
        ("cost", cost(batch) + (f", of at most {output.money(limit)}" if limit else "")),
        ("speed", f"{rate:.1f} lines/s" if rate is not None and not ended else None),
        ("left", output.duration(eta) if eta is not None and not ended else None),
        ("via", f"{batch['via']}, priority {batch['priority']}"),
        ("created", output.moment(batch["created_at"])),
        ("ended", output.moment(batch["ended_at"]) if ended else None),
        ("expires", None if ended else output.moment(batch["expires_at"])),
        ("input", batch["input_file_id"]),
    ]
    return [(name, str(value)) for name, value in named if value is not None]


def errors_table(errors: list[Json]) -> Table:
    """What lines fail of, the commonest first, each with one of them."""
    table = output.table(("count", "right"), "code", ("first line", "right"), "message")
    for one in errors:
        table.add_row(
            f"{one['count']:,}", one["code"], f"{one['line']:,}", output.shortened(one["message"] or "", width=90)
        )
    return table


def advice(batch: Json, *, written: bool) -> str | None:
    """What can be done now; None: nothing. `written`: its results are in a file already."""
    counts, told = batch["counts"], []
    if counts["failed"] + counts["cancelled"] + counts["expired"]:
        told.append(f"Run what failed again: tollgate batch retry {batch['id']}")
    if not written and batch["state"] != "failed":
        told.append(f"The results: tollgate batch results {batch['id']} --out FILE")
    return "\n".join(told) or None

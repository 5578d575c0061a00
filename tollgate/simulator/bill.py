"""What the simulator charged: one row per charge, and totals by model.

Rows are kept as the CSV they are asked for, in one bytearray: some 100 bytes a charge, so a million of them take
about 100 MB, and a charge is one append.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from tollgate.domain import money, prices
from tollgate.domain.prices import Price
from tollgate.domain.usage import TokenUsage

HEADER = b"request_id,id,model,prompt_tokens,cached_tokens,completion_tokens,cost,created,batch\n"
"""Columns of bill.csv: cost is a decimal string in the price's currency, created in unix seconds, batch the id of
the batch that a line was bought in, at the batch price; empty for a call of its own."""
_PIECE = 1 << 20


@dataclass(slots=True, kw_only=True)
class Totals:
    """Sums over charges; `cost_nano` in nano-units of the currency."""

    charges: int = 0
    prompt_tokens: int = 0
    cached_tokens: int = 0
    completion_tokens: int = 0
    cost_nano: int = 0
    batch_charges: int = 0
    """Those of `charges` that were lines of batches, at the batch price."""
    by_model: dict[str, Totals] = field(default_factory=dict)

    def as_json(self) -> dict[str, object]:
        """As GET /simulator/bill shows it; `by_model` only where there is something in it."""
        body: dict[str, object] = {
            "charges": self.charges,
            "prompt_tokens": self.prompt_tokens,
            "cached_tokens": self.cached_tokens,
            "completion_tokens": self.completion_tokens,
            "cost": money.format_nano(self.cost_nano),
            "cost_nano": self.cost_nano,
            "batch_charges": self.batch_charges,
        }
        if self.by_model:
            body["by_model"] = {model: totals.as_json() for model, totals in sorted(self.by_model.items())}
        return body

    def _add(self, used: TokenUsage, *, cost_nano: int, batch: bool) -> None:
        self.charges += 1
        self.batch_charges += batch
        self.prompt_tokens += used.prompt_tokens
        self.cached_tokens += used.cached_tokens
        self.completion_tokens += used.completion_tokens
        self.cost_nano += cost_nano


class Bill:
    """Every charge since the start, or since it was last cleared."""

    __slots__ = ("_rows", "totals")

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Forget every charge."""
        self._rows = bytearray()
        self.totals = Totals()

    def add(
        self,
        used: TokenUsage,
        *,
        price: Price | None,
        model: str,
        request_id: str,
        identifier: str,
        created: int,
        batch_id: str = "",
    ) -> int:
        """Charge `used`, and return its cost in nano-units; without a price it is 0, in a batch the batch price's."""
        batch = bool(batch_id)
        cost_nano = prices.charge(price, used, batch=batch).cost_nano if price is not None else 0
        self.totals._add(used, cost_nano=cost_nano, batch=batch)
        self.totals.by_model.setdefault(model, Totals())._add(used, cost_nano=cost_nano, batch=batch)
        cost = money.format_nano(cost_nano)
        counts = f"{used.prompt_tokens},{used.cached_tokens},{used.completion_tokens}"
        row = f"{_quoted(request_id)},{identifier},{_quoted(model)},{counts},{cost},{created},{batch_id}\n"
        self._rows += row.encode()
        return cost_nano

    def csv(self) -> Iterator[bytes]:
        """bill.csv in pieces of a megabyte. A charge made meanwhile may appear at its end."""
        yield HEADER
        rows = self._rows  # a clear while a client reads leaves it this one
        for start in range(0, len(rows), _PIECE):
            yield bytes(rows[start : start + _PIECE])


def _quoted(text: str) -> str:
    """A field by RFC 4180: quoted if it holds a comma, a quote or a line's end."""
    if any(mark in text for mark in ',"\r\n'):
        return '"' + text.replace('"', '""') + '"'
    return text

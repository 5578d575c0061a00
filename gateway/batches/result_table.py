"""The results of a batch as CSV (RFC 4180, UTF-8), for people and their spreadsheets.

A spreadsheet takes a cell that begins with =, +, - or @ for a formula, which could send the others away
(https://owasp.org/www-community/attacks/CSV_Injection). Such a cell gets a ' before it, unless it is a plain number:
custom_ids, answers and messages are therefore not always what they were. The JSON lines are.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from itertools import zip_longest
from typing import Any

from gateway.batches.result_pages import AnyLine, Page
from gateway.batches.results import told_of
from tollgate.store.batch_results import Line

COLUMNS = (
    "line", "custom_id", "status", "answer", "error_code", "error", "model", "prompt_tokens", "completion_tokens",
    "cost",
)  # fmt: skip
_FORMULA = re.compile(r"[=+\-@＝＋－＠\t\r\n]")
"""How one begins; the wide ones are taken for the others by spreadsheets of East Asia."""
_NUMBER = re.compile(r"[+-]?\d+(\.\d+)?([eE][+-]?\d+)?%?")


class TableLines:
    """A row for each line. `resumed`: they go on what another answer began, without a head."""

    media_type = "text/csv; charset=utf-8"

    def __init__(self, *, currency: str, with_input: bool = False, with_cursor: bool = False, resumed: bool) -> None:
        self._currency = currency
        self._with_input = with_input
        self._with_cursor = with_cursor
        more = ("input",) * with_input + ("cursor",) * with_cursor
        self.head = b"" if resumed else _rows([(*COLUMNS, *more)])

    def written(self, page: Page) -> bytes:
        return _rows(self._row(one, cursor) for one, cursor in zip_longest(page.lines, page.cursors))

    def _row(self, one: AnyLine, cursor: str | None) -> list[Any]:
        told = told_of(one, currency=self._currency)
        usage, error = told["usage"] or {}, told["error"] or {}
        row = [
            one.line, _safe(one.custom_id), told["status"], _safe(told["text"]), _safe(error.get("code")),
            _safe(error.get("message")), _safe(told["model"]), usage.get("prompt_tokens"),
            usage.get("completion_tokens"), told["cost"],
        ]  # fmt: skip
        if self._with_input:
            row.append(one.input if isinstance(one, Line) else None)
        if self._with_cursor:
            row.append(cursor)
        return row


def _safe(text: str | None) -> str | None:
    if text and _FORMULA.match(text) and not _NUMBER.fullmatch(text):
        return f"'{text}"
    return text


def _rows(rows: Iterable[Iterable[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()

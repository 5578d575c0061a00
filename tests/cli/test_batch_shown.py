"""How a batch is told in words."""

from __future__ import annotations

from typing import Any

import pytest

from tollgate.cli.batches import shown


def batch(**more: Any) -> dict[str, Any]:
    counts = {"total": 10, "invalid": 1, "queued": 4, "running": 2, "succeeded": 2, "failed": 1}
    return {
        "id": "ID", "state": "in_progress", "paused": None, "counts": {**counts, "cancelled": 0, "expired": 0},
        "usage": {"total_tokens": 1_234}, "cost": "0.56", "possible_cost": None, "unpriced": 0, "currency": "CNY",
        **more,
    }  # fmt: skip


def test_the_pace_names_what_is_known() -> None:
    assert shown.pace(batch()) == "1 failed · 1 invalid · 1,234 tokens · 0.56 CNY"
    told = shown.pace(batch(lines_per_second=45.23, eta_s=190.0))
    assert told.endswith("0.56 CNY · 45.2/s · 3 min 10 s left")


def test_done_is_what_has_ended_and_what_is_refused() -> None:
    assert shown.done(batch()) == 4


@pytest.mark.parametrize(
    ("code", "typed"),
    [
        ("owner", "tollgate batch resume ID"),
        ("max_cost", "tollgate batch resume ID --max-cost AMOUNT"),
        ("budget", "tollgate budgets list; then tollgate batch resume ID"),
        ("unpriced", "tollgate models check; then tollgate batch resume ID"),
        ("of_tomorrow", "tollgate batch resume ID"),
    ],
)
def test_each_pause_says_what_to_type(code: str, typed: str) -> None:
    told = batch(paused={"code": code, "reason": "why"})
    assert shown.state(told) == "paused (in_progress)"
    assert shown.why_paused(told) == f"paused: why. To go on: {typed}"
    assert shown.why_paused({**told, "state": "cancelled"}) is None


def test_every_pause_there_is_has_its_words() -> None:
    from tollgate.domain.batches import PauseCode

    assert set(shown.RESUMED_BY) == set(PauseCode)


def test_what_a_cost_leaves_open_is_told() -> None:
    told = shown.cost(batch(possible_cost="0.1", unpriced=2))
    assert told == "0.56 CNY, up to 0.10 more for calls without an answer; 2 calls without a known price"


def test_only_a_whole_batch_of_answers_is_all_good() -> None:
    good = {**batch()["counts"], "succeeded": 10, "invalid": 0, "failed": 0, "queued": 0, "running": 0}
    assert shown.all_good(batch(state="completed", counts=good))
    assert not shown.all_good(batch(state="cancelled", counts=good))
    assert not shown.all_good(batch(state="completed", counts={**good, "succeeded": 9, "invalid": 1}))

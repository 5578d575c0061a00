"""How sums and tasks tell of a local engine's time."""

from __future__ import annotations

from typing import Any

import pytest

from tollgate.cli import get, usage

SUMS = {
    "tasks": 3, "tasks_failed": 0, "prompt_tokens": 1_000, "cached_tokens": 0, "completion_tokens": 500,
    "total_tokens": 1_500, "attempts_unpriced": 0, "attempts_estimated": 0, "attempts_uncertain": 0,
    "engine_seconds": 0.0, "cost": "0.003",
}  # fmt: skip
GPU = {**SUMS, "upstream": "gpu", "engine_seconds": 1_234.5, "cost": "3.08625"}
CLOUD = {**SUMS, "upstream": "zhipu"}
IDLE = {**SUMS, "upstream": "", "total_tokens": 0, "cost": "0"}


@pytest.fixture(autouse=True)
def wide(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "160")  # no title of a column is broken


def printed(capsys: pytest.CaptureFixture[str], *groups: dict[str, Any], total: dict[str, Any]) -> list[list[str]]:
    """The words of each line."""
    usage.show({
        "by": ["upstream"], "from": "2026-01-01", "to": "2026-02-01", "currency": "CNY", "data": groups, "total": total
    })  # fmt: skip
    return [line.split() for line in capsys.readouterr().out.splitlines() if line.strip(" ─")]


def test_the_gpu_and_the_cloud_compare_by_what_a_million_tokens_came_to(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, IDLE, GPU, CLOUD, total={**GPU, "total_tokens": 3_000, "cost": "3.08925"})
    assert lines[1][-6:] == ["engine", "s", "cost", "CNY", "per", "million"]
    assert [(line[0], *line[-3:]) for line in lines[2:]] == [
        ("-", "0.0", "0.00", "-"),
        ("gpu", "1,234.5", "3.08625", "2,058.00"),
        ("zhipu", "0.0", "0.003", "2.00"),
        ("total", "1,234.5", "3.08925", "1,030.00"),
    ]


def test_without_an_engine_nothing_is_said_of_one(capsys: pytest.CaptureFixture[str]) -> None:
    lines = printed(capsys, CLOUD, total=CLOUD)
    assert lines[1][-2:] == ["cost", "CNY"]
    assert lines[2][-1] == "0.003"


@pytest.mark.parametrize(
    ("seconds", "told"), [([1.25, 0.5], "1.750 s of its time"), ([None, 0.5], "0.500 s of its time"), ([None], None)]
)
def test_a_task_tells_what_all_its_attempts_took(seconds: list[float | None], told: str | None) -> None:
    task = {"id": "ID", "status": "SUCCESS", "state": "succeeded", "attempts": [{"engine_seconds": s} for s in seconds]}
    assert dict(get.facts(task)).get("engine") == told

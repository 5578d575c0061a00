from __future__ import annotations

import os
import runpy
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import Processes, clean_environment
from tollgate import configuration, settings
from tollgate.cli import prompts

EXAMPLES = Path(__file__).parents[2] / "examples"
DEMO = [sys.executable, str(EXAMPLES / "demo.py")]


def test_every_example_prompt_is_good_and_its_model_priced() -> None:
    raw = (EXAMPLES / "prompts.jsonl").read_bytes().splitlines()
    lines = list(prompts.from_lines(raw, name="x", form="jsonl", defaults=prompts.Defaults(model="none")))
    assert len(lines) == 12
    assert [line.problem for line in lines if line.task is None] == []
    catalog = configuration.load_catalog(settings.load({}))
    assert {catalog.find(line.task["model"]).name for line in lines if line.task} == {
        "glm-4-flash",
        "glm-4-air",
        "glm-4.5-air",
    }


def demo(folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """As `make demo`, with a settled installation around that it must not touch."""
    environ = {**clean_environment(), "TMPDIR": str(folder), "TOLLGATE_DATABASE_URL": "postgresql://127.0.0.1:9/x"}
    return subprocess.run(
        DEMO, env={**environ, **environment}, capture_output=True, text=True, timeout=100, check=False
    )


def test_the_demo_answers_and_leaves_nothing_behind(tmp_path: Path) -> None:
    ended = demo(tmp_path)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "12 succeeded, 0 failed" in ended.stdout
    assert "cost CNY" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_with_a_key_the_demo_estimates_first_and_sends_five_prompts_to_a_free_model(tmp_path: Path) -> None:
    (tmp_path / "simulator").mkdir()
    (tmp_path / "demo").mkdir()
    processes = Processes(tmp_path / "simulator")
    simulator = processes.start("tollgate", "simulator", "--port", "0", "--latency", "0", environment={})
    try:
        url = simulator.wait_for(r"http://\S+/api/paas/v4").group()
        ended = demo(tmp_path / "demo", ZHIPUAI_API_KEY="stand-in.key", TOLLGATE_ZHIPU_BASE_URL=url)
    finally:
        list(processes.stop_all())
    assert ended.returncode == 0, ended.stdout + ended.stderr
    estimate, answers = ended.stdout.index("worst case 0 CNY"), ended.stdout.index("5 succeeded, 0 failed")
    assert estimate < answers
    assert "cost 0.00 CNY" in ended.stdout
    assert "glm-4-air" not in ended.stdout


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_stops_what_it_started(number: signal.Signals, tmp_path: Path) -> None:
    environ = {**clean_environment(), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(DEMO, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline().startswith("starting")
        os.kill(running.pid, number)
        running.communicate(timeout=40)
    assert running.returncode == 130
    assert list(tmp_path.iterdir()) == []


def test_an_interrupt_while_the_server_is_being_started_stops_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[subprocess.Popen[bytes]] = []

    class Interrupted(subprocess.Popen[bytes]):
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **kwargs)
            begun.append(self)
            signal.raise_signal(signal.SIGINT)

    running = runpy.run_path(str(EXAMPLES / "demo.py"))["running"]
    monkeypatch.setattr(subprocess, "Popen", Interrupted)  # the moment between a process and its name cannot be met
    try:
        with pytest.raises(KeyboardInterrupt), running(tmp_path):
            pass
        assert begun[0].poll() is not None
    finally:
        begun[0].kill()
        begun[0].wait()

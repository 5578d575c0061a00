"""A process that starts anew, in processes of their own: it ends the one that asks."""

from __future__ import annotations

import subprocess
import sys

import pytest

SCRIPT = """
import os, signal, sys
from tollgate import logs
from worker.restart import Restart

logs.configure("info")
signal.signal(signal.SIGTERM, lambda *_: print("stops cleanly", flush=True))
restart = Restart()
if "RESTARTED" in os.environ:
    print("runs anew", *sys.argv[1:])
    sys.exit(restart.follow(0))
os.environ["RESTARTED"] = "1"
restart.ask(RuntimeError("CUDA error"), float(sys.argv[1]))
sys.exit(restart.follow(0))
"""


@pytest.mark.parametrize(
    ("served_s", "printed", "code"),
    [("60", ["stops cleanly", "runs anew 60"], 0), ("59", ["stops cleanly"], 1)],
    ids=["served for long", "broke at once"],
)
def test_a_dead_engines_process_stops_cleanly_and_runs_anew_unless_it_broke_at_once(
    served_s: str, printed: list[str], code: int
) -> None:
    ended = subprocess.run(
        [sys.executable, "-c", SCRIPT, served_s], capture_output=True, text=True, check=False, timeout=60
    )
    assert (ended.stdout.splitlines(), ended.returncode) == (printed, code), ended.stderr
    assert ("not started anew" in ended.stderr) == (code == 1)

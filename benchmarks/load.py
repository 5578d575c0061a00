"""wrk, the load generator: C, which takes a few microseconds a request of the core that it shares with the servers.

https://github.com/wg/wrk; Debian and Ubuntu: `apt-get install wrk`; macOS: `brew install wrk`.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass

CLIENTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What wrk saw."""

    requests: int
    seconds: float

    @property
    def per_s(self) -> float:
        return self.requests / self.seconds


def require_wrk() -> None:
    """Raises SystemExit."""
    if shutil.which("wrk") is None:
        raise SystemExit("the benchmarks need wrk: apt-get install wrk (https://github.com/wg/wrk)")


def post(url: str, body: object, *, key: str, seconds: float, clients: int = CLIENTS) -> Load:
    """Send one JSON body again and again."""
    script = f"""
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.headers["Authorization"] = "Bearer {key}"
wrk.body = {_lua(json.dumps(body))}
"""
    return _run(url, script, seconds=seconds, clients=clients)


def get(url: str, paths: Sequence[str], *, key: str, seconds: float, clients: int = CLIENTS) -> Load:
    """Ask for each of `paths` in turn."""
    script = f"""
local paths = {{ {", ".join(_lua(path) for path in paths)} }}
local turn = 0
wrk.headers["Authorization"] = "Bearer {key}"
request = function()
  turn = turn % #paths + 1
  return wrk.format("GET", paths[turn])
end
"""
    return _run(url, script, seconds=seconds, clients=clients)


def _lua(text: str) -> str:
    """A long string: nothing in it is special but its own end."""
    return f"[==[{text}]==]"


def _run(url: str, script: str, *, seconds: float, clients: int) -> Load:
    """Raises SystemExit where an answer was not a success: the figure would be of errors."""
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as file:
        file.write(script)
        file.flush()
        command = ["wrk", "-t1", f"-c{clients}", f"-d{seconds:g}s", "--timeout", "30s", "-s", file.name, url]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Non-2xx" in told or "Socket errors" in told:
        raise SystemExit(f"wrk met errors at {url}:\n{told}")
    done = re.search(r"(\d+) requests in ([\d.]+)(m?s|m),", told)
    if done is None:
        raise SystemExit(f"wrk printed what is not understood:\n{told}")
    scale = {"s": 1.0, "ms": 0.001, "m": 60.0}[done[3]]
    return Load(requests=int(done[1]), seconds=float(done[2]) * scale)

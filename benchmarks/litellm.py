"""LiteLLM's proxy as a peer, where it is found (`peers/litellm` says how to make it).

BENCH_LITELLM names its command, else `litellm` beside the running Python or on the PATH.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
from collections.abc import Iterator
from pathlib import Path

from benchmarks.installation import BIN, Installation, Process, clean_environment

UPSTREAM_KEY = "bench.key"
KEY = "sk-bench"
CONFIG = Path(__file__).parent / "peers" / "litellm" / "config.yaml"
ENVIRONMENT = {
    "LITELLM_LOG": "ERROR",
    "LITELLM_MODE": "PRODUCTION",  # reads no .env
    "LITELLM_LOCAL_MODEL_COST_MAP": "True",  # its own price list: the network is asked for none at its start
    "LITELLM_MASTER_KEY": KEY,
    "ZHIPUAI_API_KEY": UPSTREAM_KEY,
}
STORES = ("DATABASE_URL", "DIRECT_URL", "DATABASE_HOST", "REDIS_URL", "REDIS_HOST")
"""Of this machine's environment: with one of them, LiteLLM would keep an account of each call there."""


def command() -> str | None:
    if named := os.environ.get("BENCH_LITELLM"):
        if found := shutil.which(named):
            return str(Path(found).absolute())
        raise SystemExit(f"BENCH_LITELLM: there is no command {named}")
    beside = BIN / "litellm"
    return str(beside) if beside.exists() else shutil.which("litellm")


@contextlib.contextmanager
def proxy(command: str, at: Installation) -> Iterator[str]:
    """Its address. One process, as the gateway is: one client keeps no more than one busy."""
    environment = {
        **{name: value for name, value in clean_environment().items() if name not in STORES},
        **ENVIRONMENT,
        "BENCH_UPSTREAM": f"{at.simulator_url}/api/paas/v4",
    }
    options = ["--config", str(CONFIG), "--host", "127.0.0.1", "--port", str(_free_port())]
    line = [command, *options, "--num_workers", "1", "--telemetry", "False"]
    process = Process("litellm", line, folder=at.folder, environment=environment)
    try:
        yield process.said("http://")
    finally:
        process.stop()


def _free_port() -> int:
    """It takes no port 0."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])

"""What `make demo` runs: a gateway of its own, the prompts of prompts.jsonl, their answers and what they cost.

Everything lives in a temporary folder and is gone at the end, also after Ctrl-C. Without a ZhipuAI key it runs
on the simulator. With one it prints the estimate first, and sends five prompts at most, to a free model.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import httpx2

from tollgate import configuration, settings
from tollgate.cli.data_folder import DataFolder
from tollgate.domain.money import format_nano
from tollgate.domain.prices import PriceTable, worst_case_nano
from tollgate.domain.usage import estimate_prompt_tokens

PROMPTS = Path(__file__).with_name("prompts.jsonl")
TOLLGATE = Path(sys.executable).with_name("tollgate")
CHEAPEST_MODEL = "glm-4-flash"
"""Free at ZhipuAI."""
PAID_PROMPTS_MAX = 5
PAID_MAX_TOKENS = 200
"""The longest answer that is asked for where answers are really bought."""
START_S = 60.0
STOP_S = 20.0
INTERRUPTS = (signal.SIGINT, signal.SIGTERM)


def main() -> int:
    """The whole demo; 0 if every prompt was answered."""
    signal.signal(signal.SIGTERM, _end)
    try:
        with tempfile.TemporaryDirectory(prefix="tollgate-demo-") as name, running(Path(name)) as ready:
            return demonstrate(Path(name), simulated=ready["simulator"])
    except KeyboardInterrupt:
        print("\ninterrupted; the gateway is stopped and its folder removed", file=sys.stderr)
        return 130


def demonstrate(folder: Path, *, simulated: bool) -> int:
    """Submit, wait, show; on a gateway that is ready."""
    prompts = PROMPTS
    if simulated:
        print("No ZhipuAI key is set: the answers are the simulator's, the prices are real, nothing is bought.\n")
    else:
        prompts = _few_prompts(folder)
        print_estimate(prompts)
    shown = _tollgate(folder, "submit", "--file", str(prompts), "--wait")
    print("What it came to, by model (`tollgate usage`):")
    accounted = _tollgate(folder, "usage", "--by", "model")
    return shown or accounted


@contextlib.contextmanager
def running(folder: Path) -> Iterator[dict[str, Any]]:
    """`tollgate up` on a free port with `folder` as its data; gives what /readyz says, and stops it at the end."""
    print("starting `tollgate up` ...", flush=True)
    log = folder / "up.log"
    with log.open("wb") as output, contextlib.ExitStack() as started:
        with _interrupts_at_the_end():
            server = subprocess.Popen(  # noqa: S603  # our own command
                [TOLLGATE, "up", "--port", "0"],
                cwd=folder,
                env=_environment(folder),
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for this script, which then stops the server itself
            )
            started.callback(_stop, server)
        yield _wait_until_ready(server, DataFolder(folder / "data"), log=log)


@contextlib.contextmanager
def _interrupts_at_the_end() -> Iterator[None]:
    """Ctrl-C and SIGTERM wait for the end of the block: raised inside `Popen`, they would leave it running."""
    came: list[int] = []
    handlers = {number: signal.signal(number, lambda one, _: came.append(one)) for number in INTERRUPTS}
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
    if came:
        raise KeyboardInterrupt


def print_estimate(prompts: Path) -> None:
    """How many tokens the prompts have, about, and the most that they can cost."""
    configured = settings.load({})
    table = PriceTable(configuration.load_prices(configured))
    price = table.find("zhipu", CHEAPEST_MODEL, at=datetime.now(UTC))
    bodies = [json.loads(line) for line in prompts.read_text(encoding="utf-8").splitlines()]
    tokens = [estimate_prompt_tokens(body) for body in bodies]
    worst = (
        sum(worst_case_nano(price, prompt_tokens=n, completion_tokens=PAID_MAX_TOKENS) for n in tokens) if price else 0
    )
    print(
        f"A ZhipuAI key is set, so this is real: {len(bodies)} prompts to {CHEAPEST_MODEL}, about {sum(tokens)} prompt "
        f"tokens and at most {PAID_MAX_TOKENS * len(bodies)} in the answers; "
        f"worst case {format_nano(worst)} {configured.currency}.\n"
    )


def _few_prompts(folder: Path) -> Path:
    """The first prompts, all for the cheapest model, with short answers."""
    few = folder / "prompts.jsonl"
    bodies = [json.loads(line) for line in PROMPTS.read_text(encoding="utf-8").splitlines()[:PAID_PROMPTS_MAX]]
    changes = {"model": CHEAPEST_MODEL, "max_tokens": PAID_MAX_TOKENS}
    few.write_text("".join(json.dumps({**body, **changes}) + "\n" for body in bodies), encoding="utf-8")
    return few


def _environment(folder: Path) -> Mapping[str, str]:
    """This one, without the settings of another installation: the demo must not touch its database or keys."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TOLLGATE_")}
    zhipu = {name: value for name, value in os.environ.items() if name.startswith("TOLLGATE_ZHIPU_")}
    return {**kept, **zhipu, "TOLLGATE_DATA": str(folder / "data")}


def _wait_until_ready(server: subprocess.Popen[bytes], data: DataFolder, *, log: Path) -> dict[str, Any]:
    give_up = time.monotonic() + START_S
    while server.poll() is None and time.monotonic() < give_up:
        if (address := data.address()) is not None:
            with contextlib.suppress(httpx2.HTTPError):
                answer = httpx2.get(f"{address}/readyz", timeout=5, trust_env=False)
                if answer.status_code == 200:
                    print(f"it serves on {address}\n")
                    ready: dict[str, Any] = answer.json()
                    return ready
        time.sleep(0.05)
    raise SystemExit(f"`tollgate up` did not start:\n{log.read_text(encoding='utf-8', errors='replace')[-4000:]}")


def _tollgate(folder: Path, *arguments: str) -> int:
    print(f"$ tollgate {' '.join(arguments)}", flush=True)
    return subprocess.run([TOLLGATE, *arguments], cwd=folder, env=_environment(folder), check=False).returncode  # noqa: S603


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.terminate()
    try:
        server.wait(STOP_S)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


def _end(_signal: int, _frame: FrameType | None) -> NoReturn:
    """SIGTERM ends the demo as Ctrl-C does, with everything cleaned up."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())

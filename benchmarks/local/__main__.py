"""`make bench-local`: the speeds of local inference, with their targets.

    python -m benchmarks.local [NAME ...] [--runs 1] [--threads 1] [--rehearse] [--markdown]

NAME is L1 (through the whole worker: against one by one, and with L3 against the bare engine), L2 (slots against padded
batches), L4 (tokens equal to generate's), L5 (a short prompt beside a long one) or L6
(a GPU against its memory's bandwidth); without any, all. Models have random weights and are made on the spot, nothing
is downloaded. L2 takes some three minutes on a core, L5 one; L6 needs a GPU, some five minutes, and is left out with a
word where there is none: --rehearse runs it on the CPU with a tiny model, to see that it works. Exits 1 where a target
is missed.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable

import torch
import transformers
from rich.console import Console

from benchmarks import report
from benchmarks.local import batches, device, first_token, greedy, through_worker
from benchmarks.report import Figure

Benchmark = Callable[..., list[Figure]]
BENCHMARKS: dict[str, Benchmark] = {
    "L1": through_worker.figures,
    "L2": batches.slots,
    "L4": greedy.equal,
    "L5": first_token.waited,
    "L6": device.decoding,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.local", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", type=str.upper)
    parser.add_argument("--runs", type=int, default=1, help="counted runs of each (default 1)")
    parser.add_argument("--threads", type=int, default=1, help="of torch on a CPU (default 1)")
    parser.add_argument("--rehearse", action="store_true", help="L6 on the CPU, with a tiny model")
    parser.add_argument("--markdown", action="store_true", help="print the rows for RESULTS.md")
    asked = parser.parse_args()
    known = BENCHMARKS | ({"L6": device.rehearsed} if asked.rehearse else {})
    if unknown := sorted(set(asked.names) - set(known)):
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(known)}")
    torch.set_num_threads(asked.threads)
    console = Console()
    console.print(_machine())
    found: list[Figure] = []
    for name in asked.names or known:
        started = time.monotonic()
        try:
            found += known[name](runs=asked.runs)
        except device.SkippedError as why:
            console.print(str(why))
            continue
        console.print(f"{name} done in {time.monotonic() - started:.0f} s")
    report.show(found, console=console)
    if asked.markdown:
        print(report.markdown(found))
    return 0 if all(figure.met for figure in found) else 1


def _machine() -> str:
    where = torch.cuda.get_device_name() if torch.cuda.is_available() else "no CUDA device"
    versions = f"torch {torch.__version__}, transformers {transformers.__version__}"
    return f"{os.cpu_count()} cores ({platform.machine()}), {where}, {versions}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())

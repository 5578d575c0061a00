"""`make bench`: every promised speed, with its target.

    python -m benchmarks [NAME ...] [--runs 3] [--seconds 5] [--markdown]

NAME is S1 to S10, T1 and T2 (streams), W (waiting), L (learned concurrency), P (polling) or B1 to B3 (batches);
without any, all. Needs wrk, PostgreSQL and Redis: databases of its own are made on TOLLGATE_TEST_DATABASE_URL and
TOLLGATE_TEST_REDIS_URL, by default the local default ports, and dropped.
Each benchmark warms up, runs several times beside its peer, and stops what it started. Exits 1 where a target is
missed. Machines differ and are noisy: the ratios are what is promised.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import time
from collections.abc import Callable

from rich.console import Console

from benchmarks import (
    accounts,
    batches,
    embedded,
    end_to_end,
    in_flight,
    learned_limit,
    load,
    plain,
    polling,
    report,
    streams,
    submits,
    sync_calls,
    waits,
)
from benchmarks.report import Figure

Benchmark = Callable[..., list[Figure]]
BENCHMARKS: dict[str, Benchmark] = {
    "S1": submits.singles,
    "S2": end_to_end.singles,
    "S3": end_to_end.waiting,
    "S4": in_flight.finished,
    "S5": sync_calls.added,
    "S6": submits.queries,
    "S7": submits.lists,
    "S8": accounts.usage,
    "S9": plain.end_to_end,
    "S10": embedded.end_to_end,
    "T1": streams.latency,
    "T2": streams.many,
    "W": waits.many,
    "L": learned_limit.limits,
    "P": polling.rounds,
    "B1": batches.taken_in,
    "B2": batches.fetched,
    "B3": batches.behind,
}


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", metavar="NAME", type=str.upper)
    parser.add_argument("--runs", type=int, default=3, help="counted runs of each (default 3)")
    parser.add_argument("--seconds", type=float, default=5.0, help="of load in each run (default 5)")
    parser.add_argument("--markdown", action="store_true", help="print the rows for RESULTS.md")
    asked = parser.parse_args()
    if unknown := sorted(set(asked.names) - set(BENCHMARKS)):
        parser.error(f"no benchmark {unknown[0]}; there are {', '.join(BENCHMARKS)}")
    load.require_wrk()
    console = Console()
    console.print(_machine())
    found: list[Figure] = []
    for name in asked.names or BENCHMARKS:
        started = time.monotonic()
        with console.status(f"{name}: {_first_line(BENCHMARKS[name])}"):
            found += BENCHMARKS[name](runs=asked.runs, seconds=asked.seconds)
        console.print(f"{name} done in {time.monotonic() - started:.0f} s")
    report.show(found, console=console)
    if asked.markdown:
        print(report.markdown(found))
    return 0 if all(figure.met for figure in found) else 1


def _first_line(benchmark: Benchmark) -> str:
    return (benchmark.__doc__ or "").partition(": ")[2].partition("\n")[0]


def _machine() -> str:
    cores = f"{os.cpu_count()} cores ({platform.machine()})"
    return f"{cores}, Python {platform.python_version()}, load {os.getloadavg()[0]:.1f}"


if __name__ == "__main__":
    sys.exit(main())

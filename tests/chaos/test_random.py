"""Everything at once, at random, under load: then the faults stop, all ends, and the books balance.

TOLLGATE_CHAOS_SECONDS says for how long (60), TOLLGATE_CHAOS_SEED repeats the choices of a run.
"""

from __future__ import annotations

import os
import random
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.chaos import report
from tests.chaos.clients import Client
from tests.chaos.conftest import Settle
from tests.chaos.deployment import Deployment, serves
from tests.chaos.storm import Storm

SECONDS = float(os.environ.get("TOLLGATE_CHAOS_SECONDS", "60"))
CLIENTS = 3
ENDS_WITHIN_S = 120.0
PATIENCE_S = 10
"""Of a worker for an answer: a hanging call ends well before the test does."""


@pytest.mark.timeout(SECONDS + ENDS_WITHIN_S + 120)
def test_a_storm_of_faults_loses_nothing_and_the_books_balance(
    bare_deployment: Deployment, settle: Settle, pytestconfig: pytest.Config
) -> None:
    seed = os.environ.get("TOLLGATE_CHAOS_SEED") or str(random.SystemRandom().randrange(10**6))
    report.line(pytestconfig, f"repeat with TOLLGATE_CHAOS_SEED={seed} TOLLGATE_CHAOS_SECONDS={SECONDS:g}")
    town, over = bare_deployment, threading.Event()
    storm = Storm(town, seed=seed)
    for process in storm.processes:
        serves(process)
    clients = [Client(town, seed=f"{seed}-{n}", over=over) for n in range(CLIENTS)]
    with ThreadPoolExecutor(CLIENTS) as pool:
        running = [pool.submit(client.run) for client in clients]
        try:
            storm.rage(SECONDS)
        finally:
            over.set()
            storm.calm()
        for one in running:
            one.result()
    asked = sum((client.counts for client in clients), Counter())
    settle(town, limit_s=ENDS_WITHIN_S, seed=seed, faults=dict(storm.counts), requests=dict(asked))
    assert len(town.accepted) > SECONDS, "there was load"

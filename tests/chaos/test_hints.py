"""A hint may say anything: the row decides, and a wrong one costs nothing."""

from __future__ import annotations

import pytest

from tests.chaos.conftest import Settle
from tests.chaos.deployment import MODELS, Deployment
from tollgate.broker.celery_app import RUN, create_celery
from tollgate.domain.lanes import LANES

ROUNDS = 3
AT_ONCE = 60
LANE = "cloud.interactive"

pytestmark = pytest.mark.timeout(180)


def test_hints_that_name_a_wrong_route_cost_no_slot(deployment: Deployment, settle: Settle) -> None:
    """Far more than the named route has slots; then its own tasks must still run."""

    def hint(route: str, ids: list[str]) -> None:
        with create_celery(deployment.redis.url, lanes=LANES) as app:
            app.send_task(RUN, args=[LANE, {route: ids}], queue=LANE, ignore_result=True)

    workers = [process for process in deployment.processes.started if process.command[1] == "worker"]
    for _ in range(ROUNDS):
        for worker in workers:
            worker.freeze()
            hint(f"zhipu/{MODELS[1]}", [])  # taken by the read that the frozen worker has already sent
        ids = deployment.submit(*["misled"] * AT_ONCE, model=MODELS[1])
        with deployment.broker_client() as redis:
            redis.flushall()
        hint(f"zhipu/{MODELS[0]}", ids)
        for worker in workers:
            worker.thaw()
        deployment.until_ended(ids)
    after = deployment.submit(*["of the route that was named"] * 20, model=MODELS[0])
    took_s = deployment.until_ended(after, limit_s=60)
    settle(deployment, misleading_hints=ROUNDS * AT_ONCE, ended_after_s=round(took_s, 1))

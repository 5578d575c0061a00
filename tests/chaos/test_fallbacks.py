"""The first of two upstreams goes away under load: every task ends at the second, and both bills match the books."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import resources
from urllib.parse import urlsplit

import pytest

from tests.chaos.conftest import Settle
from tests.chaos.deployment import MODELS, ROOT, Deployment, serves, until
from tests.chaos.proxy import Proxy
from tests.chaos.test_outages import load

PATIENCE_S = 10
MODEL = MODELS[0]
ROUTED = """
[[upstream]]
name = "zhipu"
kind = "zhipu"
base_url = "{first}/api/paas/v4"
keys = ["ZHIPUAI_API_KEY"]
first_byte_timeout_s = 10

[[upstream]]
name = "second"
kind = "zhipu"
base_url = "{second}/api/paas/v4"
keys = ["ZHIPUAI_API_KEY"]

[[model]]
name = "{model}"
routes = ["zhipu/{model}", "second/{model}"]
"""
PRICED = """
[[price]]
upstream = "second"
model = "{model}"
valid_from = 2024-01-01
input = "0.5"
output = "0.5"
cached = "0.25"
"""
"""As ZhipuAI's: the second simulator charges by the same list."""

pytestmark = pytest.mark.timeout(240)


@pytest.fixture
def first_line(bare_deployment: Deployment) -> Iterator[Proxy]:
    """Between the workers and their first upstream; all processes run."""
    town = bare_deployment
    line = Proxy(urlsplit(town.simulator_url).port or 0)
    line.start()
    second = town.processes.start("tollgate", "simulator", "--port", "0", environment={"PYTHONPATH": str(ROOT)})
    town.further_bills.append(second.wait_for(r"http://[\d.]+:\d+").group())
    models, prices = town.processes.folder / "routed.toml", town.processes.folder / "routed-prices.toml"
    models.write_text(ROUTED.format(first=f"http://127.0.0.1:{line.port}", second=town.further_bills[0], model=MODEL))
    shipped = (resources.files("tollgate") / "data" / "prices.toml").read_text("utf-8")
    prices.write_text(shipped + PRICED.format(model=MODEL))
    town.environment |= {"TOLLGATE_MODELS_FILE": str(models), "TOLLGATE_PRICES_FILE": str(prices)}
    for process in (town.start_gateway(), town.start_worker(), town.start_worker(), town.start_beat()):
        serves(process)
    yield line
    line.stop()


def test_an_upstream_that_goes_away_under_load_costs_no_task(
    bare_deployment: Deployment, first_line: Proxy, settle: Settle
) -> None:
    town = bare_deployment

    def answered(upstream: str) -> int:
        return sum(row["upstream"] == upstream for row in town.books().with_outcome("succeeded"))

    with load(town) as ids:
        until(lambda: answered("zhipu") >= 20, "the first upstream answers", limit_s=40)
        first_line.cut()
        until(lambda: answered("second") >= 100, "the second takes over", limit_s=60)
        first_line.heal()
        before = answered("zhipu")
        until(lambda: answered("zhipu") > before + 20, "the first is used again", limit_s=60)
    settle(town)
    assert town.states(ids) == {"succeeded"}
    books = town.books()
    tried_in_vain = [row for row in books.attempts if row["outcome"] != "succeeded"]
    assert {row["upstream"] for row in tried_in_vain} == {"zhipu"}
    assert tried_in_vain, "the outage was met"

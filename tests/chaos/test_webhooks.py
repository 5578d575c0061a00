"""A beat that is killed with deliveries in its hands: another sends them, under the same ids."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from tests.chaos.deployment import Deployment, serves, until

TASKS = 5
LEASE_S = 60

pytestmark = pytest.mark.timeout(300)


class Receiver(ThreadingHTTPServer):
    """Keeps the id and the task of each message."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Take)
        self.received: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"


class Take(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        assert isinstance(self.server, Receiver)
        self.server.received.append((self.headers["webhook-id"], body["data"]["id"]))
        self.send_response(204)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_beat_killed_in_a_delivery_loses_none(bare_deployment: Deployment, receiver: Receiver) -> None:
    deployment = bare_deployment
    deployment.environment |= {"TOLLGATE_WEBHOOKS_ALLOW_HTTP": "1", "TOLLGATE_WEBHOOKS_ALLOW_PRIVATE": "1"}
    started = [deployment.start_gateway(), deployment.start_worker(), deployment.start_beat(die_at="delivered")]
    for process in started:
        serves(process)
    ids = deployment.submit(*["tell me"] * TASKS, callback_url=receiver.url)
    deployment.until_ended(ids)
    until(lambda: started[-1].exit_code is not None, "the beat died", limit_s=60)
    assert started[-1].exit_code == -9
    assert receiver.received
    serves(deployment.start_beat())
    until(lambda: {task for _, task in receiver.received} == set(ids), "all are told", limit_s=LEASE_S + 60)

    def all_delivered() -> bool:
        with deployment.client() as client:
            listed = client.get("/webhooks/deliveries", params={"state": "delivered"}).json()["data"]
        return {one["task_id"] for one in listed} >= set(ids)

    until(all_delivered, "all are settled", limit_s=LEASE_S + 60)
    assert len({message for message, task in receiver.received if task in ids}) == TASKS, "one id for each, always"

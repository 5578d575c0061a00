"""The gateway that the client commands would talk to: is it ready, and does it take the key?"""

from __future__ import annotations

from pathlib import Path

import httpx2

from tollgate.cli import connection
from tollgate.cli.client import Gateway
from tollgate.cli.connection import Target
from tollgate.cli.data_folder import DataFolder
from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.domain.errors import TollgateError

TIMEOUT_S = 5.0


def check(*, url: str | None, key: str | None, data: Path | None) -> list[Check]:
    """Two checks: its readiness, and where it is ready, the key."""
    environ = connection.environment()
    folder = DataFolder(data or Path(environ.get("TOLLGATE_DATA") or connection.DEFAULT_DATA))
    try:
        address, source = connection.find_url(environ, url=url, folder=folder)
    except TollgateError as error:
        return [fail("gateway", str(error), fix="correct TOLLGATE_URL")]
    ready = _ready(address, source)
    if ready.state == "fail":
        return [ready]
    try:
        return [ready, _key(connection.find_target(environ, url=url, key=key, data=data))]
    except TollgateError as error:
        return [ready, fail("client key", str(error).splitlines()[0], fix="set TOLLGATE_KEY")]


def _ready(address: str, source: str) -> Check:
    try:
        local = connection.is_loopback(address)
        answer = httpx2.get(f"{address}/readyz", timeout=TIMEOUT_S, trust_env=not local)
        body = answer.json()
        ready = answer.status_code == 200 and body["status"] == "ready"
    except (httpx2.HTTPError, httpx2.InvalidURL) as error:
        found = f"nobody answers at {address} (from {source}): {error}"
        return fail("gateway", found, fix="tollgate up, or tollgate gateway; or set TOLLGATE_URL")
    except (ValueError, KeyError, TypeError):
        return fail("gateway", f"{address} is no Tollgate: /readyz is not its JSON", fix="correct TOLLGATE_URL")
    if not ready:
        return fail("gateway", f"{address} is not ready: {body.get('problem', answer.status_code)}", fix="see its log")
    mode = f"{body.get('mode', '?')} mode" + (", on the simulator: nothing is bought" if body.get("simulator") else "")
    if body.get("bus") not in (None, "ok"):
        return warn("gateway", f"{address} is ready ({mode}), its event bus is not", fix="see broker and event bus")
    return ok("gateway", f"{address} is ready ({mode})")


def _key(target: Target) -> Check:
    try:
        with Gateway(target) as gateway:
            gateway.page({"limit": "1"})
    except TollgateError as error:
        return fail("client key", str(error), fix="tollgate keys create --project NAME, and set TOLLGATE_KEY")
    return ok("client key", f"the key of {target.key_from} is accepted")

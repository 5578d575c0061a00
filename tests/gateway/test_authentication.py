"""Who is let in: by every form of a key, in every dialect's own words."""

from __future__ import annotations

import asyncio
import re
import time
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import fastapi
import jwt
import pytest
import sqlalchemy as sa
from fastapi.routing import iter_route_contexts

from gateway import create_app
from gateway.authentication import FRESH_S, Keyring
from gateway.dialects import zhipu_v3
from gateway.services import Services
from tests.gateway.gate import V4, Caller, Gate, refusal
from tollgate.domain.errors import AuthenticationError
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key
from tollgate.store import keys

HOUR_MS = 3_600_000
OPEN = {"/healthz", "/readyz", "/docs", "/docs/oauth2-redirect", "/redoc", "/openapi.json"}


def token(key: str, *, secret: str | None = None, algorithm: str = "HS256", **claims: Any) -> str:
    """ZhipuAI's JWT, as its SDKs sign it."""
    key_id, _, own = key.partition(".")
    now_ms = int(time.time() * 1000)
    payload = {"api_key": key_id, "exp": now_ms + HOUR_MS, "timestamp": now_ms, **claims}
    signed_with = None if algorithm == "none" else secret or own
    return jwt.encode(payload, signed_with, algorithm=algorithm, headers={"alg": algorithm, "sign_type": "SIGN"})


async def ask(gate: Gate, header: str | None, *, path: str = "/models") -> Any:
    return await gate.http.get(path, headers={} if header is None else {"Authorization": header})


@pytest.mark.parametrize("form", ["Bearer {key}", "{key}", "bearer {key}", "Bearer {jwt}", "{jwt}"])
async def test_a_key_and_its_token_are_let_in_with_and_without_bearer(sqlite_gate: Gate, form: str) -> None:
    key = await sqlite_gate.key()
    assert (await ask(sqlite_gate, form.format(key=key, jwt=token(key)))).status_code == 200


@dataclass(frozen=True, kw_only=True)
class Refused:
    """A header that is refused, the native API's reason and ZhipuAI's code."""

    header: str | None
    reason: str
    code: str


def refused_headers(key: str, expired: str) -> dict[str, Refused]:
    key_id, _, secret = key.partition(".")
    now_ms = int(time.time() * 1000)
    return {
        "no header": Refused(header=None, reason="missing", code="1001"),
        "empty": Refused(header="Bearer ", reason="missing", code="1001"),
        "no dot": Refused(header=f"Bearer {key_id}", reason="malformed", code="1002"),
        "basic": Refused(header="Basic dXNlcjpwYXNz", reason="malformed", code="1002"),
        "three dots": Refused(header=f"Bearer {key}.a.b", reason="malformed", code="1002"),
        "no token": Refused(header="Bearer a.b.c", reason="malformed", code="1002"),
        "unknown id": Refused(header=f"Bearer {'0' * 32}.{secret}", reason="unknown", code="1000"),
        "wrong secret": Refused(header=f"Bearer {key_id}.{'0' * 32}", reason="signature", code="1004"),
        "expired key": Refused(header=f"Bearer {expired}", reason="expired", code="1003"),
        "expired token": Refused(header=token(key, exp=now_ms - 60_000), reason="expired", code="1003"),
        "exp in seconds": Refused(header=token(key, exp=now_ms // 1000 + 3600), reason="expired", code="1003"),
        "no exp": Refused(header=token(key, exp=None), reason="malformed", code="1002"),
        "alg none": Refused(header=token(key, algorithm="none"), reason="signature", code="1004"),
        "other secret": Refused(header=token(key, secret="0" * 32), reason="signature", code="1004"),
        "other alg": Refused(header=token(key, algorithm="HS512"), reason="signature", code="1004"),
    }


@pytest.mark.parametrize("case", list(refused_headers("a.b", "c.d")))
async def test_what_is_no_valid_key_is_refused_in_each_dialects_own_form(sqlite_gate: Gate, case: str) -> None:
    gate = sqlite_gate
    expired = await gate.key(expires_at=datetime.now(UTC) - timedelta(seconds=1))
    given = refused_headers(await gate.key(), expired)[case]

    native = await ask(gate, given.header)
    assert refusal(native, 401) | {"message": ""} == {"type": "unauthorized", "message": "", "reason": given.reason}
    assert native.headers["WWW-Authenticate"] == "Bearer"

    v4 = await ask(gate, given.header, path=f"{V4}/async-result/{'0' * 32}")
    assert refusal(v4, 401)["code"] == given.code
    for shown in (native.text, v4.text):
        secrets = [part for part in (given.header or "").removeprefix("Bearer ").split(".") if len(part) > 16]
        assert not any(secret in shown for secret in secrets[1:])


@dataclass(kw_only=True)
class Clock:
    """A time that only the test moves."""

    s: float = 1_000.0
    start: datetime = field(default_factory=lambda: datetime.now(UTC))

    def monotonic(self) -> float:
        return self.s

    def now(self) -> datetime:
        return self.start + timedelta(seconds=self.s - 1_000)


def keyring_of(services: Services, clock: Clock) -> Keyring:
    master = services.keyring.first_master
    return Keyring(services.database, [master], now=clock.now, monotonic=clock.monotonic)


async def revoke(gate: Gate, key: Key) -> None:
    async with gate.database.write() as connection:
        await keys.revoke(connection, key.id, now=datetime.now(UTC))


async def test_a_key_revoked_elsewhere_is_refused_once_it_is_not_fresh(gate: Gate) -> None:
    stored, clock = await gate.stored_key(), Clock()
    keyring = keyring_of(gate.services, clock)
    header = await text_of(gate, stored)
    assert (await keyring.authenticate(header)).id == stored.id
    await revoke(gate, stored)
    clock.s += FRESH_S + 0.001
    with pytest.raises(AuthenticationError) as refused:
        await keyring.authenticate(header)
    assert refused.value.reason == "revoked"
    assert FRESH_S < 5, "the promise is 5 s"


async def test_a_stale_key_is_read_once_for_all_that_ask_by_it(gate: Gate) -> None:
    clock = Clock()
    stored = await gate.stored_key()
    keyring = keyring_of(gate.services, clock)
    header = await text_of(gate, stored)
    await keyring.authenticate(header)
    clock.s += FRESH_S + 0.001
    read: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if "FROM api_keys" in statement:
            read.append(statement)

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    try:
        found = await asyncio.gather(*(keyring.authenticate(header) for _ in range(64)))
    finally:
        sa.event.remove(sa.Engine, "before_cursor_execute", note)
    assert {key.id for key in found} == {stored.id}
    assert 1 <= len(read) <= 2, "one came before the others"


async def test_a_key_that_expires_while_it_is_fresh_is_refused(gate: Gate) -> None:
    clock = Clock()
    stored = await gate.stored_key(expires_at=clock.now() + timedelta(seconds=1))
    keyring = keyring_of(gate.services, clock)
    header = await text_of(gate, stored)
    await keyring.authenticate(header)
    clock.s += 1
    with pytest.raises(AuthenticationError) as refused:
        await keyring.authenticate(header)
    assert refused.value.reason == "expired"


async def text_of(gate: Gate, stored: Key) -> str:
    from tollgate.domain.keys import derive_secret

    return f"{stored.id}.{derive_secret(gate.services.keyring.first_master, key_id=stored.id, version=1)}"


async def test_a_key_revoked_here_is_refused_here_at_once(gate: Gate) -> None:
    admin, user = await gate.caller(role=Role.ADMIN), await gate.caller()
    await user.get("/models")
    await admin.send("DELETE", f"/keys/{user.key.partition('.')[0]}")
    for path, shown in (("/models", "reason"), (f"{V4}/async-result/x", "code")):
        assert refusal(await user.send("GET", path), 401)[shown] in ("revoked", "1000")


async def test_a_key_of_a_master_that_is_not_given_is_unknown(gate: Gate) -> None:
    caller = await gate.caller()
    stranger = replace(gate.services.keyring.first_master, value=b"another-master-key-0123456789-abcdef")
    strange = replace(gate.services, keyring=Keyring(gate.database, [stranger]))
    app = create_app(strange)
    async with app.router.lifespan_context(app):
        gate.app.state.services = strange
        assert refusal(await caller.send("GET", "/models"), 401)["reason"] == "unknown"


def routes(app: fastapi.FastAPI) -> list[tuple[str, str]]:
    """(method, path) of every route."""
    found = []
    for context in iter_route_contexts(app.routes):
        found += [
            (method, (context.path or "").replace(":path}", "}"))
            for method in sorted((context.methods or set()) - {"HEAD"})
        ]
    return found


async def test_every_route_but_health_and_docs_needs_a_key(gate: Gate) -> None:
    anyone = Caller(http=gate.http, key="")
    walked = routes(gate.app)
    assert len(walked) > 15
    for method, path in walked:
        response = await anyone.send(method, re.sub(r"\{\w+\}", "x", path))
        if path.startswith(zhipu_v3.PREFIX):  # whose SDK sees what is wrong under no other status
            assert (response.status_code, "1001" in response.text) == (200, True), (method, path)
        else:
            assert (response.status_code == 200) if path in OPEN else (response.status_code == 401), (method, path)


async def test_a_secret_that_was_right_lets_no_other_in_and_is_judged_anew(sqlite_gate: Gate) -> None:
    """What was verified is remembered by the header as it came."""
    caller = await sqlite_gate.caller()
    key_id, _, secret = caller.key.partition(".")
    assert (await ask(sqlite_gate, f"Bearer {caller.key}")).status_code == 200
    other = secret[::-1] if secret != secret[::-1] else "0" * len(secret)
    assert (await ask(sqlite_gate, f"Bearer {key_id}.{other}")).status_code == 401
    assert (await ask(sqlite_gate, f"Bearer {caller.key}")).status_code == 200
    sqlite_gate.services.keyring.forget(key_id)
    async with sqlite_gate.database.write() as connection:
        await keys.revoke(connection, key_id, now=datetime.now(UTC))
    assert (await ask(sqlite_gate, f"Bearer {caller.key}")).status_code == 401

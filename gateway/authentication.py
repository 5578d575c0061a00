"""Who asks: `id.secret`, or ZhipuAI's JWT signed with the secret, with or without `Bearer`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from tollgate.domain import keys as key_rules
from tollgate.domain.errors import AuthenticationError, PermissionDeniedError
from tollgate.domain.keys import MasterKey
from tollgate.domain.states import Role
from tollgate.domain.tasks import Key
from tollgate.store import keys
from tollgate.store.database import Database
from tollgate.store.keys import StoredKey

FRESH_S = 3.0
"""A key read from the store is believed so long: a revoked one is refused everywhere within 5 s."""
MAX_KEPT = 10_000


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Keyring:
    """Looks keys up and verifies them. Unknown ids are not remembered: a key works as soon as it is made.

    `now` says what has expired, `monotonic` (seconds) how long a key is kept."""

    def __init__(
        self,
        database: Database,
        masters: Sequence[MasterKey],
        *,
        now: Callable[[], datetime] = _utc_now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._database = database
        self._masters = {master.fingerprint: master for master in masters}
        self._now = now
        self._monotonic = monotonic
        self.first_master = masters[0]
        self._kept: dict[str, tuple[float, StoredKey, str]] = {}

    async def authenticate(self, header: str | None) -> Key:
        """The key of an Authorization header. Raises AuthenticationError."""
        credential = key_rules.parse_authorization(header)
        stored, secret = await self._look_up(credential.key_id)
        now = self._now()
        key_rules.verify(credential, secret=secret, now_ms=int(now.timestamp() * 1000))
        if stored.key.revoked_at is not None:
            raise AuthenticationError(f"key {stored.key.id} was revoked", reason="revoked")
        if stored.key.expires_at is not None and stored.key.expires_at <= now:
            raise AuthenticationError(f"key {stored.key.id} has expired", reason="expired")
        return stored.key

    def forget(self, key_id: str) -> None:
        """Look it up anew: it was revoked here, and is refused here at once."""
        self._kept.pop(key_id, None)

    async def _look_up(self, key_id: str) -> tuple[StoredKey, str]:
        kept = self._kept.get(key_id)
        if kept is not None and self._monotonic() - kept[0] < FRESH_S:
            return kept[1], kept[2]
        async with self._database.read() as connection:
            stored = await keys.find(connection, key_id)
        master = self._masters.get(stored.master) if stored else None
        if stored is None or master is None:
            raise AuthenticationError("no such key", reason="unknown")
        secret = key_rules.derive_secret(master, key_id=key_id, version=stored.version)
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key_id] = (self._monotonic(), stored, secret)
        return stored, secret


def require_admin(key: Key) -> None:
    """Raises PermissionDeniedError."""
    if key.role is not Role.ADMIN:
        raise PermissionDeniedError("this needs a key of role admin")

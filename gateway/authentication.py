"""Who asks: `id.secret`, or ZhipuAI's JWT signed with the secret, with or without `Bearer`."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

from tollgate.coalescing import Coalescer
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
MAX_TOGETHER = 500
"""Requests whose keys are read at once."""


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
        self._reads: Coalescer[str, StoredKey | None] = Coalescer(self._read, max_weight=MAX_TOGETHER)
        self._verified: dict[str, tuple[float, Key]] = {}
        """By header, of those that hold the secret itself: what was right stays right until the key is read anew."""

    async def authenticate(self, header: str | None) -> Key:
        """The key of an Authorization header. Raises AuthenticationError."""
        now = self._now()
        read_at_s, key = self._verified.get(header or "", (float("-inf"), None))
        if key is None or self._monotonic() - read_at_s >= FRESH_S:
            key = await self._verify(header, now)
        if key.expires_at is not None and key.expires_at <= now:
            raise AuthenticationError(f"key {key.id} has expired", reason="expired")
        return key

    def master(self, fingerprint: str) -> MasterKey | None:
        """The master key of that fingerprint, if it was given."""
        return self._masters.get(fingerprint)

    def forget(self, key_id: str) -> None:
        """Look it up anew: it was revoked here, and is refused here at once."""
        self._kept.pop(key_id, None)
        self._verified.clear()

    async def _verify(self, header: str | None, now: datetime) -> Key:
        credential = key_rules.parse_authorization(header)
        read_at_s, stored, secret = await self._look_up(credential.key_id)
        key_rules.verify(credential, secret=secret, now_ms=int(now.timestamp() * 1000))
        if stored.key.revoked_at is not None:
            raise AuthenticationError(f"key {stored.key.id} was revoked", reason="revoked")
        if credential.secret is not None and header:  # a JWT expires
            if len(self._verified) >= MAX_KEPT:
                self._verified.clear()
            self._verified[header] = (read_at_s, stored.key)
        return stored.key

    async def _look_up(self, key_id: str) -> tuple[float, StoredKey, str]:
        """When it was read, on the monotonic clock, the key and its secret."""
        kept = self._kept.get(key_id)
        if kept is not None and self._monotonic() - kept[0] < FRESH_S:
            return kept
        stored = await self._reads.submit(key_id)
        master = self._masters.get(stored.master) if stored else None
        if stored is None or master is None:
            raise AuthenticationError("no such key", reason="unknown")
        secret = key_rules.derive_secret(master, key_id=key_id, version=stored.version)
        if len(self._kept) >= MAX_KEPT:
            self._kept.clear()
        self._kept[key_id] = kept = (self._monotonic(), stored, secret)
        return kept

    async def _read(self, key_ids: Sequence[str]) -> list[StoredKey | None]:
        """All that ask by one key find it stale in the same moment: it is read once for them."""
        async with self._database.read() as connection:
            found = {key_id: await keys.find(connection, key_id) for key_id in set(key_ids)}
        return [found[key_id] for key_id in key_ids]


def require_admin(key: Key) -> None:
    """Raises PermissionDeniedError."""
    if key.role is not Role.ADMIN:
        raise PermissionDeniedError("this needs a key of role admin")

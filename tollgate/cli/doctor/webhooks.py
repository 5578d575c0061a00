"""Whether webhooks leave: deliveries that wait, endpoints that are disabled, secrets that nobody can make."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from datetime import datetime

from tollgate.cli.doctor.report import Check, ok, warn
from tollgate.cli.output import count, listed
from tollgate.store.deliveries import Waiting
from tollgate.store.webhooks import Webhook

LATE_S = 60.0
"""A beat begins within a second or two what is due."""


def check(waiting: Waiting, webhooks: Sequence[Webhook], *, masters: Collection[str], now: datetime) -> list[Check]:
    """Three checks in one line, as long as all is well. `masters`: fingerprints of the keys that are given."""
    disabled = [one for one in webhooks if one.disabled_at is not None]
    unsigned = [one for one in webhooks if one.master not in masters]
    checks = []
    if waiting.since is not None and (now - waiting.since).total_seconds() > LATE_S:
        fix = "start a beat (`tollgate beat`), or another; `tollgate webhooks deliveries --state pending` shows them"
        late = f"{waiting.count:,} deliveries are due, the first since {waiting.since:%Y-%m-%d %H:%M} UTC"
        checks.append(warn("webhooks", late, fix=fix))
    if disabled:
        ids = listed([str(one.id) for one in disabled])
        fix = "`tollgate webhooks enable ID`, or `delete`; then `deliveries --state failed` and `redeliver`"
        checks.append(warn("webhooks", f"disabled by a 410 of the receiver: {ids}", fix=fix))
    if unsigned:
        ids = listed([str(one.id) for one in unsigned])
        fix = "list their master key behind the new one in TOLLGATE_MASTER_KEY, or delete them and create them anew"
        checks.append(warn("webhooks", f"secrets of a master key that is not given: {ids}", fix=fix))
    return checks or [ok("webhooks", f"{count(len(webhooks), 'endpoint')}, no delivery is late")]

"""Log lines: a constant message and its fields, to standard error. Never a prompt, an answer or a key."""

from __future__ import annotations

import logging
import sys

_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName", "color_message"}


class FieldsFormatter(logging.Formatter):
    """`2026-01-01T12:00:00 warning tollgate.lease heartbeat failed error='...'`"""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(message)s", "%Y-%m-%dT%H:%M:%S")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802  # logging's own name for it
        record.levelname = record.levelname.lower()
        given = {name: value for name, value in vars(record).items() if name not in _STANDARD}
        fields = "".join(f" {name}={value!r}" for name, value in given.items())
        return super().formatMessage(record) + fields


def keep_to_ourselves() -> None:
    """Celery then leaves the log as `configure` made it, and does not tell every message twice."""
    from celery.signals import setup_logging

    setup_logging.connect(_as_configured, weak=False)
    logging.getLogger("celery").setLevel(logging.INFO)
    for chatty in ("celery.worker.strategy", "celery.app.trace"):
        logging.getLogger(chatty).setLevel(logging.WARNING)


def _as_configured(**_: object) -> None:
    """A receiver is all that Celery looks for."""


def configure(level: str) -> None:
    """One handler on the root logger; libraries speak from warning on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(FieldsFormatter())
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("tollgate").setLevel(level.upper())
    logging.getLogger("alembic").setLevel(logging.WARNING)  # also where Celery opens the root logger later

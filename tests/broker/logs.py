"""A log line as a signal to wait on, from whatever thread it comes."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def heard(name: str) -> Iterator[threading.Event]:
    """An event that is set by the first warning of the logger `name`."""
    event = threading.Event()

    class Ear(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            event.set()

    logger, ear = logging.getLogger(name), Ear(logging.WARNING)
    logger.addHandler(ear)
    try:
        yield event
    finally:
        logger.removeHandler(ear)

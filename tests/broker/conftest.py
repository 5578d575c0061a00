"""A Redis that a test may break."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker.private_redis import BINARY, PrivateRedis
from tests.conftest import absent


@pytest.fixture
def private_redis(tmp_path: Path) -> Iterator[PrivateRedis]:
    if BINARY is None:
        absent("redis-server", FileNotFoundError("not on the PATH"))
    server = PrivateRedis(tmp_path)
    server.start()
    yield server
    server.stop()

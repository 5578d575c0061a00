"""A tiny model of one's own, loaded once; upstreams on the test's loop."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.worker.local import models
from tollgate.settings import Settings
from worker.upstreams.local import loading
from worker.upstreams.local.loading import Loaded
from worker.upstreams.local.upstream import LocalUpstream


def settings_of(**said: Any) -> Settings:
    """Those and the defaults."""
    return Settings.model_validate(said)


@pytest.fixture(scope="session")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random GLM."""
    return models.checkpoint(tmp_path_factory.mktemp("checkpoints") / "tiny-glm")


@pytest.fixture(scope="session")
def loaded(checkpoint: Path) -> Loaded:
    """Eight slots of 256 tokens, on one thread."""
    torch.set_num_threads(1)
    return loading.load(str(checkpoint), settings_of(local_slots=8, local_context_tokens=256, local_threads=1))


@pytest.fixture
async def upstream(loaded: Loaded) -> AsyncIterator[LocalUpstream]:
    """Any death of its engine fails the test."""
    deaths: list[BaseException] = []
    opened = LocalUpstream(loaded, prefill_tokens=64, on_dead=deaths.append)
    yield opened
    await opened.close()
    assert deaths == []

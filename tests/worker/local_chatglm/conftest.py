"""One tokenizer for all, and one thread: torch's threads and the tests' would fight over two cores."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tests.worker.local_chatglm import originals

torch.set_num_threads(1)


@pytest.fixture(scope="session")
def sentencepiece_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sentencepiece") / "tokenizer.model"
    originals.train_tokenizer(path)
    return path

"""The checkpoint's own code: run only where that is asked for, and then believed."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
import torch

from tests.worker.local_chatglm import originals
from tests.worker.local_chatglm.originals import Original
from worker.upstreams.local.chatglm import conversion, original_code
from worker.upstreams.local.chatglm.errors import MismatchError, OriginalError

CODE = Path(__file__).with_name("remote_code.py")


@pytest.fixture
def original(sentencepiece_model: Path, tmp_path: Path) -> Original:
    """In half precision, with code of its own that says so when it is run."""
    own = {"AutoConfig": "modeling.OwnConfig", "AutoModel": "modeling.OwnModel"}
    made = originals.write(
        tmp_path / "original", sentencepiece_model, form="one .bin", dtype=torch.float16, auto_map=own
    )
    shutil.copy(CODE, made.folder / "modeling.py")
    trace = f"\nopen({str(tmp_path / 'was-run')!r}, 'w').close()\n"
    with (made.folder / "modeling.py").open("a") as code:
        code.write(trace)
    return made


def test_it_is_never_run_unasked(original: Original, tmp_path: Path) -> None:
    conversion.convert(original.folder, tmp_path / "native")
    assert not (tmp_path / "was-run").exists()


def test_its_logits_are_those_of_the_converted_model(original: Original, tmp_path: Path) -> None:
    made = conversion.convert(original.folder, tmp_path / "native", trusted_python=sys.executable)
    assert (tmp_path / "was-run").exists()
    assert made.agreement.code_difference is not None
    assert made.agreement.code_difference < 1e-5


def test_where_it_answers_otherwise_the_conversion_is_refused(
    original: Original, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Another process would say the same some seconds later.
    monkeypatch.setattr(original_code, "logits", lambda *_, **__: torch.randn(48, originals.PADDED))
    with pytest.raises(MismatchError, match="logits of its own code: the converted model is"):
        conversion.convert(original.folder, tmp_path / "native", trusted_python=sys.executable)
    assert not list(tmp_path.glob("native*"))


def test_where_it_does_not_run_its_last_words_are_told(original: Original, tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'RuntimeError: only on transformers 4' >&2\nexit 1\n")
    python.chmod(0o755)
    with pytest.raises(OriginalError, match=r"RuntimeError: only on transformers 4\. It wants"):
        conversion.convert(original.folder, tmp_path / "native", trusted_python=str(python))
    with pytest.raises(OriginalError, match="cannot be run: No such file"):
        conversion.convert(original.folder, tmp_path / "native", trusted_python="/no/such/python")

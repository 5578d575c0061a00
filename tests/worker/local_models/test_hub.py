"""Names on the hub: in processes of their own, since the hub's client reads its address and its cache once."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.processes import clean_environment
from tests.worker.local_models import hub as stand_in
from tests.worker.local_models.published import SMALL_NUMBERS, write_checkpoint
from tollgate.domain.errors import SettingsError
from worker.upstreams.local import hub

NAME = "lab/small"
READ = """
import json, sys
from tollgate.domain.errors import SettingsError
from worker.upstreams.local import checkpoints
try:
    found = getattr(checkpoints, sys.argv[1])(sys.argv[2])
    told = [found.path.name, found.files.numbers, [finding.problem for finding in found.findings]]
except SettingsError as error:
    told = str(error)
print(json.dumps(told))
"""


def told(how: str, name: str, *, endpoint: str, cache: Path) -> Any:
    """What `checkpoints.read` or `require` says in a process with that hub and that cache."""
    ours = {"HF_ENDPOINT": endpoint, "HF_HOME": str(cache), "HF_HUB_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-c", READ, how, name]
    ended = subprocess.run(command, env=clean_environment() | ours, check=True, capture_output=True, timeout=60)
    return json.loads(ended.stdout)


def test_a_name_is_described_first_and_its_weights_are_fetched_when_it_is_to_be_served(tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    with stand_in.serve(write_checkpoint(tmp_path / "small"), name=NAME) as endpoint:
        described = told("read", NAME, endpoint=endpoint, cache=cache)
        assert told("require", NAME, endpoint=endpoint, cache=cache) == [stand_in.COMMIT, SMALL_NUMBERS, []]
    assert described == [stand_in.COMMIT, None, ["its weights are not on this machine"]]
    away = endpoint  # nobody answers there any more
    assert told("require", NAME, endpoint=away, cache=cache) == [stand_in.COMMIT, SMALL_NUMBERS, []]


def test_a_name_that_the_hub_does_not_know_is_neither_folder_nor_model(tmp_path: Path) -> None:
    with stand_in.serve(tmp_path, name=NAME) as endpoint:
        message = told("read", "lab/other", endpoint=endpoint, cache=tmp_path / "cache")
    assert message.startswith("there is neither a folder lab/other nor, for this machine's token, a model of that name")


def test_without_a_network_it_says_how_to_do_without(tmp_path: Path) -> None:
    message = told("read", NAME, endpoint="http://127.0.0.1:9", cache=tmp_path)
    assert message.startswith(f"there is no folder {NAME}, and the hub does not give it: ")
    assert f"hf download {NAME} --local-dir DIR" in message


@pytest.mark.parametrize("name", ["/nowhere/model", "./model", "model", "a/b/c", "~/model-of-nobody"])
def test_what_is_no_name_is_a_folder_that_is_not_there(name: str) -> None:
    with pytest.raises(SettingsError, match=f"there is no folder {name}; a model is a folder, or a name on the hub"):
        hub.folder_of(name, weights=False)


def test_a_file_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").touch()
    with pytest.raises(SettingsError, match="is a file; a model is named by its folder"):
        hub.folder_of(str(tmp_path / "model.safetensors"), weights=False)

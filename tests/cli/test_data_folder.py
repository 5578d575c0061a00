from __future__ import annotations

import os
import signal
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from tollgate.cli.data_folder import DataFolder
from tollgate.domain.errors import SettingsError
from tollgate.domain.keys import parse_master_keys

HOLD = """
import sys
from pathlib import Path
from tollgate.cli.data_folder import DataFolder
with DataFolder(Path(sys.argv[1])).lock():
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def folder(tmp_path: Path) -> DataFolder:
    return DataFolder(tmp_path / "deep" / "data")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_nothing_is_made_by_looking(folder: DataFolder) -> None:
    assert (folder.admin_key(), folder.address()) == (None, None)
    with pytest.raises(SettingsError, match="TOLLGATE_MASTER_KEY is not set"):
        folder.master_key()
    assert not folder.path.exists()


def test_a_master_key_is_made_once_and_good(folder: DataFolder) -> None:
    made = folder.master_key(create=True)
    assert folder.master_key(create=True) == folder.master_key() == made
    assert len(parse_master_keys(made)) == 1


def test_only_the_owner_may_read(folder: DataFolder) -> None:
    folder.path.mkdir(parents=True, mode=0o755)
    folder.master_key(create=True)
    folder.save_admin_key("id.secret")
    assert mode(folder.path) == 0o700
    assert {mode(path) for path in folder.path.iterdir()} == {0o600}


def test_what_is_saved_is_read_and_the_address_is_forgotten(folder: DataFolder) -> None:
    folder.save_address("http://127.0.0.1:1")
    folder.save_address("http://127.0.0.1:2")
    assert folder.address() == "http://127.0.0.1:2"
    folder.clear_address()
    folder.clear_address()
    assert folder.address() is None
    assert list(folder.path.iterdir()) == []


def test_a_second_holder_is_refused_and_told_the_first_ones_pid(folder: DataFolder) -> None:
    other = DataFolder(folder.path)
    refused = pytest.raises(SettingsError, match=rf"in use by another Tollgate, process {os.getpid()}\.")
    with folder.lock(), refused, other.lock():
        pass
    with folder.lock():
        pass


def test_a_killed_holder_leaves_no_lock(folder: DataFolder) -> None:
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(SettingsError, match=f"process {holder.pid}"), folder.lock():
            pass
        holder.send_signal(signal.SIGKILL)
        holder.wait(10)
        with folder.lock():
            pass


def test_a_folder_that_cannot_be_made_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(SettingsError, match="cannot use the folder"):
        DataFolder(tmp_path / "file").save_address("x")

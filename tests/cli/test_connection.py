from __future__ import annotations

from pathlib import Path

import pytest

from tollgate.cli import connection
from tollgate.cli.data_folder import DataFolder
from tollgate.cli.exits import MissingKeyError
from tollgate.domain.errors import SettingsError


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = DataFolder(tmp_path / "data")
    folder.save_admin_key("admin.key")
    folder.save_address("http://127.0.0.1:4711")
    return folder.path


def test_the_option_wins_over_the_environment_and_that_over_the_folder(data: Path) -> None:
    environ = {"TOLLGATE_URL": "http://gateway:1", "TOLLGATE_KEY": "env.key", "TOLLGATE_DATA": str(data)}
    chosen = connection.find_target(environ, url="http://option:2/", key="option.key")
    assert (chosen.url, chosen.key, chosen.key_from) == ("http://option:2", "option.key", "--key")
    chosen = connection.find_target(environ)
    assert (chosen.url, chosen.key, chosen.url_from) == ("http://gateway:1", "env.key", "TOLLGATE_URL")
    chosen = connection.find_target({"TOLLGATE_DATA": str(data)})
    assert (chosen.url, chosen.key) == ("http://127.0.0.1:4711", "admin.key")


def test_the_folders_key_serves_any_address_of_this_machine(data: Path) -> None:
    for url in ("http://localhost:1", "http://127.8.9.1:2", "http://[::1]:3"):
        assert connection.find_target({"TOLLGATE_URL": url}, data=data).key == "admin.key"


def test_the_folders_key_is_not_sent_to_another_machine(data: Path) -> None:
    with pytest.raises(MissingKeyError, match="is sent to this machine only"):
        connection.find_target({"TOLLGATE_URL": "https://example.com"}, data=data)


def test_a_missing_key_says_the_three_ways(tmp_path: Path) -> None:
    with pytest.raises(MissingKeyError) as caught:
        connection.find_target({}, data=tmp_path)
    assert all(way in str(caught.value) for way in ("TOLLGATE_KEY=", "--key", "--data"))


@pytest.mark.parametrize("url", ["127.0.0.1:8000", "ftp://x", "http://", "http://x:port", "http://x:0"])
def test_what_is_no_address_is_refused(url: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"TOLLGATE_URL: .* is not an address"):
        connection.find_target({"TOLLGATE_URL": url}, data=tmp_path)


def test_a_key_with_a_line_break_inside_is_refused_without_being_shown(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        connection.find_target({"TOLLGATE_KEY": "id.sec\nret"}, data=tmp_path)
    assert "ret" not in str(caught.value).replace("character", "")


def test_a_dotenv_file_is_read_and_the_environment_wins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / ".env").write_text("TOLLGATE_KEY=file.key\nTOLLGATE_URL=http://file:1\n")
    monkeypatch.delenv("TOLLGATE_KEY", raising=False)
    monkeypatch.setenv("TOLLGATE_URL", "http://env:2")
    environ = connection.environment(tmp_path / ".env")
    assert (environ["TOLLGATE_KEY"], environ["TOLLGATE_URL"]) == ("file.key", "http://env:2")

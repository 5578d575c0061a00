from __future__ import annotations

from pathlib import Path

import pytest

from tollgate.domain.errors import SettingsError
from tollgate.settings import PREFIX, Settings, field_names, load

NO_FILE = Path("/nonexistent/.env")


def loaded(**environ: str) -> Settings:
    return load({PREFIX + name: value for name, value in environ.items()}, dotenv_path=NO_FILE)


def test_nothing_needs_to_be_set() -> None:
    settings = load({}, dotenv_path=NO_FILE)
    assert settings.store_url == f"sqlite:///{Path('.tollgate/tollgate.db').absolute()}"
    assert (settings.celery_broker_url, settings.sources) == (None, {})


def test_a_variable_sets_its_field() -> None:
    settings = loaded(MAX_IN_FLIGHT="7", SYNC_TIMEOUT_S="1.5", LOG_LEVEL="debug", DATA="/data")
    assert (settings.max_in_flight, settings.sync_timeout_s, settings.log_level) == (7, 1.5, "debug")
    assert settings.store_url == "sqlite:////data/tollgate.db"


def test_every_setting_has_a_description() -> None:
    assert [name for name in field_names() if not Settings.model_fields[name].description] == []


def test_the_environment_wins_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("TOLLGATE_MAX_IN_FLIGHT=1\nTOLLGATE_LANES=local\n")
    settings = load({"TOLLGATE_MAX_IN_FLIGHT": "2"}, dotenv_path=path)
    assert (settings.max_in_flight, settings.lanes) == (2, "local")
    assert settings.sources == {"max_in_flight": "environment", "lanes": str(path)}


def test_an_empty_variable_is_as_if_not_set(tmp_path: Path) -> None:
    path = tmp_path / ".env"
    path.write_text("TOLLGATE_REDIS_URL=redis://file\n")
    settings = load({"TOLLGATE_REDIS_URL": "", "TOLLGATE_MAX_IN_FLIGHT": ""}, dotenv_path=path)
    assert (settings.redis_url, settings.max_in_flight) == (None, 1000)


def test_zhipus_own_variable_works_too() -> None:
    settings = load({"ZHIPUAI_API_KEY": "theirs"}, dotenv_path=NO_FILE)
    assert settings.zhipu_api_key is not None
    assert settings.zhipu_api_key.get_secret_value() == "theirs"
    assert settings.sources == {"zhipu_api_key": "ZHIPUAI_API_KEY"}


def test_tollgates_variable_wins_over_zhipus() -> None:
    settings = load({"ZHIPUAI_API_KEY": "theirs", "TOLLGATE_ZHIPU_API_KEY": "ours"}, dotenv_path=NO_FILE)
    assert settings.zhipu_api_key is not None
    assert settings.zhipu_api_key.get_secret_value() == "ours"


def test_the_broker_is_redis_unless_it_is_named() -> None:
    assert loaded(REDIS_URL="redis://r/0").celery_broker_url == "redis://r/0"
    assert loaded(REDIS_URL="redis://r/0", BROKER_URL="amqp://b").celery_broker_url == "amqp://b"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("MAX_IN_FLIGHT", "0"),
        ("MAX_IN_FLIGHT", "many"),
        ("SYNC_TIMEOUT_S", "-1"),
        ("SYNC_TIMEOUT_S", "inf"),
        ("SYNC_TIMEOUT_S", "nan"),
        ("CURRENCY", "yuan"),
        ("LOG_LEVEL", "loud"),
        ("DATABASE_URL", "mysql://h/d"),
        ("DATABASE_URL", "sqlite://"),
        ("DATABASE_URL", "tollgate.db"),
        ("REDIS_URL", "http://h"),
    ],
)
def test_what_cannot_be_used_is_refused_by_its_variable(name: str, value: str) -> None:
    with pytest.raises(SettingsError, match=f"TOLLGATE_{name}: "):
        loaded(**{name: value})


def test_every_mistake_is_told_at_once() -> None:
    with pytest.raises(SettingsError, match=r"TOLLGATE_CURRENCY[^\n]+\nTOLLGATE_MAX_IN_FLIGHT"):
        loaded(MAX_IN_FLIGHT="0", CURRENCY="x")


def test_a_secret_is_never_shown() -> None:
    settings = loaded(
        MASTER_KEY="m-secret", ZHIPU_API_KEY="z-secret", DATABASE_URL="postgresql://u:d-secret@h/d",
        REDIS_URL="redis://:r-secret@h", BROKER_URL="redis://:b-secret@h",
    )  # fmt: skip
    assert "secret" not in repr(settings)
    assert settings.environment["TOLLGATE_MASTER_KEY"] == "m-secret"


def test_a_mistake_does_not_repeat_what_was_written() -> None:
    with pytest.raises(SettingsError) as caught:
        loaded(DATABASE_URL="mysql://u:d-secret@h/d")
    assert "secret" not in str(caught.value)


def test_settings_cannot_be_changed() -> None:
    settings = loaded()
    with pytest.raises(ValueError, match="frozen"):
        settings.lanes = "local"

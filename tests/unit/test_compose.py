"""docker-compose.yml and the Dockerfile against the program they start. No Docker is needed for it."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from tollgate import configuration
from tollgate import settings as settings_module
from tollgate.cli.app import app
from tollgate.settings import PREFIX, field_names

ROOT = Path(__file__).parents[2]
DEFAULTS = settings_module.load({}, dotenv_path=Path("/nonexistent/.env"))
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if service["image"].startswith("tollgate"))
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
COMMANDS = {
    "migrate": "tollgate migrate",
    "gateway": "tollgate gateway --host 0.0.0.0 --port 8000",
    "worker": "tollgate worker --lanes cloud",
    "local": "tollgate worker --lanes local --model /model",
    "beat": "tollgate beat",
    "simulator": "tollgate simulator --host 0.0.0.0",
}


def known_variables() -> set[str]:
    """Settings, and the variables that the built-in models.toml names."""
    catalog = configuration.load_catalog(DEFAULTS)
    named = {v for upstream in catalog.upstreams.values() for c in upstream.credentials for v in c.variables}
    return named | {PREFIX + name.upper() for name in field_names()}


def copied_from_the_context() -> list[str]:
    lines = re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.MULTILINE)
    return [source for line in lines for source in line.split()[:-1]]


def test_the_services_start_the_documented_commands() -> None:
    assert {name: SERVICES[name]["command"] for name in OURS} == COMMANDS


@pytest.mark.parametrize("service", OURS)
def test_a_command_is_one_that_the_command_line_parses(service: str) -> None:
    program, name, *rest = shlex.split(SERVICES[service]["command"])
    group: Any = typer.main.get_command(app)
    assert (program, name in group.commands) == ("tollgate", True)
    group.commands[name].make_context(name, rest)  # parses, and raises for what it does not know


@pytest.mark.parametrize("service", OURS)
def test_a_variable_is_one_that_somebody_reads(service: str) -> None:
    assert set(SERVICES[service].get("environment", {})) <= known_variables()


def test_the_master_key_has_no_default_and_goes_to_those_who_derive_from_it() -> None:
    holders = {name for name in OURS if "TOLLGATE_MASTER_KEY" in SERVICES[name].get("environment", {})}
    assert holders == {"gateway", "beat"}
    for name in holders:
        assert SERVICES[name]["environment"]["TOLLGATE_MASTER_KEY"].startswith("${TOLLGATE_MASTER_KEY:?")


def test_servers_wait_for_the_migration() -> None:
    waiting = {name for name in OURS if "migrate" in SERVICES[name].get("depends_on", {})}
    assert waiting == {"gateway", "worker", "local", "beat"}
    conditions = {SERVICES[name]["depends_on"]["migrate"]["condition"] for name in waiting}
    assert conditions == {"service_completed_successfully"}


@pytest.mark.parametrize("service", ["postgres", "redis", "gateway", "simulator"])
def test_what_listens_has_a_healthcheck(service: str) -> None:
    assert SERVICES[service]["healthcheck"]["test"][0] == "CMD"


def test_the_simulator_and_a_local_model_are_started_by_their_profiles_only() -> None:
    profiles = {name: service["profiles"] for name, service in SERVICES.items() if "profiles" in service}
    assert profiles == {"simulator": ["simulator"], "local": ["gpu"]}


def test_a_local_model_has_a_gpu_and_its_folder_and_is_started_again() -> None:
    service = SERVICES["local"]
    (device,) = service["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}
    (mount,) = service["volumes"]
    assert (mount["target"], mount["read_only"], mount["bind"]) == ("/model", True, {"create_host_path": False})
    assert service["command"].endswith(f"--model {mount['target']}")
    assert service["restart"] == "unless-stopped"


def test_nothing_but_the_master_key_must_be_set() -> None:
    """Compose reads the whole file whichever profile runs: only the master key may be demanded."""
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert set(re.findall(r"\$\{(\w+):\?", text)) == {"TOLLGATE_MASTER_KEY"}


def test_the_database_and_the_files_are_kept_in_volumes() -> None:
    mounts = [(name, mount) for name in SERVICES for mount in SERVICES[name].get("volumes", ())]
    mounted = {name: mount.split(":") for name, mount in mounts if isinstance(mount, str)}
    assert [volume for volume, _ in mounted.values()] == list(COMPOSE["volumes"])
    assert mounted["gateway"][1] == SERVICES["gateway"]["environment"]["TOLLGATE_FILES"]
    made = " ".join(re.findall(r"install -d (.*)", DOCKERFILE)).split()
    assert mounted["gateway"][1] in made, "a new volume takes its owner from the image"


@pytest.mark.parametrize("service", ["worker", "local"])
def test_a_worker_may_drain_before_it_is_killed(service: str) -> None:
    from worker.celery_run import STOP_MARGIN_S

    grace_s = int(SERVICES[service]["stop_grace_period"].removesuffix("s"))
    assert grace_s > DEFAULTS.drain_timeout_s + STOP_MARGIN_S


def test_what_the_image_copies_is_there_and_not_ignored() -> None:
    allowed = {
        line[1:] for line in (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines() if line[:1] == "!"
    }
    sources = copied_from_the_context()
    assert [source for source in sources if not (ROOT / source).exists()] == []
    assert set(sources) == allowed


def test_the_image_has_every_package_of_the_wheel() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert set(project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= set(copied_from_the_context())


def stages() -> dict[str, str]:
    """The Dockerfile's stages in their order, each with its lines."""
    _, *parts = re.split(r"^FROM .* AS (\w+)$", DOCKERFILE, flags=re.MULTILINE)
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_the_images_do_not_run_as_root_and_the_cloud_target_is_built_last() -> None:
    assert list(stages())[-1] == "cloud"
    assert SERVICES["local"]["build"]["target"] == "local"
    for target in ("cloud", "local"):
        assert stages()[target].rstrip().endswith("\nUSER tollgate")


def test_only_the_local_image_has_torch() -> None:
    """By the extras that its stages install; what a stage copies comes from the stage that it names."""
    assert [name for name, lines in stages().items() if "extras['local']" in lines] == ["local_dependencies"]
    assert [name for name, lines in stages().items() if "--from=local_dependencies" in lines] == ["local"]

"""The settings as they are in force, without their secrets, and variables that are read by nobody."""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable

import pydantic

from tollgate.cli.doctor.report import Check, ShownSetting, ok, warn
from tollgate.domain.routing import Catalog
from tollgate.settings import CLIENT_NAMES, PREFIX, Settings, field_names

OTHER_NAMES = frozenset({"TOLLGATE_DEBUG"})
"""Read by the command line itself."""
TEST_NAMES = ("TOLLGATE_TEST_", "TOLLGATE_REQUIRE_SERVICES")
"""Read by the project's own tests."""
_PASSWORD = re.compile(r"://([^:/@]*):[^?#]*@")
_SECRET_QUERY = re.compile(r"(?i)((?:password|pass|sslpassword)=)[^&]*")


def shown(settings: Settings) -> list[ShownSetting]:
    """Every setting, in the order of its declaration."""
    return [
        ShownSetting(
            variable=PREFIX + name.upper(),
            value=_value(getattr(settings, name)),
            source=settings.sources.get(name, "default"),
        )
        for name in field_names()
    ]


def check(settings: Settings, catalog: Catalog | None) -> Check:
    """Whether some TOLLGATE_ variable is read by nobody: most likely a slip of the pen."""
    unknown = unknown_names(settings.environment, known=known_names(catalog))
    if not unknown:
        return ok("settings", f"{len(settings.sources)} set, the rest at their defaults")
    return warn(
        "settings",
        f"read by nobody: {', '.join(unknown)}",
        fix="; ".join(f"{name}: did you mean {near}?" if near else f"remove {name}" for name, near in unknown.items()),
    )


def known_names(catalog: Catalog | None) -> set[str]:
    """Settings, what clients read, and what models.toml names."""
    names = {PREFIX + name.upper() for name in field_names()} | CLIENT_NAMES | OTHER_NAMES
    for spec in catalog.upstreams.values() if catalog else ():
        names |= {variable for credential in spec.credentials for variable in credential.variables}
        names |= {spec.base_url_env} if spec.base_url_env else set()
    return names


def unknown_names(environment: Iterable[str], *, known: set[str]) -> dict[str, str | None]:
    """Name -> the nearest known one, or None where none is near."""
    strays = sorted(
        name
        for name in environment
        if name.startswith(PREFIX) and name not in known and not name.startswith(TEST_NAMES)
    )
    candidates = sorted(known)
    return {name: next(iter(difflib.get_close_matches(name, candidates, n=1, cutoff=0.75)), None) for name in strays}


def masked_url(url: str) -> str:
    """`url` with its password starred."""
    return _SECRET_QUERY.sub(r"\1***", _PASSWORD.sub(r"://\1:***@", url))


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, pydantic.SecretStr):
        return f"set, {len(value.get_secret_value())} characters"
    text = str(value)
    return masked_url(text) if "://" in text else text

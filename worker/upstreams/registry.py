"""The upstreams of a catalog, made from the settings: addresses and keys come together only here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tollgate.domain.errors import SettingsError
from tollgate.domain.routing import Catalog, UpstreamSpec
from worker.upstreams.chat import ChatUpstream
from worker.upstreams.upstream import Upstream
from worker.upstreams.zhipu import ZhipuUpstream


@dataclass(frozen=True, slots=True, kw_only=True)
class Connected:
    """An upstream ready to be called, and the names of the credentials it has."""

    spec: UpstreamSpec
    upstream: Upstream
    credentials: tuple[str, ...]
    slots: int | None = None
    """Calls that an upstream in this process takes at once; None: `spec.max_in_flight` is the fleet's, and how much
    of it is taken is learned."""


def connect(
    catalog: Catalog, *, environment: Mapping[str, str], local: Mapping[str, Connected] | None = None
) -> dict[str, Connected]:
    """Upstreams by name, less those whose keys are not set, and local ones that are not this process's (`local`): tasks
    for them wait, or are others'. Call within the loop.

    Raises SettingsError where no upstream at all can be called."""
    connected = dict(local or {})
    for spec in catalog.upstreams.values():
        secrets = secrets_of(spec, environment)
        if spec.kind == "local" or (spec.credentials and not secrets):
            continue
        speaks = ZhipuUpstream if spec.kind == "zhipu" else ChatUpstream
        upstream = speaks(spec, base_url=base_url_of(spec, environment), secrets=secrets)
        connected[spec.name] = Connected(spec=spec, upstream=upstream, credentials=tuple(secrets) or ("",))
    if not connected:
        if all(spec.kind == "local" for spec in catalog.upstreams.values()):
            raise SettingsError(
                "models.toml has no upstream to call: add an [[upstream]] of kind zhipu or openai, or serve a local "
                "one with --model PATH"
            )
        wanted = sorted({c.name for spec in catalog.upstreams.values() for c in spec.credentials})
        raise SettingsError(f"no upstream has a key: set {' or '.join(wanted)}, or run the embedded mode's simulator")
    return connected


def secrets_of(spec: UpstreamSpec, environment: Mapping[str, str]) -> dict[str, str]:
    """Credential name -> key, for those that are set; the first set variable of each wins."""
    found = {}
    for credential in spec.credentials:
        values = [environment[name] for name in credential.variables if environment.get(name)]
        if values:
            found[credential.name] = values[0]
    return found


def base_url_of(spec: UpstreamSpec, environment: Mapping[str, str]) -> str:
    override = environment.get(spec.base_url_env) if spec.base_url_env else None
    url = override or spec.base_url
    if not url:
        raise SettingsError(
            f"models.toml: upstream {spec.name!r} has no base_url; write one, or set {spec.base_url_env}"
        )
    if not url.startswith(("http://", "https://")):
        raise SettingsError(f"{spec.base_url_env or 'base_url'}: {url!r} is not an http(s) address")
    return url

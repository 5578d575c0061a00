"""models.toml: from its text to a `Catalog`. What is wrong in it is a SettingsError that says where.

The format is explained to its users at the head of `tollgate/data/models.toml`.
"""

from __future__ import annotations

import re
from typing import cast

from tollgate.domain.routing import (
    MODEL_NAME,
    UPSTREAM_NAME,
    Catalog,
    Cause,
    Credential,
    Kind,
    Mode,
    Model,
    Route,
    UpstreamSpec,
)
from tollgate.domain.states import OnUncertain
from tollgate.domain.toml_table import Table, parse_toml

MAX_FALLBACK_AFTER = 100
"""Tries on one route; who means never writes fallback_on = []."""
LOCAL_TIMEOUT_S = 3_600.0
"""Of an answer in one piece on a device of one's own, which may be slow: nobody else's connection is held by it."""
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}")

_FILE_KEYS = frozenset({"upstream", "model"})
_UPSTREAM_KEYS = frozenset(
    {
        "name",
        "kind",
        "base_url",
        "base_url_env",
        "keys",
        "max_in_flight",
        "connect_timeout_s",
        "first_byte_timeout_s",
        "total_timeout_s",
    }
)
_MODEL_KEYS = frozenset(
    {
        "name",
        "routes",
        "max_output_tokens",
        "assumed_max_tokens",
        "context_tokens",
        "endpoint",
        "aliases",
        "deprecated",
        "fallback_on",
        "fallback_after",
        "tokenizer",
    }
)
_ROUTE_KEYS = frozenset({"upstream", "model", "mode", "on_uncertain"})


def parse_catalog(text: str, *, source: str) -> Catalog:
    """The catalog in the text of a models.toml.

    Raises SettingsError, naming `source`, the table, the key, and what to write.
    """
    root = parse_toml(text, source=source)
    root.allow(_FILE_KEYS)
    upstreams: dict[str, UpstreamSpec] = {}
    for table in root.tables("upstream"):
        upstream = _upstream(table)
        if upstream.name in upstreams:
            table.fail(f"upstream {upstream.name!r} is defined twice; remove one or rename it")
        upstreams[upstream.name] = upstream
    models: dict[str, Model] = {}
    taken: set[str] = set()
    for table in root.tables("model"):
        model = _model(table, upstreams=upstreams)
        for name in (model.name, *model.aliases):
            if name in taken:
                table.fail(f"the name {name!r} is taken by another model or alias; remove one")
            taken.add(name)
        models[model.name] = model
    return Catalog(upstreams=upstreams, models=models)


def _upstream(table: Table) -> UpstreamSpec:
    name = table.text("name")
    if not UPSTREAM_NAME.fullmatch(name):
        table.fail(f"name {name!r} must be 1 to 64 letters, digits, '.', '_' or '-'")
    table = table.at(f"upstream {name!r}")
    table.allow(_UPSTREAM_KEYS)
    kind = cast(Kind, table.choice("kind", ("zhipu", "openai", "local")))
    spec = UpstreamSpec(
        name=name,
        kind=kind,
        base_url=_base_url(table),
        base_url_env=_base_url_env(table),
        credentials=_credentials(table),
        max_in_flight=table.count("max_in_flight", default=64, least=1),
        connect_timeout_s=table.seconds("connect_timeout_s", default=5.0),
        first_byte_timeout_s=table.seconds("first_byte_timeout_s", default=120.0),
        total_timeout_s=table.seconds("total_timeout_s", default=LOCAL_TIMEOUT_S if kind == "local" else 300.0),
    )
    _refuse_incomplete(table, spec)
    return spec


def _refuse_incomplete(table: Table, spec: UpstreamSpec) -> None:
    addressed = spec.base_url is not None or spec.base_url_env is not None
    if spec.kind == "local" and (addressed or spec.credentials):
        table.fail('a local upstream has no base_url, base_url_env or keys; remove them, or write kind = "openai"')
    if spec.kind != "local" and not addressed:
        table.fail('base_url is missing; write base_url = "https://..."')
    if spec.kind == "zhipu" and not spec.credentials:
        table.fail('keys is missing; name the variable of the key: keys = ["TOLLGATE_ZHIPU_API_KEY"]')


def _base_url(table: Table) -> str | None:
    url = table.optional_text("base_url")
    if url is None:
        return None
    if not re.fullmatch(r"https?://[^\s/?#]+[^\s?#]*", url):
        table.fail(f'base_url is {url!r}; write base_url = "https://host/path"')
    return url.rstrip("/")


def _base_url_env(table: Table) -> str | None:
    variable = table.optional_text("base_url_env")
    if variable is not None and not _VARIABLE.fullmatch(variable):
        table.fail("base_url_env must be the name of an environment variable, such as TOLLGATE_ZHIPU_BASE_URL")
    return variable


def _credentials(table: Table) -> tuple[Credential, ...]:
    """`keys`: a list of variables' names; a list inside it holds alternative names of one key."""
    written = table.values.get("keys", [])
    if not isinstance(written, list):
        table.fail('keys must be a list; write keys = ["TOLLGATE_ZHIPU_API_KEY"]')
    credentials = []
    for item in written:
        names = tuple(item) if isinstance(item, list) else (item,)
        if not names or not all(isinstance(name, str) and _VARIABLE.fullmatch(name) for name in names):
            # What stands there may be a key, pasted by mistake: it must not reach a log.
            table.fail(
                "keys names the environment variables that hold the keys, it never holds a key;"
                ' write keys = ["TOLLGATE_ZHIPU_API_KEY"]'
            )
        credentials.append(Credential(variables=names))
    variables = [name for credential in credentials for name in credential.variables]
    if len(set(variables)) < len(variables):
        table.fail("keys names a variable twice; remove one")
    return tuple(credentials)


def _model(table: Table, *, upstreams: dict[str, UpstreamSpec]) -> Model:
    name = _model_name(table, table.text("name"))
    table = table.at(f"model {name!r}")
    table.allow(_MODEL_KEYS)
    return Model(
        name=name,
        routes=_routes(table, upstreams=upstreams),
        max_output_tokens=table.optional_count("max_output_tokens", least=1),
        assumed_max_tokens=table.count("assumed_max_tokens", default=4_096, least=1),
        context_tokens=table.optional_count("context_tokens", least=1),
        endpoints=frozenset({table.choice("endpoint", ("chat", "embeddings"), default="chat")}),
        aliases=tuple(_model_name(table, alias) for alias in table.texts("aliases")),
        deprecated=table.optional_text("deprecated"),
        tokenizer=table.optional_text("tokenizer"),
        fallback_on=_fallback_on(table),
        fallback_after=table.count("fallback_after", default=2, least=1, most=MAX_FALLBACK_AFTER),
    )


def _fallback_on(table: Table) -> frozenset[Cause]:
    if not table.has("fallback_on"):
        return frozenset({Cause.OVERLOAD, Cause.OUTAGE, Cause.PAUSE})
    named = table.texts("fallback_on")
    for name in named:
        if name not in tuple(Cause):
            table.fail(f"fallback_on names {name!r}; write any of: {', '.join(Cause)}, or [] for never")
    return frozenset(map(Cause, named))


def _model_name(table: Table, name: str) -> str:
    if not MODEL_NAME.fullmatch(name):
        table.fail(f"the name {name!r} must be 1 to 128 letters, digits, '.', '_', ':', '/' or '-'")
    return name


def _routes(table: Table, *, upstreams: dict[str, UpstreamSpec]) -> tuple[Route, ...]:
    written = table.values.get("routes")
    if written and not isinstance(written, list):
        example = written if isinstance(written, str) else "upstream/model"
        table.fail(f'routes must be a list; write routes = ["{example}"]')
    if not written:
        table.fail('routes is missing or empty; write routes = ["upstream/model"]')
    routes = tuple(_route(table, item, upstreams=upstreams) for item in written)
    ids = [route.id for route in routes]
    for route_id in ids:
        if ids.count(route_id) > 1:
            table.fail(f"routes names {route_id!r} twice; remove one")
    return routes


def _route(table: Table, written: object, *, upstreams: dict[str, UpstreamSpec]) -> Route:
    if isinstance(written, str):
        upstream, slash, model = written.partition("/")
        if not slash:
            table.fail(f'the route {written!r} must be "upstream/model"')
        written = {"upstream": upstream, "model": model}
    if not isinstance(written, dict):
        table.fail('routes must be a list of "upstream/model" or { upstream = "...", model = "..." }')
    entry = Table(values=written, source=table.source, where=f"{table.where}, routes")
    entry.allow(_ROUTE_KEYS)
    route = Route(
        upstream=entry.text("upstream"),
        model=_model_name(entry, entry.text("model")),
        mode=cast(Mode, entry.choice("mode", ("direct", "async"), default="direct")),
        on_uncertain=OnUncertain(entry.choice("on_uncertain", ("retry", "fail"), default="retry")),
    )
    _refuse_unroutable(entry, route, upstreams=upstreams)
    return route


def _refuse_unroutable(entry: Table, route: Route, *, upstreams: dict[str, UpstreamSpec]) -> None:
    upstream = upstreams.get(route.upstream)
    if upstream is None:
        known = ", ".join(upstreams) or "none"
        entry.fail(f"no upstream is named {route.upstream!r}; define it in [[upstream]], or use one of: {known}")
    if route.mode == "async" and upstream.kind != "zhipu":
        entry.fail(f'mode "async" needs an upstream of kind "zhipu"; {upstream.name!r} is {upstream.kind!r}')

"""Which local upstream is which checkpoint: `--model PATH`, or `UPSTREAM=PATH`. Pure: nothing is read or loaded."""

from __future__ import annotations

import re
from collections.abc import Set
from dataclasses import dataclass, replace

from tollgate.domain.errors import SettingsError
from tollgate.domain.model_file import LOCAL_TIMEOUT_S
from tollgate.domain.routing import UPSTREAM_NAME, Catalog, Model, Route, UpstreamSpec

ADDED = "local"
"""The upstream that `tollgate up --model PATH` adds where models.toml has none."""
_NAMED = re.compile(rf"({UPSTREAM_NAME.pattern})=(.+)", re.DOTALL)
_UNNAMEABLE = re.compile(r"[^A-Za-z0-9._:-]+")


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalModel:
    """A local upstream, and the checkpoint that it is in this process."""

    upstream: str
    source: str
    """A folder, or a hub name such as zai-org/glm-4-9b-chat-hf."""

    @property
    def name(self) -> str:
        """What a model of it may be called: the last part of its source."""
        last = self.source.rstrip("/").rpartition("/")[2]
        return _UNNAMEABLE.sub("-", last).strip("-.")[:100] or ADDED


def choose(text: str, catalog: Catalog) -> LocalModel:
    """The upstream of `catalog` that `text` means. Raises SettingsError, with what to write."""
    named = _NAMED.fullmatch(text)
    local = [spec.name for spec in catalog.upstreams.values() if spec.kind == "local"]
    if named is not None:
        if named[1] not in local:
            known = f"its local ones are: {', '.join(local)}" if local else "it has none"
            raise SettingsError(f"--model {text}: models.toml has no local upstream {named[1]!r}; {known}")
        return LocalModel(upstream=named[1], source=named[2])
    if not local:
        raise SettingsError(f"--model {text}: models.toml has no local upstream. Write into it:\n\n{lines_for(text)}")
    if len(local) > 1:
        raise SettingsError(
            f"--model {text}: models.toml has several local upstreams: {', '.join(local)}. Say which one it is: "
            f"--model {local[0]}={text}"
        )
    return LocalModel(upstream=local[0], source=text)


def lines_for(source: str, *, upstream: str = "gpu") -> str:
    """What models.toml needs for a checkpoint."""
    name = LocalModel(upstream=upstream, source=source).name
    return (
        f'[[upstream]]\nname = "{upstream}"\nkind = "local"\n\n'
        f'[[model]]\nname = "{name}"\nroutes = ["{upstream}/{name}"]\n'
    )


def added(text: str, catalog: Catalog) -> Catalog:
    """For a process that is all there is: `catalog` with an upstream and a model for the checkpoint, where it has no
    local upstream; else as it is."""
    if any(spec.kind == "local" for spec in catalog.upstreams.values()) or _NAMED.fullmatch(text):
        return catalog
    upstream = _free(ADDED, taken=catalog.upstreams.keys())
    local = LocalModel(upstream=upstream, source=text)
    aliases = {alias for model in catalog.models.values() for alias in model.aliases}
    name = _free(local.name, taken=catalog.models.keys() | aliases)
    model = Model(name=name, routes=(Route(upstream=upstream, model=local.name),))
    return replace(
        catalog,
        upstreams={
            **catalog.upstreams,
            upstream: UpstreamSpec(name=upstream, kind="local", total_timeout_s=LOCAL_TIMEOUT_S),
        },
        models={**catalog.models, name: model},
    )


def _free(name: str, *, taken: Set[str]) -> str:
    """`name`, or where another has it, another like it."""
    while name in taken:
        name = f"{name}-local"
    return name

"""Where prompts run: upstreams, models, and the routes between them.

A catalog is a value, read once from models.toml by `tollgate.domain.model_file`. It holds the names
of the variables that hold keys, never a key.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal

from tollgate.domain.errors import UnknownModelError
from tollgate.domain.states import OnUncertain

MODEL_NAME = re.compile(r"[A-Za-z0-9._:/-]{1,128}")
UPSTREAM_NAME = re.compile(r"[A-Za-z0-9._-]{1,64}")
"""Names with no blank, and an upstream's with no slash: `upstream/model` reads one way only."""

Kind = Literal["zhipu", "openai", "local"]
"""The wire an upstream speaks: ZhipuAI v4, OpenAI's chat completions, or a model in a worker's own GPU."""
Mode = Literal["direct", "async"]
"""How a route is asked: one call that waits, or ZhipuAI's submit and poll, whose id survives a crash."""
Place = Literal["cloud", "local"]
"""Which lanes a route's tasks go by: "local" needs a worker with a GPU, "cloud" only a network."""


def upstream_of(route: str) -> str:
    """Of `upstream/model`."""
    return route.partition("/")[0]


class Cause(StrEnum):
    """Why a task may leave its route for the model's next one. Judged by `tollgate.domain.fallbacks`."""

    OVERLOAD = "overload"
    """The upstream itself is overloaded: 1305, 1312, 503."""
    OUTAGE = "outage"
    """No connection, no answer, or a server error."""
    PAUSE = "pause"
    """Every key there is refused or has no balance, or a limit holds for the day or the plan."""
    RATE_LIMIT = "rate_limit"
    """We ask too fast: 1302, 1303, a plain 429."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credential:
    """One key of an upstream, named by the environment variables it may stand in, the first set one wins."""

    variables: tuple[str, ...]

    @property
    def name(self) -> str:
        """What the credential is called in pauses, logs and the doctor's report: its first variable."""
        return self.variables[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamSpec:
    """A place where prompts run. `base_url_env`, where set in the environment, replaces `base_url`.

    `credentials` may be several keys, used in turn when one is paused; empty for a server without any.
    """

    name: str
    kind: Kind
    base_url: str | None = None
    base_url_env: str | None = None
    credentials: tuple[Credential, ...] = ()
    max_in_flight: int = 64
    """Calls in flight for each route (model) there, for the whole fleet; each worker takes its share."""
    connect_timeout_s: float = 5.0
    first_byte_timeout_s: float = 120.0
    """From the sent request to the first byte of its answer; a long answer without stream needs it long."""
    total_timeout_s: float = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """An upstream, and the model's name there."""

    upstream: str
    model: str
    mode: Mode = "direct"
    on_uncertain: OnUncertain = OnUncertain.RETRY
    """What follows a try that may have been billed, unless the task says otherwise."""

    @property
    def id(self) -> str:
        """`upstream/model`; unambiguous, since an upstream's name has no slash."""
        return f"{self.upstream}/{self.model}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A name that clients ask for. The first route is the primary one, the rest are fallbacks, in order."""

    name: str
    routes: tuple[Route, ...]
    max_output_tokens: int | None = None
    """The most `max_tokens` may ask for; None where it is not known: then the upstream decides."""
    assumed_max_tokens: int = 4_096
    """Output tokens a budget reserves when a request sets no `max_tokens`."""
    context_tokens: int | None = None
    """Prompt and output together; None where it is not known."""
    endpoints: frozenset[str] = frozenset({"chat"})
    """"chat" or "embeddings"."""
    aliases: tuple[str, ...] = ()
    """Other names that clients may use for it."""
    deprecated: str | None = None
    """A sentence for those who still ask for it; None where it is current."""
    tokenizer: str | None = None
    """Path of the tokenizer.json that counts its prompts in estimates; None: by their characters."""
    fallback_on: frozenset[Cause] = frozenset({Cause.OVERLOAD, Cause.OUTAGE, Cause.PAUSE})
    """What makes a task leave a route. Rate limits do not: learned concurrency is for them."""
    fallback_after: int = 2
    """So many tries that failed for such a cause on one route; a pause needs only one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Catalog:
    """All upstreams and models, each by its own name. Names and aliases are unique together."""

    upstreams: Mapping[str, UpstreamSpec]
    models: Mapping[str, Model]
    _by_any_name: Mapping[str, Model] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        aliased = {alias: model for model in self.models.values() for alias in model.aliases}
        object.__setattr__(self, "_by_any_name", {**aliased, **self.models})

    def find(self, model: str) -> Model:
        """The model of this name or alias. Raises UnknownModelError, with the known names."""
        found = self._by_any_name.get(model)
        if found is None:
            raise UnknownModelError(model, known=tuple(sorted(self.models)))
        return found

    def place(self, route: Route) -> Place:
        """Which lanes serve `route`. An OpenAI-compatible server is called by network, wherever it stands."""
        return "local" if self.upstreams[route.upstream].kind == "local" else "cloud"

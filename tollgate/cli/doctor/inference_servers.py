"""OpenAI-compatible servers: whether they take the key, serve what models.toml asks of them, and are well by their own
word (`/health`, `/metrics` of vLLM and SGLang)."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING

from tollgate.cli.doctor.report import Check, fail, ok, warn
from tollgate.cli.output import listed
from tollgate.domain import server_load

if TYPE_CHECKING:
    import httpx2

FULL = 0.95
"""Of its key-value cache: what comes now waits, or pushes others out."""


def root_of(base_url: str) -> str:
    """Where /health and /metrics are: beside the API."""
    return base_url.rstrip("/").removesuffix("/v1")


def missing(body: str, wanted: Collection[str]) -> tuple[list[str], list[str]]:
    """Of `wanted` the models that a server does not serve, and those that it does, by its answer to GET /models."""
    try:
        served = [str(one["id"]) for one in json.loads(body)["data"]]
    except (ValueError, KeyError, TypeError):
        return [], []  # it says nothing of its models
    return ([name for name in sorted(wanted) if name not in served] if served else []), served


def check_models(name: str, body: str, wanted: Collection[str]) -> Check | None:
    """None where it serves what is asked of it."""
    absent, served = missing(body, wanted)
    if not absent:
        return None
    return warn(
        name,
        f"it does not serve {listed(absent)}, which models.toml asks of it; it serves {listed(served)}",
        fix="start it with --served-model-name, or correct the routes in models.toml",
    )


def check_health(name: str, answer: httpx2.Response) -> Check | None:
    """None where it is well, or does not say."""
    if answer.status_code < 500:
        return None
    found = f"{answer.url} says that it is not well: HTTP {answer.status_code}"
    return fail(
        f"health of {name}", found, fix="see its log, and start it again: its engine may be dead while its port is open"
    )


def check_load(name: str, answer: httpx2.Response) -> Check | None:
    """None where it does not tell its load."""
    load = server_load.parse(answer.text) if answer.status_code == 200 else None
    if load is None:
        return None
    cache = "" if load.cache_used is None else f", key-value cache {load.cache_used:.0%} used"
    found = f"{load.server}: {load.running:,} running, {load.waiting:,} waiting{cache}"
    if load.waiting > load.running or (load.waiting and (load.cache_used or 0) >= FULL):
        fix = "it has more than it can take: lower max_in_flight of the upstream in models.toml, or add a server"
        return warn(f"load of {name}", found, fix=fix)
    return ok(f"load of {name}", found)

"""The catalog: names found, routes placed."""

from __future__ import annotations

import pytest

from tollgate.domain.errors import UnknownModelError
from tollgate.domain.routing import Catalog, Kind, Model, Route, UpstreamSpec

ROUTE = Route(upstream="gpu", model="zai-org/glm")
MODELS = [
    Model(name="b", routes=(ROUTE,), aliases=("old-b",)),
    Model(name="a", routes=(ROUTE,)),
]
CATALOG = Catalog(upstreams={}, models={model.name: model for model in MODELS})


@pytest.mark.parametrize(("asked", "found"), [("a", "a"), ("b", "b"), ("old-b", "b")])
def test_a_model_is_found_by_name_and_alias(asked: str, found: str) -> None:
    assert CATALOG.find(asked).name == found


def test_an_unknown_model_is_refused_with_the_known_names() -> None:
    with pytest.raises(UnknownModelError) as caught:
        CATALOG.find("c")
    assert caught.value.known == ("a", "b")


def test_a_route_is_named_by_upstream_and_model() -> None:
    assert ROUTE.id == "gpu/zai-org/glm"


@pytest.mark.parametrize(("kind", "place"), [("local", "local"), ("zhipu", "cloud"), ("openai", "cloud")])
def test_only_a_workers_own_model_is_local(kind: Kind, place: str) -> None:
    catalog = Catalog(upstreams={"gpu": UpstreamSpec(name="gpu", kind=kind)}, models={})
    assert catalog.place(ROUTE) == place

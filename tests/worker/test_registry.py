"""Which upstreams of a catalog can be called, and what is said where none can."""

from __future__ import annotations

import pytest

from tollgate.domain.errors import SettingsError
from tollgate.domain.routing import Catalog, Credential, UpstreamSpec
from worker.upstreams import registry


def catalog(*upstreams: UpstreamSpec) -> Catalog:
    return Catalog(upstreams={spec.name: spec for spec in upstreams}, models={})


@pytest.mark.parametrize("upstreams", [(), (UpstreamSpec(name="gpu", kind="local"),)], ids=["none", "local"])
async def test_a_models_file_without_an_upstream_to_call_is_said(upstreams: tuple[UpstreamSpec, ...]) -> None:
    with pytest.raises(SettingsError, match=r"models\.toml has no upstream to call"):
        registry.connect(catalog(*upstreams), environment={})


async def test_upstreams_without_keys_name_the_variables_to_set() -> None:
    keys = (Credential(variables=("A", "A_OLD")), Credential(variables=("B",)))
    with pytest.raises(SettingsError, match="no upstream has a key: set A or B, or run"):
        registry.connect(catalog(UpstreamSpec(name="zhipu", kind="zhipu", credentials=keys)), environment={})

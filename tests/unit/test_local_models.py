"""Which local upstream is which checkpoint."""

from __future__ import annotations

import pytest

from tollgate.domain import local_models
from tollgate.domain.errors import SettingsError
from tollgate.domain.local_models import LocalModel
from tollgate.domain.model_file import parse_catalog
from tollgate.domain.routing import Catalog, Model, Route, UpstreamSpec

FOLDER = "/models/glm-4-9b-chat-hf"


def catalog(*upstreams: UpstreamSpec, models: tuple[str, ...] = ()) -> Catalog:
    routes = (Route(upstream="zhipu", model="m"),)
    return Catalog(
        upstreams={spec.name: spec for spec in upstreams},
        models={name: Model(name=name, routes=routes, aliases=(f"also-{name}",)) for name in models},
    )


ZHIPU = UpstreamSpec(name="zhipu", kind="zhipu")
GPU, OTHER = UpstreamSpec(name="gpu", kind="local"), UpstreamSpec(name="other", kind="local")


@pytest.mark.parametrize(
    ("text", "upstreams", "means"),
    [
        (FOLDER, (ZHIPU, GPU), ("gpu", FOLDER)),
        ("zai-org/glm-4-9b-chat-hf", (GPU,), ("gpu", "zai-org/glm-4-9b-chat-hf")),
        (f"other={FOLDER}", (GPU, OTHER), ("other", FOLDER)),
        ("gpu=a=b", (GPU,), ("gpu", "a=b")),
        ("./a=b", (GPU,), ("gpu", "./a=b")),
    ],
)
def test_a_checkpoint_is_that_of_the_one_local_upstream_or_of_the_named_one(
    text: str, upstreams: tuple[UpstreamSpec, ...], means: tuple[str, str]
) -> None:
    assert local_models.choose(text, catalog(*upstreams)) == LocalModel(upstream=means[0], source=means[1])


@pytest.mark.parametrize(
    ("text", "upstreams", "told"),
    [
        (FOLDER, (GPU, OTHER), f"several local upstreams: gpu, other. Say which one it is: --model gpu={FOLDER}"),
        (f"cpu={FOLDER}", (GPU,), "no local upstream 'cpu'; its local ones are: gpu"),
        (f"zhipu={FOLDER}", (ZHIPU,), "no local upstream 'zhipu'; it has none"),
    ],
)
def test_one_that_means_none_of_them_is_refused(text: str, upstreams: tuple[UpstreamSpec, ...], told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        local_models.choose(text, catalog(*upstreams))


def test_where_there_is_no_local_upstream_the_lines_to_write_are_told() -> None:
    with pytest.raises(SettingsError) as refusal:
        local_models.choose(FOLDER, catalog(ZHIPU))
    written = parse_catalog(str(refusal.value).partition("\n\n")[2], source="the error")
    assert local_models.choose(FOLDER, written).upstream == "gpu"
    assert written.find("glm-4-9b-chat-hf").routes[0].id == "gpu/glm-4-9b-chat-hf"


def test_up_serves_it_under_the_name_of_its_folder() -> None:
    made = local_models.added(FOLDER + "/", catalog(ZHIPU, models=("glm-4",)))
    assert list(made.models) == ["glm-4", "glm-4-9b-chat-hf"]
    route = made.find("glm-4-9b-chat-hf").routes[0]
    assert (made.place(route), made.upstreams[route.upstream].kind) == ("local", "local")
    assert local_models.choose(FOLDER, made).upstream == route.upstream


@pytest.mark.parametrize(
    ("folder", "name"),
    [("/m/glm-4", "glm-4-local"), ("also-glm-4", "also-glm-4-local"), ("/m/模型 x", "x"), ("/m/模型", "local")],
)
def test_a_name_that_is_taken_or_cannot_be_one_is_changed(folder: str, name: str) -> None:
    assert list(local_models.added(folder, catalog(ZHIPU, models=("glm-4",))).models)[1:] == [name]


def test_up_adds_nothing_where_models_toml_says_it() -> None:
    stands = catalog(ZHIPU, GPU)
    assert local_models.added(FOLDER, stands) is stands

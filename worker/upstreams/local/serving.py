"""The local upstream of this process, if it has one: chosen, loaded in a thread of its own, served, and let go.

Nothing of torch is imported here before a model is to be loaded: gateways and cloud workers have none.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Mapping
from typing import TYPE_CHECKING

from tollgate.domain import lanes, local_models
from tollgate.domain.errors import SettingsError
from tollgate.domain.local_models import LocalModel
from tollgate.domain.routing import Catalog
from tollgate.settings import Settings
from worker.upstreams.local import checkpoints
from worker.upstreams.registry import Connected

if TYPE_CHECKING:
    from worker.upstreams.local.loading import Loaded

log = logging.getLogger("tollgate.local")

LOCAL = "local"
LOAD_TIMEOUT_S = 3_600.0
"""From a slow disk, a large checkpoint takes minutes; from the hub, as long as its download."""
NO_EXTRA = 'a local model needs torch and transformers, which are not installed: pip install "tollgate[local]"'

OnDead = Callable[[BaseException, float], None]
"""Called in the engine's thread when its device or the engine itself is broken, with the seconds that it served: only a
new process helps."""


def laned(settings: Settings, *, default: str) -> Settings:
    """With the lanes that a process with a model serves, where none are set."""
    if settings.model is None or "lanes" in settings.sources:
        return settings
    return settings.model_copy(update={"lanes": default})


def require(settings: Settings, catalog: Catalog) -> None:
    """That what this process is to serve can be served, by what its files say. Blocks, and downloads what is not here
    of a hub name. Raises SettingsError."""
    local = chosen(settings, catalog)
    if local is not None:
        checkpoints.require(local.source)


def chosen(settings: Settings, catalog: Catalog) -> LocalModel | None:
    """What this process is to serve. Raises SettingsError."""
    place = any(lane.partition(".")[0] == LOCAL for lane in lanes.expand(settings.lanes))
    if settings.model is None:
        if place:
            raise SettingsError(
                "the lanes local are served with a model: `tollgate worker --lanes local --model PATH` (or "
                "TOLLGATE_MODEL), PATH a folder or a hub name; `tollgate models check PATH` says whether it fits"
            )
        return None
    if not place:
        raise SettingsError(
            f"--model is served on the lanes local, and TOLLGATE_LANES is {settings.lanes}: add local to it"
        )
    local = local_models.choose(settings.model, catalog)
    if importlib.util.find_spec("torch") is None or importlib.util.find_spec("transformers") is None:
        raise SettingsError(NO_EXTRA)
    return local


@contextlib.asynccontextmanager
async def local_upstreams(
    settings: Settings, catalog: Catalog, *, on_dead: OnDead
) -> AsyncIterator[Mapping[str, Connected]]:
    """The local upstream, loaded and running, by its name; none where none is chosen. Raises SettingsError."""
    local = chosen(settings, catalog)
    if local is None:
        yield {}
        return
    loaded = await _in_a_thread(local.source, settings)
    import torch

    from worker.upstreams.local.upstream import LocalUpstream

    since = time.monotonic()
    try:
        upstream = LocalUpstream(
            loaded,
            prefill_tokens=settings.local_prefill_tokens,
            on_dead=lambda error: on_dead(error, time.monotonic() - since),
        )
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            f"{local.source} was loaded, and its engine cannot begin with {loaded.slots} slots of "
            f"{loaded.context_tokens} tokens: {error}; set fewer (TOLLGATE_LOCAL_SLOTS, TOLLGATE_LOCAL_CONTEXT_TOKENS)"
        ) from error
    spec = catalog.upstreams[local.upstream]
    try:
        yield {spec.name: Connected(spec=spec, upstream=upstream, credentials=("",), slots=loaded.slots)}
    finally:
        await upstream.close()


async def _in_a_thread(source: str, settings: Settings) -> Loaded:
    """In one that a stop does not wait for, as it would for an executor's."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Loaded] = loop.create_future()

    def settle(loaded: Loaded | None, error: BaseException | None) -> None:
        if not future.done():
            future.set_exception(error) if error else future.set_result(loaded)  # type: ignore[arg-type]

    def load() -> None:
        loaded, failure = None, None
        try:
            from worker.upstreams.local import loading

            loaded = loading.load(source, settings)
        except BaseException as error:
            failure = error
        with contextlib.suppress(RuntimeError):  # the loop has ended
            loop.call_soon_threadsafe(settle, loaded, failure)

    threading.Thread(target=load, name="loading", daemon=True).start()
    return await future

"""Runs the simulator: as a context manager in a program or a test, or until cancelled for the command line."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from types import TracebackType

from aiohttp import web

from tollgate.domain.prices import PriceTable
from tollgate.simulator.app import ROOT, create_app
from tollgate.simulator.bill import Totals
from tollgate.simulator.cloud import CLOUD, Cloud
from tollgate.simulator.meter import Meter
from tollgate.simulator.settings import SimulatorSettings

BACKLOG = 4_096
"""Connections that may wait to be accepted: thousands of calls can arrive in one moment."""
SHUTDOWN_S = 0.2
"""How long calls in flight are waited for at the end; a simulator has no one to be kind to."""


class Simulator:
    """A simulator on a port of its own.

        async with Simulator(SimulatorSettings(latency_s=0.1), prices=prices) as simulator:
            client = ZhipuAI(api_key="demo.secret", base_url=simulator.base_url)

    Port 0 takes a free one. Raises OSError if the port is taken.
    """

    def __init__(
        self,
        settings: SimulatorSettings | None = None,
        *,
        prices: PriceTable,
        host: str = "127.0.0.1",
        port: int = 0,
    ) -> None:
        self.host = host
        self.port = port
        self._app = create_app(settings, prices=prices)
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> Simulator:
        runner = web.AppRunner(self._app, access_log=None, shutdown_timeout=SHUTDOWN_S)
        await runner.setup()
        try:
            await web.TCPSite(runner, self.host, self.port, backlog=BACKLOG).start()
        except BaseException:
            await runner.cleanup()
            raise
        self._runner = runner
        self.port = runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    @property
    def origin(self) -> str:
        """`http://host:port`; /simulator/bill and its siblings are under it."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def base_url(self) -> str:
        """What a client of ZhipuAI takes as its base_url."""
        return self.origin + ROOT

    @property
    def cloud(self) -> Cloud:
        """Everything the simulator remembers."""
        return self._app[CLOUD]

    @property
    def bill(self) -> Totals:
        """What was charged until now."""
        return self.cloud.bill.totals

    @property
    def stats(self) -> Meter:
        """What came in, what went wrong, what is in flight."""
        return self.cloud.meter

    @property
    def settings(self) -> SimulatorSettings:
        """The settings in force."""
        return self.cloud.settings

    def change(self, **changes: object) -> None:
        """Change settings while it runs, as PUT /simulator/settings does. Raises SettingsError."""
        self.cloud.change(changes)


async def serve(
    settings: SimulatorSettings | None = None,
    *,
    prices: PriceTable,
    host: str = "127.0.0.1",
    port: int = 0,
    ready: Callable[[Simulator], None] | None = None,
) -> None:
    """Run until cancelled. `ready` is called once it listens; raises OSError if the port is taken."""
    async with Simulator(settings, prices=prices, host=host, port=port) as simulator:
        if ready is not None:
            ready(simulator)
        await asyncio.Event().wait()

"""A stand-in for ZhipuAI's cloud, for demos, tests and users' own CI.

An HTTP server that speaks the v4 wire: chat (whole, streamed, async), embeddings, files and batches, with set
latency and speed, faults on demand, deterministic answers, and a bill of what it charged. `hooks` lists what a
prompt can ask for.
"""

from tollgate.simulator.app import create_app
from tollgate.simulator.batch_settings import Batches
from tollgate.simulator.bill import Totals
from tollgate.simulator.server import Simulator, serve
from tollgate.simulator.settings import Faults, SimulatorSettings

__all__ = ["Batches", "Faults", "Simulator", "SimulatorSettings", "Totals", "create_app", "serve"]

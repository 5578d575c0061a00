"""The device that a model runs on, and the memory it has left. Only `find` loads torch."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tollgate.domain.errors import SettingsError

MEMORY = Path("/proc/meminfo")
GROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")
GROUP_USE = Path("/sys/fs/cgroup/memory.current")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Where a model runs."""

    name: str
    """As torch has it: "cuda:0", "cpu"."""
    title: str
    """For people: "NVIDIA H200"."""
    free_bytes: int
    total_bytes: int

    @property
    def is_gpu(self) -> bool:
        return self.name.startswith("cuda")

    def dtype(self, wanted: str = "auto") -> str:
        """What to compute in: on a GPU 16 bits with the range of 32, on a CPU 32 bits, which most have kernels for."""
        return wanted if wanted != "auto" else "bfloat16" if self.is_gpu else "float32"


def find(wanted: str = "auto") -> Device:
    """The device of that name; "auto": the first GPU, else the CPU.

    Raises SettingsError: torch is missing, or has no such device.
    """
    try:
        import torch
    except ImportError as error:
        raise SettingsError("a local model needs torch: pip install 'tollgate[local]'") from error
    if wanted == "auto":
        wanted = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        place = torch.device(wanted)
        if place.type == "cuda":
            index = place.index or 0
            free, total = torch.cuda.mem_get_info(index)
            title = torch.cuda.get_device_name(index)
            return Device(name=f"cuda:{index}", title=title, free_bytes=free, total_bytes=total)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError, ValueError) as error:
        raise SettingsError(f"there is no device {wanted} here: {str(error).splitlines()[0]}") from error
    free, total = system_memory()
    return Device(name=place.type, title="this machine's memory", free_bytes=free, total_bytes=total)


def system_memory() -> tuple[int, int]:
    """Bytes free and in all, within what a container is allowed. Raises SettingsError: the system does not tell."""
    try:
        lines = (line.split() for line in MEMORY.read_text(encoding="ascii").splitlines())
        told = {words[0]: int(words[1]) * 1024 for words in lines if len(words) > 1}
        free, total = told["MemAvailable:"], told["MemTotal:"]
    except (OSError, ValueError, LookupError) as error:
        raise SettingsError(
            "the memory of this machine is unknown: say how many slots with TOLLGATE_LOCAL_SLOTS"
        ) from error
    limit = _group(GROUP_LIMIT)
    if limit is None:
        return free, total
    return min(free, limit - (_group(GROUP_USE) or 0)), min(total, limit)


def _group(path: Path) -> int | None:
    """A number of the control group (version 2) that this process is in; None: no limit, or not told."""
    try:
        return int(path.read_text(encoding="ascii"))
    except (OSError, ValueError):
        return None

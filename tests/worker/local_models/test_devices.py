from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tollgate.domain.errors import SettingsError
from worker.upstreams.local import devices, memory
from worker.upstreams.local.devices import Device

MEBIBYTE = 1 << 20


def gpu() -> Device:
    return Device(name="cuda:0", title="a GPU", free_bytes=1, total_bytes=2)


def test_the_cpu_has_what_the_system_has_free() -> None:
    found = devices.find("cpu")
    assert (found.name, found.is_gpu) == ("cpu", False)
    assert 0 < found.free_bytes <= found.total_bytes


def test_auto_is_what_there_is() -> None:
    assert devices.find().is_gpu == torch.cuda.is_available()


@pytest.mark.parametrize("name", ["cuda:97", "nonsense"])
def test_a_device_that_is_not_there_is_named(name: str) -> None:
    with pytest.raises(SettingsError, match=f"there is no device {name} here: "):
        devices.find(name)


def test_a_gpu_computes_in_16_bits_and_a_cpu_in_32() -> None:
    assert (gpu().dtype(), devices.find("cpu").dtype(), gpu().dtype("float16")) == ("bfloat16", "float32", "float16")


def test_a_cpu_has_fewer_slots() -> None:
    assert memory.most_slots(devices.find("cpu")) < memory.most_slots(gpu()) == memory.most_slots(None)


@pytest.fixture
def system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder in place of /proc and /sys: no other machine can be had here."""
    monkeypatch.setattr(devices, "MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(devices, "GROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr(devices, "GROUP_USE", tmp_path / "memory.current")
    (tmp_path / "meminfo").write_text("MemTotal: 4096 kB\nMemFree: 1 kB\nMemAvailable: 3072 kB\nHugePages: 0\n")
    return tmp_path


def test_what_can_be_freed_counts_as_free(system: Path) -> None:
    assert devices.system_memory() == (3 * MEBIBYTE, 4 * MEBIBYTE)


@pytest.mark.parametrize(
    ("limit", "told"), [(str(2 * MEBIBYTE), (MEBIBYTE, 2 * MEBIBYTE)), ("max", (3 * MEBIBYTE, 4 * MEBIBYTE))]
)
def test_a_container_has_no_more_than_it_is_allowed(system: Path, limit: str, told: tuple[int, int]) -> None:
    (system / "memory.max").write_text(limit)
    (system / "memory.current").write_text(str(MEBIBYTE))
    assert devices.system_memory() == told


def test_a_system_that_does_not_tell_is_said(system: Path) -> None:
    (system / "meminfo").unlink()
    with pytest.raises(SettingsError, match="TOLLGATE_LOCAL_SLOTS"):
        devices.system_memory()

"""`tollgate models check PATH`: what a checkpoint is, what it needs, and whether this machine can serve it."""

from __future__ import annotations

import re
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tollgate.cli import output
from tollgate.domain.errors import SettingsError

if TYPE_CHECKING:
    from rich.table import Table

    from tollgate.settings import Settings
    from worker.upstreams.local.checkpoints import Checkpoint
    from worker.upstreams.local.devices import Device
    from worker.upstreams.local.memory import Plan

Json = dict[str, Any]
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GB|GiB)", re.IGNORECASE)
_UNIT = {"gb": 10**9, "gib": 2**30}
_NO_TORCH = (
    "the device is unknown: torch is not installed (pip install 'tollgate[local]'), and --device-memory not given"
)


def size(text: str) -> int:
    """ "24GB" in bytes. Raises SettingsError."""
    found = _SIZE.fullmatch(text.strip())
    if found is None:
        raise SettingsError(f"--device-memory {text}: write a number and GB or GiB, such as 24GB")
    return round(float(found[1]) * _UNIT[found[2].lower()])


def report(model: str, settings: Settings, *, device_memory: str | None) -> Json:
    """Everything that is known, as one JSON object. Raises SettingsError: there is no such checkpoint."""
    from worker.upstreams.local import checkpoints

    memory = None if device_memory is None else size(device_memory)
    found = checkpoints.read(model)
    device = _device(settings, memory)
    plans = _plans(found, settings, device)
    chosen = next((plan for plan in plans if plan.quantization == settings.local_quantization), None)
    return {
        "model": model,
        "path": str(found.path),
        "class": found.class_name,
        "model_type": found.model_type,
        "native": found.native,
        "servable": found.servable,
        "fits": chosen.fits if found.servable and chosen and device else None,
        "parameters": found.parameters,
        "files": _files(found),
        "shape": _shape(found),
        "tokenizer": found.has_tokenizer,
        "chat_template": found.has_chat_template,
        "ends": sorted(found.ends),
        "findings": [finding._asdict() for finding in found.findings],
        "device": _as_object(device),
        "memory": [_needs(plan, known=device is not None) for plan in plans],
        "quantization": settings.local_quantization,
        "advice": _advice(chosen, device),
    }


def _device(settings: Settings, memory: int | None) -> Device | None:
    """None: unknown. A size that was given is a GPU's."""
    from worker.upstreams.local import devices

    if memory is not None:
        return devices.Device(name="cuda", title="as given", free_bytes=memory, total_bytes=memory)
    return devices.find(settings.local_device) if find_spec("torch") else None


def _plans(found: Checkpoint, settings: Settings, device: Device | None) -> list[Plan]:
    """For each quantisation what it would need; none of a model whose shape is unknown."""
    from worker.upstreams.local import memory
    from worker.upstreams.local.quantization import Quantization

    if found.architecture is None:
        return []
    return [
        memory.plan(
            found.architecture,
            dtype=device.dtype(settings.local_dtype) if device else _dtype(settings.local_dtype),
            quantization=quantization,
            free_bytes=device.free_bytes if device else None,
            slots=settings.local_slots,
            context_tokens=settings.local_context_tokens,
            prefill_tokens=settings.local_prefill_tokens,
            most_slots=memory.most_slots(device),
        )
        for quantization in Quantization
    ]


def _dtype(wanted: str) -> str:
    return "bfloat16" if wanted == "auto" else wanted


def _files(found: Checkpoint) -> Json:
    files = found.files
    return {"count": len(files.names), "bytes": files.bytes or files.declared_bytes, "dtype": files.dtype}


def _shape(found: Checkpoint) -> Json | None:
    shape = found.architecture
    if shape is None:
        return None
    return {
        "family": shape.family,
        "layers": shape.layers,
        "hidden": shape.hidden,
        "heads": shape.heads,
        "kv_heads": shape.kv_heads,
        "key_dim": shape.key_dim,
        "value_dim": shape.value_dim,
        "vocabulary": shape.vocabulary,
        "context_tokens": shape.context_tokens,
    }


def _as_object(device: Device | None) -> Json | None:
    if device is None:
        return None
    named = {"name": device.name, "title": device.title}
    return named | {"free_bytes": device.free_bytes, "total_bytes": device.total_bytes}


def _needs(plan: Plan, *, known: bool) -> Json:
    return {
        "quantization": plan.quantization.value,
        "dtype": plan.dtype,
        "weights_bytes": plan.weights_bytes,
        "cache_token_bytes": plan.token_bytes,
        "slots": plan.slots,
        "context_tokens": plan.context_tokens,
        "cache_bytes": plan.cache_bytes,
        "working_bytes": plan.working_bytes,
        "needed_bytes": plan.needed_bytes,
        "fits": plan.fits if known else None,
    }


def _advice(chosen: Plan | None, device: Device | None) -> list[str]:
    from worker.upstreams.local import memory

    return memory.advice(chosen, most_slots=memory.most_slots(device)) if chosen else []


def show(told: Json) -> None:
    """For a person."""
    about = output.table("", "")
    about.show_header = False
    for name, value in _lines(told):
        about.add_row(name, value)
    console = output.console()
    console.print(about)
    if told["memory"]:
        console.print(_memory_table(told))
    for line in _conclusions(told):
        console.print(output.printable(line), soft_wrap=True)


def _lines(told: Json) -> list[tuple[str, str]]:
    files, shape, device = told["files"], told["shape"], told["device"]
    lines = [
        ("model", told["model"]),
        ("class", f"{told['class']} ({told['model_type']}), {'native' if told['native'] else 'not native'}"),
        ("parameters", "unknown" if told["parameters"] is None else f"{told['parameters']:,}"),
        ("on disk", _on_disk(files)),
    ]
    if shape:
        lines.append(("layers", f"{shape['layers']}, hidden size {shape['hidden']:,}, {shape['heads']} heads"))
        lines.append(("context", f"{shape['context_tokens']:,} tokens; vocabulary {shape['vocabulary']:,}"))
    if told["memory"]:
        needs = told["memory"][0]
        lines.append(("cache", f"{needs['cache_token_bytes'] / 1024:,.1f} KiB a token in {needs['dtype']}"))
    words = {True: "yes", False: "missing"}
    lines.append(("tokenizer", f"{words[told['tokenizer']]}; chat template: {words[told['chat_template']]}"))
    return [*lines, ("device", _device_line(device))]


def _on_disk(files: Json) -> str:
    if not files["bytes"]:
        return "no weights"
    dtype = f", mostly {files['dtype']}" if files["dtype"] else ""
    return f"{gigabytes(files['bytes'])} in {output.count(files['count'], 'file')}{dtype}"


def _device_line(device: Json | None) -> str:
    if device is None:
        return "unknown"
    free, total = gigabytes(device["free_bytes"]), gigabytes(device["total_bytes"])
    return f"{device['name']}, {device['title']}: {free} free" + (f" of {total}" if free != total else "")


def _memory_table(told: Json) -> Table:
    table = output.table(
        "quantization",
        ("weights", "right"),
        ("slots", "right"),
        ("tokens", "right"),
        ("cache", "right"),
        ("a step", "right"),
        ("needed", "right"),
        "fits",
    )
    for needs in told["memory"]:
        table.add_row(
            needs["quantization"],
            gigabytes(needs["weights_bytes"]),
            f"{needs['slots']}",
            f"{needs['context_tokens']:,}",
            gigabytes(needs["cache_bytes"]),
            gigabytes(needs["working_bytes"]),
            gigabytes(needs["needed_bytes"]),
            {True: "yes", False: "no", None: "unknown"}[needs["fits"]],
        )
    return table


def _conclusions(told: Json) -> list[str]:
    lines = [f"{'error' if f['fatal'] else 'note'}: {f['problem']}: {f['fix']}" for f in told["findings"]]
    if told["device"] is None:
        lines.append(f"note: {_NO_TORCH}")
    if not told["servable"]:
        return [*lines, "It cannot be served like this."]
    if told["fits"] is False:
        advice = [f"  {line}" for line in told["advice"]]
        return [*lines, f"It does not fit with quantization {told['quantization']}. What would:", *advice]
    needs = next(needs for needs in told["memory"] if needs["quantization"] == told["quantization"])
    room = f"{output.count(needs['slots'], 'slot')} of {needs['context_tokens']:,} tokens"
    setting = "" if told["quantization"] == "none" else f"TOLLGATE_LOCAL_QUANTIZATION={told['quantization']} "
    verdict = f"It fits, with {room}" if told["fits"] else "It can be served, where it fits"
    return [*lines, f"{verdict}: {setting}tollgate worker --lanes local --model {told['model']}"]


def gigabytes(number: int) -> str:
    """ "18.8 GB", as disks and GPUs are sold."""
    return f"{number / 1e9:,.1f} GB" if number >= 5e7 else f"{number / 1e6:,.1f} MB"

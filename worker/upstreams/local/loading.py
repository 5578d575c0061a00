"""From a checkpoint on the disk to a model on a device, with its tokenizer. Blocks for as long as that takes: for a
thread. All that can be wrong with it is a SettingsError that says what to do."""

from __future__ import annotations

import json
import logging
import time
from dataclasses import dataclass
from typing import Any

import torch
import transformers

from tollgate.domain.errors import SettingsError
from tollgate.settings import Settings
from worker.upstreams.local import checkpoints, devices, faults, memory, quantization, thoughts
from worker.upstreams.local.checkpoints import Checkpoint
from worker.upstreams.local.devices import Device
from worker.upstreams.local.memory import Plan
from worker.upstreams.local.parameters import Defaults
from worker.upstreams.local.tokenizers import Tokenizer

log = logging.getLogger("tollgate.local")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """A model that can be served."""

    model: transformers.PreTrainedModel
    tokenizer: Tokenizer
    ends: frozenset[int]
    """Tokens that end an answer."""
    defaults: Defaults
    slots: int
    context_tokens: int
    """Of one slot: prompt and answer together."""

    @property
    def thinks(self) -> bool:
        """Its template knows thoughts."""
        return thoughts.CLOSE in self.tokenizer.template or thoughts.OPEN in self.tokenizer.template


def load(source: str, settings: Settings) -> Loaded:
    """Raises SettingsError."""
    started = time.monotonic()
    checkpoint = checkpoints.require(source)
    device = devices.find(settings.local_device)
    plan = _plan(checkpoint, settings, device)
    if settings.local_threads is not None:
        torch.set_num_threads(settings.local_threads)
    told = {"model": source, "gigabytes": round(checkpoint.files.bytes / 1e9, 1), "device": device.name}
    log.info("loading the local model", extra=told)
    transformers.utils.logging.disable_progress_bar()
    tokenizer = _tokenizer(checkpoint)  # before the weights: what is wrong with it is known in a second
    loaded = Loaded(
        model=_model(checkpoint, plan, device),
        tokenizer=tokenizer,
        ends=checkpoint.ends,
        defaults=_defaults(checkpoint),
        slots=plan.slots,
        context_tokens=plan.context_tokens,
    )
    seconds = round(time.monotonic() - started, 1)
    room = {"slots": plan.slots, "context_tokens": plan.context_tokens}
    log.info("the local model is loaded", extra={"seconds": seconds, "dtype": plan.dtype, **room})
    return loaded


def _plan(checkpoint: Checkpoint, settings: Settings, device: Device) -> Plan:
    """How it lies on the device. Raises SettingsError where that has no room for it."""
    if checkpoint.architecture is None:
        raise SettingsError(f"{checkpoint.name} is of a kind that is not known here")
    most_slots = memory.most_slots(device)
    plan = memory.plan(
        checkpoint.architecture,
        dtype=device.dtype(settings.local_dtype),
        quantization=settings.local_quantization,
        free_bytes=device.free_bytes,
        slots=settings.local_slots,
        context_tokens=settings.local_context_tokens,
        prefill_tokens=settings.local_prefill_tokens,
        most_slots=most_slots,
    )
    if not plan.fits:
        raise SettingsError(
            f"{checkpoint.name} needs {plan.needed_bytes / 1e9:.1f} GB with {memory.room(plan)}, and {device.title} "
            f"has {device.free_bytes / 1e9:.1f} GB free. What would do:\n  "
            + "\n  ".join(memory.advice(plan, most_slots=most_slots))
        )
    return plan


def _tokenizer(checkpoint: Checkpoint) -> Tokenizer:
    try:
        loaded = transformers.AutoTokenizer.from_pretrained(checkpoint.path, trust_remote_code=False)
    except Exception as error:  # of a torn file transformers raises whatever that comes to: KeyError, Exception itself
        raise SettingsError(
            f"the tokenizer of {checkpoint.name} cannot be read: {faults.told(error)}; download it again"
        ) from error
    tokenizer = Tokenizer(loaded)
    try:
        tokenizer.render([{"role": "user", "content": "?"}], {})
    except Exception as error:  # whatever its template raises, it would for every request, and fail it for good
        raise SettingsError(
            f"the chat template of {checkpoint.name} does not work: {faults.told(error)}; download it again"
        ) from error
    return tokenizer


def _model(checkpoint: Checkpoint, plan: Plan, device: Device) -> transformers.PreTrainedModel:
    """By transformers' own classes: code that comes with a checkpoint is never run."""
    packed = quantization.config(plan.quantization, dtype=plan.dtype, device=device.name)
    options: dict[str, Any] = {"dtype": getattr(torch, plan.dtype), "trust_remote_code": False}
    if packed is not None:
        options |= {"quantization_config": packed, "device_map": {"": device.name}}
    try:
        model: Any = transformers.AutoModelForCausalLM.from_pretrained(checkpoint.path, **options)
        placed: transformers.PreTrainedModel = (model if packed is not None else model.to(device.name)).eval()
    except torch.OutOfMemoryError as error:
        raise SettingsError(
            f"{checkpoint.name} does not fit into the memory of {device.title}; what would: "
            f"tollgate models check {checkpoint.name}"
        ) from error
    except (OSError, ValueError, RuntimeError) as error:
        raise SettingsError(f"{checkpoint.name} cannot be loaded: {error}"[:1_000]) from error
    return placed


def _defaults(checkpoint: Checkpoint) -> Defaults:
    """What generation_config.json says; what it leaves out is torch's plain sampling, as OpenAI's API has it."""
    try:
        said = json.loads((checkpoint.path / "generation_config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        return Defaults()
    known = {name: said[name] for name in ("temperature", "top_p", "top_k") if isinstance(said.get(name), int | float)}
    return Defaults(do_sample=said.get("do_sample") is not False, **known)

"""What a model needs of a device's memory, and how many slots of how many tokens it leaves room for. No torch.

Three parts: the weights, the cache of all slots (allocated at the start, so that it cannot run out later), and what
a step works with. The last is an upper estimate by shapes.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from dataclasses import dataclass, replace

from tollgate.domain.errors import SettingsError
from worker.upstreams.local.architectures import Architecture
from worker.upstreams.local.devices import Device
from worker.upstreams.local.quantization import WEIGHT_BYTES, Quantization

DTYPE_BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}
CONTEXT_TOKENS = 8_192
"""Of a slot, unless it is set: most requests and their answers; longer ones are a server's work."""
MOST_SLOTS = 64
"""Of a GPU, unless more are set. Above it vLLM's pages use memory better than whole slots."""
MOST_SLOTS_OF_CPU = 32
"""More rows a step no longer save time there."""
ENOUGH_SLOTS = 8
"""With fewer, shorter slots are better than none beside each other."""
SHORTEST_TOKENS = 2_048
"""No slot is made shorter than this for more slots."""
RUNTIME_BYTES = 1 << 30
"""What torch takes for itself: a context and kernels on a GPU, libraries on a CPU, and what lies between its blocks."""
SCORE_BYTES = 8
"""A token of a prompt, head and token that it looks at: scores and their softmax, in 32 bits by the plainest kernel."""
SAMPLING_BYTES = 24
"""A row and token of the vocabulary: logits and probabilities in 32 bits, sorted, and their places in 64."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model on a device, in bytes."""

    architecture: Architecture
    dtype: str
    quantization: Quantization
    slots: int
    context_tokens: int
    """Of one slot: its prompt and its answer together."""
    prefill_tokens: int
    free_bytes: int | None
    """What the device has; None: unknown, so nothing fits or fails to."""

    @property
    def weights_bytes(self) -> int:
        of_linear = WEIGHT_BYTES.get(self.quantization, float(DTYPE_BYTES[self.dtype]))
        shape = self.architecture
        return round(shape.linear * of_linear) + shape.other * DTYPE_BYTES[self.dtype] + shape.buffers * 4

    @property
    def token_bytes(self) -> int:
        """What the cache keeps of one token."""
        return self.architecture.cache_values * DTYPE_BYTES[self.dtype]

    @property
    def cache_bytes(self) -> int:
        return self.slots * self.context_tokens * self.token_bytes

    @property
    def working_bytes(self) -> int:
        """A step's own, at its largest: sampling of all rows, and the larger of a prefill and a decoding step."""
        sampled = self.slots * self.architecture.vocabulary * SAMPLING_BYTES
        return RUNTIME_BYTES + sampled + max(self._prefill_bytes, self._decoding_bytes)

    @property
    def _prefill_bytes(self) -> int:
        """A layer of a piece of a prompt that fills its slot: keys and values for all heads, scores, inner sizes."""
        shape, size = self.architecture, DTYPE_BYTES[self.dtype]
        keys = self.context_tokens * shape.heads * (shape.key_dim + shape.value_dim) * size
        scores = self.prefill_tokens * self.context_tokens * shape.heads * SCORE_BYTES
        return keys + scores + self.prefill_tokens * (8 * shape.hidden + 4 * shape.widest) * size

    @property
    def _decoding_bytes(self) -> int:
        """A layer's part of the cache, copied where the kernel wants it in one piece; and a latent one unpacked."""
        shape = self.architecture
        unpacked = self.slots * self.context_tokens * shape.heads * shape.expanded_dim * DTYPE_BYTES[self.dtype]
        return self.cache_bytes // shape.layers + unpacked

    @property
    def needed_bytes(self) -> int:
        return self.weights_bytes + self.cache_bytes + self.working_bytes

    @property
    def fits(self) -> bool:
        return self.free_bytes is None or self.needed_bytes <= self.free_bytes


def most_slots(device: Device | None) -> int:
    """That are worth having, where nobody says how many."""
    return MOST_SLOTS if device is None or device.is_gpu else MOST_SLOTS_OF_CPU


def plan(
    architecture: Architecture,
    *,
    dtype: str,
    quantization: Quantization | str = Quantization.NONE,
    free_bytes: int | None,
    slots: int | None = None,
    context_tokens: int | None = None,
    prefill_tokens: int = 512,
    most_slots: int = MOST_SLOTS,
) -> Plan:
    """With what is set as it is set; what is None is chosen to fit, and small where nothing does.

    Raises SettingsError: more context than the model has.
    """
    if context_tokens is not None and context_tokens > architecture.context_tokens:
        raise SettingsError(
            f"slots of {context_tokens:,} tokens: the model has {architecture.context_tokens:,}; "
            "set TOLLGATE_LOCAL_CONTEXT_TOKENS to that or less"
        )
    longest = min(architecture.context_tokens, CONTEXT_TOKENS) if context_tokens is None else context_tokens
    first = Plan(
        architecture=architecture,
        dtype=dtype,
        quantization=Quantization(quantization),
        slots=slots or most_slots,
        context_tokens=longest,
        prefill_tokens=prefill_tokens,
        free_bytes=free_bytes,
    )
    shortest = longest if context_tokens is not None else min(longest, SHORTEST_TOKENS)
    tried = [_with_slots(each, set_to=slots) for each in _shorter(first, shortest=shortest)]
    fitting = [each for each in tried if each.fits]
    enough = [each for each in fitting if slots is not None or each.slots >= ENOUGH_SLOTS]
    return enough[0] if enough else fitting[-1] if fitting else tried[-1]


def _shorter(first: Plan, *, shortest: int) -> Iterator[Plan]:
    tokens = first.context_tokens
    while True:
        yield replace(first, context_tokens=tokens)
        if tokens <= shortest:
            return
        tokens = max(shortest, tokens // 2)


def _with_slots(wanted: Plan, *, set_to: int | None) -> Plan:
    """As many slots as fit, at least one."""
    if set_to is not None:
        return wanted
    more = bisect_right(range(2, wanted.slots + 1), False, key=lambda slots: not replace(wanted, slots=slots).fits)
    return replace(wanted, slots=1 + more)


def advice(found: Plan, *, most_slots: int = MOST_SLOTS) -> list[str]:
    """What to change so that it fits, the least loss first; empty where it does."""
    if found.fits:
        return []
    return [*_smaller(found), *_lighter(found, most_slots=most_slots)] or [
        "it needs more memory than this device has: take a larger one, a smaller model, or a server over several GPUs "
        "(vLLM or SGLang, as an upstream of kind openai)"
    ]


def _smaller(found: Plan) -> Iterator[str]:
    if found.slots > 1 and (fewer := _with_slots(found, set_to=None)).fits:
        yield f"TOLLGATE_LOCAL_SLOTS={fewer.slots}: {room(fewer)}"
    if (shorter := _with_fitting_context(found)) is not None:
        yield f"TOLLGATE_LOCAL_CONTEXT_TOKENS={shorter.context_tokens}: {room(shorter)}"


def _lighter(found: Plan, *, most_slots: int) -> Iterator[str]:
    """Weights of fewer bits: first as they were most likely trained, then packed."""
    if found.quantization is not Quantization.NONE:
        return
    kinds: list[tuple[str, Quantization]] = [(found.dtype, kind) for kind in WEIGHT_BYTES]
    if DTYPE_BYTES[found.dtype] > DTYPE_BYTES["bfloat16"]:
        kinds.insert(0, ("bfloat16", Quantization.NONE))
    for dtype, kind in kinds:
        lighter = plan(
            found.architecture,
            dtype=dtype,
            quantization=kind,
            free_bytes=found.free_bytes,
            prefill_tokens=found.prefill_tokens,
            most_slots=most_slots,
        )
        if lighter.fits:
            setting = f"QUANTIZATION={kind}" if kind is not Quantization.NONE else f"DTYPE={dtype}"
            yield f"TOLLGATE_LOCAL_{setting}: {lighter.weights_bytes / 1e9:.1f} GB of weights, {room(lighter)}"


def room(found: Plan) -> str:
    """ "8 slots of 8,192 tokens"."""
    return f"{found.slots} slot{'s' if found.slots > 1 else ''} of {found.context_tokens:,} tokens"


def _with_fitting_context(found: Plan) -> Plan | None:
    """The longest context, a multiple of 1,024 tokens, at which the same slots fit."""
    for tokens in range(found.context_tokens - found.context_tokens % 1024, 0, -1024):
        if (shorter := replace(found, context_tokens=tokens)).fits:
            return shorter
    return None

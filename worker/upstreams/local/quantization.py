"""Weights in fewer bits (TOLLGATE_LOCAL_QUANTIZATION), packed by bitsandbytes while a checkpoint is loaded.

Linear layers are packed; embeddings, the output layer, norms and stacked experts stay in the model's type.
nf4: QLoRA, section 3 (https://arxiv.org/abs/2305.14314). int8: LLM.int8() (https://arxiv.org/abs/2208.07339).
"""

from __future__ import annotations

import logging
from enum import StrEnum
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from tollgate.domain.errors import SettingsError

if TYPE_CHECKING:
    from transformers import BitsAndBytesConfig


class Quantization(StrEnum):
    NONE = "none"
    INT8 = "int8"
    NF4 = "nf4"


WEIGHT_BYTES = {Quantization.INT8: 1.0, Quantization.NF4: 0.5 + 4 / 64}
"""Of one packed weight; nf4 keeps a 32-bit scale for each block of 64."""
PLAIN = ("lm_head", "kv_b_proj")
"""Layers that stay as they are: the output layer, whose errors are tokens, and the one that unpacks the cache of latent
attention, whose four-dimensional input the kernels of int8 refuse."""
_PACKAGES = ("bitsandbytes", "accelerate")


def config(quantization: Quantization | str, *, dtype: str, device: str) -> BitsAndBytesConfig | None:
    """For transformers' `from_pretrained`; None: load it as it is.

    `dtype` ("bfloat16") is what is computed in. Raises SettingsError: an unknown kind, the extra is missing, or the
    device cannot do it.
    """
    kind = _kind(quantization)
    if kind is Quantization.NONE:
        return None
    _check_packages(kind)
    _check_device(kind, device)
    import transformers

    configuration: Any = transformers.BitsAndBytesConfig
    made: BitsAndBytesConfig
    if kind is Quantization.INT8:
        # It says for each layer of each step that activations are turned to 16 bits, as they are meant to be.
        logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
        made = configuration(load_in_8bit=True, llm_int8_skip_modules=list(PLAIN))
    else:
        made = configuration(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=dtype,
            llm_int8_skip_modules=list(PLAIN),
        )
    return made


def _kind(name: str) -> Quantization:
    try:
        return Quantization(name)
    except ValueError as error:
        raise SettingsError(f"TOLLGATE_LOCAL_QUANTIZATION is {name}; write none, nf4 or int8") from error


def _check_packages(kind: Quantization) -> None:
    missing = [package for package in _PACKAGES if find_spec(package) is None]
    if missing:
        raise SettingsError(
            f"TOLLGATE_LOCAL_QUANTIZATION={kind} needs {' and '.join(missing)}: pip install 'tollgate[quantization]'"
        )


def _check_device(kind: Quantization, device: str) -> None:
    """bitsandbytes: NVIDIA GPUs from compute capability 6.0 (7.5 is better), x86-64 CPUs with AVX2."""
    if device.partition(":")[0] not in ("cuda", "cpu"):
        raise SettingsError(f"TOLLGATE_LOCAL_QUANTIZATION={kind} does not run on {device}; take an NVIDIA GPU or a CPU")

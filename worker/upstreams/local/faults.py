"""Which errors are one request's own, and which mean that the device cannot be trusted any more."""

from __future__ import annotations

import torch


def is_device_error(error: BaseException) -> bool:
    """Whether it is CUDA's own: such errors are sticky, every later call fails too, until the process is started anew.

    Out of memory is none of them, though it is an error of CUDA: nothing was launched.
    https://docs.nvidia.com/cuda/cuda-runtime-api/group__CUDART__TYPES.html (cudaErrorIllegalAddress and others: "the
    process must be terminated and relaunched").
    """
    if isinstance(error, torch.OutOfMemoryError):
        return False
    if isinstance(error, torch.AcceleratorError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error) for word in ("CUDA", "cuDNN", "CUBLAS"))


def told(error: BaseException) -> str:
    """One line, for whoever asked."""
    first = str(error).strip().partition("\n")[0]
    return f"{type(error).__name__}: {first}" if first else type(error).__name__


def free_memory(error: BaseException) -> None:
    """What torch keeps for later, where there was not enough."""
    if isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available():
        torch.cuda.empty_cache()

"""The published int4 and int8 weights, unpacked. Source: `quantization.py` of the checkpoints."""

from __future__ import annotations

import torch


def unpack(packed: torch.Tensor, scale: torch.Tensor, *, bits: int) -> torch.Tensor:
    """Weights [rows, columns] in the scale's dtype, as the original's kernel makes them.

    `packed`: int8, of 4 bits [rows, columns / 2] with the even column in the high half; `scale`: one a row."""
    whole = packed
    if bits == 4:
        # Shifts of int8 keep the sign: the low half is moved up, then both come down.
        whole = torch.stack([packed >> 4, (packed << 4) >> 4], dim=-1).reshape(packed.shape[0], -1)
    return whole.to(scale.dtype) * scale[:, None]

"""Models with random weights, made on the spot: what is measured does not depend on what they say."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, GlmConfig, GlmForCausalLM, PreTrainedModel

PAD = 0


def glm_100m() -> PreTrainedModel:
    """98 million parameters in fp32, for a CPU."""
    configuration = GlmConfig(
        vocab_size=16_384,
        hidden_size=768,
        intermediate_size=2048,
        num_hidden_layers=12,
        num_attention_heads=12,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=4096,
        pad_token_id=PAD,
        eos_token_id=None,
    )
    return _made(configuration, dtype=torch.float32, device=torch.device("cpu"))


def glm_4_9b(device: torch.device) -> PreTrainedModel:
    """The size of glm-4-9b-chat-hf, in bf16: GlmConfig's own defaults."""
    return _made(GlmConfig(pad_token_id=PAD, eos_token_id=None), dtype=torch.bfloat16, device=device)


def glm_tiny() -> PreTrainedModel:
    """In bf16, to rehearse what is for a GPU."""
    configuration = GlmConfig(
        vocab_size=2000,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        pad_token_id=PAD,
        eos_token_id=None,
    )
    return _made(configuration, dtype=torch.bfloat16, device=torch.device("cpu"))


def _made(configuration: GlmConfig, *, dtype: torch.dtype, device: torch.device) -> PreTrainedModel:
    """On the device from the start: weights of 18.8 GB take no way through the host."""
    torch.manual_seed(0)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with device:
            model = GlmForCausalLM(configuration)
    finally:
        torch.set_default_dtype(before)
    model.generation_config = GenerationConfig(pad_token_id=PAD)
    model.eval()
    return model

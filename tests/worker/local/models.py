"""Tiny models of the four GLM families with random weights, and a tokenizer: made in the run, nothing is downloaded.

A checkpoint folder takes a fraction of a second. The weights are large enough for answers to differ by their prompts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    GenerationConfig,
    Glm4Config,
    Glm4MoeConfig,
    Glm4MoeLiteConfig,
    GlmConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

FAMILIES = ("glm", "glm4", "glm4_moe", "glm4_moe_lite")
VOCABULARY = 800
CONTEXT_TOKENS = 2048
SPECIAL = (
    "<|endoftext|>",
    "[MASK]",
    "[gMASK]",
    "[sMASK]",
    "<sop>",
    "<eop>",
    "<|system|>",
    "<|user|>",
    "<|assistant|>",
    "<|observation|>",
)
ENDS = ("<|endoftext|>", "<|user|>", "<|observation|>")
"""The tokens that end an answer, as in GLM-4's own checkpoints."""
TEMPLATE = (
    "[gMASK]<sop>{% for message in messages %}<|{{ message['role'] }}|>\n{{ message['content'] }}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)
_CORPUS = (
    "你好，世界。我是一个语言模型，可以回答问题、写作和翻译。今天天气很好，我们去公园散步吧。人工智能正在改变世界。",
    "A model on one's own machine answers questions, writes and translates; the weather is fine, so we take a walk.",
    "好的 👍 谢谢 🎉 再见 👋🏽 🇨🇳 😀 def answer(question): return f'{question} 的答案是 42'",
)
_SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": CONTEXT_TOKENS,
    "initializer_range": 0.15,
}
_EXPERTS: dict[str, Any] = {
    "moe_intermediate_size": 32,
    "n_routed_experts": 4,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
}
_LATENTS: dict[str, Any] = {
    "num_key_value_heads": 4,
    "q_lora_rank": 32,
    "kv_lora_rank": 16,
    "qk_rope_head_dim": 8,
    "qk_nope_head_dim": 16,
    "v_head_dim": 16,
}
_CONFIGURATIONS: dict[str, Callable[..., PreTrainedConfig]] = {
    "glm": lambda **given: GlmConfig(head_dim=16, **given),
    "glm4": lambda **given: Glm4Config(head_dim=16, **given),
    "glm4_moe": lambda **given: Glm4MoeConfig(**given | _EXPERTS | {"head_dim": 16}),
    "glm4_moe_lite": lambda **given: Glm4MoeLiteConfig(**given | _EXPERTS | _LATENTS),
}


def tokenizer(vocabulary: int = VOCABULARY) -> PreTrainedTokenizerFast:
    """Byte-level: every text has tokens, and a Chinese character or an emoji may be several."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    made.train_from_iterator(_corpus(), trainer)
    given: dict[str, Any] = {"extra_special_tokens": list(SPECIAL[1:]), "padding_side": "left"}
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token=SPECIAL[0], pad_token=SPECIAL[0], **given)
    fast.chat_template = TEMPLATE
    return fast


def model(family: str = "glm", *, seed: int = 0, **changed: Any) -> PreTrainedModel:
    """In fp32, with dropout off. `changed`: of its configuration."""
    ends = list(range(len(ENDS)))
    given = _SMALL | {"vocab_size": VOCABULARY, "pad_token_id": ends[0], "eos_token_id": ends} | changed
    configuration = _CONFIGURATIONS[family](**given)
    torch.manual_seed(seed)
    made: PreTrainedModel = AutoModelForCausalLM.from_config(configuration)
    pad, end = given["pad_token_id"], given["eos_token_id"]
    made.generation_config = GenerationConfig(eos_token_id=end, pad_token_id=pad, do_sample=False)
    made.eval()
    return made


def checkpoint(folder: Path, family: str = "glm", *, seed: int = 0, **changed: Any) -> Path:
    """Writes into `folder` what a downloaded checkpoint has: configuration, weights, tokenizer, chat template."""
    words = tokenizer()
    ends = [words.convert_tokens_to_ids(token) for token in ENDS]
    given = {"vocab_size": len(words), "pad_token_id": ends[0], "eos_token_id": ends} | changed
    model(family, seed=seed, **given).save_pretrained(folder)
    words.save_pretrained(folder)
    return folder


def _corpus() -> Iterator[str]:
    for _ in range(20):
        yield from _CORPUS

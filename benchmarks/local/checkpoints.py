"""A random GLM of about 100 million parameters as a checkpoint: made in the run, nothing is downloaded.

Its answers are as long as they may be: no token ends one. The tokenizer reads a byte a token.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

VOCABULARY = 16_384
NEVER = 1_000_000
"""A token that is not in the vocabulary."""
TEMPLATE = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
SHAPE: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 768,
    "intermediate_size": 2_048,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "num_key_value_heads": 2,
    "head_dim": 64,
    "max_position_embeddings": 4_096,
    "initializer_range": 0.05,
    "pad_token_id": 0,
    "eos_token_id": 0,
}


def write(folder: Path) -> Path:
    """The folder, filled: 100 million parameters in fp32."""
    import torch
    from transformers import AutoModelForCausalLM, GlmConfig

    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(GlmConfig(**SHAPE)).save_pretrained(folder)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [NEVER]}))
    _tokenizer().save_pretrained(folder)
    return folder


def _tokenizer() -> Any:
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    pairs = ("".join(pair) for pair in itertools.product(alphabet, repeat=2))
    words = itertools.islice(itertools.chain(["<|end|>"], alphabet, pairs), VOCABULARY)
    made = Tokenizer(models.BPE(vocab={word: token for token, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    fast = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|end|>")
    fast.chat_template = TEMPLATE
    return fast

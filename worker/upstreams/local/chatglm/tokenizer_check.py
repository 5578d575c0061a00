"""The converted tokenizer beside sentencepiece, on texts, on every piece, and on a conversation."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece
from transformers import PreTrainedTokenizerFast

from worker.upstreams.local.chatglm import samples, tokenizer
from worker.upstreams.local.chatglm.errors import MismatchError
from worker.upstreams.local.chatglm.sentencepiece_file import PieceType, SentencePieceFile

Message = Mapping[str, str]


def check(folder: Path, original: Path, found: SentencePieceFile, *, generation: int) -> int:
    """Compare the tokenizer in `folder` with the tokenizer.model in `original`.

    Returns the number of texts compared. Raises MismatchError with the first that differs."""
    fast: PreTrainedTokenizerFast = PreTrainedTokenizerFast.from_pretrained(folder)
    truth = sentencepiece.SentencePieceProcessor(model_file=str(original / tokenizer.FILE))
    texts = [*samples.texts(), *(piece.text for piece in found.pieces if piece.type is PieceType.NORMAL)]
    expected, got = truth.encode(texts), fast(texts, add_special_tokens=False)["input_ids"]
    for text, right, ids in zip(texts, expected, got, strict=True):
        if right != ids:
            raise MismatchError(_difference(text, right, ids, fast))
        if truth.decode(right) != fast.decode(ids):
            raise MismatchError(f"the converted tokenizer gives {fast.decode(ids)!r} for the tokens of {text!r}")
    _check_special(fast, len(found.pieces), generation=generation)
    _check_conversation(fast, truth, generation=generation)
    return len(texts) + 1


def _check_special(fast: PreTrainedTokenizerFast, first: int, *, generation: int) -> None:
    for number, text in enumerate(tokenizer.SPECIAL[generation], start=first):
        if fast.convert_tokens_to_ids(text) != number:
            raise MismatchError(f"{text} has the id {fast.convert_tokens_to_ids(text)}, and should have {number}")


def _check_conversation(
    fast: PreTrainedTokenizerFast, truth: sentencepiece.SentencePieceProcessor, *, generation: int
) -> None:
    said = samples.CONVERSATION[generation == 2 :]  # ChatGLM2 was taught no system
    command = {text: len(truth) + n for n, text in enumerate(tokenizer.SPECIAL[generation])}
    right = [command["[gMASK]"], command["<sop>"]]
    right += _of_rounds(said, truth) if generation == 2 else list(_of_roles(said, truth, command))
    text = fast.apply_chat_template([dict(message) for message in said], tokenize=False, add_generation_prompt=True)
    ids = fast(text, add_special_tokens=False)["input_ids"]
    if ids != right:
        raise MismatchError(_difference(str(text), right, ids, fast))


def _of_rounds(said: Sequence[Message], truth: sentencepiece.SentencePieceProcessor) -> list[int]:
    """As `build_prompt` of ChatGLM2."""
    asked = [message["content"] for message in said if message["role"] == "user"]
    answered = [message["content"] for message in said if message["role"] == "assistant"]
    prompt = "".join(
        f"[Round {n}]\n\n问：{question}\n\n答：{answer}\n\n"
        for n, (question, answer) in enumerate(zip(asked, answered, strict=False), start=1)
    )
    ids: list[int] = truth.encode(f"{prompt}[Round {len(asked)}]\n\n问：{asked[-1]}\n\n答：")
    return ids


def _of_roles(
    said: Sequence[Message], truth: sentencepiece.SentencePieceProcessor, command: Mapping[str, int]
) -> Iterator[int]:
    """As `build_chat_input` of ChatGLM3, and the line break that its answers begin with."""
    for message in said:
        yield command[f"<|{message['role']}|>"]
        yield from truth.encode("\n")
        yield from truth.encode(message["content"])
    yield command["<|assistant|>"]
    yield from truth.encode("\n")


def _difference(text: str, right: list[int], ids: list[int], fast: PreTrainedTokenizerFast) -> str:
    at = next((n for n, (a, b) in enumerate(zip(right, ids, strict=False)) if a != b), min(len(right), len(ids)))
    near = slice(max(at - 2, 0), at + 4)
    return (
        f"the converted tokenizer differs from sentencepiece at token {at} of {text[:80]!r}: it has "
        f"{fast.convert_ids_to_tokens(ids[near])}, and should have {fast.convert_ids_to_tokens(right[near])}"
    )

"""A converted tokenizer makes the tokens of sentencepiece, and writes conversations as the original does."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2
import pytest
import sentencepiece
from transformers import AutoTokenizer

from tests.worker.local_chatglm import originals
from worker.upstreams.local.chatglm import conversion, tokenizer
from worker.upstreams.local.chatglm.errors import MismatchError, OriginalError

User = dict[str, str]


def said(role: str, content: str) -> User:
    return {"role": role, "content": content}


@pytest.fixture(scope="module", params=[2, 3])
def generation(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.fixture(scope="module")
def fast(generation: int, sentencepiece_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The tokenizer of a converted checkpoint."""
    folder = tmp_path_factory.mktemp("tokenizer")
    original = originals.write(folder / "original", sentencepiece_model, generation=generation)
    return AutoTokenizer.from_pretrained(conversion.convert(original.folder, folder / "native").folder)


@pytest.fixture(scope="module")
def truth(sentencepiece_model: Path) -> Any:
    return sentencepiece.SentencePieceProcessor(model_file=str(sentencepiece_model))


@pytest.mark.parametrize(
    "text", ["sop and eop", "philosophy", "<s>old</s> <unk>", "▁", "  a   b ", "", "你好\n\n🙂", "x" * 5_000]
)
def test_texts_are_those_of_sentencepiece(text: str, fast: Any, truth: Any) -> None:
    ids = fast(text, add_special_tokens=False)["input_ids"]
    assert ids == truth.encode(text)
    assert fast.decode(ids) == truth.decode(ids)


def test_a_text_alone_has_the_originals_first_tokens(fast: Any, truth: Any) -> None:
    first = originals.VOCABULARY
    assert fast("你好")["input_ids"] == [first + 1, first + 3, *truth.encode("你好")]


def test_a_question_is_written_as_it_was_taught(generation: int, fast: Any, truth: Any) -> None:
    text = fast.apply_chat_template([said("user", "你好")], tokenize=False, add_generation_prompt=True)
    ids = fast(text, add_special_tokens=False)["input_ids"]
    first = originals.VOCABULARY
    if generation == 2:
        assert ids == [first + 1, first + 3, *truth.encode("[Round 1]\n\n问：你好\n\n答：")]
    else:
        line = truth.encode("\n")
        assert ids == [first + 1, first + 3, first + 6, *line, *truth.encode("你好"), first + 7, *line]


@pytest.mark.parametrize("generation", [2], indirect=True)
def test_the_second_generation_reads_a_system_message_before_the_next_question(generation: int, fast: Any) -> None:
    talk = [said("user", "a"), said("assistant", "b"), said("system", "short!"), said("user", "c"), said("user", "d")]
    text = fast.apply_chat_template(talk, tokenize=False)
    assert text == (
        "[gMASK]<sop>[Round 1]\n\n问：a\n\n答：b\n\n[Round 2]\n\n问：short!\n\nc\n\n答：\n\n[Round 3]\n\n问：d\n\n答："
    )


@pytest.mark.parametrize("generation", [3], indirect=True)
def test_the_third_generation_observes_what_tools_say(generation: int, fast: Any) -> None:
    text = fast.apply_chat_template([said("tool", "22 C")], tokenize=False)
    assert text == "[gMASK]<sop><|observation|>\n 22 C"


def test_a_role_that_was_never_taught_is_refused(fast: Any) -> None:
    with pytest.raises(jinja2.TemplateError, match="not critic"):
        fast.apply_chat_template([said("critic", "no")], tokenize=False)


def test_a_tokenizer_that_cannot_be_the_same_is_refused_and_nothing_stays(tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    originals.train_tokenizer(path, treat_whitespace_as_suffix=True)
    original = originals.write(tmp_path / "original", path)
    with pytest.raises(MismatchError, match="differs from sentencepiece at token"):
        conversion.convert(original.folder, tmp_path / "native")
    assert not list(tmp_path.glob("native*"))


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"model_type": "unigram", "vocab_size": 500}, "no BPE model"),
        ({"user_defined_symbols": "<n>"}, "pieces of the user's own"),
        ({"normalization_rule_name": "nmt_nfkc"}, "changes characters"),
        ({"add_dummy_prefix": False}, "puts none before a text"),
        ({"remove_extra_whitespaces": True}, "trims spaces"),
        ({"eos_id": -1}, "has no </s>"),
        ({"vocab_size": originals.PADDED}, "makes 745 tokens, and the model knows 736"),
    ],
)
def test_what_no_chatglm_has_is_refused(options: dict[str, Any], reason: str, tmp_path: Path) -> None:
    path = tmp_path / "tokenizer.model"
    originals.train_tokenizer(path, **options)
    original = originals.write(tmp_path / "original", path)
    with pytest.raises(OriginalError, match=reason):
        conversion.convert(original.folder, tmp_path / "native")


@pytest.mark.parametrize("damage", ["missing", "text", "cut"])
def test_a_damaged_tokenizer_is_named(damage: str, sentencepiece_model: Path, tmp_path: Path) -> None:
    original = originals.write(tmp_path / "original", sentencepiece_model)
    path = original.folder / tokenizer.FILE
    if damage == "missing":
        path.unlink()
    else:
        path.write_bytes(b"version https://git-lfs" if damage == "text" else path.read_bytes()[:1_000])
    with pytest.raises(OriginalError, match=r"tokenizer\.model"):
        conversion.convert(original.folder, tmp_path / "native")

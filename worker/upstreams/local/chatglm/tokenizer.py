"""sentencepiece's tokenizer.model as a fast tokenizer (tokenizer.json), with ChatGLM's own tokens and chat template."""

from __future__ import annotations

from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, processors
from transformers import PreTrainedTokenizerFast

from worker.upstreams.local.chatglm import sentencepiece_file, templates
from worker.upstreams.local.chatglm.errors import OriginalError
from worker.upstreams.local.chatglm.sentencepiece_file import Piece, PieceType, SentencePieceFile

FILE = "tokenizer.model"
END = "<|endoftext|>"
"""What `</s>` is called, as in GLM-4: a text that shows HTML is no end of an answer."""
PREFIX = ("[gMASK]", "<sop>")
"""Before every prompt."""
_OF_GENERATION_2 = ("[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>")
SPECIAL = {2: _OF_GENERATION_2, 3: (*_OF_GENERATION_2, "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")}
"""In the order of their ids, after sentencepiece's own. The original's "sop" and "eop" stand in brackets, as in GLM-4:
"philosophy" is none of them."""
ENDS = {2: (), 3: ("<|user|>", "<|observation|>")}
"""What ends an answer besides END."""
SPACE = "▁"


def read(folder: Path) -> SentencePieceFile:
    """Raises OriginalError where it is missing, damaged, or no tokenizer that can be converted."""
    path = folder / FILE
    try:
        found = sentencepiece_file.parse(path.read_bytes())
    except (OSError, ValueError) as error:
        raise OriginalError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    if found.model_type != sentencepiece_file.BPE:
        raise OriginalError(f"{path} is no BPE model of sentencepiece: ChatGLM2 and 3 have one")
    if found.charsmap or found.trims_spaces or not found.adds_prefix:
        raise OriginalError(
            f"{path} changes characters, trims spaces, or puts none before a text; the published ones do not"
        )
    if any(piece.type is PieceType.USER_DEFINED for piece in found.pieces):
        raise OriginalError(f"{path} has pieces of the user's own, which the published ChatGLM2 and 3 have not")
    return found


def convert(found: SentencePieceFile, *, generation: int, context_tokens: int) -> PreTrainedTokenizerFast:
    """The same tokens with the same ids, and the chat template of the generation."""
    fast = Tokenizer(_bpe(found.pieces))
    fast.normalizer = normalizers.Sequence([normalizers.Prepend(SPACE), normalizers.Replace(" ", SPACE)])
    fast.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    fast.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in (END, *SPECIAL[generation])])
    fast.post_processor = processors.TemplateProcessing(
        single=f"{' '.join(PREFIX)} $A",
        pair=f"{' '.join(PREFIX)} $A $B",
        special_tokens=[(text, fast.token_to_id(text)) for text in PREFIX],
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=fast,
        eos_token=END,
        pad_token=END,
        padding_side="left",
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
        model_max_length=context_tokens,
        chat_template=templates.OF_GENERATION[generation],
    )


def ends(found: SentencePieceFile, *, generation: int) -> list[int]:
    """The ids that end an answer; the first is that of END."""
    first = len(found.pieces)
    return [_end_of(found.pieces), *(first + SPECIAL[generation].index(text) for text in ENDS[generation])]


def _end_of(pieces: list[Piece]) -> int:
    for number, piece in enumerate(pieces):
        if piece.type is PieceType.CONTROL and piece.text == "</s>":
            return number
    raise OriginalError(f"{FILE} has no </s>: it is none of ChatGLM2's or 3's")


def _bpe(pieces: list[Piece]) -> models.BPE:
    vocabulary = {piece.text: number for number, piece in enumerate(pieces)}
    end = _end_of(pieces)
    vocabulary[END] = vocabulary.pop(pieces[end].text)
    unknown = next((piece.text for piece in pieces if piece.type is PieceType.UNKNOWN), None)
    return models.BPE(
        vocab=vocabulary,
        merges=_merges(pieces),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=any(piece.type is PieceType.BYTE for piece in pieces),
    )


def _merges(pieces: list[Piece]) -> list[tuple[str, str]]:
    """Every pair that makes a piece. sentencepiece joins by the score of what is made, whatever it is made of."""
    normal = {piece.text: (-piece.score, n) for n, piece in enumerate(pieces) if piece.type is PieceType.NORMAL}
    made = [
        (rank, normal[text[:at]], normal[text[at:]], text[:at], text[at:])
        for text, rank in normal.items()
        for at in range(1, len(text))
        if text[:at] in normal and text[at:] in normal
    ]
    return [(left, right) for *_, left, right in sorted(made)]

"""What a `tokenizer.model` of sentencepiece says, as far as a converted tokenizer needs it.

A protocol buffer, read by hand: its fields are those of `sentencepiece_model.proto`
(https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum

BPE = 2
"""trainer_spec.model_type."""


class PieceType(IntEnum):
    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class Piece:
    text: str
    score: float
    """Pairs that make pieces of higher scores are joined first."""
    type: PieceType


@dataclass(frozen=True, slots=True, kw_only=True)
class SentencePieceFile:
    pieces: list[Piece]
    """By id."""
    model_type: int
    charsmap: bytes
    """How characters are normalised; empty: not at all."""
    adds_prefix: bool
    """A space before every text."""
    trims_spaces: bool
    """Spaces at the ends go, several become one."""


def parse(data: bytes) -> SentencePieceFile:
    """Raises ValueError for what is no such file."""
    try:
        top = list(_fields(data))
        trainer = _last(top, 2)
        normalizer = _last(top, 3)
        return SentencePieceFile(
            pieces=[_piece(value) for number, value in top if number == 1 and isinstance(value, bytes)],
            model_type=_whole(trainer, 3, default=1),
            charsmap=_bytes(normalizer, 2),
            adds_prefix=bool(_whole(normalizer, 3, default=1)),
            trims_spaces=bool(_whole(normalizer, 4, default=1)),
        )
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"it is no model of sentencepiece: {error}") from error


def _piece(data: bytes) -> Piece:
    fields = list(_fields(data))
    score = next((value for number, value in fields if number == 2 and isinstance(value, float)), 0.0)
    return Piece(_bytes(fields, 1).decode(), score, PieceType(_whole(fields, 3, default=1)))


Field = tuple[int, int | float | bytes]


def _fields(data: bytes) -> Iterator[Field]:
    """Number and value of each field, in the file's order."""
    at = 0
    while at < len(data):
        key, at = _varint(data, at)
        number, wire = key >> 3, key & 7
        if wire == 0:
            whole, at = _varint(data, at)
            yield number, whole
        elif wire == 2:
            length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError("it is no model of sentencepiece, or cut short")
            yield number, data[at : at + length]
            at += length
        elif wire == 5:
            yield number, struct.unpack_from("<f", data, at)[0]
            at += 4
        elif wire == 1:
            at += 8
        else:
            raise ValueError(f"it is no model of sentencepiece: wire type {wire}")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _last(fields: list[Field], number: int) -> list[Field]:
    return list(_fields(_bytes(fields, number)))


def _bytes(fields: list[Field], number: int) -> bytes:
    return next((value for found, value in reversed(fields) if found == number and isinstance(value, bytes)), b"")


def _whole(fields: list[Field], number: int, *, default: int) -> int:
    return next((value for found, value in reversed(fields) if found == number and isinstance(value, int)), default)

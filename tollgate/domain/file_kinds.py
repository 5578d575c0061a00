"""What a file is that is no text, by its first bytes."""

from __future__ import annotations

HEAD_BYTES = 16
"""More of a file is not needed to tell."""
_COMPRESSED = (
    (b"\x1f\x8b", "gzip"),
    (b"PK\x03\x04", "zip"),
    (b"PK\x05\x06", "zip"),
    (b"\x28\xb5\x2f\xfd", "zstd"),
    (b"\xfd7zXZ\x00", "xz"),
    (b"7z\xbc\xaf\x27\x1c", "7-Zip"),
    *((b"BZh%d1AY&SY" % level, "bzip2") for level in range(1, 10)),
)
"""First bytes -> of what. A small file of these may stand for any number of lines."""


def compression_of(head: bytes) -> str | None:
    """Its name, where the file that begins so is compressed."""
    return next((name for magic, name in _COMPRESSED if head.startswith(magic)), None)

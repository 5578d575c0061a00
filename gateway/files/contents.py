"""What a file may hold: text, not too much of it. Looked at while it passes by."""

from __future__ import annotations

from collections.abc import AsyncIterator

from tollgate.domain.errors import FileTooLargeError, InvalidRequestError
from tollgate.domain.file_kinds import HEAD_BYTES, compression_of

UTF_16 = (b"\xff\xfe", b"\xfe\xff")
"""Byte order marks. UTF-32's little-endian one begins with the first."""
RULE = "UTF-8 text, one JSON object a line, not compressed"


async def checked(stream: AsyncIterator[bytes], *, max_bytes: int) -> AsyncIterator[bytes]:
    """The same bytes. Raises FileTooLargeError, and InvalidRequestError for what is empty or no text of ours."""
    head, size = b"", 0
    async for chunk in stream:
        if len(head) < HEAD_BYTES:
            head = (head + chunk)[:HEAD_BYTES]
            _require_text(head)
        size += len(chunk)
        if size > max_bytes:
            raise too_large(max_bytes)
        yield chunk
    if not size:
        raise _invalid("the file is empty")


def too_large(max_bytes: int) -> FileTooLargeError:
    return FileTooLargeError(f"the file is over {max_bytes:,} bytes (TOLLGATE_MAX_FILE_BYTES); split it")


def _require_text(head: bytes) -> None:
    if name := compression_of(head):
        raise _invalid(f"the file is compressed ({name}); upload it uncompressed")
    if head.startswith(UTF_16) or b"\0" in head:
        raise _invalid("the file is UTF-16 or binary; save it as UTF-8")


def _invalid(message: str) -> InvalidRequestError:
    return InvalidRequestError(message, field="file", allowed=RULE, code="1210")

"""The files of the files' API: small ones in memory, larger ones in unnamed temporary files."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from tempfile import SpooledTemporaryFile
from typing import IO

FILES_MAX = 1_000
"""Files that are kept; the oldest go first."""
IN_MEMORY_MAX = 1 << 20
"""Bytes of a file above which it is on disk."""
PIECE = 1 << 20


def _spool() -> IO[bytes]:
    return SpooledTemporaryFile(max_size=IN_MEMORY_MAX)


@dataclass(slots=True, kw_only=True, eq=False)
class StoredFile:
    """A file and its content. `created` is in unix seconds."""

    identifier: str
    key_id: str
    filename: str
    purpose: str
    created: int = field(default_factory=lambda: int(time.time()))
    size: int = 0
    _content: IO[bytes] = field(default_factory=_spool, repr=False)

    def __del__(self) -> None:
        self._content.close()

    def append(self, piece: bytes) -> None:
        """Write at the end."""
        self._content.seek(self.size)
        self._content.write(piece)
        self.size += len(piece)

    def read(self, *, offset: int, size: int) -> bytes:
        """Up to `size` bytes from `offset`. Readers do not disturb each other: nothing awaits in here."""
        self._content.seek(offset)
        return self._content.read(size)

    def pieces(self, *, end: int | None = None) -> Iterator[bytes]:
        """The content up to `end` in pieces of a megabyte."""
        end = self.size if end is None else end
        for offset in range(0, end, PIECE):
            yield self.read(offset=offset, size=min(PIECE, end - offset))

    def as_json(self) -> dict[str, object]:
        """The file object of the wire."""
        return {
            "id": self.identifier,
            "object": "file",
            "bytes": self.size,
            "created_at": self.created,
            "filename": self.filename,
            "purpose": self.purpose,
            "status": "processed",
        }


class FileBook:
    """Files by id, in the order in which they came."""

    __slots__ = ("_files",)

    def __init__(self) -> None:
        self._files: OrderedDict[str, StoredFile] = OrderedDict()

    def add(self, file: StoredFile) -> None:
        """Keep `file`, and drop the oldest beyond FILES_MAX."""
        self._files[file.identifier] = file
        while len(self._files) > FILES_MAX:
            self._files.popitem(last=False)

    def find(self, identifier: str, *, key_id: str) -> StoredFile | None:
        """The file, if it is this key's."""
        file = self._files.get(identifier)
        return file if file is not None and file.key_id == key_id else None

    def remove(self, identifier: str) -> None:
        """Forget a file; its content goes when the last batch that reads it has ended."""
        self._files.pop(identifier, None)

    def newest(self, *, key_id: str, purpose: str | None) -> list[StoredFile]:
        """This key's files, the newest first."""
        mine = (file for file in reversed(self._files.values()) if file.key_id == key_id)
        return [file for file in mine if purpose is None or file.purpose == purpose]

"""The folder of files: whole or not at all, whatever breaks."""

from __future__ import annotations

import asyncio
import errno
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.files.folder import PIECE_BYTES, Folder
from gateway.files.part import SUFFIX
from gateway.files.tally import BOM, Tally, Written
from tollgate.domain.errors import FilesUnavailableError, StorageFullError
from tollgate.domain.ids import new_id

DAY_S = 86_400.0


@pytest.fixture
def folder(tmp_path: Path) -> Folder:
    return Folder(tmp_path / "files")


async def of(*chunks: bytes, error: BaseException | None = None) -> AsyncIterator[bytes]:
    """A stream of these, that raises `error` at its end."""
    for chunk in chunks:
        yield chunk
    if error is not None:
        raise error


async def read(folder: Folder, file_id: UUID, offset: int = 0) -> list[bytes]:
    return [piece async for piece in folder.open_at(file_id, offset)]


def names(folder: Folder) -> list[str]:
    return sorted(path.name for path in folder.path.iterdir())


def age(path: Path, by_s: float) -> None:
    """As if it had last been written to so long ago."""
    at = path.stat().st_mtime - by_s
    os.utime(path, (at, at))


class TestTally:
    @pytest.mark.parametrize(
        ("content", "lines"),
        [
            (b"", 0),
            (b"\n", 0),
            (b"a", 1),
            (b"a\n", 1),
            (b"a\nb", 2),
            (b"a\r\nb\r\n", 2),
            (b"\n\n a \n\n\t\r\n\x0b\x0c\nb\n\n", 2),
            (b"  \n", 0),
            (BOM + b"a\n", 1),
            (BOM + b"\n", 0),
            (b"a\rb", 1),
        ],
    )
    def test_lines_are_those_with_more_than_white_space(self, content: bytes, lines: int) -> None:
        tally = Tally()
        tally.add(content)
        assert tally.written().lines == lines

    @given(st.lists(st.text("a \n\r\t").map(str.encode)))
    def test_wherever_it_is_cut_it_is_counted_alike(self, pieces: list[bytes]) -> None:
        tally, whole = Tally(), b"".join(pieces)
        for piece in pieces:
            tally.add(piece)
        lines = sum(1 for line in whole.split(b"\n") if line.strip())
        assert tally.written() == Written(bytes=len(whole), lines=lines, sha256=hashlib.sha256(whole).hexdigest())


async def test_what_is_written_is_read_from_any_byte_on(folder: Folder) -> None:
    file_id = new_id()
    content = os.urandom(2 * PIECE_BYTES + 7)
    written = await folder.write(file_id, of(content[:5], b"", content[5:PIECE_BYTES], content[PIECE_BYTES:]))
    assert (written.bytes, written.sha256) == (len(content), hashlib.sha256(content).hexdigest())
    pieces = await read(folder, file_id)
    assert (b"".join(pieces), max(map(len, pieces))) == (content, PIECE_BYTES)
    assert b"".join(await read(folder, file_id, 12_345)) == content[12_345:]
    assert await read(folder, file_id, len(content)) == []
    assert names(folder) == [str(file_id)]


async def test_only_its_owner_may_read(folder: Folder) -> None:
    file_id = new_id()
    await folder.write(file_id, of(b"secret"))
    assert (folder.path.stat().st_mode & 0o777, (folder.path / str(file_id)).stat().st_mode & 0o777) == (0o700, 0o600)


@pytest.mark.parametrize("error", [ConnectionError("gone"), asyncio.CancelledError()], ids=repr)
async def test_a_stream_that_breaks_leaves_nothing(folder: Folder, error: BaseException) -> None:
    with pytest.raises(type(error)):
        await folder.write(new_id(), of(b"x" * PIECE_BYTES, b"y", error=error))
    assert names(folder) == []


async def test_a_writer_that_is_cancelled_while_it_waits_leaves_nothing(folder: Folder) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        yield b"x" * PIECE_BYTES
        begun.set()
        await asyncio.Event().wait()

    writing = asyncio.create_task(folder.write(new_id(), endless()))
    await begun.wait()
    assert [name[-len(SUFFIX) :] for name in names(folder)] == [SUFFIX]
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert names(folder) == []


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
async def test_a_full_disk_is_told_and_leaves_nothing(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Patched: no test may fill a real disk."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    if call == "write":
        monkeypatch.setattr("gateway.files.part.Tally.add", full)
    else:
        monkeypatch.setattr({"fsync": "os.fsync", "rename": "pathlib.Path.rename"}[call], full)
    with pytest.raises(StorageFullError, match="No space left on device"):
        await folder.write(new_id(), of(b"hello"))
    assert names(folder) == []


async def test_a_file_limit_of_the_system_is_a_full_disk(folder: Folder, tmp_path: Path) -> None:
    """For real, in a process of its own: a file may have 100,000 bytes there."""
    script = f"""
import asyncio, pathlib, resource, signal
from gateway.files.folder import Folder
from tollgate.domain.errors import StorageFullError
from tollgate.domain.ids import new_id
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
async def stream():
    for _ in range(300): yield b"x" * 10_000
try:
    asyncio.run(Folder(pathlib.Path({str(folder.path)!r})).write(new_id(), stream()))
except StorageFullError as error:
    print("told:", error)
"""
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", script, stdout=asyncio.subprocess.PIPE)
    told, _ = await process.communicate()
    assert told.decode().strip() == "told: the folder of files: File too large"
    assert names(folder) == []


async def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "files").write_text("a file")
    folder = Folder(tmp_path / "files")
    with pytest.raises(FilesUnavailableError) as raised:
        await folder.write(new_id(), of(b"hello"))
    assert not isinstance(raised.value, StorageFullError)
    assert str(tmp_path) not in str(raised.value), "clients read it"


async def test_what_is_not_there_is_told_and_need_not_be_deleted(folder: Folder) -> None:
    file_id = new_id()
    assert not await folder.exists(file_id)
    with pytest.raises(FilesUnavailableError):
        await read(folder, file_id)
    await folder.delete(file_id)
    assert await folder.older_than(0) == []
    await folder.remove_unfinished(0)
    assert not folder.path.exists(), "it is made when something is written"


async def test_what_is_deleted_is_gone(folder: Folder) -> None:
    file_id = new_id()
    await folder.write(file_id, of(b"hello"))
    assert await folder.exists(file_id)
    await folder.delete(file_id)
    assert not await folder.exists(file_id)


async def test_what_a_dead_writer_left_is_removed_once_it_is_old(folder: Folder) -> None:
    kept, left, foreign = new_id(), new_id(), folder.path / "notes.part"
    await folder.write(kept, of(b"hello"))
    begun = folder.path / f"{left}{SUFFIX}"
    for path in (begun, foreign):
        path.write_bytes(b"half a li")
    age(begun, DAY_S)
    age(foreign, DAY_S)
    await folder.remove_unfinished(2 * DAY_S)
    assert begun.exists()
    await folder.remove_unfinished(DAY_S / 2)
    assert names(folder) == sorted([str(kept), foreign.name]), "nothing but its own"


async def test_old_files_are_told_by_their_ids_and_nothing_else(folder: Folder) -> None:
    old, new = new_id(), new_id()
    for file_id in (old, new):
        await folder.write(file_id, of(b"hello"))
    (folder.path / "README").write_text("a person's")
    for name in (str(old), "README"):
        age(folder.path / name, DAY_S)
    assert await folder.older_than(DAY_S / 2) == [old]

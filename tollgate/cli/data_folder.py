"""The data folder: what the embedded mode keeps beside its database. Its owner's only.

Holds `master.key` (derives every API key), `admin.key` (what the client commands use), `address` (where
the running server listens), and `lock`, which one server at a time holds. The environment wins over all of it.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import tempfile
from collections.abc import Iterator
from pathlib import Path

from tollgate.domain.errors import SettingsError

MASTER_KEY_BYTES = 48
"""Random bytes of a new master key: 64 characters, twice what is asked of one."""


class DataFolder:
    """`path` need not exist; it is made, for its owner only, when something is first written."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def master_key(self, *, create: bool = False) -> str:
        """The master key, with `create` a new one where there is none. Raises SettingsError."""
        kept = self._read("master.key")
        if kept is None and create:
            kept = secrets.token_urlsafe(MASTER_KEY_BYTES)
            self._write("master.key", kept)
        if kept is None:
            raise SettingsError(
                f"there is no master key: TOLLGATE_MASTER_KEY is not set, and {self.path / 'master.key'} is not there. "
                "Set it, or start `tollgate up` once, which makes one"
            )
        return kept

    def master_key_is_lost(self) -> bool:
        """Keys were made here, and what they were made with is gone."""
        return self._read("master.key") is None and self._read("admin.key") is not None

    def admin_key(self) -> str | None:
        """The key that the embedded mode made at its first start."""
        return self._read("admin.key")

    def save_admin_key(self, key: str) -> None:
        self._write("admin.key", key)

    def address(self) -> str | None:
        """The URL of the running server, or of the last one where it was killed."""
        return self._read("address")

    def save_address(self, url: str) -> None:
        self._write("address", url)

    def clear_address(self) -> None:
        """The server stops."""
        (self.path / "address").unlink(missing_ok=True)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder: a second server is refused, with SettingsError. A killed holder's lock is gone with it."""
        self._make()
        with (self.path / "lock").open("a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                raise SettingsError(self._held(file.fileno())) from error
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            # The file stays: to remove it would let two holders lock two files of one name.
            yield

    def _held(self, descriptor: int) -> str:
        pid = os.pread(descriptor, 32, 0).decode("ascii", "replace").strip()
        return (
            f"the data folder {self.path} is in use by another Tollgate, process {pid or 'unknown'}. Stop that one, "
            "or give this one a folder of its own: --data DIR"
        )

    def _make(self) -> None:
        try:
            self.path.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.path.chmod(0o700)
        except OSError as error:
            raise SettingsError(f"TOLLGATE_DATA: cannot use the folder {self.path}: {error.strerror}") from error

    def _read(self, name: str) -> str | None:
        try:
            return (self.path / name).read_text(encoding="utf-8").strip() or None
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"cannot read {self.path / name}: {error}") from error

    def _write(self, name: str, text: str) -> None:
        """Whole or not at all, and on the disk before it is used: a master key that is lost loses every key."""
        self._make()
        descriptor, temporary = tempfile.mkstemp(dir=self.path, prefix=f".{name}.")  # made with mode 0600
        try:
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                file.write(text + "\n")
                file.flush()
                os.fsync(file.fileno())
            Path(temporary).replace(self.path / name)
            _sync_folder(self.path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


def _sync_folder(path: Path) -> None:
    """A new name is on the disk only when its folder is (fsync(2), NOTES)."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""A PostgreSQL cluster of the tests' own, to be stopped, killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import asyncpg

START_S = 30.0
STOP_S = 30.0
NEEDED = ("initdb", "postgres")
OPTIONS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "max_connections": "400",
    "shared_buffers": "64MB",
    # Killed processes lose nothing that the kernel has: only a machine that loses power would.
    "fsync": "off",
}


def find_binaries() -> Path | None:
    """The folder that has them all: by the PATH, by pg_config, or where Debian puts it."""
    folders = [Path(found).resolve().parent for name in NEEDED if (found := shutil.which(name))]
    if config := shutil.which("pg_config"):
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=False)
        folders.append(Path(told.stdout.strip()))
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    return next((folder for folder in folders if all((folder / name).exists() for name in NEEDED)), None)


def _account() -> pwd.struct_passwd | None:
    """PostgreSQL refuses to run as root: who runs it then. None: whoever runs the tests."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


class PrivatePostgres:
    """On a port of its own, which stays the same. Its folder is not under pytest's, which only root may enter."""

    def __init__(self, binaries: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = int(free.getsockname()[1])
        self._binaries = binaries
        self._folder = Path(tempfile.mkdtemp(prefix="tollgate-chaos-postgres-"))
        self._process: subprocess.Popen[bytes] | None = None
        account = _account()
        self._as: dict[str, Any] = {}
        if account is not None:
            os.chown(self._folder, account.pw_uid, account.pw_gid)
            self._as = {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}

    def url(self, name: str = "postgres", *, port: int | None = None) -> str:
        """Of the database `name`; `port`: of a proxy in front."""
        return f"postgresql://postgres@127.0.0.1:{port or self.port}/{name}"

    def create(self) -> None:
        """Make the cluster; 2 s."""
        arguments = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-sync", "-D", str(self._data)]
        command = [str(self._binaries / "initdb"), *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=self._folder, **self._as)

    def start(self) -> None:
        """Returns when it answers."""
        options = [part for name, value in OPTIONS.items() for part in ("-c", f"{name}={value}")]
        command = [str(self._binaries / "postgres"), "-D", str(self._data), "-p", str(self.port), *options]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, cwd=self._folder, **self._as)
        deadline = time.monotonic() + START_S
        while True:
            try:
                return self.execute("SELECT 1")
            except (OSError, asyncpg.PostgresError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.05)  # a server that starts gives no signal to wait on

    def stop(self, *, immediate: bool = False) -> None:
        """From now on connections are refused. `immediate`: as in a crash; the next start recovers from the log."""
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT if immediate else signal.SIGINT)
            self._process.wait(STOP_S)
            self._process = None

    @property
    def runs(self) -> bool:
        return self._process is not None

    def remove(self) -> None:
        """Stop, and leave nothing behind."""
        self.stop(immediate=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Each outside a transaction."""

        async def run() -> None:
            connection = await asyncpg.connect(self.url(database), timeout=5)
            try:
                for statement in statements:
                    await connection.execute(statement)
            finally:
                await connection.close()

        asyncio.run(run())

    @property
    def _data(self) -> Path:
        return self._folder / "data"

"""Which gateway a client command talks to, and with which key.

The first that is there counts: the option, the environment, a `.env` file, the data folder, the default.
"""

from __future__ import annotations

import ipaddress
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from tollgate.cli.data_folder import DataFolder
from tollgate.cli.exits import MissingKeyError
from tollgate.domain.errors import SettingsError

DEFAULT_URL = "http://127.0.0.1:8000"
DEFAULT_DATA = ".tollgate"


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """A gateway's address and the key for it; `url_from` and `key_from` say where they were found."""

    url: str
    url_from: str
    key: str = field(repr=False)
    key_from: str


def environment(dotenv_path: Path = Path(".env")) -> dict[str, str]:
    """The environment over the `.env` file, as the servers read them."""
    if not dotenv_path.exists():
        return dict(os.environ)
    import dotenv

    from_file = {name: value for name, value in dotenv.dotenv_values(dotenv_path).items() if value is not None}
    return {**from_file, **os.environ}


def find_target(
    environ: Mapping[str, str], *, url: str | None = None, key: str | None = None, data: Path | None = None
) -> Target:
    """The gateway and its key. Raises MissingKeyError, or SettingsError for an address that is none."""
    folder = DataFolder(data or Path(environ.get("TOLLGATE_DATA") or DEFAULT_DATA))
    address, url_from = find_url(environ, url=url, folder=folder)
    for found, key_from in ((key, "--key"), (environ.get("TOLLGATE_KEY"), "TOLLGATE_KEY")):
        if found:
            return Target(url=address, url_from=url_from, key=_printable(found.strip(), key_from), key_from=key_from)
    kept = folder.admin_key()
    # The folder's key is an admin's. It goes to the server it belongs to, never out to another machine by accident.
    if kept and (address == folder.address() or is_loopback(address)):
        return Target(url=address, url_from=url_from, key=kept, key_from=str(folder.path))
    raise MissingKeyError(_missing(folder, address, kept=kept is not None))


def find_url(environ: Mapping[str, str], *, url: str | None, folder: DataFolder) -> tuple[str, str]:
    """The address without a slash at its end, and where it was found."""
    candidates = (
        (url, "--url"),
        (environ.get("TOLLGATE_URL"), "TOLLGATE_URL"),
        (folder.address(), str(folder.path)),
        (DEFAULT_URL, "the default"),
    )
    found, source = next((value.strip(), source) for value, source in candidates if value and value.strip())
    try:
        parts = urlsplit(found)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise SettingsError(f"{source}: {found!r} is not an address; write {DEFAULT_URL}, for example")
    return found.rstrip("/"), source


def segment(an_id: str) -> str:
    """An id as one segment of a path, whatever was typed."""
    return quote(an_id, safe="")


def is_loopback(url: str) -> bool:
    """Whether `url` stays on this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _printable(key: str, source: str) -> str:
    """A header holds printable ASCII only; what else is in a key was pasted by mistake."""
    if key.isascii() and key.isprintable() and " " not in key:
        return key
    raise SettingsError(f"{source}: the key holds a blank or a character that no key has; copy it again")


def _missing(folder: DataFolder, url: str, *, kept: bool) -> str:
    here = (
        f"the key in {folder.path} is sent to this machine only, and {url} is another"
        if kept
        else f"{folder.path} holds none"
    )
    return (
        f"no key for {url}. There are three ways to give one:\n"
        "  TOLLGATE_KEY=id.secret     in the environment, or in a .env file here\n"
        "  --key id.secret            for this command\n"
        f"  --data DIR                 the data folder of `tollgate up` on this machine ({here})\n"
        "An admin makes a key with: tollgate keys create --project NAME"
    )

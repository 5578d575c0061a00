"""One POST to a receiver that somebody named: to public addresses only, no redirects, bounded in time and size.

The address is looked at where the socket for it is made, which is where the connection goes: whatever the URL said, and
whatever DNS says from one moment to the next.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import re
import socket
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
from yarl import URL

from tollgate.domain.addresses import ALLOW_PRIVATE, CallbackRules, check_url, is_public
from tollgate.domain.errors import InvalidRequestError
from worker.webhooks.places import IN_FLIGHT

TIMEOUT_S = 15.0
"""From the look-up of the name to the head of the answer."""
BODY_S = 2.0
READ_BYTES = 4_096
"""Of an answer's body, so long and so much. What is longer is passed over, and the connection closed."""
SHOWN_CHARACTERS = 200
"""Kept of it for people."""
ERROR_CHARACTERS = 500
KEEP_ALIVE_S = 15.0
RESOLVERS = IN_FLIGHT
"""Threads of their own: a name that nobody answers for must not hold up the process's other look-ups. As many as there
are deliveries, and twice what hosts that do not answer may have: a look-up cannot be cancelled, and with dead
nameservers it outlives its delivery (resolv.conf(5): 5 s twice for each of up to three)."""
_ANY_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://\S*")
_URL_SHOWN = "(URL)"
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]+")


class RefusedAddressError(OSError):
    """The connection would have gone to an address that is not allowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of a POST. Without an `error` it was taken."""

    http_status: int | None = None
    error: str | None = None
    response: str | None = None
    retry_after_s: float | None = None


class Post:
    """Belongs to one event loop. `resolver`: another than the machine's; it is closed with this."""

    def __init__(
        self, rules: CallbackRules, *, resolver: AbstractResolver | None = None, timeout_s: float = TIMEOUT_S
    ) -> None:
        self._rules = rules
        self._resolver = resolver or _Resolver()
        self._timeout_s = timeout_s
        self._session: aiohttp.ClientSession | None = None

    async def send(self, url: str, *, body: str, headers: Mapping[str, str]) -> Answer:
        """Whatever comes of it is told, not raised."""
        try:
            check_url(url, rules=self._rules, field="url")  # it was, but the settings may have changed
            async with asyncio.timeout(self._timeout_s):
                response = await self._open().post(
                    URL(url, encoded=True),
                    data=body.encode(),
                    headers={**headers, "Accept-Encoding": "identity"},
                    allow_redirects=False,
                )
            async with response:
                return await _read(response)
        except InvalidRequestError as error:
            return Answer(error=str(error))
        except TimeoutError:
            return Answer(error=f"no answer within {self._timeout_s:g} s")
        except aiohttp.ClientConnectorError as error:
            return Answer(error=_told(f"no connection to {error.host}: {error.os_error.strerror or error.os_error}"))
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Answer(error=_told(_without_url(error, url)))

    async def close(self) -> None:
        if self._session is not None:
            await self._session.close()
            self._session = None
        await self._resolver.close()

    def _open(self) -> aiohttp.ClientSession:
        if self._session is None:
            connector = aiohttp.TCPConnector(
                limit=0,
                keepalive_timeout=KEEP_ALIVE_S,
                resolver=self._resolver,
                socket_factory=self._socket,
            )
            # A proxy of the environment would make the connections, and choose the addresses: trust_env stays off.
            self._session = aiohttp.ClientSession(
                connector=connector, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False, trust_env=False
            )
        return self._session

    def _socket(self, info: tuple[Any, ...]) -> socket.socket:
        """For the address that is about to be connected to. Raises RefusedAddressError."""
        family, kind, protocol, _, address = info
        if not self._rules.allow_private and not is_public(str(address[0])):
            raise RefusedAddressError(
                errno.EACCES,
                f"{address[0]} is not an address of the public internet ({ALLOW_PRIVATE} allows others)",
            )
        return socket.socket(family=family, type=kind, proto=protocol)


async def _read(response: aiohttp.ClientResponse) -> Answer:
    shown = await _beginning(response)
    if 200 <= response.status < 300:
        return Answer(http_status=response.status, response=shown)
    error = f"answered {response.status}"
    if 300 <= response.status < 400:
        error = f"answered {response.status}, a redirect, and those are not followed: give the URL it leads to"
    return Answer(
        http_status=response.status,
        error=error,
        response=shown,
        retry_after_s=_retry_after(response.headers.get("Retry-After")),
    )


async def _beginning(response: aiohttp.ClientResponse) -> str:
    """The answer is in its status: a body that breaks off, or never ends, changes nothing about it."""
    raw = b""
    with contextlib.suppress(aiohttp.ClientError, TimeoutError):
        async with asyncio.timeout(BODY_S):
            while len(raw) < READ_BYTES and (part := await response.content.read(READ_BYTES - len(raw))):
                raw += part
    if not response.content.at_eof():
        response.close()
    return _plain(raw.decode("utf-8", "replace"))[:SHOWN_CHARACTERS]


def _without_url(error: Exception, url: str) -> str:
    """Its kind and what it says. URLs of receivers hold their secrets, and aiohttp's errors hold URLs; a receiver that
    repeats what it was sent puts its target into them."""
    text = error.message if isinstance(error, aiohttp.ClientResponseError) else str(error)
    target = URL(url, encoded=True).raw_path_qs
    if len(target) > 1:
        text = text.replace(target, _URL_SHOWN)
    return f"{type(error).__name__}: {_ANY_URL.sub(_URL_SHOWN, text)}".rstrip(": ")


def _retry_after(header: str | None) -> float | None:
    """Seconds; its date form is rare enough to do without."""
    return float(header) if header is not None and re.fullmatch(r"[0-9]{1,9}", header) else None


def _told(text: str) -> str:
    return _plain(text)[:ERROR_CHARACTERS]


def _plain(text: str) -> str:
    return _CONTROLS.sub(" ", text).encode("utf-8", "replace").decode()


class _Resolver(AbstractResolver):
    """The machine's own look-up, on threads of its own."""

    def __init__(self) -> None:
        self._threads = ThreadPoolExecutor(RESOLVERS, thread_name_prefix="webhook-dns")

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Raises OSError, UnicodeError."""
        found = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        )
        return [
            ResolveResult(
                hostname=host, host=str(address[0]), port=port, family=kind, proto=protocol, flags=socket.AI_NUMERICHOST
            )
            for kind, _, protocol, _, address in found
        ]

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)

"""Which URLs a webhook may have, and to which addresses it may be sent. Pure.

A gateway stands inside a network, and its clients name the URLs that it calls. So a URL is checked when it is given,
by what it says (`check_url`), and every address when a connection to it is about to be made (`is_public`): a name can
mean another address by then.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import SplitResult, urlsplit

from tollgate.domain.errors import InvalidRequestError

MAX_URL_LENGTH = 2_048
MAX_HOST_LENGTH = 253
"""Of a name in DNS."""
ALLOW_HTTP = "TOLLGATE_WEBHOOKS_ALLOW_HTTP"
ALLOW_PRIVATE = "TOLLGATE_WEBHOOKS_ALLOW_PRIVATE"

_CHARACTERS = re.compile(r"[A-Za-z0-9._~:/?#\[\]@!$&'()*+,;=%-]+")
"""Of RFC 3986, section 2. Parsers disagree about what others mean (a backslash, a blank)."""
_NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
"""A last label like this makes a name an IPv4 address for inet_aton, in one of its many spellings."""
_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
"""RFC 6052: its last 32 bits are an IPv4 address, and that is where it leads."""
_GLOBAL_UNICAST = ipaddress.IPv6Network("2000::/3")
"""All that is assigned of IPv6's public addresses (IANA, "IPv6 Global Unicast Address Assignments")."""
_NOT_PUBLIC = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # Azure's own: each of its machines reaches the host's services there
            "192.0.0.0/24",  # IETF protocol assignments, RFC 6890
            "192.88.99.0/24",  # 6to4 relays, RFC 7526
            "2001::/23",  # IETF protocol assignments: Teredo, ORCHID, benchmarks
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4: any IPv4 address may stand in it
            "3fff::/20",  # documentation, RFC 9637
        ),
    )
)
"""Besides what Python's `is_global` says, which differs from one release to the next."""

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True, kw_only=True)
class CallbackRules:
    """Where this installation may send webhooks."""

    allow_http: bool = False
    allow_private: bool = False


STRICT = CallbackRules()
"""Only https, only the public internet."""


def is_public(text: str) -> bool:
    """Whether an address is one of the whole internet's: not private, loopback, link-local, shared (CGNAT), multicast,
    reserved or unspecified, in no spelling. What is no address is not public."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    meant = _meant(address)
    if isinstance(meant, ipaddress.IPv6Address) and (meant not in _GLOBAL_UNICAST or meant.scope_id is not None):
        return False
    listed = any(meant.version == network.version and meant in network for network in _NOT_PUBLIC)
    return meant.is_global and not meant.is_multicast and not meant.is_reserved and not listed


def _meant(address: Address) -> Address:
    """The IPv4 address that an IPv6 one stands for."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF) if address in _NAT64 else address


def check_url(url: str, *, rules: CallbackRules, field: str) -> None:
    """Raises InvalidRequestError, of `field`, for what can be told from the URL alone; it names the setting, if any."""
    parts = _split(url, field)
    host = parts.hostname or ""
    if parts.scheme not in ("https", "http"):
        raise _wrong(field, "not an https URL", "https://host/path")
    if parts.scheme == "http" and not rules.allow_http:
        raise _wrong(field, f"http is not allowed here, only https ({ALLOW_HTTP} allows it)", "https://host/path")
    if "@" in parts.netloc:
        raise _wrong(field, "a user or password in a URL ends up in logs", "a URL without one")
    if not host or len(host) > MAX_HOST_LENGTH:
        raise _wrong(field, "no host, or too long a one", "https://host/path")
    if not rules.allow_private and _names_private(host, field):
        raise _wrong(
            field,
            f"{host} is not an address of the public internet ({ALLOW_PRIVATE} allows others)",
            "a host of the public internet",
        )


def host_of(url: str) -> str:
    """Of a checked URL, with its port where it names one."""
    return urlsplit(url).netloc.lower()


def _split(url: str, field: str) -> SplitResult:
    if not url or len(url) > MAX_URL_LENGTH:
        raise _wrong(field, f"{len(url):,} characters", f"1 to {MAX_URL_LENGTH:,} characters")
    if not _CHARACTERS.fullmatch(url):
        raise _wrong(field, "a character that no URL has", "a URL, other characters as %XX and names in punycode")
    try:
        parts = urlsplit(url)
        usable = parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise _wrong(field, "not a URL", "https://host/path")
    return parts


def _names_private(host: str, field: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        name = host.rstrip(".")
        if ":" in host or _NUMBER.fullmatch(name.rpartition(".")[2]):
            raise _wrong(
                field, f"{host} is an odd spelling of an address", "a name, or an address as a.b.c.d"
            ) from None
        return name == "localhost" or name.endswith(".localhost")
    return not is_public(host)


def _wrong(field: str, why: str, allowed: str) -> InvalidRequestError:
    return InvalidRequestError(f"{field}: {why}", field=field, allowed=allowed)

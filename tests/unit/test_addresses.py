"""Where a webhook may go: by its URL, and by the address of its connection."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tollgate.domain.addresses import ALLOW_HTTP, ALLOW_PRIVATE, STRICT, CallbackRules, check_url, host_of, is_public
from tollgate.domain.errors import InvalidRequestError

ANYWHERE = CallbackRules(allow_http=True, allow_private=True)
INNER_V4 = (
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4", "168.63.129.16/32",
)  # fmt: skip
"""IANA's special-purpose addresses, multicast, and Azure's own."""
INNER_V6 = (
    "::/96", "64:ff9b:1::/48", "100::/64", "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "5f00::/16",
    "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8",
)  # fmt: skip
PUBLIC = (
    "1.1.1.1", "93.184.215.14", "172.15.255.255", "172.32.0.0", "192.167.255.255", "100.128.0.0",
    "168.63.129.15", "168.63.129.17",
    "2606:4700::1111", "2a00:1450:4001:81b::200e", "::ffff:1.1.1.1", "64:ff9b::1.1.1.1",
)  # fmt: skip
NO_ADDRESSES = ("", "localhost", "fe80::1%eth0", "2606:4700::1111%eth0", "1.2.3", "0x7f.1", "256.1.1.1")


def inside(networks: tuple[str, ...]) -> st.SearchStrategy[str]:
    def of(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> st.SearchStrategy[str]:
        last = network.num_addresses - 1
        return st.integers(0, last).map(lambda n: str(network[n]))

    return st.one_of([of(ipaddress.ip_network(network)) for network in networks])


@given(inside(INNER_V4))
def test_no_special_ipv4_address_is_public_in_any_spelling(address: str) -> None:
    value = int(ipaddress.IPv4Address(address))
    assert not is_public(address)
    for base in (0, 0xFFFF << 32, int(ipaddress.IPv6Address("64:ff9b::")), int(ipaddress.IPv6Address("64:ff9b:1::"))):
        assert not is_public(str(ipaddress.IPv6Address(base | value)))
    assert not is_public(str(ipaddress.IPv6Address((0x2002 << 112) | (value << 80))))


@given(inside(INNER_V6))
def test_no_special_ipv6_address_is_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_a_public_address_is(address: str) -> None:
    assert is_public(address)


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_plain_address_is_not_public(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize(
    "url",
    [
        "https://example.com/hooks?a=1&b=%20",
        "https://example.com",
        "https://example.com:8443/x",
        "https://xn--bcher-kva.example/",
        "https://1.1.1.1/",
        "https://[2606:4700::1111]/",
        "https://7up.example.com/",
        "https://deadbeef.example/",
    ],
)
def test_a_public_https_url_is_taken(url: str) -> None:
    check_url(url, rules=STRICT, field="url")


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("", "1 to 2,048"),
        ("https://example.com/" + "x" * 2_048, "1 to 2,048"),
        ("http://example.com/", ALLOW_HTTP),
        ("ftp://example.com/", "not an https URL"),
        ("example.com/hook", "not an https URL"),
        ("file:///etc/passwd", "not an https URL"),
        ("https:///path", "no host"),
        ("https://user@example.com/", "user or password"),
        ("https://user:pass@example.com/", "user or password"),
        ("https://@example.com/", "user or password"),
        ("https://example.com\\@127.0.0.1/", "character"),
        ("https://exa mple.com/", "character"),
        ("https://example.com/\n", "character"),
        ("https://bücher.example/", "character"),
        ("https://example.com:0/", "not a URL"),
        ("https://example.com:99999/", "not a URL"),
        ("https://[::1/", "not a URL"),
        ("https://" + "a" * 254 + "/", "host"),
        ("https://localhost/", ALLOW_PRIVATE),
        ("https://LOCALHOST./", ALLOW_PRIVATE),
        ("https://api.localhost/", ALLOW_PRIVATE),
        ("https://127.0.0.1/", ALLOW_PRIVATE),
        ("https://10.1.2.3/", ALLOW_PRIVATE),
        ("https://169.254.169.254/latest/meta-data", ALLOW_PRIVATE),
        ("https://168.63.129.16/machine/", ALLOW_PRIVATE),
        ("https://0.0.0.0/", ALLOW_PRIVATE),
        ("https://[::1]/", ALLOW_PRIVATE),
        ("https://[::]/", ALLOW_PRIVATE),
        ("https://[::ffff:127.0.0.1]/", ALLOW_PRIVATE),
        ("https://[::ffff:7f00:1]/", ALLOW_PRIVATE),
        ("https://[64:ff9b::7f00:1]/", ALLOW_PRIVATE),
        ("https://[fe80::1%25eth0]/", ALLOW_PRIVATE),
        ("https://2130706433/", "odd spelling"),
        ("https://0x7f000001/", "odd spelling"),
        ("https://0x7f.1/", "odd spelling"),
        ("https://0177.0.0.1/", "odd spelling"),
        ("https://127.1/", "odd spelling"),
        ("https://127.0.0.1./", "odd spelling"),
    ],
)
def test_what_is_wrong_with_a_url_is_told(url: str, told: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        check_url(url, rules=STRICT, field="callback_url")
    assert refused.value.field == "callback_url"
    assert told in f"{refused.value} {refused.value.allowed}"


def test_the_settings_allow_what_they_say_and_no_more() -> None:
    for url in ("http://127.0.0.1:9000/", "https://localhost/", "http://[::1]/", "http://192.168.1.9/hook"):
        check_url(url, rules=ANYWHERE, field="url")
    with pytest.raises(InvalidRequestError, match=ALLOW_PRIVATE):
        check_url("http://127.0.0.1/", rules=CallbackRules(allow_http=True), field="url")
    with pytest.raises(InvalidRequestError, match=ALLOW_HTTP):
        check_url("http://127.0.0.1/", rules=CallbackRules(allow_private=True), field="url")
    with pytest.raises(InvalidRequestError, match="user or password"):
        check_url("http://me@127.0.0.1/", rules=ANYWHERE, field="url")


@given(st.text(max_size=40))
def test_whatever_is_given_is_taken_or_refused(text: str) -> None:
    for url in (text, f"https://{text}", f"https://[{text}]/"):
        try:
            check_url(url, rules=STRICT, field="url")
        except InvalidRequestError:
            continue
        assert host_of(url)

"""Keys and tokens: what is accepted, and everything that must not be."""

from __future__ import annotations

import base64
import json
from typing import Any

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from zhipuai.core import _jwt_token

from tollgate.domain import keys
from tollgate.domain.errors import AuthenticationError, SettingsError
from tollgate.domain.keys import MasterKey

MASTER = MasterKey(value=b"0123456789abcdef0123456789abcdef")
NOW_MS = 1_770_000_000_000
SECRET = "s3cret-s3cret-16"
IDS = st.from_regex(r"[A-Za-z0-9_-]{1,64}", fullmatch=True)
MASTERS = st.binary(min_size=32, max_size=64).map(lambda value: MasterKey(value=value))


def token(secret: str = SECRET, *, algorithm: str = "HS256", **claims: Any) -> str:
    payload = {"api_key": "kid", "exp": NOW_MS + 1, "timestamp": NOW_MS, **claims}
    payload = {name: value for name, value in payload.items() if value is not None}
    headers = {"alg": algorithm, "sign_type": "SIGN"}
    return jwt.encode(payload, secret, algorithm=algorithm, headers=headers)


def unsigned(header: object, payload: object) -> str:
    parts = [json.dumps(part).encode() for part in (header, payload)]
    return ".".join(base64.urlsafe_b64encode(part).rstrip(b"=").decode() for part in parts) + ".AAAA"


def refusal(header: str | None, *, secret: str = SECRET, now_ms: int = NOW_MS) -> str | None:
    """Why `header` is refused; None if it is accepted."""
    try:
        keys.verify(keys.parse_authorization(header), secret=secret, now_ms=now_ms)
    except AuthenticationError as error:
        return error.reason
    return None


# Master keys


def test_master_keys_are_separated_by_commas() -> None:
    one, other = "a" * 32, "ключ" * 8
    assert keys.parse_master_keys(f" {one} ,{other}\n") == (
        MasterKey(value=one.encode()),
        MasterKey(value=other.encode()),
    )


@pytest.mark.parametrize("text", ["", " ", "short", "a" * 31, "a" * 32 + ",", "a" * 32 + ",short"])
def test_a_short_master_key_is_refused_and_not_repeated(text: str) -> None:
    with pytest.raises(SettingsError, match="TOLLGATE_MASTER_KEY") as caught:
        keys.parse_master_keys(text)
    assert "short" not in str(caught.value)


def test_a_master_key_listed_twice_is_refused() -> None:
    with pytest.raises(SettingsError, match="twice"):
        keys.parse_master_keys("a" * 32 + "," + "a" * 32)


def test_a_fingerprint_is_stable_and_short() -> None:
    assert MASTER.fingerprint == "4ed99958c11a6561"


@given(MASTERS, MASTERS)
def test_fingerprints_tell_master_keys_apart(one: MasterKey, other: MasterKey) -> None:
    assert (one.fingerprint == other.fingerprint) == (one == other)


def test_no_repr_shows_a_secret() -> None:
    assert "0123" not in repr(MASTER)
    assert SECRET not in repr(keys.parse_authorization(f"kid.{SECRET}"))
    assert token() not in repr(keys.parse_authorization(token()))


# Derived secrets


def test_a_derived_secret_never_changes() -> None:
    assert keys.derive_secret(MASTER, key_id="kid", version=1) == "9560dfc4db1f4b523081533a9af95224"


@given(MASTERS, IDS, st.integers(min_value=1, max_value=10**6))
def test_a_derived_key_verifies_as_key_and_as_token(master: MasterKey, key_id: str, version: int) -> None:
    secret = keys.derive_secret(master, key_id=key_id, version=version)
    assert len(secret) == 32
    assert set(secret) <= set("0123456789abcdef")
    assert refusal(f"Bearer {key_id}.{secret}", secret=secret) is None
    assert refusal(token(secret, api_key=key_id), secret=secret) is None


@given(MASTERS, IDS, st.integers(min_value=1, max_value=99), st.integers(min_value=0, max_value=31))
def test_a_tampered_secret_is_refused(master: MasterKey, key_id: str, version: int, position: int) -> None:
    secret = keys.derive_secret(master, key_id=key_id, version=version)
    other = "0" if secret[position] != "0" else "1"
    tampered = secret[:position] + other + secret[position + 1 :]
    assert refusal(f"{key_id}.{tampered}", secret=secret) == "signature"
    assert refusal(token(tampered, api_key=key_id), secret=secret) == "signature"


@given(MASTERS, IDS, IDS, st.integers(min_value=1, max_value=99), st.integers(min_value=1, max_value=99))
def test_each_id_and_version_has_its_own_secret(
    master: MasterKey, one: str, other: str, version: int, other_version: int
) -> None:
    first = keys.derive_secret(master, key_id=one, version=version)
    second = keys.derive_secret(master, key_id=other, version=other_version)
    assert (first == second) == ((one, version) == (other, other_version))


# Reading the header


def test_a_key_is_split_at_its_dot() -> None:
    assert keys.split_key(f"kid.{SECRET}") == ("kid", SECRET)


@pytest.mark.parametrize("scheme", ["", "Bearer ", "bearer ", "BEARER   ", "  Bearer\t"])
def test_keys_and_tokens_are_read_with_and_without_bearer(scheme: str) -> None:
    by_key = keys.parse_authorization(f"{scheme}kid.{SECRET} ")
    assert (by_key.key_id, by_key.secret, by_key.token) == ("kid", SECRET, None)
    shown = token()
    by_token = keys.parse_authorization(scheme + shown)
    assert (by_token.key_id, by_token.secret, by_token.token) == ("kid", None, shown)


@pytest.mark.parametrize("header", [None, "", "  ", "Bearer", "bearer  "])
def test_a_missing_key_is_told_as_missing(header: str | None) -> None:
    assert refusal(header) == "missing"


@pytest.mark.parametrize(
    "header",
    [
        "kid",
        "kid.",
        ".s3cret",
        "..",
        "a.b.c",
        "a.b.c.d",
        "Basic a2lkOnNlY3JldA==",
        "Bearer Bearer kid.secret",
        "kid.se cret",
        "k\0id.secret",
        "kid.secrét",
        "k" * 65 + ".secret",
        "kid." + "s" * 5_000,
        unsigned({"alg": "HS256"}, [1]),
        unsigned([1], {"api_key": "kid"}),
        unsigned({"alg": "HS256"}, {}),
        unsigned({"alg": "HS256"}, {"api_key": 5}),
        unsigned({"alg": "HS256"}, {"api_key": "a\0b"}),
        "e30." + base64.urlsafe_b64encode(b"[" * 2_500).rstrip(b"=").decode() + ".AAAA",
        "\ud800.\ud800.\ud800",
    ],
)
def test_a_malformed_header_is_told_as_malformed_and_not_repeated(header: str) -> None:
    with pytest.raises(AuthenticationError) as caught:
        keys.parse_authorization(header)
    assert caught.value.reason == "malformed"
    assert header not in str(caught.value)


@given(st.text(max_size=60) | st.text(alphabet=".abcABC019-_= ", max_size=60))
def test_no_header_raises_anything_else(header: str) -> None:
    refusal(header)


# Verifying


def test_the_token_of_the_real_sdk_is_accepted() -> None:
    _jwt_token.generate_token.cache_clear()
    shown = _jwt_token.generate_token(f"kid.{SECRET}")
    made_ms = jwt.decode(shown, options={"verify_signature": False})["timestamp"]
    assert refusal(f"Bearer {shown}", now_ms=made_ms) is None
    assert refusal(shown, now_ms=made_ms + 210_000 - 1) is None
    assert refusal(shown, now_ms=made_ms + 210_000) == "expired"
    assert refusal(shown, secret="another-secret", now_ms=made_ms) == "signature"


@pytest.mark.parametrize(
    ("claims", "expected"),
    [
        ({}, None),
        ({"exp": NOW_MS}, "expired"),
        ({"exp": NOW_MS - 60_000}, "expired"),
        ({"exp": NOW_MS // 1000 + 60}, "expired"),  # seconds where milliseconds belong
        ({"exp": float(NOW_MS + 1)}, None),
        ({"exp": float("nan")}, "expired"),
        ({"exp": None}, "malformed"),
        ({"exp": str(NOW_MS + 1)}, "malformed"),
        ({"exp": True}, "malformed"),
        ({"timestamp": NOW_MS * 10}, None),
        ({"timestamp": None}, None),
        ({"iat": NOW_MS * 10, "nbf": NOW_MS * 10, "aud": "x", "iss": "y"}, None),
    ],
)
def test_a_token_lives_until_exp_in_milliseconds(claims: dict[str, Any], expected: str | None) -> None:
    assert refusal(token(**claims)) == expected


@pytest.mark.parametrize("algorithm", ["HS384", "HS512"])
def test_no_other_algorithm_is_accepted(algorithm: str) -> None:
    assert refusal(token(algorithm=algorithm)) == "signature"


@pytest.mark.parametrize("header", [{"alg": "none"}, {"alg": "RS256"}, {}, {"alg": None}, {"alg": ["HS256"]}])
def test_a_token_does_not_choose_its_algorithm(header: dict[str, Any]) -> None:
    assert refusal(unsigned(header, {"api_key": "kid", "exp": NOW_MS + 1})) == "signature"


def test_a_token_of_one_key_does_not_pass_for_another() -> None:
    mine = keys.ParsedCredential(key_id="other", token=token())
    with pytest.raises(AuthenticationError) as caught:
        keys.verify(mine, secret=SECRET, now_ms=NOW_MS)
    assert caught.value.reason == "malformed"


def test_an_empty_credential_never_verifies() -> None:
    with pytest.raises(AuthenticationError):
        keys.verify(keys.ParsedCredential(key_id="kid"), secret=SECRET, now_ms=NOW_MS)

"""Keys of the form `id.secret`, as ZhipuAI's are, and the tokens its SDKs sign with them.

A secret is derived from a master key, so no database holds one, and a JWT signed with it can be
checked. Nothing here prints a key: reprs leave secrets out, errors never repeat what was sent.
"""

from __future__ import annotations

import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jwt

from tollgate.domain.errors import AuthenticationError, SettingsError

MASTER_KEY_LENGTH = 32
"""The fewest characters of a master key: 128 bits even if it is written in hex."""
SECRET_LENGTH = 32
"""Characters of a derived secret: 128 bits in hex."""
_FINGERPRINT_DOMAIN = b"tollgate:master-key-fingerprint:v1\0"
_SECRET_DOMAIN = b"tollgate:api-key-secret:v1\0"
_LONGEST_CREDENTIAL = 4_096
_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")
_SECRET = re.compile(r"[!-~]{1,256}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterKey:
    """A secret of the installation, from which its keys' secrets are derived."""

    value: bytes = field(repr=False)

    @property
    def fingerprint(self) -> str:
        """16 hex digits that name this master key and do not betray it."""
        return hashlib.sha256(_FINGERPRINT_DOMAIN + self.value).hexdigest()[:16]


def parse_master_keys(text: str) -> tuple[MasterKey, ...]:
    """The master keys in `text`, separated by commas; the first makes new keys, all verify.

    Raises SettingsError for none, for one under 32 characters, or for one listed twice.
    """
    values = [part.strip() for part in text.split(",")]
    for number, value in enumerate(values, start=1):
        if len(value) < MASTER_KEY_LENGTH:
            raise SettingsError(
                f"TOLLGATE_MASTER_KEY: key {number} has {len(value)} characters, {MASTER_KEY_LENGTH} are"
                " needed; make one with: python -c 'import secrets; print(secrets.token_urlsafe(48))'"
            )
    if len(set(values)) < len(values):
        raise SettingsError("TOLLGATE_MASTER_KEY: a key is listed twice; remove one")
    return tuple(MasterKey(value=value.encode("utf-8", "surrogateescape")) for value in values)


def derive_secret(master: MasterKey, *, key_id: str, version: int) -> str:
    """The secret of key `key_id` in its `version`: 32 lowercase hex characters.

    HMAC-SHA256 (RFC 2104) of the id and the version under the master key, cut to 128 bits (RFC 2104,
    section 5). A new version is a new secret under the same id.
    """
    message = _SECRET_DOMAIN + key_id.encode() + b"\0" + str(version).encode()
    return hmac.new(master.value, message, hashlib.sha256).hexdigest()[:SECRET_LENGTH]


def split_key(text: str) -> tuple[str, str]:
    """`id.secret` as (id, secret). Raises AuthenticationError ("malformed") for any other form."""
    key_id, dot, secret = text.partition(".")
    if not dot or "." in secret or not _ID.fullmatch(key_id) or not _SECRET.fullmatch(secret):
        raise _malformed()
    return key_id, secret


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsedCredential:
    """What a request showed: a key id, claimed and not yet verified, and either its secret or a JWT."""

    key_id: str
    secret: str | None = field(default=None, repr=False)
    token: str | None = field(default=None, repr=False)


def parse_authorization(header: str | None) -> ParsedCredential:
    """Read an Authorization header: `id.secret` or ZhipuAI's JWT, with or without "Bearer ".

    The old SDK (zhipuai 1.x) sends its JWT bare. A JWT's key id is read from its unverified payload.
    Raises AuthenticationError, reason "missing" or "malformed".
    """
    credential = re.sub(r"\A\s*bearer(\s+|\Z)", "", header or "", count=1, flags=re.IGNORECASE).strip()
    if not credential:
        raise AuthenticationError("the Authorization header is missing or empty", reason="missing")
    if len(credential) > _LONGEST_CREDENTIAL or not credential.isascii():
        raise _malformed()
    if credential.count(".") == 2:
        claims = _claims(credential, secret=None)
        return ParsedCredential(key_id=_key_id(claims), token=credential)
    key_id, secret = split_key(credential)
    return ParsedCredential(key_id=key_id, secret=secret)


def verify(credential: ParsedCredential, *, secret: str, now_ms: int) -> None:
    """Check `credential` against the key's true `secret`, in constant time; `now_ms` is Unix time.

    Raises AuthenticationError, reason "signature", "expired" or "malformed".
    """
    if credential.token is None:
        shown = (credential.secret or "").encode()
        if not hmac.compare_digest(shown, secret.encode()):
            raise AuthenticationError("the key's secret is wrong", reason="signature")
        return
    claims = _claims(credential.token, secret=secret)
    if _key_id(claims) != credential.key_id:
        raise _malformed()
    # ZhipuAI's SDKs write `exp` in milliseconds. PyJWT takes it for seconds, and so would accept a
    # token for thousands of years: it is checked here. One in seconds has long expired.
    expires_ms = claims.get("exp")
    if isinstance(expires_ms, bool) or not isinstance(expires_ms, int | float):
        raise _malformed()
    if not expires_ms > now_ms:
        raise AuthenticationError("the token has expired", reason="expired")


def _claims(token: str, *, secret: str | None) -> Mapping[str, Any]:
    """The payload of a JWT; verified with `secret` unless that is None. Times are never checked here."""
    checks = ("verify_exp", "verify_nbf", "verify_iat", "verify_aud", "verify_iss")
    options: dict[str, Any] = {**dict.fromkeys(checks, False), "verify_signature": secret is not None}
    try:
        # The algorithm is ours to say, never the token's: "none" and RS256 are refused.
        claims: Mapping[str, Any] = jwt.decode(token, secret or "", algorithms=["HS256"], options=options)
    except (jwt.InvalidSignatureError, jwt.InvalidAlgorithmError) as error:
        raise AuthenticationError("the token's signature is wrong", reason="signature") from error
    except (jwt.PyJWTError, ValueError, RecursionError) as error:
        raise _malformed() from error
    return claims


def _key_id(claims: Mapping[str, Any]) -> str:
    key_id = claims.get("api_key")
    if not isinstance(key_id, str) or not _ID.fullmatch(key_id):
        raise _malformed()
    return key_id


def _malformed() -> AuthenticationError:
    return AuthenticationError("the Authorization header is neither id.secret nor a token", reason="malformed")

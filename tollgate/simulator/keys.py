"""Who may call: any key of ZhipuAI's form `id.secret`, or a JWT made from one, unless the settings say otherwise.

A JWT's signature is verified only where `accept_keys` names the whole key; its expiry, in milliseconds, always.
"""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterable

import orjson

from tollgate.simulator.codes import RefusalError
from tollgate.simulator.settings import SimulatorSettings


def authenticate(header: str | None, *, settings: SimulatorSettings, now_ms: int) -> str:
    """The key id of an Authorization header.

    Raises RefusalError: 1001 none, 1002 neither form, 1003 expired, 1004 signature, 1000 not among accept_keys, or
    the code that refuse_keys has for the key.
    """
    if not header:
        raise RefusalError("1001")
    scheme, _, credential = header.rpartition(" ")
    if scheme.strip().lower() not in {"", "bearer"}:
        raise RefusalError("1002")
    parts = credential.split(".")
    if not all(parts) or len(parts) not in {2, 3}:
        raise RefusalError("1002")
    key_id = parts[0] if len(parts) == 2 else _read_token(parts, settings.accept_keys, now_ms=now_ms)
    if settings.accept_keys:
        _check_accepted(key_id, credential if len(parts) == 2 else None, settings.accept_keys)
    if settings.refuse_keys:
        _check_refused(key_id, credential, settings=settings)
    return key_id


def _read_token(parts: list[str], accepted: Iterable[str], *, now_ms: int) -> str:
    try:
        payload = orjson.loads(urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
        key_id, expires_ms = payload["api_key"], payload["exp"]
    except (ValueError, KeyError, TypeError) as error:
        raise RefusalError("1002") from error
    if not isinstance(key_id, str) or not isinstance(expires_ms, int | float):
        raise RefusalError("1002")
    if expires_ms <= now_ms:
        raise RefusalError("1003")
    secrets = [key.partition(".")[2] for key in accepted if key.startswith(key_id + ".")]
    if secrets and not any(_is_signed(parts, secret=secret) for secret in secrets):
        raise RefusalError("1004")
    return key_id


def _is_signed(parts: list[str], *, secret: str) -> bool:
    signature = hmac.digest(secret.encode(), f"{parts[0]}.{parts[1]}".encode(), "sha256")
    return hmac.compare_digest(urlsafe_b64encode(signature).rstrip(b"="), parts[2].encode())


def _check_accepted(key_id: str, key: str | None, accepted: tuple[str, ...]) -> None:
    """A whole key must be listed whole, or by its id; a token's signature was verified before."""
    by_id = key_id in accepted
    whole = key in accepted if key else any(item.startswith(key_id + ".") for item in accepted)
    if not by_id and not whole:
        raise RefusalError("1000")


def _check_refused(key_id: str, credential: str, *, settings: SimulatorSettings) -> None:
    """A token is refused by an entry for its whole key too, which is found by the id."""
    for key, code in settings.refuse_keys.items():
        if key in {"*", key_id, credential} or (credential.count(".") == 2 and key.startswith(key_id + ".")):
            raise RefusalError(code)

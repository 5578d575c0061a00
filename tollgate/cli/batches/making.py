"""A batch out of an uploaded file: asked for until there is an answer, and made once."""

from __future__ import annotations

import uuid

from tollgate.cli.client import Gateway, Json
from tollgate.cli.exits import GatewayUnreachableError

TRIES = 30
AGAIN_S = 2.0
"""A minute: the file is up there already, and a gateway that restarts is soon back."""


def make(gateway: Gateway, asked: Json) -> Json:
    """POST /batches under a request_id of this run's. Raises RefusedError, GatewayUnreachableError."""
    body = {**asked, "request_id": f"cli-{uuid.uuid4().hex}"}
    left = TRIES
    while True:
        left -= 1
        try:
            return gateway.ask("POST", "/batches", body=body)
        except GatewayUnreachableError as error:
            if not left:
                raise GatewayUnreachableError(
                    f"{error}. The batch may run all the same: look with `tollgate batch list` before you run it again",
                    sent=True,
                ) from error
        gateway.sleep(AGAIN_S)
